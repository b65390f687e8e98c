"""Stops notebook servers that are idle or old, and all of them at the time of a maintenance; open pages are told before, of the end of a Slurm job, too.

It is part of the hub, and not jupyterhub-idle-culler beside it, which knows one idle time for all and cannot tell pages anything.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jupyterhub import orm
from jupyterhub.app import JupyterHub

from . import culling
from .account_ends import stop_server
from .endings import IDLE, MAINTENANCE, OLD, at
from .handlers import MessageSocket
from .notices import planned_stop
from .record import Actor

log = logging.getLogger("jupyterhub.culler")
AT_A_TIME = 8  # servers that are stopped; the hub needs time for its pages, too
NSS = 10  # seconds for a directory to tell the groups of a user
# What pages of running servers say before the time of their end.
NOTICES = {
    IDLE: "Your notebook server is not in use.",
    OLD: "Your notebook server reaches the age limit.",
    MAINTENANCE: "Maintenance is due.",
}
# Of the end of a job, which is Slurm's to bring about: what is said from how many seconds before it. Each is shown anew, also where the one before was closed.
JOB = "because the time of its job was over"
JOB_NOTICES = {120: "The time of your Slurm job is almost over.", 600: "The time of your Slurm job will soon be over."}
PAST = 60  # seconds for which a job may outlast its end; then it may take longer (OverTimeLimit of slurm.conf)


@dataclass(frozen=True)
class End:
    """When a server is to be stopped (seconds since 1970), and why: a key of NOTICES, or JOB; from when on pages say so."""

    when: float
    why: str
    told_from: float

    def notice(self, now: float) -> str:
        """Return what pages say of it."""
        if self.why == JOB:
            return next(text for seconds, text in JOB_NOTICES.items() if self.when <= now + seconds)
        return NOTICES[self.why]


class Culler:
    """Looks at the servers of `hub` (jupyterhub.app.JupyterHub) at each call of look(); `jobs`: some may be jobs of Slurm's."""

    def __init__(self, hub: JupyterHub, *, jobs: bool = False):
        self.hub, self.jobs = hub, jobs
        self.limits = culling.limits()
        # Nothing is stopped that was not told before; and what was in use while the hub was away tells it first.
        self.since = time.time()
        self.interval = max(1, min(5, self.limits.shortest() // 8)) if self.limits.shortest() else 5  # seconds between calls of look()
        self._turns = asyncio.Semaphore(AT_A_TIME)

    async def look(self) -> None:
        """Stop what is due, and have MessageSocket tell who is next."""
        stop_at = planned_stop()
        if not self.limits and stop_at is None and not self.jobs:
            MessageSocket.announce({})
            return
        now = time.time()
        due: list[Coroutine] = []
        told: dict[str, list[dict]] = {}
        async for spawner, end in self._ends(now, stop_at):
            if end.when <= now and end.why != JOB:
                due.append(self._stop(spawner, end))
            elif end.told_from <= now:
                page = {"server": spawner.server.base_url, "at": end.when, "text": end.notice(now), "idle": end.why == IDLE}
                told.setdefault(spawner.user.name, []).append(page)
        MessageSocket.announce(told)
        await asyncio.gather(*due)

    async def _ends(self, now: float, stop_at: float | None) -> AsyncIterator[tuple[Any, End]]:
        """Yield (spawner, the first End that it has) for each server that has one."""
        times = self._times()
        deadline = time.monotonic() + NSS
        for user in list(self.hub.users.values()):
            groups = None
            for spawner in list(user.spawners.values()):
                if not spawner.ready or spawner.orm_spawner.id not in times:
                    continue
                started, used = times[spawner.orm_spawner.id]
                ends = [self._end(OLD, started, self.limits.age)] if self.limits.age else []
                # Whoever starts a server after that time may: an administrator who tries it.
                if stop_at is not None and started < stop_at:
                    ends.append(End(stop_at, MAINTENANCE, 0))
                if (job_end := getattr(spawner, "job_end", None)) and now < job_end + PAST:
                    ends.append(End(job_end, JOB, job_end - max(JOB_NOTICES)))
                shortest = self.limits.shortest()
                if shortest and now >= used + shortest - culling.notice(shortest):
                    groups = groups if groups is not None else await self._groups(user.name, deadline)
                    if groups is not None and (limit := self.limits.idle_in(groups)):
                        ends.append(self._end(IDLE, used, limit))
                if ends:
                    yield spawner, min(ends, key=lambda end: end.when)

    def _end(self, why: str, begin: float, limit: int) -> End:
        """Return the end of `limit` seconds from `begin`."""
        when = max(begin + limit, self.since + culling.notice(limit))
        return End(when, why, when - culling.notice(limit))

    def _times(self) -> dict[int, tuple[float, float]]:
        """Return when each running server (id of its orm.Spawner) was started, and used last, in seconds since 1970."""
        columns = orm.Spawner.id, orm.Spawner.started, orm.Spawner.last_activity
        rows = self.hub.db.query(*columns).filter(orm.Spawner.server_id.is_not(None), orm.Spawner.started.is_not(None))
        found = {}
        for number, started, used in rows:
            begin = started.replace(tzinfo=UTC).timestamp()
            found[number] = begin, max(begin, used.replace(tzinfo=UTC).timestamp()) if used else begin
        return found

    async def _groups(self, name: str, deadline: float) -> list[str] | None:
        """Return a user's Unix groups, [] where no group matters; None where the system does not tell: nobody is stopped then.

        id(1) asks, since a directory that is away keeps a process waiting.
        """
        if not self.limits.groups:
            return []
        process = await asyncio.create_subprocess_exec(
            "id", "-Gnz", "--", name, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), max(0, deadline - time.monotonic()))
        except TimeoutError:
            process.kill()
            await process.wait()
            return None
        # It prints the other groups too where one of them has no name, and ends with 1.
        return said.decode(errors="replace").rstrip("\0").split("\0") if said else None

    async def _stop(self, spawner: Any, end: End) -> None:
        """Stop a server as the button on the hub's page does, and note why for its user."""
        async with self._turns:
            if not spawner.ready:
                return
            log.warning("Culling server %s: %s", spawner._log_name, end.why)
            spawner.ended = f"Your server was stopped on {at(datetime.now(UTC))}, {end.why}."
            await stop_server(self.hub, spawner, Actor("", "", "", end.why))
