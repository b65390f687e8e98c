"""Entries of systemd's journal: with fields of their own by its native protocol, where the length of each value goes before it, so that none is taken
for a field; and lines of a log, with a priority.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, sd-daemon(3)
"""

import contextlib
import logging
import os
import socket
import struct
from contextvars import ContextVar

from .lines import one_line

SOCKET = "/run/systemd/journal/socket"
LONGEST = 1024  # characters of a value
STREAM = "/run/systemd/journal/stdout"  # what systemd connects the output of services with
# What JupyterHub and its servers log at each request that went well and at each ordinary end, by function and level: as what.
LESS = {
    ("log_request", logging.INFO): logging.DEBUG,
    ("shutdown_cancel_tasks", logging.CRITICAL): logging.INFO,
    ("_signal_stop", logging.CRITICAL): logging.INFO,
}
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_reasons: ContextVar[list[str]] = ContextVar("reasons")


def plain(text: str) -> str:
    """Return a text as one line in which nothing acts on a terminal or hides: what cannot be printed is written as Python does."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST])


def send(fields: dict[str, str]) -> bool:
    """Make an entry of `fields`; return whether the journal took it. A journal that has no time is not waited for."""
    parts = []
    for name, text in fields.items():
        value = plain(text).encode()
        parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.setblocking(False)
        journal.sendto(b"".join(parts), SOCKET)
        return True
    return False


def takes_errors() -> bool:
    """Return whether standard error leads to the journal."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(2)) as stream:
        return stream.getpeername() == STREAM
    return False


def prioritized(text: str, level: int) -> str:
    """Return a text of one or more lines with the priority of a level (of logging) before each line."""
    return "\n".join(f"<{PRIORITIES.get(level, 6)}>{line}" for line in text.splitlines())


def error(text: str) -> str:
    """Return what a program says on standard error before it gives up, with its priority where that leads to the journal."""
    return prioritized(text, logging.ERROR) if takes_errors() else text


class Prioritized(logging.Formatter):
    """Lets the journal know the priority of each line. Requests that went well are logged, too, but at debug, and an end that was asked for is no error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record (text of one or more lines) with its priority before each line."""
        return prioritized(super().format(record), LESS.get((record.funcName or "", record.levelno), record.levelno))


class LastError(logging.Filter):
    """Remembers the last error that is logged, one line in `text`, and lets all records through."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True."""
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else None
            said = f"{type(error).__name__}: {error}" if error else ""
            self.text = one_line(f"{record.getMessage()} {said}")
        return True


def shortened(user: str) -> str:
    """Return a name for the log: not in full what may be a password in the wrong field."""
    return user if len(user) <= 32 else f"{user[:16]}...({len(user)} characters)"


def reasons() -> list[str]:
    """Return the list (empty now) that `because` adds to, here and in the tasks that are begun from here."""
    found: list[str] = []
    _reasons.set(found)
    return found


def because(reason: str) -> None:
    """Note for the record why a login is refused; the page need not say it."""
    if (found := _reasons.get(None)) is not None:
        found.append(reason)
