"""A database that cannot be used for a while: requests say so, in users' words and with a status that says "later", and the hub's start waits for it."""

import contextlib
import errno
import functools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import sqlalchemy
from jupyterhub.handlers import BaseHandler
from jupyterhub.handlers.pages import HealthCheckHandler
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError
from tornado import web

from . import ports
from .database import in_short, sqlite_file
from .handlers import in_place_of
from .paths import STATE
from .sockets import notify

# libpq's, in seconds but for the last, milliseconds: a machine that has vanished is noticed before systemd takes the hub for one that hangs (WatchdogSec=30).
# Source: PostgreSQL's documentation, "Parameter Key Words".
DEADLINES = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
PAUSE = 2  # seconds between two tries of a start that waits
REMINDER = 300  # seconds after which the journal says again what has not changed
# What PostgreSQL says to a client that is right and too early; its other refusals ("FATAL") last until somebody changes something.
PASSING = ("starting up", "shutting down", "too many clients", "in recovery mode", "not yet accepting", "remaining connection slots")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
ROOM = 1 << 16  # bytes beside an SQLite database that the hub's start needs for its journal
TELL = "Please tell your administrator. Notebooks that run keep running."
LATER = "Please try again in a minute. Notebooks that run keep running."


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
    return Trouble(f"The hub's database does not answer. {LATER}", f"the database {where} does not answer: {said}", passes)


def with_deadlines(url: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return `settings` (JupyterHub.db_kwargs) with deadlines for a PostgreSQL server, as far as the site has set none, there or in `url`."""
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return settings
    ours = {name: value for name, value in DEADLINES.items() if name not in parsed.query}
    return {**settings, "connect_args": {**ours, **settings.get("connect_args", {})}}


def _try(url: str, settings: dict[str, Any]) -> None:
    """Use the database as the hub's start does: SQLite's is locked, and there is room beside it. Raises SQLAlchemyError, OSError."""
    path = sqlite_file(url)
    if path and not os.path.isfile(path):
        return
    if path:
        with tempfile.TemporaryFile(dir=os.path.dirname(path), buffering=0) as attempt:
            attempt.write(bytes(ROOM))
    engine = sqlalchemy.create_engine(url, **settings)
    try:
        with engine.connect() as connection:
            if path:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        engine.dispose()


def wait_for(url: str, settings: dict[str, Any], log: logging.Logger) -> None:
    """Return once the database at `url` can be used; meanwhile systemd and the journal hear what is in the way, and visitors get the page that the hub is away.

    Raises SystemExit, after a line for the journal, where waiting does not help.
    """
    told = 0.0
    while True:
        try:
            _try(url, settings)
        except (SQLAlchemyError, OSError) as error:
            found = trouble(error, url)
            if found is None:  # JupyterHub itself knows what to do or to say
                return
            if not found.passes:
                log.critical("%s", found.line)
                raise SystemExit(1) from None
            if not told:
                with contextlib.suppress(OSError, ports.Refused):
                    ports.ask(action="left", waits=False)
            if not told or time.monotonic() - told > REMINDER:
                told = time.monotonic()
                log.error("Waiting: %s", found.line)
            notify(f"STATUS=Waiting: {found.line}\nWATCHDOG=1", wait=False)
            time.sleep(PAUSE)
        else:
            if told:
                log.warning("The database can be used")
                notify("STATUS=", wait=False)
            return


@contextlib.contextmanager
def explained(app: Any) -> Iterator[None]:
    """End `app` (the hub) with one line where its start fails for its database."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        found = trouble(error, app.db_url)
        if found is None:
            raise
        app.log.critical("%s", found.line)
        app.exit(1)


_last: tuple[str, float] = ("", 0.0)  # what the journal was told, and when (time.monotonic())


def told(error: BaseException, app: Any) -> Trouble | None:
    """Return what `error` says of the database of `app` (the hub), None where it is another kind of error; the journal has a line now and then."""
    global _last
    found = trouble(error, app.db_url)
    if found is None:
        return None
    if found.line != _last[0] or time.monotonic() - _last[1] > REMINDER:
        _last = found.line, time.monotonic()
        app.log.error("%s", found.line)
    with contextlib.suppress(SQLAlchemyError):
        app.db.rollback()
    return found


def patient(look: Callable[[], Coroutine], app: Any) -> Callable[[], Coroutine]:
    """Return `look`, which is called again and again, as one that waits for the next time while the database of `app` (the hub) cannot be used."""

    async def patiently() -> None:
        try:
            await look()
        except SQLAlchemyError as error:
            if told(error, app) is None:
                raise

    return patiently


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
