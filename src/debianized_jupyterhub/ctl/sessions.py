"""jupyterhub-ctl sessions, stop: the notebook servers that run."""

import datetime
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ..paths import TREES
from .common import Failure, NoServer, NoSuchUser, show
from .hub import Hub, HubRefused
from .names import complete
from .processes import processes, session_of

TICKS = os.sysconf("SC_CLK_TCK")
AT_A_TIME = 8  # servers that `stop --all` waits for; the hub needs time for its pages, too


def memory(pids: Iterable[int]) -> int:
    """Return the memory of the processes together in bytes; what they share counts once in all (PSS, proc_pid_smaps_rollup(5))."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that the processes and their ended children have used, in seconds (proc_pid_stat(5))."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def version(pids: Iterable[int]) -> str | None:
    """Return the package's version (str) whose files the server runs from, None if it cannot be seen."""
    for pid in pids:
        for name in ("cmdline", "maps"):
            try:
                text = Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"{TREES}/" in text:
                return text.partition(f"{TREES}/")[2].partition("/")[0]
    return None


def seconds_since(stamp: str | None) -> int | None:
    """Return the seconds (int) since a time of the hub's API (ISO 8601), None for None."""
    if stamp is None:
        return None
    moment = datetime.datetime.fromisoformat(stamp)
    return max(0, int((datetime.datetime.now(datetime.UTC) - moment).total_seconds()))


def running(hub: Hub, measure: float = 0.5) -> list[dict[str, Any]]:
    """Return all running servers (list of dict, see COLUMNS) of `hub` (Hub), which are looked at for `measure` seconds for their use of the processor."""
    rows = []
    for user in hub.users(state="active"):
        for name, server in user["servers"].items():
            pid = (server.get("state") or {}).get("pid")
            pids = processes(pid) if pid else []
            rows.append(
                {
                    "user": user["name"],
                    "server": name or None,
                    "since": server["started"],
                    "idle": seconds_since(server["last_activity"]),
                    "memory": memory(pids),
                    "version": version(pids),
                    "url": server["url"],
                    "state": server["pending"] or ("ready" if server["ready"] else "not ready"),
                    "pid": pid,
                    "session": (session_of(pid) or "").rpartition("/")[2] or None if pid else None,
                    "pids": pids,
                }
            )
    before = [cpu_seconds(row["pids"]) for row in rows]
    started = time.monotonic()
    time.sleep(measure if rows else 0)
    for row, used in zip(rows, before, strict=True):
        elapsed = time.monotonic() - started
        row["cpu"] = max(0.0, round(100 * (cpu_seconds(row.pop("pids")) - used) / elapsed, 1)) if elapsed else 0.0
    return rows


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


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all that is known, times in seconds and memory in bytes.")
def sessions(as_json: bool) -> None:
    """List the notebook servers that run.

    `idle` is the time since the hub heard of activity. `cpu` (100 is one processor) and `memory` are those of the server with its
    kernels and terminals. `version` is the package's version whose files the server uses.
    """
    rows = running(Hub())
    if not as_json:
        for row in rows:
            since = datetime.datetime.fromisoformat(row["since"]).astimezone() if row["since"] else None
            row["since"] = f"{since:%Y-%m-%d %H:%M}" if since else None
            row["idle"] = span(row["idle"]) if row["idle"] is not None else None
            row["memory"] = size(row["memory"])
    show(rows, COLUMNS, as_json)


def end(hub: Hub, user: str, name: str, timeout: int) -> str:
    """Stop the server `name` of `user`, wait for its end for `timeout` seconds, return a line that says so. Raises NoSuchUser, NoServer, Failure."""
    model = hub.user(user)
    if model is None:
        raise NoSuchUser(f"{user}: the hub knows no such user: `jupyterhub-ctl sessions` lists who has a server")
    what = f"the server {name!r} of {user}" if name else f"the server of {user}"
    if name not in model.get("servers", {}):
        raise NoServer(f"{user}: {'no server called ' + repr(name) if name else 'no server'} runs")
    pid = (model["servers"][name].get("state") or {}).get("pid")
    path = f"/users/{quote(user, safe='')}/server" + (f"s/{quote(name, safe='')}" if name else "")
    try:
        hub.request("DELETE", path)
    except HubRefused as refusal:
        if refusal.status >= 500:
            raise
        left = (hub.user(user) or {}).get("servers", {}).get(name)
        if left and left["pending"] != "stop":  # else somebody else was quicker
            raise
    deadline = time.monotonic() + timeout
    while name in (hub.user(user) or {}).get("servers", {}):
        if time.monotonic() > deadline:
            raise Failure(f"{what} has not ended after {timeout} s: `systemctl status {pid}` shows it")
        time.sleep(0.2)
    return f"stopped {what}" + (f" (process {pid})" if pid else "")


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
