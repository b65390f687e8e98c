"""The programs behind the spawner's socket, as the hub speaks with them: one line of JSON in, one line out."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

LIBEXEC = pathlib.Path(__file__).resolve().parents[2] / "src/libexec"


def ask(program, request, **environment):
    """Put a request (object, or the bytes themselves) to a program of libexec; return its answer."""
    line = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
    command = [sys.executable, "-IS", LIBEXEC / program]
    done = subprocess.run(command, input=line, capture_output=True, check=True, timeout=10, env={**os.environ, **environment})
    answer = done.stdout.splitlines()
    assert len(answer) == 1
    return json.loads(answer[0])


@pytest.fixture
def sleeper():
    """A process of ours (Popen), which the test may end."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def identity(pid):
    """What the gate calls `started`: the boot, and the tick of the process's start (proc(5), field 22 of stat)."""
    ticks = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{ticks}"


@pytest.mark.parametrize("program", ["spawner-gate", "sudospawner"])
@pytest.mark.parametrize("request_", [b"", b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"action": "reboot"}\n', b'{"action": "signal"}\n', b'"spawn"\n'])
def test_bad_request_gets_one_line(program, request_):
    answer = ask(program, request_)
    assert answer["ok"] is False
    assert answer["error"].startswith("not a request that I know") and "\n" not in answer["error"]


def test_request_that_never_ends_is_cut_off():
    assert ask("spawner-gate", b"x" * (2 << 20))["ok"] is False


def test_poll_knows_its_process_from_the_next_one_with_its_number(sleeper):
    request = {"action": "poll", "pid": sleeper.pid, "started": identity(sleeper.pid)}
    assert ask("spawner-gate", request) == {"ok": True, "alive": True}
    assert ask("spawner-gate", {**request, "started": "another boot/1"}) == {"ok": True, "alive": False}
    sleeper.kill()  # and is not waited for yet
    assert any(not ask("spawner-gate", request)["alive"] for _ in range(100))


@pytest.mark.parametrize("action", ["signal", "stop"])
def test_what_is_gone_is_not_signalled(sleeper, action):
    """Another process has its number: nothing is asked of sudo, and nothing happens to it."""
    request = {"action": action, "user": "nobody", "pid": sleeper.pid, "started": "another boot/1", "signal": 15, "seconds": 0}
    assert ask("spawner-gate", request) == {"ok": True, "alive": False}
    assert sleeper.poll() is None


def test_mediator_signals_its_users_process(sleeper):
    assert ask("sudospawner", {"action": "signal", "pid": sleeper.pid, "signal": signal.SIGTERM}) == {"ok": True, "alive": True}
    assert sleeper.wait(5) == -signal.SIGTERM
    assert ask("sudospawner", {"action": "signal", "pid": sleeper.pid, "signal": 0}) == {"ok": True, "alive": False}


def with_sudo(folder, script):
    """Return the environment (dict) in which `sudo` is a shell script, which has its own arguments in `asked` and the command after `--` in "$@"."""
    sudo = folder / "sudo"
    sudo.write_text(f'#!/bin/sh\nasked=\nwhile [ $# -gt 0 ]; do\n  word=$1; shift\n  [ "$word" != -- ] || break\n  asked="$asked $word"\ndone\n{script}\n')
    sudo.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def asked_for(sleeper, action, **more):
    return {"action": action, "user": "alice", "pid": sleeper.pid, "started": identity(sleeper.pid), "signal": signal.SIGTERM, **more}


@pytest.fixture
def mediated(tmp_path):
    """The environment in which sudo runs the mediator of the sources, and notes in the file `asked` (Path, the second value) what it is asked."""
    note = tmp_path / "asked"
    return with_sudo(tmp_path, f'echo "$asked: $@" >>{note}\nexec {sys.executable} -IS {LIBEXEC}/sudospawner'), note


def test_signal_goes_through_sudo_and_the_mediator(sleeper, mediated):
    environment, note = mediated
    assert ask("spawner-gate", asked_for(sleeper, "signal"), **environment) == {"ok": True, "alive": True}
    assert sleeper.wait(5) == -signal.SIGTERM
    # As the sudoers rule has it: that user, that command, no arguments.
    assert note.read_text() == " -n -H -u alice: /usr/libexec/jupyterhub/sudospawner\n"


@pytest.mark.parametrize(("number", "alive"), [(signal.SIGTERM, False), (signal.SIGCONT, True)])
def test_stop_says_whether_the_process_has_ended(sleeper, mediated, number, alive):
    request = asked_for(sleeper, "stop", signal=number, seconds=5 if not alive else 0.2)
    assert ask("spawner-gate", request, **mediated[0]) == {"ok": True, "alive": alive}


@pytest.mark.parametrize(
    ("script", "allowed", "reason"),
    [
        ("exit 0", True, None),
        ("exit 1", False, "JUPYTER_USERS in /etc/sudoers.d/jupyterhub does not admit the account, or `jupyterhub-ctl user` has denied or locked it"),
        ("echo 'sudo: unknown user alice' >&2; echo ' sudo: sorry' >&2; exit 1", False, "sudo: unknown user alice / sudo: sorry"),
    ],
)
def test_sudo_decides_who_is_allowed(tmp_path, script, allowed, reason):
    """By its exit status alone; what it says beside is the reason, in one line."""
    environment = with_sudo(tmp_path, f'[ "$asked: $@" = " -n -l -u alice: /usr/libexec/jupyterhub/sudospawner" ] || exit 3\n{script}')
    answer = ask("spawner-gate", {"action": "allowed", "user": "alice"}, **environment)
    assert answer["ok"] and answer["allowed"] is allowed
    assert reason is None or answer["reason"] == reason


def test_spawn_names_the_process_that_sudo_answers_with(sleeper, tmp_path):
    """The request reaches the mediator whole: 100 kB, more than a pipe would take from somebody who does not wait."""
    got = tmp_path / "got"
    environment = with_sudo(tmp_path, f'cat >{got}; echo \'{{"ok": true, "pid": {sleeper.pid}}}\'')
    request = {"action": "spawn", "user": "alice", "args": [], "env": {"LONG": "x" * 100_000}}
    assert ask("spawner-gate", request, **environment) == {"ok": True, "pid": sleeper.pid, "started": identity(sleeper.pid)}
    assert json.loads(got.read_text()) == request


def test_mediator_that_never_stops_talking_is_not_listened_to(tmp_path):
    """It is its user's process."""
    environment = with_sudo(tmp_path, "exec head -c 20000000 /dev/zero")
    answer = ask("spawner-gate", {"action": "spawn", "user": "alice", "args": [], "env": {}}, **environment)
    assert answer == {"ok": False, "error": "the mediator of alice answers more than 8 MB"}


def test_mediator_that_is_stopped_does_not_keep_the_gate(tmp_path):
    """The user may stop it, and the hub asks about a job again and again."""
    (tmp_path / "debianized_jupyterhub").symlink_to(LIBEXEC.parent / "debianized_jupyterhub")
    gate = tmp_path / "gate"
    text = (LIBEXEC / "spawner-gate").read_text()
    gate.write_text(text.replace("UNHEARD = 60", "UNHEARD = 1").replace('f"{VENV}/lib/python3*/site-packages"', repr(str(tmp_path))))
    environment = with_sudo(tmp_path, "exec sleep 10")
    done = subprocess.run(
        [sys.executable, "-IS", gate], input=b'{"action": "state", "own": "alice"}\n', stdout=subprocess.PIPE, timeout=8, env={**os.environ, **environment}
    )
    assert done.returncode == -signal.SIGALRM


def test_spawn_that_the_policy_forbids_says_so(tmp_path):
    environment = with_sudo(tmp_path, "echo 'alice is not welcome' >&2; exit 1")
    answer = ask("spawner-gate", {"action": "spawn", "user": "alice", "args": [], "env": {}}, **environment)
    assert answer == {"ok": False, "error": "sudo did not start a server for alice: alice is not welcome"}


def last_words_of(folder, words, end):
    """Return what the gate says after its answer, where the mediator writes `words` (bytes) into its pipe, then does `end` (Python)."""
    mediator = folder / "mediator.py"
    mediator.write_text(
        f"import json, os, signal, socket\ngate = socket.socket(fileno=os.dup(0))\n_, (request, listener, pipe), _, _ = socket.recv_fds(gate, 16, 3)\n"
        f"print(json.dumps({{'ok': True, 'pid': os.getpid()}}), flush=True)\nos.write(pipe, {words!r})\n{end}\n"
    )
    gate = folder / "gate"
    gate.write_text((LIBEXEC / "spawner-gate").read_text().replace('"/run/jupyterhub-servers"', repr(str(folder))))
    environment = with_sudo(folder, f"exec {sys.executable} -IS {mediator}")
    request = {"action": "spawn", "user": "alice", "args": [], "env": {}, "socket": f"server-{'0' * 16}.sock"}
    with subprocess.Popen([sys.executable, "-IS", gate], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}) as process:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["ok"]
        return json.loads(process.stdout.readline())["ended"]


@pytest.mark.parametrize(
    ("words", "end", "said"),
    [
        (b"no room", "", "no room"),
        (b"\x1b[31mred\n<b>\xff\xe2\x80\xae", "", "[31mred <b>\N{REPLACEMENT CHARACTER}"),
        (b"x" * 5000, "", "x" * 297 + "..."),
        (b"", "raise SystemExit(3)", "exit status 3"),
        (b"", "os.kill(os.getpid(), signal.SIGKILL)", "it was killed (SIGKILL)"),
        (b"", "os.kill(os.getpid(), signal.SIGSEGV)", "it was ended by signal 11"),
    ],
)
def test_last_words_of_a_server_are_one_line(tmp_path, words, end, said):
    assert last_words_of(tmp_path, words, end).startswith(said)


def test_gate_ends_when_the_hub_has_lost_interest(sleeper, tmp_path):
    """It says nothing more, though the server runs."""
    environment = with_sudo(tmp_path, f'cat >/dev/null; echo \'{{"ok": true, "pid": {sleeper.pid}}}\'')
    assert ask("spawner-gate", {"action": "spawn", "user": "alice", "args": [], "env": {}}, **environment)["ok"]


@pytest.mark.parametrize(
    ("comment", "cancelled"),
    [(f"jupyterhub:{'0' * 16}", True), (f"jupyterhub:{'0' * 16}:4711", True), (f"jupyterhub:{'1' * 16}", False), ("her own", False), ("", False)],
)
def test_mediator_cancels_no_other_job(tmp_path, comment, cancelled):
    """Numbers of jobs are used again, by a slurmctld that has lost its state from 1 on; and a hub that was taken over may ask for any."""
    for program, script in (("squeue", f"echo '{comment}'"), ("scancel", f'echo "$@" >{tmp_path}/cancelled')):
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(0o755)
    mediator = tmp_path / "mediator"
    mediator.write_text((LIBEXEC / "sudospawner").read_text().replace('"PATH": "/usr/bin:/bin"', f'"PATH": "{tmp_path}"'))
    assert ask(mediator, {"action": "cancel", "tag": "0" * 16, "job": 7})["ok"]
    assert (tmp_path / "cancelled").exists() == cancelled
