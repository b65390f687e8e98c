"""debian/venv-patches: each still keeps what it changes working, and still matters.

That they apply is seen at every build, which fails where one does not.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import socket
import subprocess

import pytest
from harness import wait_for

PATCHES = pathlib.Path(__file__).parents[2] / "debian/venv-patches"
PYTHON = "/opt/venvs/jupyterhub/bin/python"
SITE = "/opt/venvs/jupyterhub/lib/python3.*/site-packages"

COUNT_PARSERS = """
import lark
made = []
init = lark.Lark.__init__
lark.Lark.__init__ = lambda self, *a, **k: (made.append(a), init(self, *a, **k))[1]
import rfc3987_syntax
print(len(made))
"""


CHANGED = {"rfc3987-syntax-lazy": "rfc3987_syntax/syntax_helpers.py", "jupyterlab-registry-lazy": "jupyterlab/commands.py"}


@pytest.fixture(scope="module")
def upstream(machine, tmp_path_factory):
    """A folder inside with the patched modules as upstream has them: the patches taken back."""
    folder = tmp_path_factory.mktemp("upstream")
    for patch, changed in CHANGED.items():
        file = folder / changed
        file.parent.mkdir()
        file.write_text(machine.run("sh", "-c", f"cat {SITE}/{changed}").stdout)
        command = ["patch", "--quiet", "--reverse", "--strip=1", f"--directory={folder}", f"--input={PATCHES / patch}.patch"]
        subprocess.run(command, check=True)
        module = file.parent.name
        machine.sh(f"mkdir -p /opt/upstream; cp -r {SITE}/{module} /opt/upstream/; rm -r /opt/upstream/{module}/__pycache__")
        machine.write(f"/opt/upstream/{changed}", file.read_text())
    return "/opt/upstream"


def test_rfc3987_patch_still_matters(machine, upstream):
    """Upstream's own code builds parsers at import: if it does no longer, drop the patch."""
    code = f"import sys; sys.path.insert(0, {upstream!r}){COUNT_PARSERS}"
    assert int(machine.run(PYTHON, "-c", code).stdout) > 0


def test_rfc3987_builds_no_parser_at_import(machine):
    assert machine.run(PYTHON, "-c", COUNT_PARSERS).stdout.strip() == "0"


@pytest.mark.parametrize("iri, valid", [("http://example.org/ü?x=1#y", True), ("urn:isbn:0451450523", True), ("not an iri", False)])
def test_rfc3987_still_checks(machine, iri, valid):
    code = "import sys, rfc3987_syntax as r; print(r.is_valid_syntax('iri', sys.argv[1]), r.is_valid_syntax_iri(sys.argv[1]))"
    assert machine.run(PYTHON, "-c", code, iri).stdout.split() == [str(valid)] * 2


def test_rfc3987_is_what_jsonschema_uses(machine):
    code = "import jsonschema; print(jsonschema.FormatChecker().conforms('not an iri', 'iri'))"
    assert machine.run(PYTHON, "-c", code).stdout.strip() == "False"


# What jupyterlab.labapp does when a server starts.
COUNT_PROGRAMS = """
import sys
run = []
sys.addaudithook(lambda event, args: run.append(args[1]) if event == "subprocess.Popen" else None)
from jupyterlab.commands import AppOptions, _AppHandler
handler = _AppHandler(AppOptions())
print(len(run))
assert handler.registry.startswith("http")
print(len(run))
"""


def test_jupyterlab_asks_yarn_only_for_what_it_needs(machine):
    assert machine.run(PYTHON, "-c", COUNT_PROGRAMS).stdout.split() == ["0", "1"]


def test_jupyterlab_patch_still_matters(machine, upstream):
    code = f"import sys; sys.path.insert(0, {upstream!r}){COUNT_PROGRAMS}"
    assert machine.run(PYTHON, "-c", code).stdout.split() == ["1", "1"]


def accepted_without_nagle(pid, port):
    """Return how many of the connections that a process (pid of the host) has accepted at `port` have TCP_NODELAY set.

    Its sockets are looked at through copies of its file descriptors: pidfd_getfd(2).
    """
    libc, pidfd, found = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid), 0
    for entry in os.listdir(f"/proc/{pid}/fd"):
        fd = libc.syscall(438, pidfd, int(entry), 0)
        if fd < 0:
            continue
        try:
            with socket.socket(fileno=fd) as connection:
                if connection.family == socket.AF_INET and connection.getsockname()[1] == port:
                    found += bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        except OSError:  # no socket: closed with the attempt
            with contextlib.suppress(OSError):
                os.close(fd)
    os.close(pidfd)
    return found


def test_kernel_websockets_do_not_wait_for_acknowledgements(machine, hub):
    machine.add_user("alice")
    alice = hub.login("alice", "secret")
    alice.spawn()
    inside = machine.sh("pgrep --uid alice --full bin/jupyterhub-singleuser")
    (pid,) = [int(p.name) for p in pathlib.Path("/proc").glob("[0-9]*") if is_process(p, machine, inside)]
    kernel = alice.kernel()
    port = int(kernel.execute("import os; print(os.environ['JUPYTERHUB_SERVICE_URL'].split(':')[2].split('/')[0])"))
    assert accepted_without_nagle(pid, port) == 1
    kernel.close()
    wait_for(lambda: accepted_without_nagle(pid, port) == 0, "the websocket is gone, and was the only one")


def is_process(path, machine, inside):
    """Is this folder of the host's /proc the machine's process with the pid `inside`?"""
    with contextlib.suppress(OSError):
        if os.readlink(path / "ns/pid") == os.readlink(f"/proc/{machine.leader}/ns/pid"):
            return re.search(r"(?m)^NSpid:.*\t(\d+)$", (path / "status").read_text())[1] == inside
    return False
