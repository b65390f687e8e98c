"""Whom `jupyterhub-ctl user` admits, denies and locks: rules in a file of sudoers.d, by which sudo alone decides; and what sudo makes of all rules.

The last rule that fits decides, and files are read in the order of their names. So ours has a name that comes last, and each change is undone where
sudo does not judge as it says. Until a change is whole, its file has a dot in its name, over which sudo passes.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from .. import accounts, files
from ..lines import joined
from ..paths import LIBEXEC, SUDOERS, USER_RULES
from .command import output
from .common import FULL, Busy, Failure, NoSpace

MEDIATOR = f"{LIBEXEC}/sudospawner"
ALLOW, DENY, LOCK = "allow", "deny", "lock"  # in this order in the file: a lock holds whatever else is said
FILE = Path(USER_RULES)
LOCK_FILE = "/run/jupyterhub-ctl.lock"  # beside no file that others can open: who can open one can hold it
PATIENCE = 20  # seconds for another change
HEAD = "# By `jupyterhub-ctl user allow|deny|lock NAME`, which writes it anew. Rules of your own belong into another file.\n"
PLAIN = re.compile(r"[a-z][a-z0-9_-]*")
RULE = re.compile(rf'{accounts.HUB} ALL = \((\S+)\) (?:NOPASSWD: |!){re.escape(MEDIATOR)} ""')

Rules = dict[str, list[str]]  # ALLOW, DENY and LOCK: names


def ask(*arguments: str) -> tuple[int, str]:
    """Ask sudo as the hub's account; return (exit code, words)."""
    become = ["setpriv", f"--reuid={accounts.HUB}", f"--regid={accounts.HUB}", "--init-groups", "--"]
    return output(*become, "sudo", "-n", *arguments)


def admits(name: str) -> bool:
    """Return whether sudo lets the hub start servers for an account. Raises Failure where it does not say."""
    code, said = ask("-l", "-u", name, "--", MEDIATOR)
    if code not in (0, 1) or said.startswith("setpriv:"):
        raise Failure(f"sudo cannot be asked about {name}: {joined(said)}: `jupyterhub-ctl verify sudoers` says why")
    return code == 0


def require_name(name: str) -> None:
    """Raise Failure for what cannot be an account in sudoers, though sudo would take it for something: a group, a uid, a net group."""
    if name[:1] in ("%", "+"):
        raise Failure(f"{name}: groups belong into JUPYTER_USERS: `visudo {SUDOERS}`")
    if not name or len(name) > 255 or name[0] in "#-!" or name != name.strip() or not name.isprintable() or set(name) & set("/:"):
        raise Failure(f"{name!r:.60} is not a valid name of an account; use one that `getent passwd` lists")


def escaped(name: str) -> str:
    """Return a name as sudoers takes it for that name and nothing else: ALL, aliases, digits, DOM\\user, spaces."""
    if PLAIN.fullmatch(name):
        return name
    return "".join(char if "a" <= char <= "z" else "".join(f"\\x{byte:02x}" for byte in char.encode()) for char in name)


def _unescaped(text: str) -> str:
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode()).decode()


def read() -> Rules:
    """Return the rules that are written down. Raises Failure for a file with lines of somebody else's."""
    found: Rules = {ALLOW: [], DENY: [], LOCK: []}
    kind = ""
    try:
        lines = FILE.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return found
    for number, line in enumerate(lines, 1):
        rule = RULE.fullmatch(line)
        if rule and kind:
            found[kind].append(_unescaped(rule[1]))
            kind = ""
        elif line.startswith("# ") and line[2:] in found:
            kind = line[2:]
        elif line and not line.startswith("#"):
            raise Failure(f"{FILE}:{number} is not by jupyterhub-ctl: `visudo {FILE}`, and move that line to a file of your own")
    return found


def said_of(name: str, rules: Rules) -> list[str]:
    """Return which rules there are for a name, the one that holds last."""
    return [kind for kind in (ALLOW, DENY, LOCK) if name in rules[kind]]


def _text(rules: Rules) -> str:
    """Return the file's text, "" for no rules."""
    lines = []
    for kind in (ALLOW, DENY, LOCK):
        what = "NOPASSWD: " if kind == ALLOW else "!"
        lines += [f'# {kind}\n{accounts.HUB} ALL = ({escaped(name)}) {what}{MEDIATOR} ""\n' for name in sorted(rules[kind])]
    return f"{HEAD}\n{''.join(lines)}" if lines else ""


@contextlib.contextmanager
def changed(name: str, admitted: bool | None) -> Iterator[Rules]:
    """Yield the rules for the caller to change them, and write them. Raises Failure: nothing is changed then.

    Sudo must then admit `name` or not, as `admitted` says; None where that is left to other rules.
    """
    if not accounts.exists(accounts.HUB):
        raise Failure(f"there is no account {accounts.HUB}: `dpkg-reconfigure jupyterhub` makes it")
    old, new = FILE.with_name(f"{FILE.name}.old"), FILE.with_name(f"{FILE.name}.new")
    with _alone():
        rules = read()
        yield rules
        try:
            _keep(old)
            try:
                _write(new, _text(rules))
                _require(name, admitted)
            except BaseException:
                os.rename(old, FILE) if old.exists() else FILE.unlink(missing_ok=True)
                raise
            finally:
                new.unlink(missing_ok=True)
                old.unlink(missing_ok=True)
                files.sync_folder(FILE.parent)
        except OSError as error:
            kind = NoSpace if error.errno in FULL else Failure
            raise kind(f"{error.filename or FILE}: {error.strerror}: nothing was changed") from None


def _keep(old: Path) -> None:
    """Give the file a second name, which takes no room, to go back to."""
    old.unlink(missing_ok=True)
    if FILE.exists():
        os.link(FILE, old)


def _write(new: Path, text: str) -> None:
    """Put a text in the file's place, whole and well formed, or not at all."""
    if not text:
        FILE.unlink(missing_ok=True)
        return
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(stream.fileno(), 0o440)
        os.fsync(stream.fileno())
    code, said = output("visudo", "-c", "-f", str(new))
    if code != 0:
        raise Failure(f"visudo does not accept the rules: {joined(said)}: nothing was changed")
    os.rename(new, FILE)


def _require(name: str, admitted: bool | None) -> None:
    """Raise Failure unless sudo judges as it should."""
    if admitted is None or admits(name) == admitted:
        return
    later = sorted(path.name for path in FILE.parent.iterdir() if path.name > FILE.name and "." not in path.name and path.name[-1] != "~")
    where = f"it is in {' or '.join(later)} there" if later else "it is in /etc/sudoers, after its @includedir, or in a directory"
    what = "denies" if admitted else "admits"
    raise Failure(f"sudo {what} {name} by a rule that comes after {FILE}: {where}; nothing was changed, `sudo -l -U {accounts.HUB}` lists all rules")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one change at a time be made. Raises Busy."""
    lock = os.open(LOCK_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(f"another jupyterhub-ctl has not finished after {PATIENCE} s: nothing was changed") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(lock)
