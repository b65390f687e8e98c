"""jupyterhub-ctl logs: what the journal has about one user."""

import contextlib
import json
import pwd
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from .. import accounts, units
from ..journal import plain
from . import jobs
from .common import Failure, HubDown, NoSuchUser, require_root
from .hub import Hub, HubRefused
from .names import complete
from .sudoers import require_name

SERVER, GATE = "jupyterhub-singleuser", "jupyterhub-spawner"
FIELDS = "MESSAGE,_UID,_SYSTEMD_UNIT,_PID,JUPYTERHUB_USER,JUPYTERHUB_BY"


@click.command()
@click.argument("name", shell_complete=complete)
@click.option("--since", default="-24h", show_default=True, help="From when on, as journalctl(1) takes it.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
def logs(name: str, since: str, follow: bool) -> None:
    """Show what NAME's notebook servers have said, and what the hub has about NAME: logins, refusals, starts, stops.

    Requests that went well are left out: `journalctl -t jupyterhub-singleuser _UID=...` has them. Of a server that runs on another machine, as a job of
    Slurm's, it says where its log is.
    """
    require_root()
    require_name(name)
    uid = None
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(name).pw_uid
    found, hubs_uid = False, _hubs_uid()
    for line in _elsewhere(name, uid):
        click.echo(f"jupyterhub-ctl: {line}", err=True)
    for entry in _entries(uid, hubs_uid, since, follow):
        if text := _line(entry, name, hubs_uid):
            found = True
            click.echo(text)
    if not found and uid is None:
        raise NoSuchUser(f"{name}: the system knows no such account, and the journal has nothing about it since {since}: try --since=-30d")
    if not found:
        click.echo(f"jupyterhub-ctl: nothing about {name} since {since}", err=True)


def _elsewhere(name: str, uid: int | None) -> Iterator[str]:
    """Yield where the logs of a user's servers are which are jobs of Slurm's on other machines, or wait."""
    servers: dict[str, Any] = {}
    if jobs.wanted():
        with contextlib.suppress(HubDown, HubRefused):
            # Asked for a user that it does not know, the hub would write a line about him into the log that we are about to show.
            servers = next((user["servers"] for user in Hub().users(name_filter=name) if user["name"] == name), {})
    for server, model in servers.items():
        job, what = jobs.known(model), f"the server {server!r}" if server else "the server"
        if job and not job.control:
            yield f"{what} of {name} is {job}, which has not begun: `squeue --job={job.number or ''}` says why"
        elif job and not jobs.is_here(job):
            yield f"{what} of {name} is {job}; its log is in the journal there: `journalctl -t {SERVER} _UID={uid}`"


def _entries(uid: int | None, hubs_uid: int, since: str, follow: bool) -> Iterator[dict[str, Any]]:
    """Yield the entries (dict) of servers of that uid, of the hub and of the gate to sudo. Raises Failure."""
    matches = [f"_SYSTEMD_UNIT={units.HUB}", "+", f"SYSLOG_IDENTIFIER={GATE}", f"_UID={hubs_uid}"]
    if uid is not None:
        matches += ["+", f"SYSLOG_IDENTIFIER={SERVER}", f"_UID={uid}"]
    more = ["--follow", "--no-tail"] if follow else []
    command = ["journalctl", "--quiet", "--all", "--output=json", f"--output-fields={FIELDS}", "--priority=info", f"--since={since}", *more, *matches]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            yield json.loads(line)
        said = process.stderr.read().strip()
    if process.returncode:
        raise Failure(f"journalctl: {said or f'exit code {process.returncode}'}")


def _hubs_uid() -> int:
    try:
        return pwd.getpwnam(accounts.HUB).pw_uid
    except KeyError:
        raise Failure(f"there is no account {accounts.HUB}: `dpkg-reconfigure jupyterhub` makes it") from None


def _text(said: Any) -> str:
    """Return a field of journalctl's JSON as text: a list has the bytes of what cannot be printed, or several values."""
    if isinstance(said, list):
        return bytes(said).decode(errors="replace") if all(isinstance(part, int) for part in said) else "\n".join(map(_text, said))
    return said or ""


def _line(entry: dict[str, Any], name: str, hubs_uid: int) -> str:
    """Return an entry as a line, "" for one of the hub's about somebody else. Nothing in it acts on a terminal.

    Whose it is, fields say that the journal itself has added: others can be anything, and more than one.
    """
    text = _text(entry.get("MESSAGE"))
    is_hubs = entry.get("_SYSTEMD_UNIT") == units.HUB
    if is_hubs or entry.get("_UID") == str(hubs_uid):
        whose = name in (entry.get("JUPYTERHUB_USER"), entry.get("JUPYTERHUB_BY"))
        if not whose and not re.search(rf"(?<![\w.@\\-]){re.escape(name)}(?![\w-]|\.\w)", text):
            return ""
        source = "hub" if is_hubs else "gate"
    else:
        source = "server"
    when = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6).astimezone()
    return "\n".join(f"{when:%Y-%m-%d %H:%M:%S} {source}[{entry.get('_PID', '-')}]: {plain(line)}" for line in text.splitlines())
