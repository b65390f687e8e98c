"""systemd's watchdog over the hub: a hub whose event loop does not turn any more is killed, and started again (WatchdogSec= of its unit)."""

import contextlib
import os
import socket

from tornado.ioloop import PeriodicCallback

START = 1800  # seconds; a migration of the database may take its time, and nothing else than the start waits for it


def starting() -> None:
    """Say that the start takes longer than anything that comes after it."""
    if os.environ.get("WATCHDOG_USEC"):
        _notify(f"WATCHDOG_USEC={START * 1_000_000}")


def watch() -> PeriodicCallback | None:
    """Tell systemd from now on that this event loop turns. Returns what does so, None where nobody wants to know."""
    period = os.environ.get("WATCHDOG_USEC", "")
    if not period.isdecimal():
        return None
    _notify(f"WATCHDOG_USEC={period}\nWATCHDOG=1")
    alive = PeriodicCallback(lambda: _notify("WATCHDOG=1"), int(period) / 1000 / 4)
    alive.start()
    return alive


def _notify(state: str) -> None:
    """Send a message to systemd; source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        # Where systemd has no time to read, it looks at no clock either.
        with contextlib.suppress(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
