"""Entries of systemd's journal with fields of their own, by its native protocol: the length of each value goes before it, so that none is taken for a field.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

import contextlib
import socket
import struct
from contextvars import ContextVar

SOCKET = "/run/systemd/journal/socket"
LONGEST = 1024  # characters of a value

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


def reasons() -> list[str]:
    """Return the list (empty now) that `because` adds to, here and in the tasks that are begun from here."""
    found: list[str] = []
    _reasons.set(found)
    return found


def because(reason: str) -> None:
    """Note for the record why a login is refused; the page need not say it."""
    if (found := _reasons.get(None)) is not None:
        found.append(reason)
