"""Which program a kernelspec means, and how its kernel is talked to."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from debianized_jupyterhub import kernelspecs

R = ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"]


@pytest.mark.parametrize(
    "command, transport",
    [
        ("python -m ipykernel_launcher -f x", "ipc"),
        ("/usr/bin/python3 -Xfrozen_modules=off -m ipykernel_launcher -f x", "ipc"),
        ("conda run -n work python -m ipykernel -f x", "ipc"),
        ("python -m octave_kernel -f x", "ipc"),
        ("xpython -f x", "tcp"),
        ("/home/alice/ipykernel_launcher/bin/xpython -f x", "tcp"),
        ("python -m ipykernel_launcher_of_another -f x", "tcp"),
        ("node tslab kernel --config-path=x", "tcp"),
        ("java -jar kernel.jar x", "tcp"),
    ],
)
def test_kernels_known_to_talk_over_files_do(command, transport):
    assert kernelspecs.transport(command.split()) == transport


def test_r_talks_over_files():
    assert kernelspecs.transport(R) == "ipc"


@pytest.mark.parametrize(
    "named, folder, meant",
    [
        ("python", "/usr/share/jupyter/kernels/octave", "/usr/bin/python3"),
        ("python3", "/usr/local/share/jupyter/kernels/bash", "/usr/bin/python3"),
        ("python3.13", "/usr/share/jupyter/kernels/octave", "/usr/bin/python3.13"),
        ("/opt/venvs-site/work/bin/python", "/usr/local/share/jupyter/kernels/work", "/opt/venvs-site/work/bin/python"),
        ("R", "/usr/share/jupyter/kernels/ir", "R"),
        ("python", "/opt/venvs/jupyterhub/share/jupyter/kernels/python3", "python"),
        ("python", "/home/alice/.local/share/jupyter/kernels/bash", "python"),
    ],
)
def test_python_of_the_machines_kernels_is_the_machines(named, folder, meant):
    assert kernelspecs.program([named, "-m", "kernel"], folder) == meant


def test_r_makes_a_library_first():
    assert kernelspecs.with_library(R) == [*R[:2], "-e", kernelspecs.R_LIBRARY, *R[2:]]


@pytest.mark.parametrize("argv", [["python", "-m", "ipykernel_launcher"], ["IRkernel::main()"], ["R", "IRkernel::main()"]])
def test_other_commands_stay_as_they_are(argv):
    assert kernelspecs.with_library(argv) == argv


@pytest.fixture
def look_at(tmp_path, monkeypatch):
    """A function that writes a kernelspec (str, or what JSON makes of it) for all users and returns what is to be said of it."""
    monkeypatch.setattr(kernelspecs, "SYSTEM", (str(tmp_path),))

    def look(spec):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/kernel.json").write_text(spec if isinstance(spec, str) else json.dumps(spec))
        (found,) = kernelspecs.installed()
        return found

    return look


def test_kernel_that_others_can_read_is_seen(look_at):
    found = look_at({"argv": ["sh", "-f", "{connection_file}"], "display_name": "Shell"})
    assert (found.name, found.wrong, found.open_to_all) == ("Shell", "", True)


@pytest.mark.parametrize("spec", [{"argv": ["sh", "-m", "ipykernel_launcher"]}, {"argv": ["sh"], "metadata": {"supported_encryption": ["curve"]}}])
def test_kernel_on_files_or_with_a_key_is_not_open(look_at, spec):
    assert not look_at(spec).open_to_all


@pytest.mark.parametrize(
    "spec, words",
    [
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ({"argv": []}, "it names no program"),
        ({"argv": 5}, "cannot be used"),
        ({"argv": ["/nowhere/kernel"]}, "/nowhere/kernel, which it names, is missing"),
    ],
)
def test_what_is_wrong_is_said(look_at, spec, words):
    assert words in look_at(spec).wrong
