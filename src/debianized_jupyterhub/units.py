"""The package's units of systemd that must run: systemd/."""

HUB = "jupyterhub.service"
PROXY = "jupyterhub-proxy.service"
PORTS = "jupyterhub-ports.service"
SPAWNER = "jupyterhub-spawner.socket"
LOGIN = "jupyterhub-login.socket"
SESSIONS = "jupyterhub-sessions.socket"
ALL = (HUB, PROXY, PORTS, SPAWNER, LOGIN, SESSIONS)

LOGIN_CHECK = "jupyterhub-login.service"  # from the first login on
