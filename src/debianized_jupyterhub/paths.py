"""Where things lie on a machine with the package, all str. Programs in src/libexec and src/sbin that import nothing of ours repeat what they need.

docs/changes-on-the-machine.md lists all of it, with owners.
"""

CONFIG = "/etc/jupyterhub"
DEFAULTS = "/etc/default/jupyterhub"  # a shell file
PROFILES = f"{CONFIG}/profiles.conf"  # of Slurm jobs: profiles.py
PROXY_ENV = f"{CONFIG}/proxy.env"  # written by src/libexec/proxy-secret
SUDOERS = "/etc/sudoers.d/jupyterhub"
USER_RULES = "/etc/sudoers.d/zzz-jupyterhub-users"  # by jupyterhub-ctl; sudo reads it last: ctl/sudoers.py
LOGIN_SERVICE, SESSION_SERVICE = "jupyterhub", "jupyterhub-sudospawner"  # in /etc/pam.d: for passwords; for sudo, which opens sessions

STATE = "/var/opt/jupyterhub"
JOBS_CA = f"{STATE}/jobs-ca.pem"  # certificates.py
BACKUPS = "/var/backups/jupyterhub"
SCRATCH = "/var/tmp"  # for copies of the database: on a disk, since it may be large

CTL_FILE = "/run/jupyterhub/ctl.json"  # written by app.py for jupyterhub-ctl
FAILED_FILE = "/run/jupyterhub/failed"  # why the hub's last start failed, as state.py writes it
# Of notebook servers. Only the hub's account may make something in it, only that and the proxy's may open what is there.
SERVERS = "/run/jupyterhub-servers"
LOGIN_SOCKET = "/run/jupyterhub-login.sock"  # jupyterhub-login.socket
HUB_SOCKET = "/run/jupyterhub-ports/hub.sock"  # the proxy's way to the hub
KEEPER_SOCKET = "/run/jupyterhub-ports/keeper.sock"  # ports.py
PROXY_API = "/run/jupyterhub-proxy/api.sock"
PROXY_MADE_OF = "/run/jupyterhub-proxy/made-of"  # written by src/libexec/note-proxy-files

AWAY_PAGE = "/usr/share/jupyterhub/pages/away.html"
VENV = "/opt/venvs/jupyterhub"
TREES = "/opt/venvs/jupyterhub-servers"  # docs/architecture.md, "One tree per version"
ENVIRONMENTS = "/opt/venvs/jupyterhub-environments"  # environments.py
INDEX = "/var/lib/jupyterhub-index"  # package_index.py
UV_LOCK = "/usr/share/jupyterhub/uv.txt"  # ctl/uv.py
LIBEXEC = "/usr/libexec/jupyterhub"
LAUNCHER = "/usr/sbin/jupyterhub-launcher"
