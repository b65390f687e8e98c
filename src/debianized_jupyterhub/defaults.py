"""What the hub must know of this package: its sockets, folders and classes.

/etc/jupyterhub/jupyterhub_config.py calls ``apply`` first, so that whatever a
site writes there or in jupyterhub_config.d wins over these values.
"""

from __future__ import annotations

import html
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from . import culling, database_url, durations, profiles
from .paths import CONFIG, LIBEXEC, LOGIN_SERVICE, PROXY_API, STATE
from .settings import place_of

if TYPE_CHECKING:
    from traitlets.config import Config

TEMPLATES = Path(sys.prefix) / "share/jupyterhub/debianized"
BIND_URL = "http://127.0.0.1:8000/"
COOKIE_SECRET = f"{STATE}/cookie_secret"


def apply(c: Config) -> None:
    """Set the package's values in the configuration object `c` (traitlets.config.Config)."""
    c.JupyterHub.bind_url = os.environ.get("JUPYTERHUB_BIND_URL", BIND_URL)
    if host := _text("JUPYTERHUB_SUBDOMAIN_HOST"):
        c.JupyterHub.subdomain_host = host
        # A server could give the hub's cookies other values, for all names below the hub's, but not those that begin with __Host-.
        c.JupyterHub.cookie_host_prefix_enabled = host.startswith("https:")
    c.JupyterHub.db_url = database_url.own(config_dir())
    c.JupyterHub.cookie_secret_file = COOKIE_SECRET
    c.JupyterHub.authenticator_class = "debianized_jupyterhub.authenticator.SudoersPAMAuthenticator"
    c.JupyterHub.spawner_class = f"debianized_jupyterhub.{'jobs.JobSpawner' if profiles.setting() else 'spawner.GateSpawner'}"
    logo = config_dir() / "banner.png"
    if logo.exists():
        c.JupyterHub.logo_file = str(logo)
    c.JupyterHub.template_paths = [str(TEMPLATES)]
    _apply_settings(c)
    _apply_ends(c)

    c.PAMAuthenticator.service = LOGIN_SERVICE
    # The hub has no rights to open sessions: sudo does that, with its own PAM service.
    c.PAMAuthenticator.open_sessions = False
    # When many log in at once, servers wait for their turn in the spawner instead
    # of failing: no error page "too many at a time" (429), and time enough for the
    # last of a class on a small machine. A server that ends while it starts is
    # noticed at once, whatever these are (docs/performance.md, "Many users").
    c.JupyterHub.concurrent_spawn_limit = 0
    # A hub that starts does not let everybody wait for one server that is busy or halted.
    c.JupyterHub.init_spawners_timeout = 2
    c.Spawner.start_timeout = 300
    c.Spawner.http_timeout = 120
    # A server gives its kernels 5 s to end before it kills them, and ends after them.
    c.LocalProcessSpawner.term_timeout = 15
    # The hub's own environment is nobody else's business.
    c.Spawner.env_keep = []


def _apply_ends(c: Config) -> None:
    """Set that neither the servers, which belong to their users' sessions, nor the proxy, which has its own service, end with the hub."""
    c.JupyterHub.cleanup_servers = False
    if os.path.isdir("/run/systemd/system"):
        c.JupyterHub.cleanup_proxy = False
        c.ConfigurableHTTPProxy.should_start = False
        c.ConfigurableHTTPProxy.api_url = f"http+unix://{quote(PROXY_API, safe='')}"
    else:
        c.ConfigurableHTTPProxy.command = f"{LIBEXEC}/configurable-http-proxy"


def _apply_settings(c: Config) -> None:
    """Set in `c` (traitlets.config.Config) what /etc/default/jupyterhub says about pages and administrators."""
    if announcement := _text("JUPYTERHUB_ANNOUNCEMENT"):
        c.JupyterHub.template_vars = {"announcement": html.escape(announcement)}
    if hint := _text("JUPYTERHUB_LOGIN_HINT"):
        c.SudoersPolicy.login_hint = hint
    # It ends here if they are not valid.
    culling.limits()
    durations.login_idle()
    if _text("JUPYTERHUB_PERSONAL_PACKAGES").lower() not in ("", "true", "false"):
        raise SystemExit(f"JUPYTERHUB_PERSONAL_PACKAGES in {place_of('JUPYTERHUB_PERSONAL_PACKAGES')}: write true or false")
    if users := _names("JUPYTERHUB_ADMIN_USERS", "an account"):
        c.Authenticator.admin_users = users
    if groups := _names("JUPYTERHUB_ADMIN_GROUPS", "a group"):
        c.PAMAuthenticator.admin_groups = groups


def _text(setting: str) -> str:
    """Return the text of a setting of /etc/default/jupyterhub; exit with a clear line if it is none."""
    text = os.environ.get(setting, "").strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SystemExit(f"{setting} in {place_of(setting)} is not in UTF-8: save the file so") from None
    return text


def _names(setting: str, what: str) -> set[str]:
    """Return the names in a setting, separated by spaces or commas; exit with a clear line at one that cannot be `what`."""
    names = set(filter(None, re.split(r"[\s,]+", _text(setting))))
    for name in names:
        if not re.fullmatch(r"[\w.@+-]+\$?", name):
            advice = "Write plain names with spaces between them; groups without %"
            raise SystemExit(f"{setting} in {place_of(setting)}: {name} is not a valid name of {what}. {advice}")
    return names


def config_dir() -> Path:
    """Return the folder of the site's configuration."""
    return Path(os.environ.get("JUPYTERHUB_CONFDIR", CONFIG))


def load_config_d(load_subconfig: Callable[[str], None]) -> None:
    """Load jupyterhub_config.d/*.py in the order of their names.

    `load_subconfig` is the function of that name that traitlets gives to a
    configuration file. A file that cannot be parsed stops the hub with Python's
    own message, which names file and line.
    """
    for path in sorted((config_dir() / "jupyterhub_config.d").glob("*.py")):
        load_subconfig(str(path))
