"""The hub's own services: who may ask it what, with tokens that end with the hub that made them."""

import os
import re
import sys

from .defaults import config_dir

CTL = "jupyterhub-ctl"
CULL = "jupyterhub-cull"
METRICS = "jupyterhub-metrics"

# What the commands of jupyterhub-ctl ask: who is there, which process is their server; to stop one.
CTL_SCOPES = ["read:hub", "list:users", "read:users:name", "read:users:activity", "read:roles:users", "read:servers", "delete:servers", "admin:server_state"]
CULL_SCOPES = ["list:users", "read:users:activity", "read:servers", "delete:servers"]

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(name: str) -> int:
    """Return the seconds that the setting `name` of /etc/default/jupyterhub asks for, 0 where it is empty or missing.

    It is a whole number with s, m, h or d, seconds without; jupyterhub-launcher has seen to that.
    """
    text = os.environ.get(name) or "0"
    number = text.rstrip("smhd")
    return int(number) * UNITS[text.removeprefix(number)]


def cull_after() -> int:
    """Return after how many seconds without activity a notebook server is stopped, 0 for never."""
    return duration("JUPYTERHUB_CULL_IDLE")


def activity_interval() -> int:
    """Return after how many seconds the hub must know of activity, at the latest: JupyterHub's 300, less where culling is sooner than that allows."""
    idle = cull_after()
    return max(1, min(300, idle // 4)) if idle else 300


def metrics_token() -> str | None:
    """Return the token in metrics.token of the configuration's folder, None without that file. Raises SystemExit with one line."""
    path = config_dir() / "metrics.token"
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}: `systemd-tmpfiles --create jupyterhub.conf` corrects its owner and mode") from None
    if not re.fullmatch(r"[!-~]{32,}", token):
        raise SystemExit(f"{path}: a token is one line of 32 characters or more, without blanks: `openssl rand -hex 32` makes one")
    return token


def wanted() -> dict[str, tuple[dict, list[str]]]:
    """Return the services (name: (specification for JupyterHub.services, scopes as list of str)) that this hub shall have."""
    found: dict[str, tuple[dict, list[str]]] = {CTL: ({}, CTL_SCOPES)}
    if idle := cull_after():
        options = [f"--timeout={idle}", f"--max-age={duration('JUPYTERHUB_CULL_MAX_AGE')}"]
        found[CULL] = ({"command": [sys.executable, "-P", "-m", "jupyterhub_idle_culler", *options]}, CULL_SCOPES)
    if token := metrics_token():
        found[METRICS] = ({"api_token": token}, ["read:metrics"])
    return {name: ({"name": name, "display": False, **spec}, scopes) for name, (spec, scopes) in found.items()}
