"""Dependencies, version, maintainer scripts."""

import gzip
import os.path
import re
import subprocess

import pytest


def test_name_and_version(package, suite):
    assert package.field("Package") == "jupyterhub"
    assert re.fullmatch(r"6\.1\.1\.\d+" + re.escape(suite[1]), package.field("Version"))


def test_news_is_of_versions_that_the_changelog_has(package, suite):
    """Both carry the suite in all entries: apt-listchanges and readers compare them with what is installed."""
    versions = {}
    for name in ("changelog.gz", "NEWS.Debian.gz"):
        text = gzip.decompress(package.head[f"/usr/share/doc/jupyterhub/{name}"]).decode()
        versions[name] = re.findall(r"(?m)^jupyterhub \((\S+)\)", text)
        assert all(version.endswith(suite[1]) for version in versions[name])
    assert versions["changelog.gz"][0] == package.field("Version")
    assert set(versions["NEWS.Debian.gz"]) <= set(versions["changelog.gz"])


def test_depends_on_one_python_minor(either):
    path = "/opt/venvs/jupyterhub/bin/python"
    while path in either.entries:
        path = os.path.join(os.path.dirname(path), either.entries[path].target)
    assert path == f"/usr/bin/{either.python}"


@pytest.mark.parametrize(
    "name",
    [
        r"nodejs \(>= (18|20|22)",
        "sudo",
        "libpam-modules",
        "libpam-runtime",
        "libpam-systemd",
        r"libc6 \(>= 2\.",
    ],
)
def test_depends(package, name):
    assert any(re.match(name, dependency) for dependency in package.depends), package.depends


def test_does_not_depend_on_itself(either):
    assert not [dependency for dependency in either.depends if dependency.startswith("jupyterhub")]


def test_files_of_a_build(deb):
    """.changes and .buildinfo lie beside the .deb and name it."""
    for suffix in ("changes", "buildinfo"):
        assert deb.name in deb.with_suffix(f".{suffix}").read_text()


@pytest.mark.parametrize("script", ["preinst", "postinst", "prerm", "postrm"])
def test_maintainer_script(either, script, tmp_path):
    """As installed, with what debhelper and dh-virtualenv have put in. (Our own part is held to more in tests/unit.)"""
    text = either.control.get(script)
    if text is None:
        assert script == "preinst"  # the only one that may be missing
        return
    file = tmp_path / script
    file.write_text(text)
    assert text.startswith("#!/bin/sh\nset -e\n")
    subprocess.run(["sh", "-n", file], check=True)
    result = subprocess.run(["shellcheck", "--shell=dash", "--severity=error", file], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
