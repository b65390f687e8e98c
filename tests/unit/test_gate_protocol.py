"""The programs behind the spawner's socket, as the hub speaks with them: one line of JSON in, one line out."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest

LIBEXEC = pathlib.Path(__file__).resolve().parents[2] / "src/libexec"


def ask(program, request):
    """Put a request (object, or the bytes themselves) to a program of libexec; return its answer."""
    line = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
    done = subprocess.run([sys.executable, "-IS", LIBEXEC / program], input=line, capture_output=True, check=True, timeout=10)
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
