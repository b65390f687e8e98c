"""Who may do what to whom: the hub's sandbox, the spawner's socket, the proxy's API, the user's session."""

import json
import re

import pytest

PROXY_API = "/run/jupyterhub-proxy/api.sock"
SPAWNER = "/run/jupyterhub-spawner.sock"
LOGIN = "/run/jupyterhub-login.sock"
EXPOSURE = {"jupyterhub.service": 1.4, "jupyterhub-proxy.service": 1.1, "jupyterhub-ports.service": 1.5, "jupyterhub-login.service": 1.5}


@pytest.fixture(scope="module")
def alice(machine, hub):
    machine.add_user("alice", groups=("users", "sudo"))
    machine.add_user("mallory", groups=())
    user = hub.login("alice", "secret")
    user.spawn()
    return user


@pytest.fixture(scope="module")
def kernel(alice):
    return alice.kernel()


@pytest.mark.parametrize("unit, most", EXPOSURE.items())
def test_exposure(machine, unit, most):
    machine.run("systemd-analyze", "security", "--no-pager", f"--threshold={most * 10:.0f}", unit)


def exposure(machine, unit):
    """Return what systemd-analyze makes of a unit (float)."""
    return float(re.search(r"Overall exposure level for .*: ([\d.]+)", machine.run("systemd-analyze", "security", "--no-pager", unit).stdout)[1])


def test_who_checks_passwords_has_no_more_than_who_makes_accounts(machine):
    assert exposure(machine, "jupyterhub-login.service") <= exposure(machine, "jupyterhub-accounts@x.service")


def test_hub_reads_no_password_hashes(machine, alice):
    """With the groups that its process has; and none of its account's units has others, nor has the account."""
    groups = re.search(r"(?m)^Groups:\s*(.*)$", machine.sh(f"cat /proc/{machine.pid_of('jupyterhub')}/status"))[1].split()
    as_hub = ["setpriv", "--reuid=jupyterhub", "--regid=jupyterhub", f"--groups={','.join(groups)}", "--"]
    assert "Permission denied" in machine.run(*as_hub, "cat", "/etc/shadow", check=False).stderr
    units = machine.sh("cd /usr/lib/systemd/system; grep -lx User=jupyterhub jupyterhub*").split()
    assert {"jupyterhub.service", "jupyterhub-spawner@.service"} <= set(units)
    for unit in units:
        assert "shadow" not in machine.property(unit.replace("@", "@x"), "SupplementaryGroups").split()
    assert "shadow" not in machine.sh("id -Gn jupyterhub").split()


def test_passwords_are_checked_by_an_account_of_their_own(machine, hub, alice):
    hub.login("alice", "secret")
    status = machine.sh(f"cat /proc/{machine.pid_of('jupyterhub-login')}/status")
    assert re.search(r"(?m)^Uid:\s*(\d+)", status)[1] == machine.sh("id -u jupyterhub-login")
    assert "NoNewPrivs:\t1" in status and "CapBnd:\t0000000000000000" in status
    # It has nothing of the hub's.
    pid = machine.pid_of("jupyterhub-login")
    assert machine.sh(f"ls /proc/{pid}/root/var/opt/jupyterhub") == "faillock"
    assert "Permission denied" in machine.run("cat", "/var/opt/jupyterhub/jupyterhub.sqlite", user="jupyterhub-login", check=False).stderr


def test_hub_of_an_earlier_version_has_them_checked(machine, alice):
    """It starts login-check as its child, and is in group shadow no more once its unit is the new one."""
    for password, status in (("secret", 0), ("wrong", 7)):
        request = {"action": "login", "service": "jupyterhub", "user": "alice", "passwords": [password], "groups": ["users", "sudo", "root"]}
        said = machine.run("/usr/libexec/jupyterhub/login-check", user="jupyterhub", input=json.dumps(request) + "\n").stdout.splitlines()
        assert said[0] == "" and json.loads(said[1])["status"] == status
    assert json.loads(said[1])["account"] is None


def test_hub_has_no_setuid_program_below_it(machine, alice):
    """Neither now nor ever: nothing the hub starts can gain rights."""
    pids = machine.sh("cat /sys/fs/cgroup$(systemctl show --value -p ControlGroup jupyterhub)/cgroup.procs").split()
    assert pids
    for pid in pids:
        status = machine.sh(f"cat /proc/{pid}/status")
        assert "NoNewPrivs:\t1" in status
        assert "CapBnd:\t0000000000000000" in status
        assert machine.sh(f"stat -L -c %A /proc/{pid}/exe")[3] == "x"


@pytest.mark.parametrize("who", ["mallory", "alice", "jupyterhub-proxy"])
@pytest.mark.parametrize("path", [SPAWNER, PROXY_API, LOGIN])
def test_sockets_refuse_others(machine, alice, who, path):
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
    if (who, path) == ("jupyterhub-proxy", PROXY_API):
        pytest.skip("its own socket")
    result = machine.run("/opt/venvs/jupyterhub/bin/python", "-c", connect, user=who, check=False)
    assert "PermissionError" in result.stderr


def test_proxy_api_refuses_whoever_has_no_token(machine, alice):
    """Even a process that may open the socket."""
    request = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/jupyterhub-proxy/api.sock');"
        "s.sendall(b'GET /api/routes HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100).decode())"
    )
    answer = machine.run("/opt/venvs/jupyterhub/bin/python", "-c", request, user="jupyterhub-proxy").stdout
    assert " 403 " in answer


def ask_gate(machine, request, user="jupyterhub"):
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/jupyterhub-spawner.sock');"
        "s.sendall(sys.argv[1].encode() + b'\\n'); print(s.makefile().readline())"
    )
    return machine.run("/opt/venvs/jupyterhub/bin/python", "-c", code, request, user=user).stdout


@pytest.mark.parametrize("user", ["root", "mallory", "#0", "nobody-knows", "-s", ""])
def test_gate_starts_nothing_for_whom_sudoers_does_not_name(machine, alice, user):
    """Even if the hub itself were taken over."""
    answer = ask_gate(machine, f'{{"action": "spawn", "user": "{user}", "args": [], "env": {{}}}}')
    assert '"ok": false' in answer
    assert machine.sh("pgrep -f bin/jupyterhub-[s]ingleuser -u root,mallory || true") == ""


@pytest.mark.parametrize("request_", ["", "{", "[]", '{"action": "shell"}', '{"action": "spawn"}', '{"action": "poll", "pid": "x"}'])
def test_gate_answers_nonsense_with_one_line(machine, alice, request_):
    answer = ask_gate(machine, request_)
    assert '"ok": false' in answer and "Traceback" not in answer


def test_hub_cannot_choose_what_code_a_server_runs(machine, alice, kernel):
    env = kernel.execute("import os; print(sorted(os.environ))")
    for name in ("PYTHONPATH", "LD_PRELOAD", "CONFIGPROXY_AUTH_TOKEN", "SUDO_COMMAND"):
        assert name not in env


@pytest.mark.parametrize(
    "what",
    [
        "umask",
        "id -Gn",
        # Not alike on purpose: sudo allows no core dump, Jupyter Server asks for 4096 open files.
        "grep -v -e 'core file' -e 'open files' /proc/self/limits",
        "stat -c %i /tmp",
        "readlink /proc/self/ns/mnt",
        "echo $XDG_RUNTIME_DIR",
        "cat /proc/self/attr/current 2>/dev/null; grep -E 'NoNewPrivs|Seccomp:|Cap' /proc/self/status",
        "cut -d/ -f1-3 /proc/self/cgroup | tail -n 1",
    ],
)
@pytest.mark.parametrize("when", ["before", "after a restart of the hub"])
def test_notebook_is_like_a_login(machine, hub, alice, kernel, what, when):
    """A notebook and an ssh session of one user share /tmp, umask, groups and limits."""
    if when != "before":
        machine.sh("systemctl restart jupyterhub")
    notebook = kernel.execute(f"import subprocess; print(subprocess.getoutput({what!r}))")
    assert notebook == ssh(machine, what)


def ssh(machine, command):
    """Run a command as alice in a real ssh session."""
    machine.sh(
        """
        [ -e /root/.ssh/id ] || {
            mkdir -p /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id
            install -d -o alice -g alice -m 700 ~alice/.ssh
            install -o alice -g alice -m 600 /root/.ssh/id.pub ~alice/.ssh/authorized_keys
        }
        """
    )
    return machine.sh(f"ssh -i /root/.ssh/id -o StrictHostKeyChecking=no -o LogLevel=ERROR alice@127.0.0.1 {command!r}")


def test_sudo_works_in_a_terminal_of_jupyterlab(machine, alice, kernel):
    """No sandbox is inherited that would keep an administrator from becoming one."""
    assert kernel.execute("import subprocess; print(subprocess.getoutput('echo secret | sudo -S -p \"\" id -un'))") == "root"


def test_server_writes_to_the_journal(machine, alice):
    uid = machine.sh("id -u alice")
    assert "ServerApp" in machine.journal("-t", "jupyterhub-singleuser", f"_UID={uid}")


def test_server_and_kernel_talk_over_files_of_the_user_alone(machine, alice, kernel):
    """ipc, not TCP on loopback, which every user of the machine could listen to."""
    assert kernel.execute("import json, ipykernel; json.load(open(ipykernel.get_connection_file()))['transport']") == "'ipc'"
    pid = kernel.execute("import os; os.getpid()")
    assert f"pid={pid}," not in machine.sh("ss -Htnp state established")


def test_runtime_files_are_private(machine, alice, kernel):
    uid = machine.sh("id -u alice")
    assert machine.sh(f"stat -c '%a %U' /run/user/{uid}/jupyter") == "1700 alice"
