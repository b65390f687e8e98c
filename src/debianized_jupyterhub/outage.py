"""A database that cannot be used for a while: requests say so, in users' words and with a status that says "later", and the hub's start waits for it.

The hub is degraded meanwhile (state.py).
"""

import asyncio
import contextlib
import errno
import functools
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy
from jupyterhub.handlers import BaseHandler
from jupyterhub.handlers.pages import HealthCheckHandler
from sqlalchemy.exc import InterfaceError, InvalidRequestError, OperationalError, PendingRollbackError, SQLAlchemyError
from tornado import web

from . import ports, state
from .database import MEND, deadlines, in_short, sqlite_file
from .handlers import in_place_of
from .paths import STATE

PAUSE = 2  # seconds between two tries of a start that waits, or of a hub that is degraded
PATIENCE = 30  # seconds after which systemd, and with it `systemctl start`, apt and the machine's boot, no longer wait for a start that waits
REMINDER = 300  # seconds after which the journal says again what has not changed
# What PostgreSQL says to a client that is right and too early; its other refusals ("FATAL") last until somebody changes something.
PASSING = ("starting up", "shutting down", "too many clients", "in recovery mode", "not yet accepting", "remaining connection slots")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
ROOM = 1 << 16  # bytes beside an SQLite database that the hub's start needs for its journal
TELL = "Please tell your administrator. Notebooks that run keep running."
LATER = "Please try again in a minute. Notebooks that run keep running."
AWAY = f"The hub's database does not answer. {LATER}"


class Trouble(NamedTuple):
    """What is wrong: for users' pages, and for the journal with what to do; does waiting help, with nobody doing anything about it here?"""

    words: str
    line: str
    passes: bool


def trouble(error: BaseException, url: str) -> Trouble | None:
    """Return what the exception `error` says of the database at `url` (SQLAlchemy's form), None where it is another kind of error."""
    path = sqlite_file(url)
    said = in_short(getattr(error, "orig", None) or error)
    of_database = isinstance(error, OperationalError | InterfaceError | PendingRollbackError)
    if (isinstance(error, OSError) and error.errno in NO_ROOM) or (of_database and ("disk is full" in said or "disk I/O error" in said)):
        line = f"no room for the hub's database: `df {STATE}` shows the disk ({said})"
        return Trouble(f"There is no room left on the hub's disk. {TELL}", line, False)
    if isinstance(error, InvalidRequestError) and "no further SQL" in said:  # where nobody has taken back what could not be committed
        return Trouble(AWAY, f"a transaction of the hub's was cut off at its end, and is taken back ({said})", True)
    if not of_database:
        return None
    if path and "is locked" in said:
        line = f"the database {path} is locked: `fuser -v {path}` names the program, stop that"
        return Trouble(f"The hub's database is in use by another program. {LATER}", line, True)
    if path and ("readonly database" in said or "unable to open" in said):
        line = f"the database {path} cannot be written ({said}): it and its folder must be jupyterhub's, on a disk that is not read-only"
        return Trouble(f"The hub cannot write to its database. {TELL}", line, False)
    if path:
        return None
    where = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    passes = "FATAL" not in said or any(words in said for words in PASSING)
    return Trouble(AWAY, f"the database {where} does not answer: {said}", passes)


def with_deadlines(url: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return `settings` (JupyterHub.db_kwargs) with deadlines for a PostgreSQL server, as far as the site has set none, there or in `url`."""
    ours = deadlines(url)
    return {**settings, "connect_args": {**ours, **settings.get("connect_args", {})}} if ours else settings


def look(url: str, engine: sqlalchemy.Engine) -> Trouble | None:
    """Use the database as the hub's start does, SQLite's is locked, and there is room beside it; return what is in the way.

    None where nothing is, or what JupyterHub itself knows to say. May take seconds.
    """
    path = sqlite_file(url)
    if not path and engine.dialect.name == "sqlite":  # in memory; its one connection is in use
        return None
    try:
        if path and not os.path.isfile(path):
            return None
        if path:
            with tempfile.TemporaryFile(dir=os.path.dirname(path), buffering=0) as attempt:
                attempt.write(bytes(ROOM))
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if path else "SELECT 1")
    except (SQLAlchemyError, OSError) as error:
        return trouble(error, url) or _damage(error, path)
    return None


def _damage(error: Exception, path: str | None) -> Trouble | None:
    """Return what `error` says of a file that is no SQLite database any more, None where it is another kind of error."""
    said = in_short(getattr(error, "orig", None) or error)
    if not path or not ("malformed" in said or "not a database" in said):
        return None
    return Trouble(f"The hub's database is damaged. {TELL}", f"the database {path} is corrupt ({said}): {MEND}", False)


def wait_for(url: str, settings: dict[str, Any], log: logging.Logger) -> None:
    """Return once the database at `url` can be used; meanwhile systemd and the journal hear what is in the way, and visitors get the page that the hub is away.

    systemd takes the hub for started after PATIENCE.
    Raises SystemExit, after a line for the journal, where waiting does not help.
    """
    try:
        engine = sqlalchemy.create_engine(url, **settings)
    except SQLAlchemyError:
        return
    begun, told, more = time.monotonic(), 0.0, ["WATCHDOG=1"]
    while found := look(url, engine):
        if not found.passes:
            raise _failed(found, log)
        if not told:
            with contextlib.suppress(OSError, ports.Refused):
                ports.ask(action="left", waits=False, state=state.DEGRADED, reason=found.words)
        if not told or time.monotonic() - told > REMINDER:
            told = time.monotonic()
            log.error("Waiting: %s", found.line)
        if time.monotonic() - begun > PATIENCE:
            more = ["WATCHDOG=1", "READY=1"]
        state.enter(state.DEGRADED, found.words, found.line, *more)
        time.sleep(PAUSE)
    engine.dispose()
    if told:
        log.warning("The database can be used")
        state.enter(state.STARTING, state.IS_STARTING)


def _failed(found: Trouble, log: logging.Logger) -> SystemExit:
    """Return what ends the hub, after a line for the journal and systemd."""
    log.critical("%s", found.line)
    state.fail(found.words, found.line)
    return SystemExit(1)


@contextlib.contextmanager
def explained(app: Any) -> Iterator[None]:
    """End `app` (the hub) with one line where its start fails for its database."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        found = trouble(error, app.db_url)
        if found is None:
            raise
        raise _failed(found, app.log) from None


class Lookout:
    """Looks at the database of a hub that runs (`app`): every PAUSE seconds while the hub is degraded, else when somebody asks for it."""

    LATELY = 5  # seconds for which a look counts
    ANSWER = 3  # seconds in which one ends, or the database does not answer

    def __init__(self, app: Any) -> None:
        self.app = app
        self._seen = -math.inf
        self._looking: asyncio.Task | None = None
        self._waiting: asyncio.Task | None = None

    def alarm(self, found: Trouble) -> None:
        """Let the hub be degraded because of `found` until a look goes well."""
        if state.now().name == state.STOPPED:
            return
        state.enter(state.DEGRADED, found.words, found.line)
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.ensure_future(self._until_usable())

    async def _until_usable(self) -> None:
        while state.now().name == state.DEGRADED:
            await asyncio.sleep(PAUSE)
            await self._look()

    def _look(self) -> asyncio.Task:
        """Return the one look that is under way."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look_once())
        return self._looking

    async def _look_once(self) -> None:
        found = await asyncio.to_thread(look, self.app.db_url, self.app.db.get_bind())
        self._seen = time.monotonic()
        if found:
            self.alarm(found)
        elif state.now().name == state.DEGRADED:
            self.app.log.warning("The database can be used")
            state.ready()

    async def current(self) -> state.State:
        """Return what the hub is, by a look at its database that is not older than LATELY seconds."""
        if self.app.held and not self.app.held.valid and state.now().name == state.READY:
            return state.State(state.DEGRADED, AWAY)
        if state.now().name in (state.READY, state.DEGRADED) and time.monotonic() - self._seen > self.LATELY:
            done, _ = await asyncio.wait([self._look()], timeout=self.ANSWER)
            if not done and state.now().name == state.READY:
                return state.State(state.DEGRADED, AWAY)
        return state.now()


_last: tuple[str, float] = ("", 0.0)  # what the journal was told, and when (time.monotonic())


def told(error: BaseException, app: Any) -> Trouble | None:
    """Return what `error` says of the database of `app` (the hub), None where it is another kind of error.

    The journal has a line now and then, and the hub is degraded until its database can be used again.
    """
    global _last
    found = trouble(error, app.db_url)
    if found is None:
        return None
    if found.line != _last[0] or time.monotonic() - _last[1] > REMINDER:
        _last = found.line, time.monotonic()
        app.log.error("%s", found.line)
    app.lookout.alarm(found)
    with contextlib.suppress(SQLAlchemyError):
        app.db.rollback()
    return found


class Brief(logging.Filter):
    """Keeps tracebacks out of the journal for which the database of `app` (the hub) is to blame: what is called again and again will go well the next time."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self.app = app

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether `record` is to be logged; the database's line stands in for it otherwise."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, SQLAlchemyError) or told(error, self.app) is None


@functools.cache
def outspoken(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one that answers 503 with the reason while the hub's database cannot be used."""
    for theirs, ours in ((HealthCheckHandler, Health), (BaseHandler, Outspoken)):
        if issubclass(handler, theirs):
            return in_place_of(handler, type("OutspokenHandler", (ours, handler), {}))
    return handler


class Health(HealthCheckHandler):
    """Says that hub and proxy are there, whoever asks: who that is would be a question to the database."""

    async def get_current_user(self) -> None:
        """Return nobody."""
        self._jupyterhub_user = None


class Ready(Health):
    """Says whether the hub itself can be used, as state.py has it, and why not: to anybody, so without paths and hosts."""

    async def get(self) -> None:
        """Answer 200, or 503 with the reason."""
        now = await self.app.lookout.current()
        if now.name != state.READY:
            self.set_status(503)
            self.set_header("Retry-After", "10")
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"state": now.name, "reason": now.words or None}))

    head = get

    def _log(self) -> None:
        """Log the request: 503 is an answer here and no error, and monitoring asks every few seconds. What is wrong has its line."""
        self.log.debug("%s %s: %s", self.request.method, self.request.path, self.get_status())


class Outspoken(BaseHandler):
    """In place of 403 for who cannot be looked up, which notebook servers take for a refusal, and of 500 with a traceback for all else."""

    _outage: web.HTTPError | None = None

    def _refusal(self, error: BaseException | None) -> web.HTTPError | None:
        """Return the answer to a request that ended in `error`, None if that is none of the database's."""
        found = told(error, self.app) if error else None
        if found is None:
            return None
        refusal = web.HTTPError(503, "%s", found.words)
        refusal.jupyterhub_message = found.words
        refusal.headers = {"Retry-After": "10"}
        return refusal

    async def get_current_user(self) -> Any:
        """Return who asks. Where the database cannot say that, the request ends before anybody is taken for a stranger."""
        try:
            return await super().get_current_user()
        except SQLAlchemyError as error:
            self._outage = self._refusal(error)
            if self._outage is None:
                raise

    def _resolve_roles_and_scopes(self) -> None:
        super()._resolve_roles_and_scopes()  # nobody's; the error's page needs them
        # JupyterHub's prepare() would go on to look for what a stranger lacks.
        if self._outage:
            outage, self._outage = self._outage, None
            raise outage

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Send the page or the answer for an error."""
        if refusal := self._refusal((kwargs.get("exc_info") or (None, None))[1]):
            kwargs["exc_info"], status_code = (type(refusal), refusal, None), 503
        super().send_error(status_code, **kwargs)

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Log an exception; what the database is to blame for has its line already (send_error)."""
        if trouble(error, self.app.db_url) is None:
            super().log_exception(kind, error, trace)
