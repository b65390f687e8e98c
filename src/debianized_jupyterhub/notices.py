"""Texts that root shows to the users of a running hub: a message, and that the hub is offline.

Each is a file in the hub's state folder, so it needs no running hub and outlives restarts and reboots. jupyterhub-ctl has the hub's account write it,
the hub looks at it at each request (one stat), and handlers.py shows it.
"""

import contextlib
import re
from pathlib import Path

from . import files
from .paths import STATE


class Notice:
    """A text in the file `path`; there is none while the file is missing."""

    def __init__(self, path: Path):
        self.path = path
        self._seen: str | None = None
        self._text: str | None = None

    def read(self) -> str | None:
        """Return the text, None if there is none, or none that can be read."""
        version = self.version()
        if version != self._seen:
            self._seen, self._text = version, None
            with contextlib.suppress(OSError):
                self._text = files.read(self.path).decode(errors="replace").strip()
        return self._text

    def version(self) -> str | None:
        """Return what differs from text to text (str), None if there is none."""
        try:
            return str(self.path.lstat().st_mtime_ns)
        except FileNotFoundError:
            return None


MESSAGE = Notice(Path(STATE, "message"))
OFFLINE = Notice(Path(STATE, "offline"))
STOP_AT = Notice(Path(STATE, "stop-at"))  # seconds since 1970; counts while the hub is offline


def planned_stop() -> int | None:
    """Return when all servers are stopped that run then (seconds since 1970), None if nothing of the kind is planned."""
    text = STOP_AT.read() if OFFLINE.read() else None
    return int(text) if text and re.fullmatch("[0-9]{1,10}", text) else None
