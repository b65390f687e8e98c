"""The package of another suite: apt says what is missing and changes nothing. Needs the packages of two suites of Debian in dist/."""

import re

import pytest

pytestmark = pytest.mark.slow("two suites' packages; what refuses is apt")


@pytest.fixture(scope="module")
def other(deb, suite):
    """The .deb of another suite of Debian, and the Python that only that suite has."""
    suffix, python = {"+deb12": ("+deb13", "python3.13")}.get(suite[1], ("+deb12", "python3.11"))
    found = sorted(deb.parent.glob(f"jupyterhub_*{suffix}_*.deb"), key=lambda path: path.stat().st_mtime)
    assert found, f"no jupyterhub_*{suffix}_*.deb in dist/: build that suite as well"
    return found[-1], python


def test_apt_names_what_is_missing_and_changes_nothing(bare_machine, other):
    file, python = other
    before = bare_machine.sh("dpkg-query -W")
    result = bare_machine.run("apt-get", "-y", "install", bare_machine.push(file), check=False)
    assert result.returncode == 100
    said = result.stdout + result.stderr
    assert re.search(rf"jupyterhub .*Depends: (.*\n.*Depends: )*{re.escape(python)} but it is not installable", said), said
    assert bare_machine.sh("dpkg-query -W") == before
