"""debian/tests as Debian's machines run it: autopkgtest installs the .deb and calls the topics on the testbed itself."""

import pathlib
import subprocess

import pytest

pytestmark = pytest.mark.slow("the topics are those of each run, only who calls them is another")
PACKAGES = ("autopkgtest", "dpkg-dev", "python3-pytest", "python3-requests", "python3-websocket")
TOP = pathlib.Path(__file__).resolve().parents[2]


def test_autopkgtest_is_content(bare_machine, deb, tmp_path):
    archive = tmp_path / "source.tar"
    subprocess.run(["git", "-c", f"safe.directory={TOP}", "-C", TOP, "archive", "--output", archive, "HEAD"], check=True)
    source = bare_machine.push(archive)
    bare_machine.sh(f"mkdir /root/source; tar -C /root/source -xf {source}")
    # null: the testbed is the machine that autopkgtest runs on. It knows neither isolation nor a way back; the machine is both.
    done = bare_machine.run(
        *("autopkgtest", "--ignore-restrictions=isolation-container,breaks-testbed", bare_machine.push(deb), "/root/source", "--", "null"),
        check=False,
        timeout=900,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    assert "topics               PASS" in report
