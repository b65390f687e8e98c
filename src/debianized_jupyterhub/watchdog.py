"""systemd's watchdog over the hub: a hub whose event loop does not turn any more is killed, and started again (WatchdogSec= of its unit).

It counts from the end of the start on, which TimeoutStartSec= of the unit is for.
"""

import os

from tornado.ioloop import PeriodicCallback

from .sockets import notify

START = 1800  # seconds for the rest of a start that systemd waits for no longer; a migration of the database may take its time


def starting() -> list[str]:
    """Return the lines of sd_notify(3) that say that the start takes longer than anything that comes after it."""
    return [f"WATCHDOG_USEC={START * 1_000_000}"] if os.environ.get("WATCHDOG_USEC") else []


def watch() -> PeriodicCallback | None:
    """Tell systemd from now on that this event loop turns. Returns what does so, None where nobody wants to know."""
    period = os.environ.get("WATCHDOG_USEC", "")
    if not period.isdecimal():
        return None
    notify(f"WATCHDOG_USEC={period}\nWATCHDOG=1", wait=False)
    # Where systemd has no time to read, it looks at no clock either.
    alive = PeriodicCallback(lambda: notify("WATCHDOG=1", wait=False), int(period) / 1000 / 4)
    alive.start()
    return alive
