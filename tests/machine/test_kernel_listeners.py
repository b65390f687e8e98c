"""What other accounts of the machine reach of a kernel: its pipe for forked processes, and the debug adapter that JupyterLab's debugger starts."""

import json
import pathlib
import textwrap
import uuid

import pytest
from cases import further
from harness import wait_for
from hubclient import with_server

PYTHON = "/opt/venvs/jupyterhub/bin/python"
STRANGERS = ["mallory", "bob"]  # mallory may not use the hub, bob has a server of his own
HELLO = {"clientID": "jupyterlab", "adapterID": "python", "pathFormat": "path", "linesStartAt1": True, "columnsStartAt1": True, "locale": "en"}
CODE = "def f(x):\n    y = x + 1\n    return y\nf(41)"
FORK = "import multiprocessing as m; p = m.get_context('fork').Process(target=print, args=('from a child',)); p.start(); p.join(9); print(p.exitcode)"


@pytest.fixture(scope="module")
def alice(machine, hub):
    machine.add_user("mallory", groups=())
    with_server(machine, hub, "bob")
    return with_server(machine, hub, "alice")


@pytest.fixture
def kernel(alice):
    kernel = alice.kernel()
    kernel.execute("import os")
    yield kernel
    kernel.shutdown()


class Debugger:
    """JupyterLab's debugger: its requests over the kernel's websocket."""

    def __init__(self, kernel):
        self.kernel, self.seq, self.unread = kernel, 0, []

    def send(self, channel, kind, content):
        """Send a message (dict) of the kind (str); return its id."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": self.kernel.session_id, "username": "", "version": "5.3"}
        message = {"channel": channel, "header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
        self.kernel.socket.settimeout(20)
        self.kernel.socket.send(json.dumps(message))
        return header["msg_id"]

    def receive(self, wanted):
        """Return the first message (dict) for which `wanted(message)` is true; the others are for later questions."""
        while not (found := next(filter(wanted, self.unread), None)):
            frame = self.kernel.socket.recv()
            if isinstance(frame, str):
                self.unread.append(json.loads(frame))
        self.unread.remove(found)
        return found

    def ask(self, command, **arguments):
        """Send a request of the Debug Adapter Protocol; return the reply (dict)."""
        self.seq += 1
        asked = self.send("control", "debug_request", {"type": "request", "command": command, "seq": self.seq, "arguments": arguments})
        return self.receive(lambda m: m["channel"] == "control" and m["parent_header"].get("msg_id") == asked)["content"]

    def request(self, command, **arguments):
        """As ask, but the reply has to tell of success."""
        reply = self.ask(command, **arguments)
        assert reply.get("success"), reply
        return reply

    def open(self):
        """Do what the click on the bug does."""
        self.request("initialize", **HELLO)
        self.request("attach")

    def close(self):
        """Do what the second click does."""
        self.request("disconnect", restart=False, terminateDebuggee=False)

    def stops_at_a_breakpoint(self, meanwhile=lambda: None, goes_on=False):
        """Run a cell that stops in its second line, call `meanwhile` there, and let it end, unless it goes on by itself then."""
        path = self.request("dumpCell", code=CODE)["body"]["sourcePath"]
        self.request("setBreakpoints", source={"path": path}, breakpoints=[{"line": 2}], sourceModified=False)
        self.request("configurationDone")
        cell = self.send("shell", "execute_request", {"code": CODE, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True})
        event = self.receive(lambda m: m["msg_type"] == "debug_event" and m["content"]["event"] == "stopped")["content"]
        meanwhile()
        if not goes_on:
            self.request("continue", threadId=event["body"]["threadId"])
        result = self.receive(lambda m: m["msg_type"] == "execute_result" and m["parent_header"].get("msg_id") == cell)
        assert result["content"]["data"]["text/plain"] == "42"


@pytest.fixture
def debugger(kernel):
    debugger = Debugger(kernel)
    debugger.open()
    return debugger


def pid_of(kernel):
    return kernel.execute("os.getpid()")


def ports(machine, pid):
    """Return the TCP ports (list of int) at which the process listens."""
    lines = machine.sh("ss -Htlnp").splitlines()
    return [int(line.split()[3].rpartition(":")[2]) for line in lines if f"pid={pid}," in line]


def adapters(machine):
    """Return the process ids (list of str) of alice's debug adapters."""
    return machine.run("pgrep", "-u", "alice", "-f", "debugpy/adapter", check=False).stdout.split()


def all_ports(machine):
    """Return the ports of the debug adapters of alice's, of which there has to be one."""
    (pid,) = adapters(machine)
    found = ports(machine, pid)
    assert len(found) == 2
    return found


# Attaches to the debug adapter at the ports in argv as JupyterLab does, and has it run argv[1]: from IPv4, by IPv6's way to IPv4, and gone before the
# answer comes. Prints for each try how many bytes it was told.
ATTACK = """
import json, socket, sys, time
def attack(port, family, address, stay):
    told, s = 0, socket.socket(family)
    s.settimeout(5)
    def request(seq, command, **arguments):
        body = json.dumps({"type": "request", "seq": seq, "command": command, "arguments": arguments}).encode()
        s.sendall(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    try:
        s.connect((address, port))
        request(1, "initialize", adapterID="python", clientID="x", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)
        request(2, "attach")
        if stay:
            told += len(s.recv(65536))
            time.sleep(told and stay)
        request(3, "configurationDone")
        request(4, "evaluate", expression=sys.argv[1], context="repl")
        s.settimeout(stay)
        while stay and (data := s.recv(65536)):
            told += len(data)
        return told
    except TimeoutError:
        return f"{told} and more to come"
    except OSError:
        return told
    finally:
        s.close()
for port in map(int, sys.argv[2:]):
    for way in (socket.AF_INET, "127.0.0.1", 1), (socket.AF_INET6, "::ffff:127.0.0.1", 1), (socket.AF_INET, "127.0.0.1", 0):
        print(attack(port, *way))
"""


def attack(machine, who, at):
    """Have an account try to run code by the debug adapter at these ports; return what it was told (set of str) and whose account ran its code."""
    machine.sh("rm -f /tmp/taken")
    took = "open('/tmp/taken', 'w').write(__import__('getpass').getuser())"
    told = machine.run(PYTHON, "-c", ATTACK, took, *map(str, at), user=who).stdout.splitlines()
    assert len(told) == 3 * len(at)
    return set(told), machine.sh("cat /tmp/taken || true")


# -- The pipe -----------------------------------------------------------------------------------------------------------------------------


def test_kernel_has_no_port(machine, kernel):
    assert ports(machine, pid_of(kernel)) == []


# Writes to whatever listens as ZeroMQ would, a message that never ends.
FLOOD = """
import socket, sys
greeting = b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00" + b"NULL".ljust(20, b"\\0") + bytes(32)
ready = b"\\x05READY\\x0bSocket-Type\\x00\\x00\\x00\\x04PUSH"
for port in map(int, sys.argv[1:]):
    s = socket.create_connection(("127.0.0.1", port), 10)
    s.sendall(greeting + b"\\x04" + bytes([len(ready)]) + ready + b"\\x02" + (2**30).to_bytes(8, "big"))
    try:
        for _ in range(300):
            s.sendall(bytes(2**20))
    except OSError:
        pass
    print("flooded", port, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("who", STRANGERS)
def test_strangers_cannot_fill_a_kernels_memory(machine, kernel, who):
    memory = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    before = int(kernel.execute(memory))
    machine.run(PYTHON, "-c", FLOOD, *map(str, ports(machine, pid_of(kernel))), user=who)
    assert int(kernel.execute(memory)) < before + 20_000  # kB
    assert kernel.execute("print('still here')") == "still here"


def output(kernel, code):
    """Return what a cell prints, also what comes after it has ended: that of a child may."""
    kernel.execute("import sys, time")
    return kernel.execute(f"{code}\nsys.stdout.flush(); time.sleep(.3)")


@pytest.mark.parametrize(
    "code, prints",
    [
        ("print('from the kernel')", ["from the kernel"]),
        ("!echo from a program", ["from a program"]),
        ("os.system('echo from a shell')", ["from a shell"]),
        ("import subprocess; _ = subprocess.run(['echo', 'from run'])", ["from run"]),
        ("get_ipython().run_cell_magic('bash', '', 'echo from bash')", ["from bash"]),
        (FORK, ["0", "from a child"]),
        ("if not (pid := os.fork()):\n    print('from a fork', flush=True); os._exit(0)\n_ = os.waitpid(pid, 0)", ["from a fork"]),
    ],
)
def test_output_arrives(machine, kernel, code, prints):
    kernel.execute("import warnings; warnings.simplefilter('ignore')")  # of threads and fork()
    assert sorted(line for line in output(kernel, code).splitlines() if line) == prints


def test_pipe_is_a_file_of_the_user_that_goes_with_the_kernel(machine, alice):
    kernel = alice.kernel()
    kernel.execute("import os")
    folder, pid = f"/run/user/{machine.sh('id -u alice')}/jupyter", pid_of(kernel)
    assert machine.sh(f"stat -c '%F %a %U' {folder}/pipe-{pid}-*") == "socket 600 alice"
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    path = machine.sh(f"echo {folder}/pipe-{pid}-*")
    for who in STRANGERS:
        assert "PermissionError" in machine.run(PYTHON, "-c", connect, path, user=who, check=False).stderr
    kernel.shutdown()
    wait_for(lambda: not machine.sh(f"find {folder} -name 'pipe-{pid}-*'"), "the pipe is gone")


@pytest.mark.parametrize("folder", ["/nonexistent", "/proc", f"/tmp/{'long/' * 22}"])
def test_pipe_where_the_runtime_folder_cannot_be_used(machine, alice, folder):
    """A folder that is not there, cannot be written to, or has a name too long for a socket; nothing is left behind."""
    code = """
        import os, stat, zmq
        from ipykernel.iostream import IOPubThread
        context = zmq.Context()
        pub, sub = context.socket(zmq.PUB), context.socket(zmq.SUB)
        pub.bind("inproc://iopub")
        sub.connect("inproc://iopub")
        sub.subscribe(b"")
        thread = IOPubThread(pub, pipe=True)
        thread.start()
        if not os.fork():
            thread.send_multipart([b"from a child"])
            os._exit(0)
        print(sub.poll(5000) and sub.recv().decode())
        made = os.path.dirname(thread._pipe_path)
        print(made.startswith("/tmp/jupyter-"), oct(stat.S_IMODE(os.stat(made).st_mode)))
        thread.stop()
        print(os.path.exists(made))
    """
    if "long" in folder:
        machine.run("mkdir", "-p", folder, user="alice")
    said = machine.run("env", f"JUPYTER_RUNTIME_DIR={folder}", PYTHON, "-W", "ignore", "-c", textwrap.dedent(code), user="alice").stdout
    assert said.splitlines() == ["from a child", "True 0o700", "False"]


@pytest.mark.slow("systemd removes the folder")
def test_pipes_of_killed_kernels_go_with_the_session(machine, hub):
    machine.add_user("carol")
    carol = hub.login("carol", "secret")
    carol.spawn()
    kernel = carol.kernel()
    kernel.execute("import os")
    pid, folder = pid_of(kernel), f"/run/user/{machine.sh('id -u carol')}"
    assert machine.sh(f"find {folder}/jupyter -name 'pipe-{pid}-*'")
    machine.sh(f"kill -9 {pid}")
    carol.stop()
    wait_for(lambda: machine.run("test", "-e", folder, check=False).returncode != 0, "the runtime folder is gone", timeout=30)


# -- The debugger ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", STRANGERS)
def test_strangers_cannot_use_an_open_debugger(machine, debugger, who):
    """Neither before nor while a cell waits at a breakpoint; alice's own debugger does not mind."""

    def try_it():
        assert attack(machine, who, all_ports(machine)) == ({"0"}, "")

    try_it()
    debugger.stops_at_a_breakpoint(meanwhile=try_it)
    debugger.stops_at_a_breakpoint()


def test_users_own_programs_may_use_her_debugger(machine, debugger):
    """Also by IPv6's way to IPv4: the check knows which connection is whose."""
    connect = "import socket, sys; s = socket.create_connection((sys.argv[1], sys.argv[2]), 30); print(s.recv(14))"
    for port in all_ports(machine):
        for address in ("127.0.0.1", "::ffff:127.0.0.1"):
            assert machine.run(PYTHON, "-c", connect, address, port, user="alice").stdout == "b'Content-Length'\n"
    debugger.stops_at_a_breakpoint()


@pytest.mark.parametrize("who", STRANGERS)
def test_nothing_of_a_closed_debugger_is_left(machine, kernel, debugger, reusable_ports, who):
    """Whoever takes the ports waits in vain for the kernel and the processes that it forks."""
    debugger.stops_at_a_breakpoint()
    listened = all_ports(machine)
    debugger.close()
    assert attack(machine, who, listened) == ({"0"}, "")
    wait_for(lambda: not adapters(machine), "the adapter has ended", timeout=5)
    assert ports(machine, pid_of(kernel)) == []
    assert calls(machine, who, listened, lambda: kernel.execute(FORK)) == ""


def test_kernel_does_not_turn_to_who_takes_the_place_of_its_adapter(machine, debugger, reusable_ports):
    listened = all_ports(machine)
    machine.sh(f"kill -9 {adapters(machine)[0]}")
    assert calls(machine, "mallory", listened) == ""


@pytest.fixture
def reusable_ports():
    """The kernel keeps ports of ended connections from others for a minute: do not count on it."""
    setting = pathlib.Path("/proc/sys/net/ipv4/tcp_max_tw_buckets")
    before = setting.read_text()
    setting.write_text("0")
    yield
    setting.write_text(before)


# Listens at the ports in argv for three seconds, and prints those at which somebody called.
LISTEN = """
import select, socket, sys, time
listeners = []
for port in map(int, sys.argv[1:]):
    listeners.append(socket.socket())
    listeners[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for left in range(50, -1, -1):
        try:
            listeners[-1].bind(("127.0.0.1", port))
            break
        except OSError:
            if not left:
                raise
            time.sleep(0.1)
    listeners[-1].listen()
open("/tmp/listening", "w").close()
end = time.monotonic() + 3
while (left := end - time.monotonic()) > 0:
    for called in select.select(listeners, [], [], left)[0]:
        called.accept()
        print(called.getsockname())
"""


def calls(machine, who, at, meanwhile=lambda: None):
    """Have an account listen at these ports, call `meanwhile`, and return at which of them it was called (str)."""
    machine.sh("rm -f /tmp/listening")
    unit = f"listen-{uuid.uuid4().hex}"
    machine.run("systemd-run", "--quiet", f"--uid={who}", f"--unit={unit}", "--collect", PYTHON, "-c", LISTEN, *map(str, at))
    wait_for(lambda: machine.run("test", "-e", "/tmp/listening", check=False).returncode == 0, "it listens")
    meanwhile()
    wait_for(lambda: not machine.sh(f"systemctl list-units --plain --no-legend {unit}.service"), "it has listened", timeout=20)
    return "".join(machine.journal("-u", unit, "_TRANSPORT=stdout", "--output=cat"))


def test_debugger_opens_again(machine, kernel, debugger):
    """The bug on and off: each time with a new adapter, and at once."""
    seen = set()
    for _ in range(3):
        debugger.stops_at_a_breakpoint()
        seen.add(adapters(machine)[-1])
        debugger.close()
        assert kernel.execute("6 * 7") == "42"
        debugger.open()
    assert len(seen) == 3
    debugger.stops_at_a_breakpoint()
    debugger.close()


def test_debugger_closes_at_a_breakpoint(machine, kernel, debugger):
    """The cell goes on, and so do all later ones, without stopping."""
    debugger.stops_at_a_breakpoint(meanwhile=debugger.close, goes_on=True)
    assert kernel.execute(CODE) == "42"
    wait_for(lambda: not adapters(machine), "the adapter has ended", timeout=5)


def test_cells_start_programs_while_the_debugger_is_open(kernel, debugger):
    """Python is not started as a program to be debugged, which would wait for somebody to do it."""
    kernel.execute("import subprocess, sys, warnings; warnings.simplefilter('ignore')")
    program = "print(subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True, timeout=10).stdout)"
    for _ in range(2):
        assert output(kernel, program).strip() == "1"
        assert "from a child" in output(kernel, FORK)
        if debugger:
            debugger.close()
            debugger = None


def test_adapter_ends_though_a_cell_has_forked(machine, kernel, debugger):
    """Children that live on hold the kernel's connection to the adapter, too."""
    kernel.execute("import multiprocessing, warnings; warnings.simplefilter('ignore'); pool = multiprocessing.get_context('fork').Pool(2)")
    debugger.close()
    wait_for(lambda: not adapters(machine), "the adapter has ended", timeout=5)
    assert kernel.execute("pool.map(abs, [-6, -7])") == "[6, 7]"
    kernel.execute("pool.terminate()")


def test_debugger_does_not_write_to_anothers_folder(machine, kernel):
    """The folder's name holds no more than the kernel's number: who makes it first would read the cells, and have files of alice's written over."""
    folder = f"/tmp/ipykernel_{pid_of(kernel)}"
    machine.run("mkdir", "-m", "777", folder, user="mallory")
    debugger = Debugger(kernel)
    assert not debugger.ask("initialize", **HELLO)["success"]
    assert folder in machine.sh("journalctl --output=cat | grep 'not a folder of this account'")
    machine.sh(f"rmdir {folder}")
    debugger.open()
    machine.run("mv", folder, f"{folder}.gone", user="alice")  # as systemd-tmpfiles might, after days
    machine.run("ln", "-s", "/home/alice", folder, user="mallory")
    assert not debugger.ask("dumpCell", code=CODE)["success"]
    machine.sh(f"rm {folder}")
    debugger.stops_at_a_breakpoint()
    debugger.close()


def test_adapter_ends_with_its_kernel(machine, alice):
    kernel = alice.kernel()
    Debugger(kernel).open()
    assert adapters(machine)
    kernel.shutdown()
    wait_for(lambda: not adapters(machine), "the adapter has ended", timeout=10)


# -- Kernels that programs start ----------------------------------------------------------------------------------------------------------

# Subscribes to all that is published at the ports in argv, and prints what came within three seconds.
SUBSCRIBE = """
import sys, time, zmq
context = zmq.Context()
sockets = [context.socket(zmq.SUB) for _ in sys.argv[1:]]
for socket, port in zip(sockets, sys.argv[1:]):
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.subscribe(b"")
time.sleep(3)
for socket in sockets:
    print(socket.recv_multipart() if socket.poll(0) else "nothing")
"""


NBCONVERT = "nbconvert --execute --to notebook"


@pytest.mark.parametrize("program", further(["execute", NBCONVERT], [NBCONVERT], "the same client below another command"))
def test_strangers_cannot_read_what_is_run_in_a_terminal(machine, alice, program):
    """These kernels do have ports, but also a key, which their clients get from a file of the user's."""
    code = "import os, time\nwhile not os.path.exists('/tmp/enough'):\n    print('secret', flush=True); time.sleep(.1)"
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": code}
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    machine.write("/home/alice/loop.ipynb", json.dumps({"cells": [cell], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 4}))
    machine.sh("rm -f /tmp/enough; chown alice: /home/alice/loop.ipynb")
    jupyter = f"/opt/venvs/jupyterhub/bin/jupyter {program} --inplace loop.ipynb"
    machine.run("systemd-run", "--quiet", "--uid=alice", "--unit=program", "--collect", "--working-directory=/home/alice", *jupyter.split())

    def kernels_ports():
        kernels = machine.sh("pgrep -u alice -f 'ipykernel_launcher -f /tmp/' || true").split()
        found = [port for pid in kernels for port in ports(machine, pid)]
        return found if len(found) >= 5 else None

    try:
        listened = wait_for(kernels_ports, "the kernel listens", timeout=30)
        for who in STRANGERS:
            assert machine.run(PYTHON, "-c", SUBSCRIBE, *map(str, listened), user=who).stdout.split("\n")[:-1] == ["nothing"] * len(listened)
    finally:
        machine.sh("touch /tmp/enough")
        wait_for(lambda: not machine.sh("systemctl list-units --plain --no-legend program.service"), "the program has ended", timeout=30)
    outputs = json.loads(machine.sh("cat /home/alice/loop.ipynb"))["cells"][0]["outputs"]
    assert "secret\n" in "".join(text for output in outputs for text in output["text"])
