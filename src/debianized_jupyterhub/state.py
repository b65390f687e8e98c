"""What the hub is, in one word: systemd, jupyterhub-ctl, /hub/ready and the keeper of the ports all have it from here.

=========  ===========================  ===========================================================
name       StatusText of the unit       the hub
=========  ===========================  ===========================================================
starting   Starting                     is on its way
starting   Starting again after: LINE   is on its way once more, since it failed because of LINE
ready      Ready                        answers, and can use its database
degraded   Degraded: LINE               cannot use its database, and goes on by itself when it can
standby    Standby: LINE                waits until another machine's hub ends, and answers nobody (lease.py)
failed     Failed: LINE                 has ended because of LINE; systemd tries again
stopped    Stopped                      ends, or does not run
=========  ===========================  ===========================================================
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

from . import files
from .journal import plain
from .paths import FAILED_FILE
from .sockets import notify

STARTING, READY, DEGRADED, STANDBY, FAILED, STOPPED = "starting", "ready", "degraded", "standby", "failed", "stopped"


class State(NamedTuple):
    """A name of the table above with the reason: in `words` for anybody, in `line` for the administrator (with paths and hosts)."""

    name: str
    words: str = ""
    line: str = ""


IS_STARTING = "The hub is starting."
_now = State(STOPPED)


def now() -> State:
    """Return the state of this process, which is the hub."""
    return _now


def enter(name: str, words: str = "", line: str = "", *more: str) -> None:
    """Be in the state `name` from now on and let systemd know, with `more` lines of sd_notify(3)."""
    global _now
    before, _now = _now, State(name, words, line)
    if more or _now != before:  # each request that is refused comes by here
        text = "Starting again after" if name == STARTING and line else name.capitalize()
        notify("\n".join([f"STATUS={text}: {plain(line)}" if line else f"STATUS={text}", *more]))


def start(*more: str) -> None:
    """Begin, with what has ended the last start; systemd forgets it."""
    line = ""
    with contextlib.suppress(OSError):
        line = files.read(FAILED_FILE).decode(errors="replace")
    enter(STARTING, IS_STARTING, line, *more)


def fail(words: str, line: str) -> None:
    """Be a hub that does not start because of `line`; the next start has it, too, as long as none goes well."""
    enter(FAILED, words, line)
    with contextlib.suppress(OSError):
        Path(FAILED_FILE).write_text(line)


def ready(*more: str) -> None:
    """Be a hub that can be used, and tell systemd `more` lines of sd_notify(3)."""
    enter(READY, "", "", *more)
    with contextlib.suppress(OSError):
        Path(FAILED_FILE).unlink()


def of_unit(unit: dict[str, str]) -> State:
    """Return what the hub is by properties of its unit (ActiveState and StatusText, as systemctl prints them). The name is "" where nothing says it."""
    word, _, line = plain(unit.get("StatusText", "")).partition(": ")
    name = word.partition(" ")[0].lower()
    name = name if name in (STARTING, READY, DEGRADED, STANDBY, FAILED, STOPPED) else ""
    match unit.get("ActiveState"):
        case "inactive" | "failed" | "deactivating":
            return State(STOPPED, line=line if name == FAILED else "")
        case "activating" if name not in (STARTING, DEGRADED, STANDBY, FAILED):  # a word of the process before, or none yet
            return State(STARTING)
    return State(name, line=line)
