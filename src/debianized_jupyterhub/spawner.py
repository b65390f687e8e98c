"""Start single-user servers through sudo, without sudo below the hub."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyterhub import orm
from jupyterhub.objects import Server
from jupyterhub.spawner import Spawner, SpawnException
from jupyterhub.utils import random_port
from sqlalchemy.orm import Session
from sudospawner import SudoSpawner

from . import accounts
from .authenticator import SudoersPolicy
from .culling import activity_interval
from .endings import LOST, at
from .gate import SESSIONS, GateError, ask, ask_helper, starting
from .paths import SERVERS
from .record import Actor, record_failed_stop, record_stop
from .sockets import credentials

# A start keeps one core busy for about a second. When a whole class logs in at
# once, those who came first have their servers soonest if the others wait for
# their turn (docs/performance.md, "Many users").
turns = asyncio.Semaphore(2 * (os.cpu_count() or 1))
DEBIAN_JAVA = "/usr/lib/jvm/default-java"  # a link of Debian's default-jre-headless


def java_home() -> dict:
    """Return the variable by which Spark finds Java: the site's, Debian's if that is installed, or none."""
    java = os.environ.get("JUPYTERHUB_JAVA_HOME", "").strip()
    if not java and os.path.isdir(DEBIAN_JAVA):
        java = DEBIAN_JAVA
    return {"JAVA_HOME": java} if java else {}


def personal_packages() -> dict:
    """Return the variable that tells notebook servers whether users may have packages of their own, if the site says so."""
    setting = os.environ.get("JUPYTERHUB_PERSONAL_PACKAGES", "").strip()
    return {"JUPYTERHUB_PERSONAL_PACKAGES": setting} if setting else {}


def remove_stale_sockets(db: Session) -> None:
    """Remove what is left in the folder of servers that a hub which was killed had started; `db` is the hub's."""
    if found := list(Path(SERVERS).glob("server-*.sock")):
        known = {(spawner.state or {}).get("socket") for spawner in db.query(orm.Spawner)}
        for path in found:
            if path.name not in known:
                path.unlink(missing_ok=True)


class Bare(dict):
    """A user's options (see JupyterHub's Spawner.user_options) for one start without the configuration in the user's home.

    The database keeps plain ones, so that the next start is with it again.
    """

    FIELD = "without_own_configuration"  # of a form


class EndedEarly(GateError):
    """A server that could not be waited for; the configuration in its user's home may be the reason."""


class Impostor(ConnectionRefusedError):
    """At the address of a server listens a process that is not the server."""


def _told(error: SpawnException) -> SpawnException:
    """Return `error` as one whose words are also on the page of a start that took longer; JupyterHub looks there for what other exceptions have."""
    error.jupyterhub_message = error.message
    return error


class GateSpawner(SudoSpawner):
    """A SudoSpawner whose mediator is reached through the spawner gate.

    The server it starts is no child of the hub, so it outlives the hub; what is
    kept of it in the database is its process id and ``started``, the proof that
    the process is still the one that was started, and its ``machine``; later ``ended``,
    the sentence (endings.py) that says who has stopped it, until it is started again.

    It listens on a unix socket that the gate binds, in a folder where nobody but the
    hub can make or remove anything, under a name that is never used again; where the
    hub's proxy takes TCP alone, at a port of 127.0.0.1.
    """

    ip: str
    on_unix_sockets = False  # app.py decides
    in_jobs = False  # may servers be jobs of Slurm? jobs.py
    started = ""
    socket_name = ""  # of a file in SERVERS
    ended = ""
    stopped_by: Actor | None = None  # who has asked the hub for it
    not_stopped = ""  # why it still runs after a stop
    _half_started = False
    _lost = ""
    _watcher: asyncio.Task | None = None

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self.started = state.get("started", "")
        self.socket_name = state.get("socket", "")
        self.ended = state.get("ended", "")
        if state.get("machine", socket.gethostname()) != socket.gethostname():  # the hub of that one has started it (lease.py)
            self.ended = self._lost = LOST.format(state["machine"])
        self._half_started = state.get("starting", False)

    def get_state(self) -> dict:
        state = super().get_state()
        if self.pid:
            state["started"], state["machine"] = self.started, socket.gethostname()
            if self.socket_name:
                state["socket"] = self.socket_name
        if self.ended:
            state["ended"] = self.ended
        return state

    def clear_state(self) -> None:
        super().clear_state()
        self.started = ""
        self._forget_socket()

    def _forget_socket(self) -> None:
        if self.socket_name:
            Path(SERVERS, self.socket_name).unlink(missing_ok=True)
            self.socket_name = ""

    @property
    def server(self) -> Any:
        """The server's address (jupyterhub.objects.Server), None where there is none. The database keeps a port with each, which a unix socket has not."""
        server = Spawner.server.fget(self)
        if server is not None and server.proto == "http+unix" and not server.connect_url:
            server.connect_addr = server.ip
            server.connect_url = f"http+unix://{server.ip}{server.base_url}"
        return server

    @server.setter
    def server(self, server: Server | None) -> None:
        Spawner.server.fset(self, server)

    def user_env(self, env: dict) -> dict:
        """Leave home, shell and name to sudo and PAM, which know the account."""
        return env

    def get_env(self) -> dict:
        """Return the server's environment: Java's place and how often it tells the hub of its activity (culling says that), unless the site sets them."""
        env = {"JUPYTERHUB_ACTIVITY_INTERVAL": str(activity_interval()), **java_home(), **personal_packages(), **super().get_env()}
        if self.socket_name:
            env["JUPYTERHUB_SERVICE_URL"] = f"{self._socket_url()}{self.server.base_url}"
        return env

    def get_args(self) -> list[str]:
        """Return the server's arguments; those that say where it listens come last, so that nothing of the user's or the site's does."""
        if not self.socket_name:
            return super().get_args()
        return [*super().get_args(), f"--ServerApp.sock={SERVERS}/{self.socket_name}", "--ServerApp.port=8888", "--ServerApp.ip=localhost"]

    def _socket_url(self) -> str:
        return f"http+unix://{quote(f'{SERVERS}/{self.socket_name}', safe='')}"

    def run_options_from_form(self, form_data: dict) -> Any:
        """Return the options that a form asks for; the one below a start that failed repeats those of that start, without the user's configuration."""
        if Bare.FIELD in form_data:
            return Bare(self.user_options)
        return super().run_options_from_form(form_data)

    async def do(self, action: str, **request: Any) -> dict:
        """Put one request about this user to the gate; see gate.ask for errors."""
        return await ask(action, user=self.user.name, **request)

    async def start(self) -> str | tuple[str, int]:
        """Start the server when it has its turn, and return its address as soon as it listens.

        Raises SpawnException, with words for the user's page and the log, where it
        cannot be started or ends before it listens.
        """
        self.ip = self.ip or "127.0.0.1"
        self.ended = self.not_stopped = ""
        await self._require_good_standing()
        async with turns:
            if self.on_unix_sockets:
                self.socket_name = f"server-{secrets.token_hex(8)}.sock"
            else:
                self.port = random_port()
            place = {"socket": self.socket_name} if self.socket_name else {}
            bare = isinstance(self.user_options, Bare)
            if bare:
                self.log.warning("Starting %s without the configuration in the user's home, once", self._log_name)
            try:
                async with starting(user=self.user.name, args=self.get_args(), env=self.get_env(), bare=bare, timeout=30, **place) as (answer, end):
                    self.pid, self.started = answer["pid"], answer["started"]
                    self._note()
                    await self._wait_for_server(end)
            except EndedEarly as error:
                raise self._with_an_offer(_told(SpawnException(str(error), reason="server")), not bare) from None
            except GateError as error:
                raise await self._refusal(str(error)) from None
        return self._socket_url() if self.socket_name else (self.ip, self.port)

    async def _require_good_standing(self) -> None:
        """Raise SpawnException, with words for the user's page, for an account that may not be used any more; a site's own authenticator is not asked."""
        if isinstance(self.authenticator, SudoersPolicy):
            standing = await self.authenticator.why_not_start(self)
            if standing.reason:
                raise _told(SpawnException(standing.words, reason="account", log_message=standing.reason, status_code=403))

    async def _refusal(self, reason: str) -> SpawnException:
        """Return the exception for a start that failed for `reason`. Whom sudo does not admit reads what the login page says; the log has the reason."""
        with contextlib.suppress(GateError):
            if not (await self.do("allowed", timeout=5))["allowed"]:
                words = accounts.NOT_ADMITTED.format(self.user.name)
                return _told(SpawnException(words, reason="not-admitted", log_message=reason, status_code=403))
        return _told(SpawnException(reason, reason="gate"))

    @staticmethod
    def _with_an_offer(error: SpawnException, offered: bool) -> SpawnException:
        """Return `error` as one whose page offers, or not, a start without the configuration in the user's home: see src/templates/start_bare.html."""
        error.offers_bare_start = offered
        return error

    def _note(self) -> None:
        """Write down that a server is starting, in case the hub ends before JupyterHub does.

        The next hub would not know of it, and it would run on beside the next one
        of its user: see poll.
        """
        self.orm_spawner.state = {**self.get_state(), "starting": True}
        self.user.db.commit()

    async def _wait_for_server(self, end: asyncio.Future[str]) -> None:
        """Return once the server accepts connections; raise EndedEarly if it ends first, for the reason that `end` tells, or never does.

        JupyterHub would poll with a back-off that doubles and jitters; here one
        user waits for one local server, and 20 ms cost next to nothing. To ask whether
        the process still lives costs more: seldom, and not of a server that is up in time.
        """
        deadline = time.monotonic() + self.start_timeout
        next_look = time.monotonic() + 1
        while time.monotonic() < deadline:
            try:
                _, writer = await self._connect()
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
            if end.done() and end.result():
                raise self._ended_early(end.result())
            if time.monotonic() > next_look:  # a gate that has ended says nothing
                if not await self._signal(0):
                    await asyncio.wait([end], timeout=2)
                    raise self._ended_early(end.result() if end.done() else "")
                next_look = time.monotonic() + 1
        raise EndedEarly(f"The notebook server does not listen after {self.start_timeout} s")

    def _ended_early(self, why: str) -> EndedEarly:
        journal = f"Its messages are in the journal: `journalctl -t jupyterhub-singleuser _PID={self.pid}`"
        return EndedEarly(f"The notebook server ended while it started: {why} {journal}" if why else f"The notebook server ended while it started. {journal}")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the server. Raises OSError where it does not listen, and Impostor where somebody else does."""
        if not self.socket_name:
            # While it starts there is no address in the database yet.
            where = (self.ip, self.port) if self._start_pending else (self.server.ip, self.server.port)
            return await asyncio.open_connection(*where)
        reader, writer = await asyncio.open_unix_connection(f"{SERVERS}/{self.socket_name}")
        pid, _ = credentials(writer.get_extra_info("socket"))
        if pid != self.pid:
            writer.close()
            raise Impostor(f"Process {pid} listens at {self.socket_name}, not the server of {self._log_name}")
        return reader, writer

    async def stop(self, now: bool = False) -> None:
        """End the server, gently first, and return as soon as it has ended. `now` makes no difference.

        LocalProcessSpawner begins with SIGINT (not if `now`). That ends a server without
        a terminal on the spot: its kernels notice within a second and end on the spot too,
        without what they would have written at their exit. At SIGTERM it asks them to end.

        LocalProcessSpawner would also ask again and again, with a back-off, whether it
        has; each question is a process here. The gate waits for the end itself.

        Where sudo cannot reach it, since its account is gone or has another uid now, its session is ended. Raises SpawnException where it still runs.
        """
        ladder = [(signal.SIGTERM, self.term_timeout), (signal.SIGKILL, self.kill_timeout)]
        for sig, seconds in ladder:
            try:
                answer = await self.do(
                    "stop",
                    pid=self.pid,
                    started=self.started,
                    signal=int(sig),
                    seconds=seconds,
                    timeout=seconds + 10,
                )
            except GateError as error:
                self.log.warning("Cannot stop %s by sudo, so its session is ended: %s", self._log_name, error)
                break
            if not answer["alive"]:
                return
        await self._end_session()

    async def _end_session(self) -> None:
        """End the server and its session, and return when it has ended. Raises SpawnException."""
        seconds = self.term_timeout
        try:
            answer = await ask_helper(SESSIONS, {"pid": self.pid, "started": self.started, "seconds": seconds}, 2 * seconds + 10)
            why = "it does not end" if answer["alive"] else ""
        except GateError as error:
            why = str(error)
        if why:
            what = f"The notebook server of {self._log_name} could not be stopped, process {self.pid} still runs: {why}"
            self.log.error("%s", what)
            self.not_stopped, self.ended = what, f"Your server could not be stopped on {at(datetime.now(UTC))}. Ask your administrator."
            raise SpawnException(what, reason="not-stopped")

    def run_post_stop_hook(self) -> Any:
        # All ends come here, also those that nobody has asked for; that of a start that failed is recorded as that.
        starting = self._spawn_future
        if self.not_stopped:
            record_failed_stop(self.user.name, self.name, self.stopped_by, self.not_stopped)
        elif not starting or (starting.done() and not starting.exception()):
            record_stop(self.user.name, self.name, self.stopped_by)
        self.stopped_by = None
        return super().run_post_stop_hook()

    async def poll(self) -> int | None:
        """Return None if the server runs, else 0.

        A gate that does not answer proves nothing: in doubt the server runs, for
        JupyterHub stops and forgets one that is said to be dead. One that an
        earlier hub was only starting is ended: nobody has worked with it yet.
        """
        try:
            if self._half_started:
                self._half_started = False
                self.log.warning("Ending %s, which an earlier hub was starting", self._log_name)
                await self._signal(signal.SIGTERM)
                self.clear_state()
            status = await super().poll()
            if status is None and self.ended == self._lost:  # the machine has another name now
                self.ended = ""
            return status
        except GateError as error:
            self.log.error("Cannot see whether the server of %s runs: %s", self._log_name, error)
            return None

    def start_polling(self) -> None:
        super().start_polling()
        self._watcher = asyncio.ensure_future(self._watch())

    def stop_polling(self) -> None:
        super().stop_polling()
        watcher, self._watcher = self._watcher, None
        if watcher and watcher is not asyncio.current_task():
            watcher.cancel()

    async def _watch(self) -> None:
        """Notice the end of the server when it happens, so that its user can start again at once.

        The kernel closes a dead process's connections; polling would need half a
        minute. An idle connection that the server closes for its age is made anew.
        """
        status, said = None, ""
        while status is None:
            try:
                reader, writer = await self._connect()
                try:
                    await reader.read()
                finally:
                    writer.close()
            except OSError as error:
                if isinstance(error, Impostor) and str(error) != said:
                    said = str(error)
                    self.log.error(said)
                await asyncio.sleep(1)  # does not listen (yet, or any more)
            status = await self.poll_and_notify()

    async def _signal(self, sig: int) -> bool:
        """Send `sig` to the server (0: only look); tell whether it was running."""
        identity = {"pid": self.pid, "started": self.started}
        if sig == 0:
            answer = await self.do("poll", **identity)
        else:
            answer = await self.do("signal", signal=int(sig), **identity)
        return answer["alive"]
