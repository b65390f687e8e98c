"""The web servers that docs/off-loader.md has examples for, put into place on a machine as the page and the examples say."""

import re
import types

HOST = "localhost"
BASE = f"https://{HOST}"
CERTIFICATE, KEY = "/etc/ssl/certs/jupyterhub.pem", "/etc/ssl/private/jupyterhub.key"
DOC = "/usr/share/doc/jupyterhub"

# Name of the package and its service, the example, the service's own check of its configuration, whether it limits logins.
NGINX = types.SimpleNamespace(name="nginx", example="nginx-jhub.conf", check="nginx -t", limits=True)
APACHE = types.SimpleNamespace(name="apache2", example="apache-jhub.conf", check="apachectl configtest", limits=True)
HAPROXY = types.SimpleNamespace(name="haproxy", example="haproxy-jhub.cfg", check="haproxy -c -f /etc/haproxy/haproxy.cfg", limits=True)
CADDY = types.SimpleNamespace(name="caddy", example="Caddyfile", check="caddy validate --config /etc/caddy/Caddyfile", limits=False)
ALL = [NGINX, APACHE, HAPROXY, CADDY]


def page(machine):
    """Return docs/off-loader.md as it is installed."""
    return machine.sh(f"zcat --force {DOC}/off-loader.md*")


def self_signed(machine, before="", names=(HOST,)):
    """Make the certificate by the page's command, with words before it, for `names` (tuple of str); return it, its own authority, as text."""
    (command,) = re.findall(r"^    (openssl req (?:.*\\\n)*.*)$", page(machine), re.MULTILINE)
    command = command.replace("DNS:YOUR.HOST.NAME", ",".join(f"DNS:{name}" for name in names)).replace("YOUR.HOST.NAME", names[0])
    machine.sh(f"{before} {command}")
    return machine.sh(f"cat {CERTIFICATE}") + "\n"


def start(machine, server, host=HOST):
    """Install an off-loader by the commands at the head of its example, in place of another one, for the name `host` (str)."""
    commands = re.findall(r"^#   (\S.*)", machine.sh(f"cat {DOC}/examples/{server.example}"), re.MULTILINE)
    machine.sh(f"systemctl stop {' '.join(other.name for other in ALL)} 2>/dev/null || true")
    machine.sh("\n".join(commands).replace("YOUR.HOST.NAME", host))
