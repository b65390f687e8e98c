"""What root's tools do in folders of the hub's account, done by that account.

Who owns a folder decides what a name in it is: a link to another's file, say. So root does not work there. `run` starts this module as a process that has
given root up for good before it opens anything; it inherits no file but those that are handed to it. What it answers is the hub's word, not root's.
"""

import base64
import contextlib
import errno
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Any

from . import accounts, files
from .database import DatabaseError, copy_sqlite, require_database, snapshot, sqlite_file, state
from .lines import one_line
from .paths import SCRATCH

TIMEOUT = 300  # seconds for a database; the hub's account can stop its processes at any time
QUICK = 30  # seconds for anything else
SAID = 1 << 20  # bytes of an answer that are read


def run(
    action: str,
    *arguments: str,
    stdin: IO[bytes] | bytes = b"",
    stdout: IO[bytes] | None = None,
    timeout: float = QUICK,
    become: Sequence[str] = (),
) -> bytes:
    """Have the hub's account do one of ACTIONS, and return what it prints, unless that goes to the file `stdout`.

    `become` is the start of a command that runs the rest as that account, with another view of the file system, say.
    Raises DatabaseError, or OSError with a file name and a strerror for humans.
    """
    with contextlib.ExitStack() as stack:
        answer, complaint = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        if isinstance(stdin, bytes):
            content, stdin = stdin, stack.enter_context(tempfile.TemporaryFile())
            stdin.write(content)
            stdin.seek(0)
        try:
            code = subprocess.run(
                [*become, sys.executable, "-I", "-m", __name__, action, *arguments],
                check=False,
                timeout=timeout,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
                stdin=stdin,
                stdout=stdout or answer,
                stderr=complaint,
                start_new_session=True,  # without root's terminal
                **({} if become else _identity()),
            ).returncode
        except subprocess.TimeoutExpired:
            raise OSError(errno.ETIMEDOUT, f"no answer after {timeout} s of what {accounts.HUB} was to do there", arguments[0] if arguments else None) from None
        if code != 0:
            complaint.seek(0)
            raise _error(complaint.read(SAID), code)
        answer.seek(0)
        return answer.read(SAID)


def _identity() -> dict[str, Any]:
    """Return the arguments of subprocess.run for the hub's account, without the groups of its unit; raise OSError where there is none."""
    if os.geteuid() != 0:
        return {}
    if not accounts.exists(accounts.HUB):
        raise OSError(errno.ENOENT, f"there is no account {accounts.HUB}: `dpkg-reconfigure jupyterhub` makes it", None)
    return {"user": accounts.HUB, "group": accounts.HUB, "extra_groups": []}


def _error(said: bytes, code: int) -> DatabaseError | OSError:
    """Return the exception that the process has written to stderr, with nothing in it that a terminal would obey."""
    text = said.decode(errors="replace")
    try:
        told = json.loads(text)
        what, number, path = (str(told["what"]), int(told["errno"]), str(told["path"]))
    except (ValueError, KeyError, TypeError):
        what, number, path = (text.strip().splitlines() or [f"exit code {code}"])[-1], 0, ""
    what, path = (one_line(part)[:1000] for part in (what, path))
    return OSError(number, what, path or None) if number else DatabaseError(what)


def file(path: str) -> tuple[int, bytes] | None:
    """Return mode and content of a small file of the hub's, None if there is none. Raises OSError."""
    try:
        found = json.loads(run("file", path))
    except FileNotFoundError:
        return None
    return int(found["mode"]) & 0o777, base64.b64decode(found["content"])


# -- What the process does -----------------------------------------------------------------------------------------------------------


def _file(path: str) -> None:
    content = files.read(path)
    json.dump({"mode": stat.S_IMODE(os.stat(path).st_mode), "content": base64.b64encode(content).decode()}, sys.stdout)


def _put(path: str, mode: str, *beside: str) -> None:
    """Replace a file by what comes from stdin, whole or not at all; files with the endings `beside` go before that."""
    new = f"{path}.jupyterhub-ctl~"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
            os.fchmod(stream.fileno(), int(mode, 8))
            stream.flush()
            os.fsync(stream.fileno())
        for ending in beside:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + ending)
        files.sync_folder(os.path.dirname(path))
        os.rename(new, path)
        files.sync_folder(os.path.dirname(path))
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        raise


def _remove(path: str) -> None:
    os.unlink(path)


def _may_write(folder: str) -> None:
    if not os.path.isdir(folder):
        raise OSError(errno.ENOENT, "there is no such folder", folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"{accounts.HUB} cannot write there", folder)


def _copy(path: str) -> None:
    """Print a sound copy of a SQLite database."""
    with snapshot(path) as copy:
        _print(copy)


def _print(path: str) -> None:
    # Not sys.stdout, which would complain once more about a full disk when Python ends.
    with open(path, "rb") as stream, open(os.dup(1), "wb") as answer:
        shutil.copyfileobj(stream, answer, 1 << 20)


def _mode(path: str) -> None:
    print(stat.S_IMODE(os.stat(path).st_mode))


def _bytes(path: str) -> None:
    """Print a database as it is, unsound or not."""
    require_database(path)
    _print(path)


def _check() -> None:
    """Look whether what comes from stdin is a sound SQLite database."""
    with tempfile.TemporaryDirectory(prefix="jupyterhub-copy-", dir=SCRATCH) as folder:
        with open(f"{folder}/database", "xb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream, 1 << 20)
        copy_sqlite(f"{folder}/database", f"{folder}/copy")


def _state() -> None:
    """Print database.state() of the database whose URL comes from stdin, since a password may be in it."""
    url = sys.stdin.read()
    if path := sqlite_file(url):
        require_database(path)
    json.dump(state(url), sys.stdout)


def _move() -> None:
    """Copy the database as the arguments of moving.move say, which come as JSON from stdin, since passwords may be in them; print how many rows it has."""
    from . import moving  # it takes long

    json.dump(moving.move(**json.load(sys.stdin)), sys.stdout)


def _settle() -> None:
    from . import moving

    moving.settle_at(sys.stdin.read())


ACTIONS: dict[str, Callable[..., None]] = {
    "file": _file,
    "put": _put,
    "remove": _remove,
    "may-write": _may_write,
    "copy": _copy,
    "mode": _mode,
    "bytes": _bytes,
    "check": _check,
    "state": _state,
    "move": _move,
    "settle": _settle,
}


def main() -> None:
    """Do what the arguments say; an exception goes to stderr as JSON."""
    os.umask(0o077)
    try:
        ACTIONS[sys.argv[1]](*sys.argv[2:])
        sys.stdout.flush()
    except OSError as error:
        json.dump({"what": error.strerror or str(error), "errno": error.errno or errno.EIO, "path": str(error.filename or "")}, sys.stderr)
        sys.exit(1)
    except (DatabaseError, sqlite3.Error) as error:
        json.dump({"what": str(error), "errno": 0, "path": ""}, sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
