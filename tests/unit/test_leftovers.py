"""What a newer Debian leaves of a user's is recognised, and nothing else is."""

import json
import os
import sys

import pytest

from debianized_jupyterhub import leftovers

MINOR = f"3.{sys.version_info.minor}"


@pytest.fixture
def environment(tmp_path):
    """Return a function that makes an environment whose file says `config` (str), and returns its Python (str)."""

    def make(config):
        (tmp_path / "my env/bin").mkdir(parents=True)
        (tmp_path / "my env/pyvenv.cfg").write_text(config)
        (tmp_path / "my env/bin/python3").symlink_to(os.path.realpath(sys.executable))
        (tmp_path / "my env/bin/python").symlink_to("python3")
        return str(tmp_path / "my env/bin/python")

    return make


@pytest.mark.parametrize("config", ["home = /usr/bin\nversion = 3.4.2\n", "version_info = 3.4.2.final.0\n"])
def test_environment_of_another_python(environment, tmp_path, config):
    program = environment(config)
    assert leftovers.pythons_of(program) == (str(tmp_path / "my env"), "3.4", MINOR)
    (tmp_path / "kernels/work").mkdir(parents=True)
    (tmp_path / "kernels/work/kernel.json").write_text(json.dumps({"argv": [program, "-m", "ipykernel_launcher"]}))
    (line,) = leftovers.environments(tmp_path / "kernels")
    assert line.startswith(f"{tmp_path}/my env: an environment of Python 3.4, and this machine has {MINOR}: ")
    assert f"python3 -m venv --clear '{tmp_path}/my env';" in line


@pytest.mark.parametrize("config", [f"version = {MINOR}.1\n", "home = /usr/bin\n", "", "version = x\n"])
def test_environment_that_is_used(environment, config):
    assert leftovers.pythons_of(environment(config)) is None


@pytest.mark.parametrize("program", ["python3", "/usr/bin/python3", "/no/such/bin/python", "/bin/sh", ""])
def test_no_environment(program):
    assert leftovers.pythons_of(program) is None


def test_kernels_that_cannot_be_read(tmp_path):
    """They are named where somebody starts them."""
    for number, text in enumerate(("", "[]", "{}", '{"argv": []}', '{"argv": 3}', "\xff")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / f"{number}/kernel.json").write_text(text, encoding="latin-1")
    assert list(leftovers.environments(tmp_path)) == []
    assert list(leftovers.environments(tmp_path / "none")) == []


@pytest.mark.parametrize("version, named", [("4.5.0", ["4.2"]), ("4.2.1", ["4.5"]), (None, [])])
def test_libraries_of_another_r(monkeypatch, tmp_path, version, named):
    """Those that hold packages."""
    if version:
        (tmp_path / "DESCRIPTION").write_text(f"Package: base\nVersion: {version}\nPriority: base\n")
    monkeypatch.setattr(leftovers, "R_BASE", tmp_path / "DESCRIPTION")
    library = tmp_path / "R/x86_64-pc-linux-gnu-library"
    for name in ("4.1", "4.2/answer", "4.5/answer"):
        (library / name).mkdir(parents=True)
    for name in ("4.2", "4.5"):
        (library / name / "answer/DESCRIPTION").touch()
    lines = list(leftovers.libraries(tmp_path))
    assert [line.partition(":")[0] for line in lines] == [str(library / name) for name in named]
