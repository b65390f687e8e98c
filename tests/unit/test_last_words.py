"""What a server that ends has to say: the reason in one sentence, the file and its owner; and limits.py, which names the limit that was met."""

import errno
import os
import pathlib
import pwd
import resource
import subprocess
import sys

import pytest

from debianized_jupyterhub import last_words, limits

ME = pwd.getpwuid(os.getuid()).pw_name
SOURCES = pathlib.Path(__file__).resolve().parents[2] / "src"


def raised(call, *arguments):
    """Return the exception that a call raises, with its traceback."""
    try:
        call(*arguments)
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("no exception")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The user's only file of settings (Path)."""
    monkeypatch.setattr(last_words, "_folders", lambda: [str(tmp_path)])
    return tmp_path / "jupyter_server_config.py"


def test_file_and_line_of_the_users_code(settings):
    settings.write_text("\nraise SystemExit(3)\n")
    error = raised(exec, compile(settings.read_text(), str(settings), "exec"))
    assert last_words.sentence(error) == f"it called exit(3). See line 2 of {settings} (owner: {ME})."


def test_setting_that_a_message_quotes(settings):
    """Not the line that is commented out, as `jupyter server --generate-config` writes them."""
    settings.write_text("# c.ServerApp.port = 1\nc.ServerApp.port = 2\n")
    error = SystemExit(1)
    said = last_words.sentence(error, "Options --port and --sock are mutually exclusive. Aborting.")
    assert said == f"Options --port and --sock are mutually exclusive. Aborting. See line 2 of {settings} (owner: {ME})."


def test_no_place_in_memory_and_one_line(settings):
    settings.write_text("c.ServerApp.x = 1\n")
    said = last_words.sentence(ValueError("<a.b.ServerApp object at 0x7f0000000000>\nis wrong"))
    assert said == f"ValueError: ServerApp is wrong. Your own settings are in {settings} (owner: {ME})."


def test_whose_file_is_in_the_way(tmp_path):
    """The last part of the path that can be seen."""
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a" / "b"))
    assert f"{tmp_path}: Permission denied. It is yours, and its mode is 0" in last_words.sentence(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "x"), f"nofile {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} in /etc/security"),
        (OSError(errno.ENFILE, "x"), "The machine has as many files open"),
        (OSError(errno.ENOSPC, "x", "/proc/nowhere"), "The file system /proc has no "),
        (OSError(errno.EDQUOT, "x", "/proc/nowhere"), "The quota on /proc is used up"),
        (OSError(errno.EFBIG, "x"), "fsize"),
        (RuntimeError("can't start new thread"), "processes"),
        (MemoryError(), "memory"),
        (OSError(errno.EAGAIN, "x"), None),
        (RuntimeError("something else"), None),
        (ValueError("x"), None),
    ],
)
def test_limits_have_names(error, words):
    said = limits.met_by(error)
    assert said is None if words is None else words in said


def test_tasks_of_a_slice(tmp_path):
    """cgroup v2 alone has that; the test machines have no controllers."""
    group = tmp_path / "user.slice/user-1000.slice"
    (group / "session-1.scope").mkdir(parents=True)
    (group / "pids.max").write_text("40\n")
    (group / "pids.current").write_text("40\n")
    (group / "session-1.scope/pids.max").write_text("max\n")
    (group / "session-1.scope/pids.current").write_text("40\n")
    (tmp_path / "cgroup").write_text("1:name=systemd:/x\n0::/user.slice/user-1000.slice/session-1.scope\n")
    assert limits._slice_with_all_its_tasks(str(tmp_path / "cgroup"), str(tmp_path)) == "user-1000.slice has as many tasks as it may: TasksMax=40"
    (group / "pids.current").write_text("39\n")
    assert limits._slice_with_all_its_tasks(str(tmp_path / "cgroup"), str(tmp_path)) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('no good')", b"ValueError: no good."),
        ("raise SystemExit('gone')", b"gone."),
        ("import logging; logging.getLogger('x').critical('No %s', 'room'); raise SystemExit(1)", b"No room."),
        ("raise SystemExit(0)", b""),
        ("pass", b""),
    ],
)
def test_words_of_a_process(code, words):
    """Through the pipe, whether it ends with an exception or an exit; an end in good order has none."""
    heard, pipe = os.pipe()
    program = f"from debianized_jupyterhub import last_words\nlast_words.begin()\nlast_words.told(lambda: exec({code!r}))()"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), last_words.VARIABLE: str(pipe)}
    subprocess.run([sys.executable, "-c", program], env=environment, pass_fds=[pipe], check=False, stderr=subprocess.DEVNULL, timeout=10)
    os.close(pipe)
    with open(heard, "rb") as stream:
        assert stream.read() == words
