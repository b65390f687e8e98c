"""Notebook servers as Slurm jobs, beside those on the hub's machine or in place of them: docs/slurm.md.

The hub asks the spawner gate for all of it, and decides nothing: which profile is whose, and where a node is, is the gate's and slurmctld's word.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

import aiohttp
from jupyterhub import orm
from jupyterhub.httpclient import fetch
from jupyterhub.spawner import SpawnException
from jupyterhub.utils import exponential_backoff, fmt_ip_url, url_path_join, utcnow
from traitlets import default

from . import job_link, job_words
from .certificates import name_of
from .endings import at
from .gate import GateError, Refusal, ask
from .job_gate import NOT_THERE
from .job_records import LISTS, SLURM, Job, Left, Undelivered, keep, number_of, questions
from .notices import OFFLINE, planned_stop
from .paths import JOBS_CA
from .profiles import setting
from .spawner import Bare, GateSpawner, _told

BRING_BACK = "Put it back from a backup, or from the other hub of a pair, and restart the hub"
FOREVER = 10**9  # seconds
NEAR = 660  # seconds before the end of a job, from which on it is worth a question to its owner: culler.py is about to announce it
SHUNNED = 600  # seconds for which a user's jobs keep away from a node that has refused one
OWN_PAUSE = 5  # seconds between questions that are asked as one user, each of which opens a session
OWN_APART = 0.5  # seconds between such questions of all users: many wait at a time
# A whole class may come at once: forms and submissions are processes, and the hub needs a core for its pages.
at_once = asyncio.Semaphore(os.cpu_count() or 1)
UNREACHABLE = "Servers on other machines than the hub's are not set up. Ask your administrator."


def without_traceback(record: logging.LogRecord) -> bool:
    """Take the traceback from what the log says of a start that was refused (a filter of logging): JupyterHub adds one where a form asked for it."""
    if record.exc_info and isinstance(record.exc_info[1], SpawnException):
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {record.exc_info[1]}", (), None
    return True


class JobSpawner(GateSpawner):
    """A GateSpawner that has servers in Slurm jobs, too."""

    in_jobs = True
    certificates: Any = None  # certificates.Certificates, where servers may be on other machines; app.py decides
    job: Job | None = None
    _begun: Job | None = None  # by an earlier hub, to be gone on with at the start
    _stands = "Asking Slurm."
    _over = ""  # why the server has ended, by its starter's word
    _linked = False  # to its starter, at this moment
    _silent_since = 0.0  # time.time() from which on its node has not answered, 0 where it does
    _unfit: tuple[tuple[str, float], ...] = ()  # nodes that have refused a job, and when
    _asked_own = 0.0
    _next_own: ClassVar[float] = 0.0
    _patience = 0
    start_timeout: int
    _spawn_future: Any = None

    # -- What is kept

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        if kept := state.get("job"):  # another version of the package may have written it
            self.job = Job(**{field.name: kept[field.name] for field in fields(Job) if field.name in kept})

    def get_state(self) -> dict:
        state = super().get_state()
        if self.job:
            state["job"] = asdict(self.job)
        kept = self.orm_spawner.state or {}
        return {**state, **{name: kept[name] for name in LISTS if kept.get(name)}}

    def clear_state(self) -> None:
        super().clear_state()
        self.job, self._over, self._silent_since = self._begun, "", 0.0

    @property
    def server(self) -> Any:
        """As GateSpawner's; one that has a certificate is asked by its name there whether it is up."""
        server = super().server
        if server is not None and server.proto == "https" and self.job and self.job.host:
            server.wait_up = self._answers
        return server

    @server.setter
    def server(self, server: Any) -> None:
        vars(GateSpawner)["server"].fset(self, server)

    async def _answers(self, timeout: float = 10, extra_path: str = "", **_options: Any) -> Any:
        """Return the answer of the server on its node, once there is one. Raises TimeoutError."""
        job = self.job
        assert job
        url = url_path_join(f"https://{fmt_ip_url(job.address)}:{job.port}", self.server.base_url, extra_path)

        async def tried() -> Any:
            try:
                answer = await fetch(url, ssl=self.certificates.client, server_hostname=job.host, allow_redirects=False, raise_for_status=False)
            except (aiohttp.ClientError, OSError) as error:
                self.log.warning("%s at %s does not answer: %s", self._log_name, url, error)
                return None
            return answer if answer.status < 500 else None

        return await exponential_backoff(tried, f"{self._log_name} at {url} does not answer", timeout=timeout)

    def get_env(self) -> dict:
        """As GateSpawner's; a server on a node reaches the hub at another address."""
        env = super().get_env()
        if self.job and self.job.host:
            for name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL"):
                env[name] = urlsplit(env[name])._replace(scheme="https", netloc=self.certificates.netloc).geturl()
        return env

    def _keep(self) -> None:
        """Write down what is known of the job."""
        self.orm_spawner.state = self.get_state()
        self.user.db.commit()

    # -- What the user chooses

    @default("apply_user_options")
    def _options_are_known(self) -> Any:
        return lambda _spawner, _options: None  # `start` looks at them

    async def get_options_form(self) -> str:
        """Return the form for the start of a server: the site's own, else the profiles."""
        if own := await super().get_options_form():
            return own
        complaint, found = "", []
        try:
            async with at_once:
                found = (await self.do("profiles", timeout=15))["profiles"]
        except GateError as error:
            complaint = str(error)
        return job_words.form(found, self.orm_spawner.user_options or {}, local=setting() != "only", complaint=complaint)

    def run_options_from_form(self, form_data: dict) -> Any:
        if Bare.FIELD in form_data or self.options_form or job_words.FIELD not in form_data:  # the site's own form may have such a field, too
            return super().run_options_from_form(form_data)
        return job_words.of_form(form_data)

    def _chosen(self) -> tuple[str, dict[str, Any]]:
        """Return the name of the profile, "" for none, and what was chosen in it. It comes from a form, an address, the API, or from last time."""
        options = {key: value[0] if isinstance(value, list) and value else value for key, value in (self.user_options or {}).items()}
        name = options.pop(job_words.FIELD, "")
        return name if isinstance(name, str) else "", options

    def run_pre_spawn_hook(self) -> Any:
        # JupyterHub counts the time from here. A job waits for as long as it takes.
        self._patience = self._patience or self.start_timeout
        self.start_timeout = FOREVER if self._begun or self._chosen()[0] else self._patience
        return super().run_pre_spawn_hook()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield where the job stands, when that is news."""
        last = ""
        while True:
            if self._stands != last:
                last = self._stands
                yield {"progress": 50 if self.job and self.job.control else 20, "message": last}
            await asyncio.sleep(0.5)

    @property
    def asks_slurm(self) -> bool:
        """Is the start that goes on one of a job?"""
        return bool(self._begun or self._chosen()[0])

    @property
    def where(self) -> str:
        """What the hub's page says of the job: one line, "" where there is none."""
        if self.job and self.job.up and self.job.number:
            return job_words.running(self.job.number, self.job.node, self.job_end)
        return self._stands if self.pending == "spawn" and self.asks_slurm else ""

    # -- The start

    async def start(self) -> str | tuple[str, int]:
        """Start a server, on this machine or as a job; return its address. Raises SpawnException, as GateSpawner does."""
        job, self._begun = self._begun, None
        profile, chosen = self._chosen()
        if job is None and not profile:
            if setting() == "only":
                raise _told(SpawnException("Choose what the server shall have, on the page for its start.", reason="profile", status_code=400))
            self._stands = "Starting on this server."
            return await super().start()
        self.job = job or Job(secrets.token_hex(8), secrets.token_hex(32), profile)
        self.ended = self.not_stopped = self._over = ""
        await self._require_good_standing()
        try:
            await self._submit(chosen, again=job is not None)
            await self._hand_over(await self._turn())
        except GateError as error:
            raise await self._refusal(str(error)) from None
        self.job.up = True
        self.log.info("%s, job %s, runs on %s", self._log_name, self.job.number, self.job.node)
        return f"https://{self.job.host}:{self.job.port}" if self.job.host else f"http://{fmt_ip_url(self.job.address)}:{self.job.port}"

    async def _submit(self, chosen: dict[str, Any], *, again: bool) -> None:
        """Have the job, and its number in the database: a new one, or `again` one that an earlier hub had asked for. Raises GateError."""
        job = self.job
        assert job
        if job.number is None and again:
            job.number = await self._found()
        if job.number is None:
            self._keep()  # before it is asked for: else a hub that is killed now would not know of it
            try:
                answer = await self._ask_for(job, chosen)
            except Refusal as refusal:
                if str(refusal) != NOT_THERE:
                    self.job = None  # there certainly is none
                raise
            job.number = answer["job"]
        self._keep()
        self.log.info("%s is job %s of Slurm, profile %s", self._log_name, job.number, job.profile)

    async def _ask_for(self, job: Job, chosen: dict[str, Any]) -> dict[str, Any]:
        """Have `job` submitted; return the gate's answer. Raises GateError.

        It keeps away from nodes that have just refused one of this user's: they are idle, and Slurm would choose them again. Where no others are left, they are
        tried: they may have been mended, and else say what is wrong.
        """
        silent = {entry["node"] for entry in self._left()}  # Slurm may not have noticed
        shunned = sorted(silent | {node for node, when in self._unfit if time.monotonic() < when + SHUNNED})
        request = {"profile": job.profile, "chosen": chosen, "server": self.name, "tag": job.tag, "key": job.key}
        async with at_once:
            if shunned:
                try:
                    return await self.do("submit", **request, without=shunned, timeout=SLURM)
                except Refusal as refusal:
                    if str(refusal) == NOT_THERE:
                        raise
                    self._unfit = ()
            return await self.do("submit", **request, timeout=SLURM)

    async def _found(self) -> int | None:
        """Return the number of the job that an earlier hub had asked for and heard nothing of, None if there is none. Raises GateError."""
        assert self.job
        for _ in range(5):  # it may still be on its way, for as long as the mediator has patience with sbatch
            await asyncio.sleep(5)
            if (number := await number_of(self.user.name, self.job.tag)) is not None:
                return number
        return None

    async def _turn(self) -> dict[str, Any]:
        """Wait until the job runs and has told its port; return what Slurm says of it. Raises SpawnException."""
        job = self.job
        assert job
        begun, deadline = time.monotonic(), 0.0
        while True:
            if self.job is not job:  # by who does not interrupt the start itself: an account that has ended, of which Slurm is not asked any more
                raise self._not_started("The server was stopped before it was started.")
            try:
                seen = await self._look(job, young=time.monotonic() < begun + 60)
            except GateError as error:
                if self._stands != job_words.NO_ANSWER:
                    self.log.warning("%s: %s", self._log_name, error)
                self._stands = job_words.NO_ANSWER
                await asyncio.sleep(3)
                continue
            if seen is None or seen["state"] in job_words.OVER or seen["says"]:
                await self._clean_up()
                if seen and seen["says"]:
                    self._unfit = (*self._unfit, (seen["node"], time.monotonic()))
                raise self._not_started((seen or {}).get("says") or f"The server was not started: {job_words.why_over(seen)}.")
            self._stands = job_words.standing(job.number or 0, seen)
            if seen["state"] == "RUNNING":
                if seen["port"] and seen["address"]:
                    return seen
                deadline = deadline or time.monotonic() + self._patience
                if time.monotonic() > deadline:
                    raise self._not_started(f"The job runs on {seen['node']} and has said nothing for {self._patience} s.")

    def _not_started(self, words: str) -> SpawnException:
        number = self.job.number if self.job else None
        return _told(SpawnException(words, reason="job", log_message=f"{words} (job {number})", status_code=500))

    async def _look(self, job: Job, *, young: bool = False) -> dict[str, Any] | None:
        """Return what Slurm says of `job`, None if it does not know it, which is not said before its owner was asked, too. Raises GateError."""
        assert job.number is not None
        seen = await questions.about(job.number, self.user.name, young=young)
        if seen is None:
            self._asked_own = max(time.monotonic(), self._asked_own + OWN_PAUSE, JobSpawner._next_own)
            JobSpawner._next_own = self._asked_own + OWN_APART
            await asyncio.sleep(self._asked_own - time.monotonic())
            seen = (await ask("state", own=self.user.name, addresses=True, timeout=SLURM))["jobs"].get(str(job.number))
        if seen and seen["tag"] != job.tag and seen["state"] not in job_words.OVER and not job.control:
            raise self._not_started("The comment of the job is not the one that it was started with.")
        return seen

    async def _hand_over(self, seen: dict[str, Any]) -> None:
        """Give the server to the job: what it needs goes to who has the job's key, at the address that slurmctld has. Raises SpawnException."""
        job = self.job
        assert job
        job.node, job.address, job.control, job.end = seen["node"], seen["address"], seen["port"], seen["end"] or 0
        job.host = name_of(job.tag, job.address) if self.certificates else ""
        self._keep()
        if not job.host and not self._can_reach_the_hub(job.address):
            self.log.error("Node %s is another machine: JUPYTERHUB_JOBS_ADDRESS says where its servers reach this hub, and is empty", job.node)
            raise self._not_started(UNREACHABLE)
        await self._require_admission()
        try:
            reader, writer = await self._link()
        except OSError as error:
            raise self._not_started(f"The job on {job.node} cannot be used: {error}.") from None
        with contextlib.closing(writer):
            try:
                given = {"tls": self.certificates.for_server(job.host)} if job.host else {}
                answer = await job_link.ask(reader, writer, {"action": "start", "args": self.get_args(), "env": self.get_env(), **given}, 30)
                job.port = job_link.port_of(answer)
                if lacks := job_words.line(answer.get("lacks", "")):
                    self.log.warning("%s: %s", self._log_name, lacks)
                    self._stands = lacks
            except OSError as error:
                raise self._not_started(f"The server on {job.node} was not started: {job_words.line(error)}.") from None
            self._keep()
            end = asyncio.ensure_future(job_link.said(reader))
            try:
                await self._listens(end)
            finally:
                end.cancel()
        # Limits of age and idleness count from here, and not from when it was asked for.
        self.orm_spawner.started = self.orm_spawner.last_activity = utcnow(with_tz=False)

    async def _require_admission(self) -> None:
        """Raise GateError or SpawnException where the account may not have a server any more: days may have passed, and no sudo is asked from here on."""
        await self._require_good_standing()
        planned = planned_stop()  # culler.py leaves alone what is started after it
        if planned is not None and planned <= time.time() and not self.user.admin:
            raise self._not_started(OFFLINE.read() or "The hub is offline.")
        policy = await self.do("allowed")
        if not policy["allowed"]:
            raise GateError(policy["reason"])

    def _can_reach_the_hub(self, address: str) -> bool:
        """Return whether a server at `address` finds the hub, which listens for this machine alone unless the site has it otherwise."""
        hub = urlsplit(self.hub_connect_url or self.hub.api_url).hostname or ""
        with contextlib.suppress(ValueError):
            if not ipaddress.ip_address(hub).is_loopback:
                return True
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return False
        return True

    async def _listens(self, end: asyncio.Future[dict[str, Any]]) -> None:
        """Return once the server listens. Raises SpawnException if it ends first, for the reason that `end` tells, or never does."""
        assert self.job
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            if end.done():
                why = job_words.line(end.result().get("ended", "")) or "the job has ended."
                raise self._not_started(f"The notebook server ended while it started: {why}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.wait_for(asyncio.open_connection(self.job.address, self.job.port), 5)  # a firewall may say nothing
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise self._not_started(f"The notebook server does not listen after {self._patience} s.")

    async def _link(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the job's starter. Raises OSError, Stranger for one that does not have the key."""
        assert self.job
        return await job_link.connect(self.job.address, self.job.control, self.job.key)

    # -- While it runs

    async def poll(self) -> int | None:
        """Return None if the server runs, else 0. In doubt it runs: a Slurm that does not answer, and a node that does not, prove nothing."""
        job = self.job
        if job is None:
            return await super().poll()
        if self._over:
            return 0
        if self._linked or job.number is None:
            return None
        if job.control and await self._starter_answers():
            return None
        try:
            seen = await self._look(job, young=True)
        except (GateError, SpawnException) as error:
            self.log.error("Cannot see whether the server of %s runs: %s", self._log_name, error)
            return None
        if self.job is not job or self._over:  # it has ended, or was stopped, meanwhile
            return 0
        if seen and seen["state"] not in (*job_words.OVER, "COMPLETING"):
            return None
        self._note_end(f"{job_words.why_over(seen)}." if not seen or seen["state"] in job_words.OVER else "the job has ended.")
        self._leave(job)
        await self._clean_up()
        return 0

    @property
    def job_end(self) -> int | None:
        """When Slurm ends the server (seconds since 1970), None where it does not."""
        return self.job.end or None if self.job and self.job.up else None

    async def look_at_end(self) -> None:
        """Note when Slurm ends the job: an administrator may have changed that. Of jobs that are private, only their owners are told."""
        job = self.job
        if job is None or not job.up or job.number is None:
            return
        try:
            near = job.end and job.end < time.time() + NEAR
            seen = await (self._look(job) if near else questions.about(job.number, self.user.name))
        except (GateError, SpawnException):
            return  # poll() says what there is to be said
        if seen and seen["tag"] == job.tag and self.job is job and (seen["end"] or 0) != job.end:
            job.end = seen["end"] or 0
            self._keep()

    async def _starter_answers(self) -> bool:
        try:
            reader, writer = await self._link()
            with contextlib.closing(writer):
                await job_link.ask(reader, writer, {"action": "look"})
        except OSError as error:
            self._note_silence(error)
            return False
        self._silent_since = 0.0
        return True

    def _note_silence(self, error: OSError) -> None:
        """Note whether the node does not answer, by what came of a connection to its starter."""
        if isinstance(error, ConnectionRefusedError):  # it does
            self._silent_since = 0.0
        elif self.job and not self._silent_since:
            self._silent_since = time.time()
            self.log.warning("Node %s of %s, job %s, does not answer: %s", self.job.node, self._log_name, self.job.number, error)

    def _leave(self, job: Job) -> None:
        """Note that the server may still run, if its node does not answer: Slurm's word that its job is over does not end it there."""
        if self._silent_since:
            Left.add(self.orm_spawner, job)
            self.user.db.commit()
            self.log.warning("The server of %s, job %s, may still run on %s: it is ended when that answers", self._log_name, job.number, job.node)

    def _left(self) -> list[dict[str, Any]]:
        """Return the user's servers of this name that may still run elsewhere."""
        return (self.orm_spawner.state or {}).get("left", [])

    @property
    def news(self) -> list[str]:
        """What the user is to know of servers on nodes that do not answer, for pages."""
        now = [job_words.silent(self.job.node, self._silent_since)] if self.job and self._silent_since else []
        return now + [job_words.left(entry["number"], entry["node"]) for entry in self._left()]

    async def _clean_up(self) -> None:
        """Take away what a job has left that has ended without its starter: its key, which goes with a cancel, though it is over."""
        if self.job:
            with contextlib.suppress(GateError):
                await self.do("cancel", job=self.job.number, tag=self.job.tag, timeout=SLURM)

    def _note_end(self, why: str) -> None:
        """Note that the server has ended by itself, and why, for its user."""
        if why == job_words.CANCELLED and self.job and self.job.end and time.time() > self.job.end - 5:
            why = job_words.TIME_OVER  # the starter knows the end that the job had at first
        self._over = why
        if self.job and self.job.up and not self.ended and why != "Exit status 0.":
            self.ended = f"Your server ended on {at(datetime.now(UTC))}: {why}"

    async def _watch(self) -> None:
        """Notice the end of the server when it happens: the starter tells it, or its connection breaks."""
        if self.job is None:
            await super()._watch()
            return
        pause, said = 0.5, ""
        while True:
            begun = time.monotonic()
            try:
                reader, writer = await self._link()
                with contextlib.closing(writer):
                    await job_link.ask(reader, writer, {"action": "look"})
                    self._linked, self._silent_since = True, 0.0
                    if ended := (await job_link.said(reader)).get("ended"):
                        self._note_end(job_words.line(ended))
            except OSError as error:
                self._note_silence(error)
                if isinstance(error, job_link.Stranger) and str(error) != said:
                    said = str(error)
                    self.log.error("%s: %s", self._log_name, said)
            finally:
                self._linked = False
            if await self.poll_and_notify() is not None:
                return
            # What answers is the user's: whatever it does, it does not keep the hub busy.
            pause = 1 if time.monotonic() - begun > 60 else min(2 * pause, 30)
            await asyncio.sleep(pause)

    # -- The end

    def run_post_stop_hook(self) -> Any:
        self._begun = None  # all ends come here: nothing is left to go on with
        return super().run_post_stop_hook()

    async def stop(self, now: bool = False) -> None:
        """End the server, or cancel the job if it waits; what Slurm does not take now it gets later. `now` makes no difference."""
        if self.job is None:
            await super().stop(now)
        elif not (self.job.control and await self._asked_to_end()):
            self._leave(self.job)
            await self._cancel()

    async def _asked_to_end(self) -> bool:
        """Ask the starter to end the server, gently; return whether it has, which needs no slurmctld."""
        try:
            reader, writer = await self._link()
            with contextlib.closing(writer):
                await job_link.ask(reader, writer, {"action": "stop"})
                # A connection that breaks is no end; nor is it the user who says how long the hub listens to him.
                if "ended" in await job_link.said(reader, self.term_timeout + 5):
                    return True
                raise OSError("the connection has broken")
        except OSError as error:  # TimeoutError is one
            self._note_silence(error)
            self.log.warning("Cannot end %s by its starter, so its job is cancelled: %s", self._log_name, error)
            return False

    async def _cancel(self) -> None:
        job = self.job
        assert job
        try:
            if job.number is None:
                raise GateError("Slurm may have a job that it has not told the number of")
            await self.do("cancel", job=job.number, tag=job.tag, timeout=SLURM)
        except GateError as error:
            self.log.warning("The job of %s (%s) will be cancelled later: %s", self._log_name, job.number or job.tag, error)
            keep(self.orm_spawner, "cancels", {"user": self.user.name, "tag": job.tag, "number": job.number, "since": int(time.time())})
            self.user.db.commit()
            Undelivered.rows.add(self.orm_spawner.id)

    # -- After a restart of the hub

    def go_on(self, hub: Any) -> None:
        """Go on with the start that an earlier hub has begun: JupyterHub has a start that goes on, which can be looked at, and interrupted, as any."""
        self._begun, self._spawn_pending = self.job, True
        self._spawn_future = asyncio.ensure_future(self._finish(hub))
        self._spawn_future.add_done_callback(self._finished)

    def _finished(self, start: asyncio.Future) -> None:
        if start.cancelled() or start.exception() is None:
            self._spawn_future = None
        self._spawn_pending = False

    async def _finish(self, hub: Any) -> None:
        """Do what JupyterHub's handlers do for a start that somebody has asked for."""
        await hub.up.wait()
        self.log.info("Going on with the start of %s, job %s", self._log_name, self._begun and self._begun.number)
        await self.user.spawn(self.name)
        self._proxy_pending = True
        try:
            await hub.proxy.add_user(self.user, self.name)
        finally:
            self._proxy_pending = False
        self.add_poll_callback(self._has_stopped, hub)

    async def _has_stopped(self, hub: Any) -> None:
        self.log.warning("The server of %s has stopped", self._log_name)
        await hub.proxy.delete_user(self.user, self.name)
        await self.user.stop(self.name)


async def look_at_ends(hub: Any) -> None:
    """Have all servers of an app.Hub that are jobs note their ends; Slurm is asked once."""
    ready = [spawner for user in list(hub.users.values()) for spawner in list(user.spawners.values()) if spawner.ready]
    await asyncio.gather(*(spawner.look_at_end() for spawner in ready if isinstance(spawner, JobSpawner)))


def go_on_with_starts(hub: Any) -> None:
    """Go on with what an earlier hub has begun; `hub` is an app.Hub that is about to look at servers which run."""
    unreachable = 0
    for row in hub.db.query(orm.Spawner):
        state = row.state or {}
        for name, owed in (("cancels", Undelivered), ("left", Left)):
            if state.get(name):
                owed.rows.add(row.id)
        if state.get("job") and not state["job"].get("up"):
            spawner = hub.users[row.user].spawners[row.name]
            spawner.server = None  # it has no address yet, at which JupyterHub would look for it
            spawner.go_on(hub)
        elif state.get("job", {}).get("host"):
            unreachable += 1
    if unreachable and hub.spawner_class.certificates and hub.spawner_class.certificates.are_new:
        hub.log.error("%s was not there: %d notebook servers of jobs know another one, and cannot be reached. %s", JOBS_CA, unreachable, BRING_BACK)
    hub.db.commit()
