"""Bad input to build.sh: one line that says what is wrong and how to mend it, and nothing half made."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def tree():
    """A copy of what build.sh reads, without dist/, and where everyone can read it (pytest's tmp_path is root's alone)."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        tree = pathlib.Path(directory) / "tree"
        shutil.copytree(TOP, tree, ignore=shutil.ignore_patterns(".git", "dist", "tests", "__pycache__"))
        yield tree


def build(tree, *arguments, before=(), timeout=60, **environment):
    """Run build.sh; return (exit code, lines on stdout and stderr)."""
    result = subprocess.run(
        [*before, str(tree / "build.sh"), *arguments],
        check=False,
        cwd=tree,
        env={**os.environ, "XDG_CACHE_HOME": str(tree.parent / "cache"), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    return result.returncode, result.stdout.splitlines()


BAD = {
    "unknown suite": (["debian:potato"], "debian:potato"),
    "suite without distribution": (["trixie"], "trixie"),
    "two suites": (["debian:trixie", "debian:bookworm"], "debian:bookworm"),
    "unknown engine": (["--engine", "lxc"], "lxc"),
    "unknown option": (["--fast"], "--fast"),
    "engine without name": (["--engine"], "--engine"),
    "extras that are no list": (["--extras", "a b;c"], "--extras"),
    "run of two files": (["--run", "a.deb", "b.deb"], "b.deb"),
    "run of a missing file": (["--run", "nope.deb"], "nope.deb"),
    "run of a file that is no package": (["--run", "LICENSE"], "LICENSE"),
}


def is_refused(tree, result, named):
    code, lines = result
    assert code != 0
    assert len(lines) == 1, lines
    assert lines[0].startswith("build.sh: ") and named in lines[0]
    assert not (tree / "dist").exists()


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused(tree, what):
    arguments, named = BAD[what]
    is_refused(tree, build(tree, *arguments), named)


def test_needs_root(tree):
    is_refused(tree, build(tree, before=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]), "root")


def test_needs_disk_space(tree):
    """A full disk is noticed before anything is made: here a cache on a tmpfs of 1 MB."""
    command = f'mkdir -p "$XDG_CACHE_HOME" && mount -t tmpfs -o size=1m none "$XDG_CACHE_HOME" && exec {tree}/build.sh'
    is_refused(tree, build(tree, before=["unshare", "--mount", "sh", "-c", command]), "free")


def test_run_needs_its_port(tree):
    """--run with port 8000 taken says so before it builds; in a network of our own, where nobody else listens."""
    listen = "import os, socket, sys; s = socket.create_server(('127.0.0.1', 8000)); s.set_inheritable(True); os.execvp(sys.argv[1], sys.argv[1:])"
    before = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", "/usr/bin/python3", "-c", listen]
    is_refused(tree, build(tree, "--run", before=before), "8000")


def test_interrupted_build_leaves_nothing(tree):
    """Ctrl-C in the middle: no process, no work folder; what was in dist/ before is still there."""
    (tree / "dist").mkdir()
    (tree / "dist/jupyterhub_1+deb13_amd64.deb").write_text("the build before")
    cache = tree.parent / "cache"
    # A shell's background job, which a test run may be, ignores SIGINT, and so would all below it.
    command = ["env", "--default-signal=INT", str(tree / "build.sh"), "--engine", "root"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "making a minimal root" in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stdout.read().splitlines()
    assert process.returncode == 130
    assert "build.sh: interrupted" in said
    assert os.listdir(tree / "dist") == ["jupyterhub_1+deb13_amd64.deb"]
    assert not list(cache.glob("*/work.*")) and not list(cache.glob("*/*.tar"))
    deadline = time.monotonic() + 20  # what has been killed may take a moment to be gone
    while left := subprocess.run(["pgrep", "-f", str(cache)], check=False, capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_patch_of_the_examples_applies(tree):
    """As debian/rules has it where web servers are older, which the default suite's build does not show."""
    (patch,) = (tree / "debian/patches/examples-older-servers").iterdir()
    command = ["patch", "--batch", "--fuzz=0", "--strip=1", "--directory", tree / "docs/examples", "--input", patch]
    assert subprocess.run(command, check=False, capture_output=True, text=True).returncode == 0


# What is changed in a file, and what the build's last line says then.
TAMPERED = {
    "wheel": ("requirements.txt", r"(?<=--hash=sha256:)[0-9a-f]{8}", "0" * 8, "does not match its hash in requirements.txt"),
    "npm package": ("npm/node20/package-lock.json", r"(?<=\"sha512-).{8}", "A" * 8, "does not match its integrity"),
    "patch": ("debian/patches/python/jupyter-server-nodelay.patch", r"super\(\)\.open\(\)", "super().close()", "jupyter-server-nodelay.patch does not apply"),
}


@pytest.mark.slow("builds until the build ends")
@pytest.mark.parametrize("what", TAMPERED)
def test_input_that_does_not_fit_ends_the_build(tree, what):
    """A download that is not what was locked (it is the lock that is changed here, for the registries are not ours), or a patch for another version."""
    file, pattern, wrong, said = TAMPERED[what]
    lock = tree / file
    lock.write_text(re.sub(pattern, wrong, lock.read_text()))
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))  # where the roots are
    code, lines = build(tree, "--engine", "root", timeout=1800, XDG_CACHE_HOME=cache)
    assert code != 0
    assert lines[-1].startswith("build.sh: ") and said in lines[-1], lines[-5:]
    assert not (tree / "dist").exists()
