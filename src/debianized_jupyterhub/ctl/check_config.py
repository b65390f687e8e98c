"""jupyterhub-ctl check-config: what is wrong with the configuration of the hub and of all notebook servers, with file and line.

`read` and `of_servers` are for the rest of this package, too: they run settings_check.py as the hub's account, in the hub's environment and view of the
file system, and server_settings.py as nobody.
"""

import json
import os
import pwd
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .. import accounts, units
from ..paths import LAUNCHER, PROXY_ENV, STATE, VENV
from ..server_settings import JUPYTER, READING
from ..settings_check import Problem
from .command import stdout_of
from .common import CheckError, CheckFailed, require_root, show

# The hub's account, with the groups that its unit gives it.
GROUPS = ",".join([accounts.HUB, *accounts.HUB_GROUPS])
BECOME_HUB = ["setpriv", f"--reuid={accounts.HUB}", f"--regid={accounts.HUB}", f"--groups={GROUPS}", "--inh-caps=-all", "--"]
TIMEOUT = 60  # seconds for a configuration that asks the network, say


def problems() -> list[Problem]:
    """Return what is wrong with the hub's configuration (list of Problem); for errors see read."""
    return read()[0]


def read(as_the_hub_sees_it: bool = True, timeout: float = TIMEOUT) -> tuple[list[Problem], dict[str, Any]]:
    """Return what is wrong with the hub's configuration (list of Problem), and what it says (dict of FACTS, empty for a fatal problem).

    Without `as_the_hub_sees_it` (bool) the files are those that the caller sees, whose own sandbox may not let it into another's.
    It may take `timeout` seconds. Needs root, or the hub's account in the hub's unit (ExecStartPre= and the like). Raises CheckError where that cannot be
    found out.
    """
    command, env = [LAUNCHER, "config"], dict(os.environ)
    if os.geteuid() == 0:
        view = hub_view() if as_the_hub_sees_it else []
        command, env = [*view, *BECOME_HUB, *command], hub_environment()
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            cwd="/",
            start_new_session=True,  # without root's terminal
            env=env,
        )
    except OSError as error:
        raise CheckError(f"cannot run {LAUNCHER}: {error.strerror}: reinstall the package jupyterhub") from None
    except subprocess.TimeoutExpired:
        waits = "look for what waits in it: a command, a host"
        return [Problem("fatal", f"reading the configuration is not done after {timeout:g} s", waits)], {}
    try:
        answer = json.loads(done.stdout)
        return [Problem(**problem) for problem in answer["problems"]], answer["facts"]
    except (ValueError, TypeError):
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return [Problem("fatal", said[-1], "correct what it names, then `systemctl restart jupyterhub`")], {}


def of_servers(timeout: float = TIMEOUT) -> list[Problem]:
    """Return what is wrong with /etc/jupyter and the like (list of Problem, none of them fatal), which may take `timeout` seconds.

    Needs root. Raises CheckError.
    """
    become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all", "--no-new-privs", "--"]
    command = [*become, f"{VENV}/bin/python", "-I", "-m", "debianized_jupyterhub.server_settings"]
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "USER": "nobody",
        "LOGNAME": "nobody",
        "JUPYTERHUB_USER": "nobody",
    }
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=timeout, cwd="/", env=env
        )
    except OSError as error:
        raise CheckError(f"cannot run {command[0]}: {error.strerror}: reinstall the package jupyterhub") from None
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode(errors="replace").splitlines()
        file = next((line.removeprefix(READING) for line in reversed(said) if line.startswith(READING)), JUPYTER[0])
        what = f"reading this file is not done after {timeout:g} s, and no server starts before it is"
        return [Problem("ignored", what, "look for what waits in it: a command, a host", file)]
    try:
        return [Problem(**problem) for problem in json.loads(done.stdout)]
    except (ValueError, TypeError):
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise CheckError(f"the settings in {JUPYTER[0]} cannot be read: {said[-1]}") from None


def hub_view() -> list[str]:
    """Return the start of a command that sees the file system as the running hub does; nothing while there is none."""
    pid = stdout_of("systemctl", "show", "--property=MainPID", "--value", units.HUB)
    return ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"] if pid.isdecimal() and pid != "0" else []


def hub_environment() -> dict[str, str]:
    """Return the environment (dict of str) that systemd gives to the hub, drop-ins and EnvironmentFile= included."""
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": STATE,
        "USER": accounts.HUB,
        "LOGNAME": accounts.HUB,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        **_assignments(PROXY_ENV),  # also where the unit is masked and has no properties
    }
    for line in stdout_of("systemctl", "show", "--property=Environment,EnvironmentFiles", units.HUB).splitlines():
        name, _, value = line.partition("=")
        if name == "Environment":
            env.update({key: text for key, equals, text in (pair.partition("=") for pair in shlex.split(value)) if equals})
        elif name == "EnvironmentFiles":
            env.update(_assignments(value.rpartition(" (")[0]))
    return env


def _assignments(path: str) -> dict[str, str]:
    """Return the assignments (dict of str) of an EnvironmentFile; none of one that cannot be read."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and line.lstrip()[0] not in "#;")
    return {name.strip(): value.strip().strip("'\"") for name, value in pairs}


@click.command("check-config")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def check_config(as_json: bool) -> None:
    """Read the configuration as the hub and notebook servers would, and say what is wrong.

    Nothing is printed for a good one, and nothing is changed.
    """
    if os.geteuid() != pwd.getpwnam(accounts.HUB).pw_uid:
        require_root()
    # What notebook servers read does not keep the hub from starting, whose account may ask before it does.
    found = problems() + (of_servers() if os.geteuid() == 0 else [])
    rows = [{"status": "failed" if problem.fatal or problem.spoils else "warning", **asdict(problem)} for problem in found]
    if rows or as_json:
        show(rows, {"status": "status", "file": "file", "line": "line", "what": "what", "mend": "how to fix it"}, as_json)
    if any(problem.fatal for problem in found):
        raise CheckFailed("the hub cannot start with this configuration")
    if spoilt := list(dict.fromkeys(problem.file for problem in found if problem.spoils)):
        raise CheckFailed(f"notebook servers start without the settings of {', '.join(map(str, spoilt))}, or not at all")
