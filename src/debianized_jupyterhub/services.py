"""The hub's own services: who may ask it what, with tokens that end with the hub that made them."""

import re

from .defaults import config_dir

CTL = "jupyterhub-ctl"
METRICS = "jupyterhub-metrics"

# What the commands of jupyterhub-ctl ask: who is there, which process is their server; to stop one.
CTL_SCOPES = ["read:hub", "list:users", "read:users:name", "read:users:activity", "read:roles:users", "read:servers", "delete:servers", "admin:server_state"]


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
    if token := metrics_token():
        found[METRICS] = ({"api_token": token}, ["read:metrics"])
    return {name: ({"name": name, "display": False, **spec}, scopes) for name, (spec, scopes) in found.items()}
