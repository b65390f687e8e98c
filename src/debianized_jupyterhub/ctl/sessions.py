"""jupyterhub-ctl sessions, stop: the notebook servers that run."""

import datetime
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import click

from .. import job_gate, usage
from . import jobs
from .common import Failure, NoServer, NoSuchUser, show
from .hub import Hub, HubRefused
from .names import complete
from .processes import processes, session_of

SLURM = 45  # seconds that the hub has for a cancel (job_records.SLURM)
AT_A_TIME = 8  # servers that `stop --all` waits for; the hub needs time for its pages, too


def seconds_since(stamp: str | None) -> int | None:
    """Return the seconds (int) since a time of the hub's API (ISO 8601), None for None."""
    if stamp is None:
        return None
    moment = datetime.datetime.fromisoformat(stamp)
    return max(0, int((datetime.datetime.now(datetime.UTC) - moment).total_seconds()))


def running(hub: Hub, measure: float = 0.5) -> tuple[list[dict[str, Any]], str]:
    """Return all running servers (list of dict, see COLUMNS) of `hub` (Hub), which are looked at for `measure` seconds for their use of the processor,
    and why Slurm has said nothing of those that are its jobs, "" where it has.
    """
    wanted: dict[str, Any] = {"include_stopped_servers": 1} if jobs.wanted() else {"state": "active"}  # whose user has none may have left one
    rows = [row for user in hub.users(**wanted) for row in rows_of(user)]
    with ThreadPoolExecutor(1) as threads:  # Slurm may keep us waiting
        asked = threads.submit(ask_slurm, rows)
        look_at(rows, measure)
    return rows, asked.result()


def rows_of(user: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each server of a user, by the hub's model of him: those that run, and those that he has left on nodes which do not answer."""
    for name, server in user["servers"].items():
        if not server.get("stopped"):
            yield row_of(user["name"], name, server, jobs.known(server))
        for job in jobs.left(server):
            lost = {"started": None, "last_activity": None, "pending": "left", "url": server["url"]}
            yield row_of(user["name"], name, lost, job)


def row_of(user: str, name: str, server: dict[str, Any], job: jobs.Known | None) -> dict[str, Any]:
    """Return the row of a server. What is not the hub's to know is None: `look_at` and `ask_slurm` fill it in, by ``known``, which does not stay in the row."""
    pid = (server.get("state") or {}).get("pid")
    return {
        "user": user,
        "server": name or None,
        "since": server["started"],
        "idle": seconds_since(server["last_activity"]),
        "memory": None,
        "version": None,
        "url": server["url"],
        "state": server["pending"] or ("ready" if server["ready"] else "not ready"),
        "pid": pid,
        "session": (session_of(pid) or "").rpartition("/")[2] or None if pid else None,
        "cpu": 0.0,
        "job": jobs.about(job, user, None) if job else None,
        "known": job,
    }


def ask_slurm(rows: Iterable[dict[str, Any]]) -> str:
    """Put what Slurm says into the rows of its jobs; return why it says nothing."""
    mine = [row for row in rows if row["job"]]
    try:
        seen = jobs.ask({row["user"] for row in mine})
    except job_gate.Refused as refused:
        return refused.hint or str(refused)
    for row in mine:
        row["job"] = jobs.about(row["known"], row["user"], seen)
    return ""


def look_at(rows: Sequence[dict[str, Any]], measure: float) -> None:
    """Put what servers use into their rows: of those on this machine by /proc, of jobs by what their starters say."""
    here = [(row, processes(row["pid"])) for row in rows if row["pid"]]
    away = [row for row in rows if row["known"] and row["known"].control]
    before, started = [usage.cpu_seconds(pids) for _, pids in here], time.monotonic()
    if away:
        for row, said in zip(away, jobs.usage([row["known"] for row in away], measure), strict=True):
            row.update(said)
    time.sleep(max(0.0, measure - (time.monotonic() - started)) if here else 0)
    for (row, pids), used in zip(here, before, strict=True):
        row.update(memory=usage.memory(pids), version=usage.version(pids))
        if measure:
            row["cpu"] = max(0.0, round(100 * (usage.cpu_seconds(pids) - used) / (time.monotonic() - started), 1))


def span(seconds: int) -> str:
    """Return a length of time as a person says it: 42 s, 17 min, 3 h, 5 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def size(count: int) -> str:
    """Return a number of bytes as a person says it."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


COLUMNS = {
    "user": "user",
    "server": "server",
    "since": "since",
    "idle": "idle",
    "cpu": "cpu %",
    "memory": "memory",
    "version": "version",
    "url": "url",
}
JOB_COLUMNS = {"job": "job", "node": "node", "left": "time left"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all that is known, times in seconds and memory in bytes.")
def sessions(as_json: bool) -> None:
    """List the notebook servers that run.

    `idle` is the time since the hub heard of activity. `cpu` (100 is one processor) and `memory` are those of the server with its
    kernels and terminals. `version` is the package's version whose files the server uses. Of jobs of Slurm's, `memory` is what they use of what they have,
    as their nodes say, and the last columns are Slurm's words.
    """
    rows, silent = running(Hub())
    for row in rows:
        del row["known"]  # it has the job's key
    columns = {**COLUMNS, **JOB_COLUMNS} if jobs.wanted() or any(row["job"] for row in rows) else COLUMNS
    show(rows if as_json else [in_words(row) for row in rows], columns, as_json)
    if silent:
        click.echo(f"jupyterhub-ctl: of jobs this is what the hub knows: {silent}", err=True)


def in_words(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as people read it."""
    since = datetime.datetime.fromisoformat(row["since"]).astimezone() if row["since"] else None
    job = row["job"] or {}
    use = size(row["memory"]) if row["memory"] is not None else None
    granted = size(job["memory"]) if job.get("memory") else None
    left = "left" if row["state"] == "left" else None
    state = " ".join(filter(None, [str(job.get("id") or "?"), left, job.get("state"), job.get("reason") and f"({job['reason']})"]))
    return {
        **row,
        "since": f"{since:%Y-%m-%d %H:%M}" if since else None,
        "idle": span(row["idle"]) if row["idle"] is not None else None,
        "memory": f"{use or '-'} of {granted}" if granted else use,
        "job": state if job else None,
        "node": job.get("node"),
        "left": span(job["left"]) if job.get("left") is not None else None,
    }


def end(hub: Hub, user: str, name: str, timeout: int) -> str:
    """Stop the server `name` of `user`, wait for its end for `timeout` seconds, return a line that says so. Raises NoSuchUser, NoServer, Failure.

    A job's end may take another SLURM seconds: where its starter does not answer, or there is none yet, Slurm is asked.
    """
    model = hub.user(user)
    if model is None:
        raise NoSuchUser(f"{user}: the hub knows no such user: `jupyterhub-ctl sessions` lists who has a server")
    what = f"the server {name!r} of {user}" if name else f"the server of {user}"
    if name not in model.get("servers", {}):
        raise NoServer(f"{user}: {'no server called ' + repr(name) if name else 'no server'} runs")
    pid, job = (model["servers"][name].get("state") or {}).get("pid"), jobs.known(model["servers"][name])
    path = f"/users/{quote(user, safe='')}/server" + (f"s/{quote(name, safe='')}" if name else "")
    try:
        hub.request("DELETE", path)
    except HubRefused as refusal:
        if refusal.status >= 500:
            raise
        left = (hub.user(user) or {}).get("servers", {}).get(name)
        if left and left["pending"] != "stop":  # else somebody else was quicker
            raise
    deadline = time.monotonic() + timeout + (SLURM if job else 0)
    while name in (hub.user(user) or {}).get("servers", {}):
        if time.monotonic() > deadline:
            how = f"squeue --job={job.number}" if job else f"systemctl status {pid}"
            raise Failure(f"{what} has not ended after {timeout + (SLURM if job else 0)} s: `{how}` shows it")
        time.sleep(0.2)
    if job:
        return f"stopped {what} ({job}){cancelled(hub, user, name, job)}"
    return f"stopped {what}" + (f" (process {pid})" if pid else "")


def cancelled(hub: Hub, user: str, name: str, job: jobs.Known) -> str:
    """Return what there is to say of a job whose server is stopped, "" where the hub has ended it. What it could not cancel, root tries to."""
    server = (hub.user(user, include_stopped_servers=1) or {}).get("servers", {}).get(name) or {}
    kept = (server.get("state") or {}).get("cancels")
    if not isinstance(kept, list) or not any(isinstance(cancel, dict) and cancel.get("tag") == job.tag for cancel in kept):
        return ""
    try:
        return ", whose cancel the hub could not deliver: root did" if jobs.delivered(job, user) else "; the hub cancels it once Slurm knows its number"
    except job_gate.Refused as refused:
        return f"; the hub keeps the cancel, and delivers it when Slurm answers. {refused.hint or refused}"


def end_all(hub: Hub, timeout: int) -> None:
    """Stop all servers, some at a time, and print a line for each. Raises Failure that names those that could not be stopped."""

    def one(server: tuple[str, str]) -> Failure | None:
        try:
            click.echo(end(hub, *server, timeout))
        except NoServer:  # it has ended meanwhile
            return None
        except Failure as failure:
            return failure
        return None

    servers = [(user["name"], name) for user in hub.users(state="active") for name in user["servers"]]
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        failures = [failure for failure in threads.map(one, servers) if failure]
    if failures:
        raise Failure("; ".join(failure.message for failure in failures))
    if not servers:
        click.echo("no server runs")


@click.command()
@click.argument("user", required=False, shell_complete=complete)
@click.option("--server", "name", default="", help="A named server of the user; the default one without this.")
@click.option("--all", "everybody", is_flag=True, help="Stop the servers of all users.")
@click.option("--timeout", default=30, show_default=True, help="Seconds to wait for the end of each.")
def stop(user: str | None, name: str, everybody: bool, timeout: int) -> None:
    """Stop USER's notebook server and its kernels, as the button on the hub's page does; with --all, everybody's.

    Notebooks that were not saved lose their last changes.
    """
    if everybody == bool(user) or (everybody and name):
        raise click.UsageError("name one USER, or give --all alone")
    if user:
        click.echo(end(Hub(), user, name, timeout))
    else:
        end_all(Hub(), timeout)
