"""jupyterhub-ctl status: one glance at all of it."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from .. import database_url, environments, units
from .. import state as hub_state
from ..egress import CLOSED
from ..notices import MESSAGE, OFFLINE, planned_stop
from ..paths import CONFIG, DEFAULTS, LIBEXEC, PROXY_MADE_OF
from . import jobs
from .command import properties, stdout_of
from .common import HubDown, default_setting, require_root
from .hub import Hub, HubRefused
from .sessions import running, span


def unit_states() -> dict[str, str]:
    """Return {name of a unit: its state (str, as systemctl is-active)}."""
    states = stdout_of("systemctl", "is-active", *units.ALL).splitlines()
    return dict(zip(units.ALL, states or ["unknown"] * len(units.ALL), strict=False))


def started(unit: str) -> float | None:
    """Return when the process of a unit was started, in seconds of time.time(), None if there is none."""
    shown = properties(unit, "MainPID", "ExecMainStartTimestampMonotonic")
    since = int(shown.get("ExecMainStartTimestampMonotonic") or 0)
    return time.time() - time.monotonic() + since / 1e6 if since and shown["MainPID"] != "0" else None


def restart_reasons(package: str | None, installed: str | None) -> list[str]:
    """Return why a restart is due (list of str): `package` is the version that the hub was started from, `installed` that of dpkg."""
    reasons = []
    if package and installed and package != installed:
        reasons.append(f"version {installed} is installed, the hub runs {package}")
    since = started(units.HUB)
    folder = Path(default_setting("JUPYTERHUB_CONFDIR", CONFIG))
    single = [folder / name for name in ("jupyterhub_config.py", database_url.FILE, "metrics.token")]
    for path in [Path(DEFAULTS), *single, *sorted(folder.glob("jupyterhub_config.d/*.py"))]:
        if since and path.exists() and path.stat().st_mtime > since:
            reasons.append(f"{path} was changed after the hub's start")
    if os.path.lexists(PROXY_MADE_OF) and subprocess.run([f"{LIBEXEC}/note-proxy-files", "check"], check=False).returncode != 0:
        reasons.append("the proxy's files have changed: `systemctl restart jupyterhub-proxy`")
    return reasons


def add_servers(state: dict[str, Any]) -> str:
    """Add what the hub says of itself and of its servers to `state`; return why it says nothing (a line), or an empty str."""
    try:
        hub = Hub()
        state["hub"] = hub.package
        rows, silent = running(hub, measure=0)
        servers = [row for row in rows if row["state"] != "left"]
        state.update(users=hub.count_users(), servers=len(servers), jobs=of_jobs(rows, silent))
        state["server_versions"] = dict(Counter(server["version"] or "unknown" for server in servers))
    except (HubDown, HubRefused) as error:
        return error.message
    return ""


def look() -> dict[str, Any]:
    """Return the state of the installation (dict, as --json prints it)."""
    state: dict[str, Any] = {
        "units": unit_states(),
        "installed": stdout_of("dpkg-query", "--show", "--showformat=${Version}", "jupyterhub") or None,
        "hub": None,
        "state": None,
        "uptime": None,
        "address": default_setting("JUPYTERHUB_BIND_URL"),
        "users": None,
        "servers": None,
        "jobs": None,
        "server_versions": {},
        "offline": OFFLINE.read(),
        "stop_at": planned_stop(),
        "message": MESSAGE.read(),
        "egress": default_setting(CLOSED) or None,
        "environments": {each.name: os.path.basename(os.readlink(each.current_link)) for each in environments.existing()},
    }
    if since := started(units.HUB):
        state["uptime"] = int(time.time() - since)
    problem = add_servers(state)
    now = hub_state.of_unit(properties(units.HUB, "ActiveState", "StatusText"))
    state["state"] = now.name or None if problem else now.name or hub_state.READY  # a hub from before the states does not say it
    if now.name == hub_state.STANDBY:
        state["serves"] = now.line
    elif problem or now.line:
        state["problem"] = now.line or problem
    if problem and now.name != hub_state.DEGRADED:
        state["hub"] = None
    state["restart"] = restart_reasons(state["hub"], state["installed"])
    return state


def of_jobs(rows: list[dict[str, Any]], silent: str) -> dict[str, Any] | None:
    """Return how many of `rows` (of sessions.running) are jobs of Slurm's that run, that wait, and that users have left on nodes which do not answer, with what
    is wrong if Slurm does not answer; None where there are no jobs. Where it says nothing of a job, the hub's word counts.
    """
    mine = [row for row in rows if row["job"]]
    if not mine and not jobs.wanted():
        return None
    left = sum(row["state"] == "left" for row in mine)
    waiting = sum(not row["job"]["node"] if row["job"]["state"] is None else row["job"]["state"] == "PENDING" for row in mine if row["state"] != "left")
    return {"running": len(mine) - left - waiting, "waiting": waiting, "left": left, "problem": silent or (None if mine else jobs.problem())}


def in_words(mine: dict[str, Any]) -> str:
    """Return what of_jobs has found as people read it."""
    left = f", {mine['left']} left on nodes that do not answer" if mine["left"] else ""
    return f"{mine['running']} run, {mine['waiting']} wait{left}{': ' + mine['problem'] if mine['problem'] else ''}"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(as_json: bool) -> None:
    """Show at a glance what runs, since when, for whom, and whether a restart is due. Exit code 3: not all of it runs."""
    require_root()
    state = look()
    up = state["state"] in (hub_state.READY, hub_state.STANDBY) and "problem" not in state and all(unit == "active" for unit in state["units"].values())
    if as_json:
        click.echo(json.dumps(state, indent=2))
        sys.exit(0 if up else HubDown.exit_code)
    versions = ", ".join(f"{count} of {version}" for version, count in state["server_versions"].items())
    for key, value in {
        "units": ", ".join(f"{name} {'running' if unit == 'active' else unit}" for name, unit in state["units"].items()),
        "state": f"{state['state']}: {state['serves']}" if "serves" in state else state["state"],
        "problem": state.get("problem"),
        "installed": state["installed"],
        "hub": state["hub"],
        "up since": state["uptime"] is not None and f"{span(state['uptime'])} ago",
        "address": state["address"],
        "users": state["users"],
        "servers": f"{state['servers']}{f' ({versions})' if versions else ''}" if state["servers"] is not None else None,
        "jobs": state["jobs"] and in_words(state["jobs"]),
        "logins": f"OFFLINE: {state['offline']}" if state["offline"] else "open",
        "stop at": state["stop_at"] and f"{datetime.fromtimestamp(state['stop_at']).astimezone():%Y-%m-%d %H:%M}, all servers that run then",
        "message": state["message"],
        "network": state["egress"] and f"closed to uids {state['egress']} (jupyterhub-ctl verify egress)",
        "kernels": ", ".join(f"{name} (revision {number})" for name, number in state["environments"].items()),
    }.items():
        if value or value == 0:
            click.echo(f"{key + ':':<11}{value}")
    for reason in state["restart"]:
        click.echo(f"{'restart:':<11}{reason}")
    sys.exit(0 if up else HubDown.exit_code)
