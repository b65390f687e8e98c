"""Never two hubs with one database.

On PostgreSQL there is a lease: of the hubs that use the same database, one serves, and the others stand by until it is gone. It is an advisory lock of a
session that PostgreSQL ends by itself where it hears nothing for LEASE seconds (idle_session_timeout), so that neither a machine that has vanished nor a hub
that hangs keeps it. The hub renews it every RENEWAL seconds, in a thread. Three things keep one that has lost it away from the database:

- Where nothing has renewed it for GUARD seconds, the hub sends the database no statement any more, and /hub/ready says so: before anybody else can have it.
- Who gets it ends the sessions of all other hubs, and waits for their ends, before it reads anything: what was on its way is taken back.
- A new session of a hub asks the database first whether the lease is this hub's. So no clock has to be right: a virtual machine may have stood still.

A sequence counts the terms: a hub that gets its lease again after an interruption, and finds that nobody had it meanwhile, goes on; else it ends, and starts
anew to read what the other has written.

A hub that starts takes a lease that is free. One that has stood by waits until it was free for GRACE seconds: the other one's restart is shorter, and
notebook servers of that machine are known to its hub alone. Who had not renewed it to the end will not be back that soon, and who is stopped says so
(Lease.leave): these are not waited for.

SQLite has one machine. A lock beside the file keeps a second hub away, started by hand or on a machine with the same disk: it does not start.
"""

import contextlib
import fcntl
import logging
import math
import os
import socket
import threading
import time
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from . import outage, ports, state, units
from .database import HUB_SESSIONS, HUBS, IS_HUB, LEASE_KEY, LEASE_TERMS, hub_session, in_short, is_postgresql, sqlite_file

LEASE = 4  # seconds after which PostgreSQL gives the lease of a silent hub away
GUARD = 3  # seconds after which that hub has stopped
RENEWAL = 1  # seconds between two renewals
GRACE = 8  # seconds; a hub is at this point some 2 s after the end of the one before, more on a machine that has much to do
LOOK = 0.5  # seconds between two looks of a hub that stands by
PATIENCE = 2000  # milliseconds for the end of each session of another hub
COUNT_OTHERS = f"SELECT count(*) FROM ({HUBS}) AS hubs (machine) WHERE machine <> %s"
OLDEST = 14  # PostgreSQL, for idle_session_timeout
HOLDER = f"""SELECT coalesce(a.application_name, ''), host(a.client_addr), coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND l.classid = {LEASE_KEY >> 32} AND l.objid = {LEASE_KEY & 0xFFFFFFFF}"""
END_OTHERS = f"""SELECT count(pg_terminate_backend(pid, {PATIENCE})) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND {IS_HUB} AND application_name <> %s"""

STANDS_BY = "The hub of this machine stands by: another one serves."
OURS = hub_session()
LEAVES = f"{' '.join(OURS.split()[:2])} leaves"  # the name of the session with the lease, at the end of a hub that is not restarted


class Lost(Exception):
    """The lease has not been renewed in time, or is another hub's."""


class Holder(NamedTuple):
    """Who has the lease: its session's name and address (None: this machine's), and how many seconds ago it has renewed it."""

    session: str
    address: str | None
    silent: float

    @property
    def machine(self) -> str:
        """Its name."""
        return self.session.split(" ")[1] if self.session.startswith(f"{HUB_SESSIONS} ") else self.session

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.machine} ({self.address})" if self.address else self.machine

    @property
    def comes_back(self) -> bool:
        """Is it worth to wait a moment for it?"""
        return self.machine != socket.gethostname() and self.silent < GUARD and not self.session.endswith(" leaves")


def now() -> float:
    """Return seconds that also count while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def named(url: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return `settings` (JupyterHub.db_kwargs) with the name of this hub for its sessions, where `url` is PostgreSQL's: by it they can be ended."""
    if not is_postgresql(url):
        return settings
    return {**settings, "connect_args": {**settings.get("connect_args", {}), "application_name": OURS}}


def wait_for(url: str, settings: dict[str, Any], log: logging.Logger) -> "Lease | None":
    """Return this hub's lease on the database at `url` (SQLAlchemy's form), which `settings` (JupyterHub.db_kwargs) go with; None where it can have none.

    While another hub has it, systemd, the journal and /hub/ready hear that this one stands by. A database that goes away meanwhile is waited for.
    Raises SystemExit where waiting does not help.
    """
    if not is_postgresql(url):
        return None
    lease = Lease(url, settings, log)
    while True:
        try:
            return lease if lease.wait() else None
        except SQLAlchemyError as error:
            if outage.trouble(error, url) is None:
                raise
            outage.wait_for(url, settings, log)


def lock(url: str) -> int | None:
    """Return what holds the lock of an SQLite database at `url` (SQLAlchemy's form) until it is closed, a file descriptor; None where there is no file to lock.

    Raises SystemExit where another hub has it.
    """
    path = sqlite_file(url)
    if not path:
        return None
    try:
        fd = os.open(f"{path}.hub", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # what is wrong with the folder is told where the database is opened
        return None
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # fcntl(2) allows both
        who = os.read(fd, 200).decode(errors="replace").strip()
        raise SystemExit(f"the database {path} is in use by another hub ({who}): stop that, or give each its own (c.JupyterHub.db_url)") from None
    except OSError:  # a file system that knows no locks; SQLite itself says so
        os.close(fd)
        return None
    with contextlib.suppress(OSError):  # a full disk is told where the database is opened
        os.ftruncate(fd, 0)
        os.write(fd, f"process {os.getpid()} of {socket.gethostname()}\n".encode())
    return fd


class Lease:
    """A hub's lease on a database; see wait_for()."""

    def __init__(self, url: str, settings: dict[str, Any], log: logging.Logger) -> None:
        deadlines = {"connect_timeout": GUARD, "tcp_user_timeout": GUARD * 1000}
        arguments = {**named(url, settings)["connect_args"], **deadlines}
        self._engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments)
        self._log = log
        self._session: sqlalchemy.Connection | None = None
        self._term = 0
        self._until = -math.inf  # now() up to which the hub may use the database
        self._other: Holder | None = None  # whom this hub has stood by for
        self._why = f"the lease on it was not renewed for {GUARD} s"  # that it may not; what the database or the system has said last
        self._leaving = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)

    # -- Before the hub reads anything ---------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Return once this hub has the lease, and renew it from then on. Raises SQLAlchemyError where the database cannot be asked.

        Returns False where this database has no leases: no other hub may use it then.
        """
        if not self._open():
            return False
        free_since = now() if self._other else -math.inf  # whoever starts while nobody has it need not wait
        while True:
            holder = self._holder()
            if holder:
                free_since = math.inf
                self._stand_by(holder)
            else:
                free_since = min(free_since, now())
                if now() - free_since >= (GRACE if self._other and self._other.comes_back else 0) and self._take():
                    break
                if self._other:
                    self._stand_by(self._other)
            time.sleep(LOOK)
        if self._other:
            self._log.warning("The hub of %s has ended: this one serves now", self._other)
            state.enter(state.STARTING, state.IS_STARTING)
        self._keeper.start()
        return True

    def _stand_by(self, holder: Holder) -> None:
        """Let systemd know that this hub waits for that of `holder`, and all others if they were told somebody else."""
        line = f"the hub of {holder} serves"
        if str(holder) != str(self._other) or state.now().name != state.STANDBY:
            self._log.warning("Standing by: %s", line)
            with contextlib.suppress(OSError, ports.Refused):
                ports.ask(action="left", waits=False, state=state.STANDBY, reason=STANDS_BY)
        self._other = holder
        state.enter(state.STANDBY, STANDS_BY, line, "WATCHDOG=1", "READY=1")

    # -- The session ---------------------------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Open the session, and close one that was open. Returns False where the database knows no sessions that end by themselves."""
        before, self._session = self._session, None
        if before is not None:
            before.invalidate()
            before.close()
        self._session = self._engine.connect()
        version = int(self._ask("SHOW server_version_num")) // 10_000
        if version < OLDEST:
            self._log.warning("PostgreSQL %s cannot end the session of a hub that is silent, %s can: no second hub may use this database", version, OLDEST)
            self._session.close()
            return False
        self._ask(f"SET idle_session_timeout = {LEASE * 1000}")
        return True

    def _ask(self, statement: str, *parameters: object) -> Any:
        """Return the first value of what `statement` returns, None where it returns nothing."""
        result = self._run(statement, *parameters)
        return result.scalar() if result.returns_rows else None

    def _run(self, statement: str, *parameters: object) -> sqlalchemy.CursorResult:
        assert self._session is not None
        return self._session.exec_driver_sql(statement, parameters or None)

    def _holder(self) -> Holder | None:
        row = self._run(HOLDER).first()
        return Holder(*row) if row else None

    def _take(self) -> bool:
        """Take the lease and begin a term, if nobody has it. The term begins when all sessions of other hubs have ended."""
        if not self._ask(f"SELECT pg_try_advisory_lock({LEASE_KEY})"):
            return False
        while self._ask(END_OTHERS, OURS):
            time.sleep(0.01)
        self._term = self._next_term()
        asked = now()
        self._ask("SELECT 1")
        self._until = asked + GUARD
        return True

    def _next_term(self) -> int:
        """Return the number of the term that begins; 0 where there can be no numbers, so that nobody finds that his term was followed by his own."""
        try:
            if not self._ask(f"SELECT to_regclass('{LEASE_TERMS}')"):
                self._ask(f"CREATE SEQUENCE IF NOT EXISTS {LEASE_TERMS}")
            return int(self._ask(f"SELECT nextval('{LEASE_TERMS}')"))
        except ProgrammingError as error:  # an account that may not make any
            self._log.warning("The hub will start anew where it loses its connection to the database for a moment: %s", in_short(error.orig))
            return 0

    # -- While the hub serves ------------------------------------------------------------------------------------------------------

    def guard(self, engine: sqlalchemy.Engine) -> None:
        """Let `engine`, the hub's, use the database while the hub has the lease, and not without."""
        event.listen(engine, "before_cursor_execute", self._check)
        event.listen(engine, "connect", self._admit)
        engine.dispose()  # so that each session was admitted

    @property
    def valid(self) -> bool:
        """May the hub use the database now?"""
        return now() < self._until

    def _check(self, *_: object) -> None:
        if not self.valid:
            raise OperationalError("", None, Lost(self._why))

    def _admit(self, connection: Any, _: object) -> None:
        """Close a new session again, and raise OperationalError, where the database says that the lease is not this hub's.

        Who has got it meanwhile ends all sessions that there are; this is for those that come after that.
        """
        with connection.cursor() as cursor:
            cursor.execute(HOLDER)
            row = cursor.fetchone()
        connection.rollback()
        if row is None or row[0] != OURS:
            connection.close()
            raise OperationalError("", None, Lost(f"the lease on it is with the hub of {Holder(*row)}" if row else "this hub has no lease on it"))

    def leave(self) -> None:
        """Let those that stand by know, at the end of a hub that is stopped and not restarted, that they need not wait."""
        self._leaving.set()
        self._keeper.join(GUARD)

    def _keep(self) -> None:
        """Renew the lease until the hub ends."""
        while not self._leaving.wait(RENEWAL):
            asked = now()
            try:
                self._ask("SELECT 1")
                self._until = asked + GUARD
            except SQLAlchemyError as error:
                self._why = in_short(getattr(error, "orig", None) or error)
                self._log.error("The lease on the database is lost: %s", self._why)
                self._take_again()
        with contextlib.suppress(SQLAlchemyError):
            if self._session and self._ask(COUNT_OTHERS, OURS.split()[1]) and "stop" in ports.jobs(units.HUB):
                self._ask("SELECT set_config('application_name', %s, false)", LEAVES)
                time.sleep(LOOK + 0.2)  # until they have looked

    def _take_again(self) -> None:
        """Return once the hub has its lease again, or leaves; end it where somebody else has the lease, or had it meanwhile."""
        before = self._term
        while True:
            try:
                self._open()
                holder = self._holder()
                if not holder and self._take():
                    if self._term == before + 1:
                        self._log.warning("The hub has its lease on the database again")
                        return
                    self._end("another hub has had the lease on the database meanwhile")
                if holder and holder.session != OURS:  # its own: a session that PostgreSQL has not ended yet
                    self._end(f"the hub of {holder} has taken over")
            except SQLAlchemyError as error:
                self._why = in_short(getattr(error, "orig", None) or error)
            if self._leaving.wait(LOOK):
                return

    def _end(self, line: str) -> None:
        """End the hub at once: what it knows is not true any more, and it has nothing to finish."""
        self._log.critical("%s", line)
        state.fail("Another hub has taken over.", line)
        os._exit(1)
