"""Where things lie on a machine with the package, all str. Programs in src/libexec and src/sbin that import nothing of ours repeat what they need.

docs/changes-on-the-machine.md lists all of it, with owners.
"""

CONFIG = "/etc/jupyterhub"
DEFAULTS = "/etc/default/jupyterhub"  # a shell file
PROXY_ENV = f"{CONFIG}/proxy.env"  # written by src/libexec/proxy-secret
SUDOERS = "/etc/sudoers.d/jupyterhub"
LOGIN_SERVICE, SESSION_SERVICE = "jupyterhub", "jupyterhub-sudospawner"  # in /etc/pam.d: for passwords; for sudo, which opens sessions

STATE = "/var/opt/jupyterhub"
BACKUPS = "/var/backups/jupyterhub"

CTL_FILE = "/run/jupyterhub/ctl.json"  # written by app.py for jupyterhub-ctl
PROXY_API = "/run/jupyterhub-proxy/api.sock"
PROXY_MADE_OF = "/run/jupyterhub-proxy/made-of"  # written by src/libexec/note-proxy-files

VENV = "/opt/venvs/jupyterhub"
TREES = "/opt/venvs/jupyterhub-servers"  # docs/architecture.md, "One tree per version"
LIBEXEC = "/usr/libexec/jupyterhub"
LAUNCHER = "/usr/sbin/jupyterhub-launcher"
