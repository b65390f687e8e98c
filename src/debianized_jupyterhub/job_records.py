"""What is kept of Slurm jobs, and what is asked about them: for jobs.py."""

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from jupyterhub import orm

from . import job_link
from .gate import GateError, ask

SLURM = 45  # seconds for a question to Slurm, which has its own patience with slurmctld


@dataclass
class Job:
    """What the hub's database keeps of a job. `number` is Slurm's, None until sbatch has answered; `tag` is in the job's comment, by which it is found then."""

    tag: str
    key: str
    profile: str
    number: int | None = None
    node: str = ""
    address: str = ""
    control: int = 0  # port of its starter
    port: int = 0  # of the server
    host: str = ""  # by its certificate; "" where it has none, and talks plain HTTP
    up: bool = False  # the hub's users can use it
    end: int = 0  # when Slurm ends it, in seconds since 1970; 0 for a job without a limit


class Questions:
    """What Slurm says of jobs: one question for all that want to know, at most one in a while."""

    FIRST, LATER = 0.5, 2.0  # seconds between two, in the first minute of a job and after it

    def __init__(self) -> None:
        self._wanted: set[tuple[int, str]] = set()
        self._next: asyncio.Future[dict[str, Any]] | None = None
        self._last = 0.0
        self._turn = asyncio.Lock()  # a slurmctld that is away takes its time

    async def about(self, number: int, user: str, *, young: bool = False) -> dict[str, Any] | None:
        """Return what Slurm says of a job of `user` (see job_gate.rows), None where it says nothing. Raises GateError."""
        self._wanted.add((number, user))  # whose it is, the user says: it must not take the place of another's
        if self._next is None:
            self._next = asyncio.ensure_future(self._ask(self.FIRST if young else self.LATER))
            self._next.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        found = (await asyncio.shield(self._next)).get(str(number))
        return found if found and found["user"] == user else None  # Slurm counts anew after the last number

    async def _ask(self, pause: float) -> dict[str, Any]:
        async with self._turn:
            await asyncio.sleep(max(0.02, self._last + pause - time.monotonic()))
            wanted, self._wanted, self._next = self._wanted, set(), None
            answer = await ask("state", jobs=[job for job, _ in wanted], users=sorted({owner for _, owner in wanted}), addresses=True, timeout=SLURM)
            self._last = time.monotonic()
            return answer["jobs"]


questions = Questions()


async def number_of(user: str, tag: str) -> int | None:
    """Return the number of the job of `user` that has `tag`, None if Slurm has none (yet: sbatch may still wait for slurmctld). Raises GateError."""
    seen = (await ask("state", own=user, timeout=SLURM))["jobs"]
    return next((int(number) for number, row in seen.items() if row["tag"] == tag), None)


GIVE_UP = 7 * 86400  # seconds: an account that is gone, or a cluster
LISTS = ("cancels", "left")  # in states of spawners, which outlive their servers


def keep(row: orm.Spawner, name: str, entry: dict[str, Any]) -> None:
    """Add an entry to a list in the state of a spawner."""
    state = row.state or {}
    row.state = {**state, name: [*state.get(name, []), entry]}


def drop(row: orm.Spawner, name: str, entry: dict[str, Any]) -> None:
    """Take an entry from a list in the state of a spawner."""
    state = row.state or {}
    row.state = {**state, name: [other for other in state.get(name, []) if other != entry]}


class Left:
    """Servers that may still run on nodes which do not answer, and are not their users' any more: they are kept in `left` of the spawners' states, each as
    its Job and since when, until they are known to have ended.
    """

    rows: ClassVar[set[int]] = set()  # ids of orm.Spawner

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    @classmethod
    def add(cls, row: orm.Spawner, job: Job) -> None:
        keep(row, "left", {**asdict(job), "since": int(time.time())})
        cls.rows.add(row.id)

    async def end(self) -> None:
        """End those whose nodes are back; all are asked at once, since a node that does not answer takes its time."""
        asked = []
        for number in sorted(self.rows):
            row = self._hub.db.get(orm.Spawner, number)
            entries = (row.state or {}).get("left", []) if row else []
            if not entries:
                self.rows.discard(number)
            asked += [(number, entry) for entry in entries]
        for failure in await asyncio.gather(*(self._end_one(number, entry) for number, entry in asked), return_exceptions=True):
            if failure:
                self._hub.log.error("A server that was left on a node cannot be ended: %r", failure)

    async def _end_one(self, number: int, entry: dict[str, Any]) -> None:
        if await self._end(entry) and (row := self._hub.db.get(orm.Spawner, number)):  # it may have gone meanwhile
            drop(row, "left", entry)
            self._hub.db.commit()

    async def _end(self, entry: dict[str, Any]) -> bool:
        """Return whether a server has ended, or cannot be waited for any longer."""
        what = f"The server of job {entry['number']}, which was left on {entry['node']},"
        try:
            reader, writer = await job_link.connect(entry["address"], entry["control"], entry["key"])
            with contextlib.closing(writer):
                await job_link.ask(reader, writer, {"action": "stop"})
                over = "ended" in await job_link.said(reader, 30)
        except ConnectionRefusedError:
            over = True
        except OSError:
            if time.time() < entry["since"] + GIVE_UP:
                return False
            self._hub.log.error("%s has not answered for a week, and is not asked any more", what)
            return True
        if over:
            self._hub.log.info("%s has ended", what)
        return over


class Undelivered:
    """Cancels that Slurm has not taken yet; they are kept in `cancels` of the spawners' states."""

    rows: ClassVar[set[int]] = set()  # ids of orm.Spawner

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._next: dict[str, float] = {}  # by tag: when to try again

    async def deliver(self) -> None:
        """Try those whose time it is: every 10 s at first, less often later."""
        for number in sorted(self.rows):
            row = self._hub.db.get(orm.Spawner, number)
            for cancel in (row.state or {}).get("cancels", []) if row else []:
                if time.time() < self._next.get(cancel["tag"], 0):
                    continue
                if await self._deliver(cancel):
                    self._next.pop(cancel["tag"], None)
                    drop(row, "cancels", cancel)
                    self._hub.db.commit()
                else:
                    self._next[cancel["tag"]] = time.time() + min(300, (time.time() - cancel["since"]) / 10)
            if not row or not (row.state or {}).get("cancels"):
                self.rows.discard(number)

    async def _deliver(self, cancel: dict[str, Any]) -> bool:
        """Return whether there is nothing left to do about it."""
        user, job = cancel["user"], cancel["number"]
        try:
            if job is None:
                job = await number_of(user, cancel["tag"])
                if job is None and time.time() < cancel["since"] + SLURM:
                    return False  # sbatch may still wait for slurmctld
            if job is not None:
                await ask("cancel", user=user, job=job, tag=cancel["tag"], timeout=SLURM)
                self._hub.log.info("Job %s of %s is cancelled, as was asked for", job, user)
        except GateError as error:
            if time.time() < cancel["since"] + GIVE_UP:
                return False
            self._hub.log.error("Job %s of %s could not be cancelled for a week, and will not be: %s", job, user, error)
        return True
