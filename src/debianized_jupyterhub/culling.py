"""When notebook servers are stopped by themselves: the settings of /etc/default/jupyterhub, and what follows from them. culler.py does it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from .durations import NEVER, seconds, setting
from .settings import place_of

IDLE, GROUPS, AGE = "JUPYTERHUB_CULL_IDLE", "JUPYTERHUB_CULL_IDLE_GROUPS", "JUPYTERHUB_CULL_MAX_AGE"
NOTICE = 300  # seconds before the end at which open pages say so
HEARD = 120  # seconds; what is in use must be heard of between the notice and the end


@dataclass(frozen=True)
class Limits:
    """How long notebook servers may be idle, and how old they get, in seconds (NEVER for no limit)."""

    idle: int = NEVER
    age: int = NEVER
    groups: dict[str, int] = field(default_factory=dict)  # idle times of Unix groups

    def __bool__(self) -> bool:
        return bool(self.age or self.shortest())

    def idle_in(self, groups: Iterable[str]) -> int:
        """Return how long the server of a member of `groups` may be idle: the longest time of these, else that of everybody."""
        own = [self.groups[name] for name in groups if name in self.groups]
        if not own:
            return self.idle
        return NEVER if NEVER in own else max(own)

    def shortest(self) -> int:
        """Return after how long a server may be idle too long for somebody."""
        return min((limit for limit in (self.idle, *self.groups.values()) if limit), default=NEVER)


def limits() -> Limits:
    """Return what /etc/default/jupyterhub says. Raises SystemExit with one line."""
    return Limits(setting(IDLE), setting(AGE), _groups())


def _groups() -> dict[str, int]:
    found = {}
    for entry in os.environ.get(GROUPS, "").split():
        name, _, text = entry.rpartition("=")
        try:
            if not name:
                raise ValueError("is not of the form GROUP=TIME, with blanks between them (staff=3d guests=2h)")
            found[name] = NEVER if text == "never" else seconds(text)
        except ValueError as error:
            raise SystemExit(f"{GROUPS} in {place_of(GROUPS)}: {entry} {error}") from None
    return found


def notice(limit: int) -> int:
    """Return how many seconds before the end of `limit` seconds pages say so."""
    return min(NOTICE, limit // 2)


def activity_interval() -> int:
    """Return after how many seconds the hub must know of activity, at the latest: JupyterHub's 300, less where servers are culled."""
    idle = limits().shortest()
    return max(1, min(HEARD, idle // 4)) if idle else 300
