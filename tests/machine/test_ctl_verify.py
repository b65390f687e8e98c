"""jupyterhub-ctl verify: passes on a fresh install; names each of many faults, its remedy and nothing else; passes when it is mended.

As shipped, faults that do not hide each other are put in together, as on a machine that somebody has tidied up; with --slow each alone as well.
And its relatives: verify --user does what a user does, report puts all of it into a file without secrets.
"""

import json
import shlex
import time
import zlib
from typing import NamedTuple

import pytest
from harness import wait_for

CTL = "/usr/sbin/jupyterhub-ctl"
PYTHON = "/opt/venvs/jupyterhub/bin/python"
CONFIG = "/etc/jupyterhub/jupyterhub_config.d/50-fault.py"
SBOM = "/usr/share/jupyterhub/sbom.cdx.json"
DEFAULTS = "/etc/default/jupyterhub"
SUDOERS = "/etc/sudoers.d/jupyterhub"
LOGIN_PAGE = "/opt/venvs/jupyterhub/share/jupyterhub/templates/login.html"
DATABASE = "/var/opt/jupyterhub/jupyterhub.sqlite"
JUPYTER = "/etc/jupyter"

# A web server with a certificate that ended yesterday.
OFF_LOADER = """
import datetime, http.server, ssl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.datetime.now()
day = datetime.timedelta(days=1)
cert = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
cert = cert.not_valid_before(now - 30 * day).not_valid_after(now - day).sign(key, hashes.SHA256())
with open("/root/cert.pem", "wb") as file:
    file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    file.write(cert.public_bytes(serialization.Encoding.PEM))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/cert.pem")
server = http.server.HTTPServer(("127.0.0.1", 443), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


class Fault(NamedTuple):
    """Something that goes wrong on servers."""

    name: str
    do: str  # shell: put it into the machine
    check: str  # the one check that fails
    words: tuple  # what it says: the fault, and the remedy
    mend: str  # shell
    status: str = "failed"
    slow: bool = False  # it takes long, stops what others need to be seen, or is a further cause of what a check says and would need a run of its own


def config(text):
    """Shell that writes a configuration file of the site."""
    return f"printf '%b' \"{text}\" >{CONFIG}; chown root:jupyterhub {CONFIG}; chmod 640 {CONFIG}"


def kept(*what):
    """Return the name of a file for what is put away for a while."""
    return f"/root/kept-{zlib.crc32(repr(what).encode()):x}"


def edit(path, script):
    """Shell that edits a file with sed, and shell that brings it back."""
    away = kept(path, script)
    return f"cp -p {path} {away}; sed -i {script!r} {path}", f"cp -p {away} {path}; rm {away}"


def moved(path):
    """Shell that moves a file away, and shell that brings it back."""
    return f"mv {path} {kept(path)}", f"mv {kept(path)} {path}"


def written(path, text):
    """Shell that writes a file into a folder that need not be there, and shell that takes it away."""
    return f"mkdir -p {path.rpartition('/')[0]}; printf '%s\\n' {shlex.quote(text)} >{path}", f"rm {path}"


def drop_in(unit, text):
    """Shell that changes a unit, and shell that takes the change back."""
    do, mend = written(f"/etc/systemd/system/{unit}.d/50-site.conf", text)
    return f"{do}; systemctl daemon-reload", f"{mend}; systemctl daemon-reload"


def sql(statement):
    """Shell that executes a statement on the hub's database."""
    return f"""{PYTHON} -c 'import sqlite3; d = sqlite3.connect("{DATABASE}"); d.execute("{statement}"); d.commit()'"""


def mode(path, wrong, right):
    return f"chmod {wrong} {path}", f"chmod {right} {path}"


def fault(name, check, words, do, mend, **options):
    return Fault(name, do, check, words, mend, **options)


def squat(port, stop):
    do = f"systemctl stop {stop}; systemd-run -q --unit=squatter {PYTHON} -m http.server --bind 127.0.0.1 {port}"
    return f"{do}; until grep -q :{port:04X} /proc/net/tcp; do sleep 0.05; done", "systemctl stop squatter; systemctl start jupyterhub-proxy jupyterhub"


def home_of_its_own(options, then):
    return f"mount -t tmpfs -o {options} tmpfs /home; {then}", "umount /home"


PAM_ACCESS, ONLY_ROOT = edit("/etc/pam.d/jupyterhub", "1i account required pam_access.so"), edit("/etc/security/access.conf", "$a -:ALL EXCEPT root:ALL")
SOMETHING_ELSE = edit(DEFAULTS, "s,^JUPYTERHUB_PUBLIC_URL=.*,JUPYTERHUB_PUBLIC_URL=http://localhost:8080/,")
BREAKS_PROXY = drop_in("jupyterhub-proxy.service", "[Service]\nExecStartPre=/bin/false")

FAULTS = [
    # Units
    fault(
        "hub stopped",
        "jupyterhub.service",
        ["jupyterhub.service does not run", "systemctl start jupyterhub"],
        "systemctl stop jupyterhub",
        "systemctl start jupyterhub",
    ),
    fault(
        "hub not started at boot",
        "jupyterhub.service",
        ["disabled", "systemctl enable jupyterhub.service"],
        "rm /etc/systemd/system/multi-user.target.wants/jupyterhub.service; systemctl daemon-reload",
        "systemctl enable -q jupyterhub.service",
    ),
    fault(
        "hub masked",
        "jupyterhub.service",
        ["masked", "systemctl unmask jupyterhub.service"],
        "systemctl mask -q jupyterhub",
        "systemctl unmask -q jupyterhub",
    ),
    fault(
        "hub hangs",
        "hub",
        ["does not answer at 127.0.0.1:8081", "systemctl restart jupyterhub"],
        "systemctl kill -s STOP jupyterhub",
        "systemctl kill -s CONT jupyterhub",
    ),
    fault(
        "proxy stopped",
        "jupyterhub-proxy.service",
        ["does not run", "systemctl start jupyterhub-proxy"],
        "systemctl stop jupyterhub-proxy",
        "systemctl start jupyterhub-proxy",
    ),
    fault(
        "proxy hangs",
        "proxy-api",
        ["does not answer", "systemctl restart jupyterhub-proxy"],
        "systemctl kill -s STOP jupyterhub-proxy",
        "systemctl kill -s CONT jupyterhub-proxy",
    ),
    fault(
        "keeper of the ports stopped",
        "jupyterhub-ports.service",
        ["jupyterhub-ports.service does not run", "systemctl start jupyterhub-ports"],
        "systemctl stop jupyterhub-ports",
        "systemctl start jupyterhub-ports",
    ),
    fault(
        "spawner socket stopped",
        "jupyterhub-spawner.socket",
        ["does not run", "systemctl start jupyterhub-spawner.socket"],
        "systemctl stop jupyterhub-spawner.socket",
        "systemctl start jupyterhub-spawner.socket",
    ),
    fault(
        "login socket stopped",
        "jupyterhub-login.socket",
        ["does not run", "systemctl start jupyterhub-login.socket"],
        "systemctl stop jupyterhub-login.socket",
        "systemctl start jupyterhub-login.socket",
    ),
    fault(
        "sessions socket stopped",
        "jupyterhub-sessions.socket",
        ["does not run", "systemctl start jupyterhub-sessions.socket"],
        "systemctl stop jupyterhub-sessions.socket",
        "systemctl start jupyterhub-sessions.socket",
    ),
    fault(
        "login service does not answer",
        "login-socket",
        ["did not answer within", "journalctl -u jupyterhub-login.service"],
        "systemctl start jupyterhub-login; systemctl kill -s STOP jupyterhub-login",
        "systemctl kill -s CONT jupyterhub-login",
    ),
    fault(
        "spawner gate does not run",
        "spawner-socket",
        ["The spawner service failed", "journalctl -t jupyterhub-spawner"],
        *mode("/usr/libexec/jupyterhub/spawner-gate", "a-x", "a+x"),
    ),
    fault("hub's port taken", "ports", ["port 8081 is taken", "python", "stop it"], *squat(8081, "jupyterhub jupyterhub-ports")),
    fault("proxy's port taken", "ports", ["port 8000 is taken", "python", "JUPYTERHUB_BIND_URL"], *squat(8000, "jupyterhub jupyterhub-proxy jupyterhub-ports")),
    fault(
        "token of the proxy changed",
        "proxy-api",
        ["proxy.env", "systemctl restart jupyterhub-proxy"],
        "sed -i 's/=..../=0000/' /etc/jupyterhub/proxy.env",
        "systemctl restart jupyterhub-proxy",
    ),
    # Software
    fault("file of the package altered", "package-files", [LOGIN_PAGE, "--reinstall jupyterhub"], *edit(LOGIN_PAGE, "$a more")),
    fault(
        "file of the package lost",
        "package-files",
        ["/usr/libexec/jupyterhub/sudospawner", "--reinstall jupyterhub"],
        *moved("/usr/libexec/jupyterhub/sudospawner"),
        slow=True,
    ),
    fault(
        "tree of new servers lost",
        "server-files",
        ["current", "server-tree add"],
        "ln -sfn nothing /opt/venvs/jupyterhub-servers/current",
        "/usr/libexec/jupyterhub/server-tree add",
    ),
    fault(
        "Node too old",
        "node",
        ["v16.20.2", "--reinstall nodejs"],
        "printf '#!/bin/sh\\necho v16.20.2\\n' >/root/node; chmod 755 /root/node; mount --bind /root/node /usr/bin/node",
        "umount /usr/bin/node",
    ),
    fault(
        "no Java where the site says",
        "java",
        ["JUPYTERHUB_JAVA_HOME=/opt/jre", "/opt/jre/bin/java", "default-jre"],
        *edit(DEFAULTS, "s,^JUPYTERHUB_JAVA_HOME=.*,JUPYTERHUB_JAVA_HOME=/opt/jre,"),
    ),
    fault(
        "kernel whose program is gone",
        "kernels",
        ["/usr/local/share/jupyter/kernels/old/kernel.json", "/opt/old/python, which it names, is missing", "remove /usr/local/share/jupyter/kernels/old"],
        "mkdir -p /usr/local/share/jupyter/kernels/old; printf '%s' '{\"argv\": [\"/opt/old/python\"]}' >/usr/local/share/jupyter/kernels/old/kernel.json",
        "rm -r /usr/local/share/jupyter/kernels/old",
    ),
    fault(
        "environment whose revision is gone",
        "environments",
        ["the environment broken: its current revision is damaged", "jupyterhub-ctl environment rollback broken"],
        "mkdir -p /opt/venvs/jupyterhub-environments/broken; ln -s 1 /opt/venvs/jupyterhub-environments/broken/current",
        "rm -r /opt/venvs/jupyterhub-environments",
    ),
    fault(
        "clock behind",  # a machine of nspawn cannot set its clock, so the package comes from the future
        "clock",
        ["the clock says", "timedatectl set-ntp true"],
        f"touch -r {SBOM} /root/time; touch -d 2099-01-01 {SBOM}",
        f"touch -r /root/time {SBOM}",
    ),
    # Configuration
    fault("syntax error", "configuration", [f"{CONFIG}:2", "SyntaxError", "correct that line"], config("c = get_config()\\nc = (\\n"), f"rm {CONFIG}"),
    fault(
        "value of the wrong kind",
        "configuration",
        [f"{CONFIG}:2", "start_timeout", "give it a value"],
        config("c = get_config()\\nc.Spawner.start_timeout = 'long'\\n"),
        f"rm {CONFIG}",
        slow=True,
    ),
    fault(
        "misspelt setting",
        "settings",
        [f"{CONFIG}:2", "c.Spawner.default_url"],
        config("c = get_config()\\nc.Spawner.defualt_url = '/tree'\\n"),
        f"rm {CONFIG}",
    ),
    fault(
        "wrong setting of the services",
        "configuration",
        [DEFAULTS, "JUPYTERHUB_BIND_URL", "http://ADDRESS:PORT/PATH"],
        *edit(DEFAULTS, "s,^JUPYTERHUB_BIND_URL=.*,JUPYTERHUB_BIND_URL=8000,"),
        slow=True,
    ),
    fault(
        "network to be closed without nftables",
        "egress",
        ["nftables is not installed: `apt-get install nftables`", "systemctl reload jupyterhub-egress"],
        *edit(DEFAULTS, "s,^JUPYTERHUB_EGRESS_CLOSED_FOR=.*,JUPYTERHUB_EGRESS_CLOSED_FOR=1000-59999,"),
    ),
    # Owners and modes
    fault(
        "configuration that the hub cannot read",
        "secrets",
        [CONFIG, "systemd-tmpfiles --create"],
        f"touch {CONFIG}; chmod 600 {CONFIG}",
        f"rm {CONFIG}",
    ),
    fault(
        "configuration open to all",
        "secrets",
        ["/etc/jupyterhub has mode 0755", "systemd-tmpfiles --create"],
        *mode("/etc/jupyterhub", 755, 750),
    ),
    fault("proxy's token open to all", "secrets", ["proxy.env", "chmod 600"], *mode("/etc/jupyterhub/proxy.env", 644, 600)),
    fault("cookie secret open to all", "secrets", ["cookie_secret", "chmod 600"], *mode("/var/opt/jupyterhub/cookie_secret", 644, 600)),
    fault("database of root", "secrets", [DATABASE, "chown jupyterhub"], f"chown root: {DATABASE}", f"chown jupyterhub: {DATABASE}"),
    fault(
        "state open to all",
        "secrets",
        ["/var/opt/jupyterhub has mode 0777", "systemd-tmpfiles --create"],
        *mode("/var/opt/jupyterhub", 777, 750),
    ),
    # PAM, logind
    fault("PAM service missing", "pam-files", ["/etc/pam.d/jupyterhub is missing", "--force-confmiss"], *moved("/etc/pam.d/jupyterhub")),
    fault(
        "PAM module missing",
        "pam-files",
        ["/etc/pam.d/jupyterhub:", "pam_second_factor.so", "install its package"],
        *edit("/etc/pam.d/jupyterhub", "$a auth required pam_second_factor.so"),
    ),
    fault(
        "PAM file not understood",
        "pam-files",
        ["/etc/pam.d/jupyterhub:", "atuh", "see pam.d(5)"],
        *edit("/etc/pam.d/jupyterhub", "$a atuh required pam_unix.so"),
    ),
    fault(
        "PAM refuses everybody",
        "pam",
        ["does not admit even root", "/etc/pam.d/jupyterhub"],
        *edit("/etc/pam.d/jupyterhub", "1i account requisite pam_deny.so"),
    ),
    fault(
        "who checks passwords may not read them",
        "groups",
        ["lacks shadow", "systemctl cat jupyterhub-login.service"],
        "d=/etc/systemd/system/jupyterhub-login.service.d; mkdir $d; printf '[Service]\\nSupplementaryGroups=\\n' >$d/site.conf; systemctl daemon-reload",
        "rm -r /etc/systemd/system/jupyterhub-login.service.d; systemctl daemon-reload",
    ),
    fault(
        "hub may read passwords by its unit",
        "groups",
        ["has shadow", "systemctl cat jupyterhub.service"],
        "d=/etc/systemd/system/jupyterhub.service.d; mkdir $d; printf '[Service]\\nSupplementaryGroups=shadow\\n' >$d/site.conf; systemctl daemon-reload",
        "rm -r /etc/systemd/system/jupyterhub.service.d; systemctl daemon-reload",
    ),
    fault(
        "hub may read passwords by its account",
        "groups",
        ["member of group shadow", "gpasswd -d jupyterhub shadow"],
        "gpasswd -a jupyterhub shadow",
        "gpasswd -d jupyterhub shadow",
    ),
    fault("logins switched off", "logins", ["/etc/nologin", "rm /etc/nologin"], "touch /etc/nologin", "rm /etc/nologin"),
    fault(
        "sessions without logind",
        "pam-files",
        ["pam_systemd.so", "class=background"],
        *edit("/etc/pam.d/jupyterhub-sudospawner", "/pam_systemd/s/^/#/"),
    ),
    fault(
        "logind stopped",
        "logind",
        ["systemd-logind.service is", "systemctl unmask systemd-logind"],
        "systemctl mask -q --now systemd-logind",
        "systemctl unmask -q systemd-logind; systemctl start systemd-logind",
    ),
    # sudo
    fault(
        "mistake in sudoers",
        "sudoers",
        ["/etc/sudoers.d/site", "visudo -f"],
        "echo nonsense >/etc/sudoers.d/site; chmod 440 /etc/sudoers.d/site",
        "rm /etc/sudoers.d/site",
    ),
    fault("sudoers.d not read", "sudoers", ["not in force", "@includedir /etc/sudoers.d"], *edit("/etc/sudoers", "/^@includedir/d")),
    fault("rule taken out", "sudoers", ["not in force", "jupyterhub ALL = (JUPYTER_USERS) NOPASSWD: JUPYTER_CMD"], *edit(SUDOERS, "/^jupyterhub ALL/d")),
    fault(
        "group of the policy missing",
        "sudoers",
        ["there is no group gone", f"visudo {SUDOERS}"],
        *edit(SUDOERS, "s/= %users/= %gone/"),
        status="warning",
    ),
    fault("rule that admits root", "sudoers", ["JUPYTER_USERS admits root", f"visudo {SUDOERS}"], *edit(SUDOERS, "s/= %users/= ALL/")),
    fault(
        "hub that may do everything",
        "sudoers",
        ["run other commands as root", "sudo -l -U jupyterhub"],
        "echo 'jupyterhub ALL = (ALL) NOPASSWD: ALL' >/etc/sudoers.d/site; chmod 440 /etc/sudoers.d/site",
        "rm /etc/sudoers.d/site",
    ),
    # Room, data
    fault("disk full", "disk", ["/home is full", "df -h /home"], *home_of_its_own("size=4m", "dd if=/dev/zero of=/home/full bs=1M 2>/dev/null || true")),
    fault(
        "no inodes",
        "disk",
        ["/home has no inodes", "df -i /home"],
        *home_of_its_own("size=100m,nr_inodes=64", "touch $(seq -f /home/%g 90) 2>/dev/null || true"),
    ),
    fault("read-only", "disk", ["/home is mounted read-only", "remount"], *home_of_its_own("size=100m,ro", "true")),
    fault("database lost", "database", [f"{DATABASE} is not there", "jupyterhub-ctl restore"], *moved(DATABASE)),
    fault(
        "database damaged",
        "database",
        [f"{DATABASE} is corrupt", "jupyterhub-ctl restore"],
        f"cp -p {DATABASE} /root/kept; dd if=/dev/urandom of={DATABASE} bs=4096 seek=1 count=6 conv=notrunc 2>/dev/null",
        f"cat /root/kept >{DATABASE}; rm /root/kept",
    ),
    fault(
        "database of another version",
        "database",
        ["has schema 4dc2d5a8c53c", "JUPYTERHUB_AUTO_MIGRATION"],
        f"cp -p {DATABASE} /root/kept; " + sql("UPDATE alembic_version SET version_num = '\\''4dc2d5a8c53c'\\''").replace("'\\''", "\\x27"),
        f"cat /root/kept >{DATABASE}; rm /root/kept",
        slow=True,
    ),
    # What all notebook servers read
    fault(
        "servers' settings with a syntax error",
        "server-settings",
        [f"{JUPYTER}/jupyter_server_config.py:2: SyntaxError", "start without what is in it", "correct that line"],
        *written(f"{JUPYTER}/jupyter_server_config.py", "c = get_config()\nc.ServerApp.terminals_enabled = ("),
    ),
    fault(
        "servers' settings that raise",
        "server-settings",
        ["/usr/local/etc/jupyter/jupyter_lab_config.py:2: FileNotFoundError", "/srv/gone"],
        *written("/usr/local/etc/jupyter/jupyter_lab_config.py", "import os\nos.listdir('/srv/gone')"),
    ),
    fault(
        "servers' settings that are not JSON",
        "server-settings",
        [f"{JUPYTER}/jupyter_server_config.json:1: this is not JSON", "correct that line"],
        *written(f"{JUPYTER}/jupyter_server_config.json", '{"ServerApp": {"terminals_enabled": false,}}'),
    ),
    fault(
        "servers' setting misspelt",
        "server-settings",
        [f"{JUPYTER}/jupyter_notebook_config.py:1: c.ServerApp.terminal_enabled", "no effect", "did you mean c.ServerApp.terminals_enabled?"],
        *written(f"{JUPYTER}/jupyter_notebook_config.py", "c.ServerApp.terminal_enabled = False"),
    ),
    fault(
        "servers' class misspelt",
        "server-settings",
        ["/usr/local/etc/jupyter/jupyter_config.json: c.MapingKernelManager.cull_idle_timeout", "did you mean c.MappingKernelManager.cull_idle_timeout?"],
        *written("/usr/local/etc/jupyter/jupyter_config.json", '{"MapingKernelManager": {"cull_idle_timeout": 3600}}'),
    ),
    fault(
        "servers' setting of the wrong kind",
        "server-settings",
        ["/usr/local/etc/jupyter/jupyter_server_config.py:1: c.ServerApp.contents_manager_class", "'site.Contents' could not be imported", "or not at all"],
        *written("/usr/local/etc/jupyter/jupyter_server_config.py", "c.ServerApp.contents_manager_class = 'site.Contents'"),
    ),
    fault(
        "servers' setting that is the hub's",
        "server-settings",
        [f"{JUPYTER}/jupyter_lab_config.py:1: c.Spawner.mem_limit", "/etc/jupyterhub/jupyterhub_config.d"],
        *written(f"{JUPYTER}/jupyter_lab_config.py", "c.Spawner.mem_limit = '1G'"),
    ),
    fault(
        "servers' setting in a folder for extensions",
        "server-settings",
        [f"{JUPYTER}/jupyter_server_config.d/site.json: KernelSpecManager.allowed_kernelspecs has no effect", f"{JUPYTER}/jupyter_server_config.json"],
        *written(f"{JUPYTER}/jupyter_server_config.d/site.json", '{"KernelSpecManager": {"allowed_kernelspecs": ["python3"]}}'),
    ),
    fault(
        "server extension that is gone",
        "server-settings",
        [f"{JUPYTER}/jupyter_server_config.d/gone.json: there is no server extension nbgone"],
        *written(f"{JUPYTER}/jupyter_server_config.d/gone.json", '{"ServerApp": {"jpserver_extensions": {"nbgone": true}}}'),
    ),
    fault(
        "JupyterLab's settings that are not JSON",
        "server-settings",
        [f"{JUPYTER}/labconfig/page_config.json:2: this is not JSON"],
        *written(f"{JUPYTER}/labconfig/page_config.json", '{"disabledExtensions": {\n"@jupyterlab/x": True}}'),
    ),
    fault(
        "servers' settings that users cannot read",
        "server-settings",
        ["/usr/local/etc/jupyter/jupyter_notebook_config.json", "users cannot read this file", "chmod a+r"],
        "mkdir -p /usr/local/etc/jupyter; (umask 077; echo {} >/usr/local/etc/jupyter/jupyter_notebook_config.json)",
        "rm /usr/local/etc/jupyter/jupyter_notebook_config.json",
    ),
    fault(
        "servers' settings under a wrong name",
        "server-settings",
        [f"{JUPYTER}/jupyter_server_conf.py: no notebook server reads", "did you mean jupyter_server_config.py?"],
        *written(f"{JUPYTER}/jupyter_server_conf.py", "c.ServerApp.terminals_enabled = False"),
    ),
    fault(
        "servers' settings that everybody can change",
        "server-settings",
        ["/usr/local/etc/jupyter/labconfig can be changed", "runs code as each user", "chmod go-w"],
        "mkdir -p /usr/local/etc/jupyter/labconfig; chmod 777 /usr/local/etc/jupyter/labconfig",
        "rmdir /usr/local/etc/jupyter/labconfig",
    ),
    fault(
        "kernels' start with a syntax error",
        "server-settings",
        ["/etc/ipython/startup/00-site.py:1: SyntaxError"],
        *written("/etc/ipython/startup/00-site.py", "import numpy as"),
    ),
    fault(
        "servers' settings that wait",
        "server-settings",
        [f"{JUPYTER}/jupyter_config.py: reading this file is not done after", "look for what waits in it"],
        *written(f"{JUPYTER}/jupyter_config.py", "import time\ntime.sleep(1000)"),
        slow=True,
    ),
    # Folders on the way
    fault("software closed", "folders", ["/opt/venvs has mode 0700", "cannot read their software", "chmod a+rx /opt/venvs"], *mode("/opt/venvs", 700, 755)),
    fault("homes closed", "homes", ["/home has mode 0700", "alice cannot get through", "chmod a+x /home"], *mode("/home", 700, 755)),
    fault("temporary files closed", "folders", ["/tmp has mode 0755", "chmod 1777 /tmp"], *mode("/tmp", 755, 1777)),
    fault("runtime folders closed", "folders", ["/run/user has mode 0700", "chmod a+x /run/user"], *mode("/run/user", 700, 755)),
    fault(
        "folder of sockets lost",
        "folders",
        ["/run/jupyterhub-servers is missing", "systemd-tmpfiles --create jupyterhub.conf"],
        "rmdir /run/jupyterhub-servers",
        "systemd-tmpfiles --create jupyterhub.conf",
    ),
    # Accounts
    fault(
        "people kept out by pam_access",
        "people",
        ["PAM's account phase refuses alice by pam_access.so", "/etc/security/access.conf"],
        f"{PAM_ACCESS[0]}; {ONLY_ROOT[0]}",
        f"{ONLY_ROOT[1]}; {PAM_ACCESS[1]}",
    ),
    fault("account expired", "people", ["alice: ", "expired", "chage -E -1 alice"], "chage -E 2020-01-01 alice", "chage -E -1 alice", status="warning"),
    fault("password expired", "people", ["alice: ", "passwd alice"], "chage -d 0 alice", "chage -d $(date +%F) alice", status="warning", slow=True),
    fault(
        "account locked",
        "people",
        ["alice: its password is locked", "passwd --unlock alice"],
        "usermod -L alice",
        "usermod -U alice",
        status="warning",
        slow=True,
    ),
    fault(
        "account without a shell",
        "people",
        ["alice: its shell", "/usr/sbin/nologin", "usermod -s /bin/bash alice"],
        "usermod -s /usr/sbin/nologin alice",
        "usermod -s /bin/bash alice",
        status="warning",
        slow=True,
    ),
    # The address that browsers know; test_offloaders.py has those for which a web server is needed
    fault(
        "public name that nobody knows",
        "public-address",
        ["the name jhub.invalid of JUPYTERHUB_PUBLIC_URL is not known", "put it into DNS"],
        *edit(DEFAULTS, "s,^JUPYTERHUB_PUBLIC_URL=.*,JUPYTERHUB_PUBLIC_URL=https://jhub.invalid/,"),
    ),
    fault(
        "public address without a server",
        "public-address",
        ["nobody answers at localhost:8443", "Connection refused", "start the web server"],
        *edit(DEFAULTS, "s,^JUPYTERHUB_PUBLIC_URL=.*,JUPYTERHUB_PUBLIC_URL=https://localhost:8443/,"),
    ),
    fault(
        "public address that is no URL",
        "public-address",
        ["JUPYTERHUB_PUBLIC_URL=jhub.example.org in /etc/default/jupyterhub is not a URL", "write https://HOST.NAME/"],
        *edit(DEFAULTS, "s,^JUPYTERHUB_PUBLIC_URL=.*,JUPYTERHUB_PUBLIC_URL=jhub.example.org,"),
    ),
    fault(
        "public address with another path",
        "public-address",
        ["JUPYTERHUB_PUBLIC_URL has the path /jupyter, JUPYTERHUB_BIND_URL has /"],
        *edit(DEFAULTS, "s,^JUPYTERHUB_PUBLIC_URL=.*,JUPYTERHUB_PUBLIC_URL=https://localhost/jupyter/,"),
    ),
    fault(
        "public address that is not the hub's",
        "public-url",
        ["at http://localhost:8080/hub/login answers something else than the hub", "http://127.0.0.1:8000"],
        f"{SOMETHING_ELSE[0]}; systemd-run -q --unit=elsewhere {PYTHON} -m http.server 8080; until grep -q :1F90 /proc/net/tcp; do sleep 0.05; done",
        f"systemctl stop elsewhere; {SOMETHING_ELSE[1]}",
    ),
    # Units that the site has changed
    fault(
        "proxy with a drop-in that breaks it",
        "jupyterhub-proxy.service",
        ["does not run", "/etc/systemd/system/jupyterhub-proxy.service.d/50-site.conf"],
        f"{BREAKS_PROXY[0]}; systemctl restart jupyterhub-proxy || true",
        f"{BREAKS_PROXY[1]}; systemctl restart jupyterhub-proxy jupyterhub",
        slow=True,
    ),
    fault(
        "hub with a drop-in that takes its program away",
        "jupyterhub.service",
        ["systemd cannot use jupyterhub.service", "ExecStart", "/etc/systemd/system/jupyterhub.service.d/50-site.conf", "systemd-analyze verify"],
        *drop_in("jupyterhub.service", "[Service]\nExecStart="),
        slow=True,
    ),
    fault(
        "spawner socket masked",
        "jupyterhub-spawner.socket",
        ["jupyterhub-spawner.socket is masked", "systemctl unmask"],
        "systemctl mask -q --now jupyterhub-spawner.socket",
        "systemctl unmask -q jupyterhub-spawner.socket; systemctl start jupyterhub-spawner.socket",
    ),
    fault(
        "Node gone",
        "node",
        ["/usr/bin/node does not run", "--reinstall nodejs"],
        "touch /root/no-node; mount --bind /root/no-node /usr/bin/node",
        "umount /usr/bin/node",
    ),
    fault(
        "D-Bus stopped",
        "logind",
        ["dbus.service is", "systemctl unmask systemd-logind dbus"],
        "systemctl mask -q dbus.service dbus.socket; systemctl stop dbus.socket dbus.service",
        "systemctl unmask -q dbus.service dbus.socket; systemctl start dbus.socket; systemctl restart systemd-logind",
        slow=True,
    ),
    fault(
        "no memory",  # of a machine that has some
        "memory",
        ["of memory are available", "jupyterhub-ctl sessions"],
        "sed 's/^MemAvailable:.*/MemAvailable: 9000 kB/' /proc/meminfo >/root/meminfo; mount --bind /root/meminfo /proc/meminfo",
        "umount /proc/meminfo",
        status="warning",
    ),
    fault(
        "certificate ended",
        "certificate",
        ["the certificate at port 443 ended on", "renew it"],
        f"systemd-run -q --unit=off-loader {PYTHON} /root/off-loader.py; until grep -q :01BB /proc/net/tcp; do sleep 0.05; done",
        "systemctl stop off-loader",
    ),
]


def verify(machine, *arguments, **options):
    """Run verify --json; return (exit code, results as a list of dict)."""
    done = machine.run(CTL, "verify", "--json", *arguments, check=False, timeout=180, **options)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def bad(results):
    return [result for result in results if result["status"] in ("failed", "error")]


@pytest.fixture(scope="module", autouse=True)
def prepared(machine, hub):
    machine.add_user("alice", "correct horse")
    machine.add_user("bob", "battery staple", groups=())
    machine.write("/root/off-loader.py", OFF_LOADER)


def test_a_fresh_install_passes(machine):
    code, results = verify(machine)
    assert (code, bad(results)) == (0, [])
    assert {result["status"] for result in results} == {"passed"}


def test_faults_are_many():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60


def expect(results, faults):
    """Each fault is named with its remedy, and nothing else is."""
    left = [result for result in results if result["status"] in ("failed", "error", "warning")]
    for fault in faults:
        said = {f"{found['what']}: {found['why']}: {found['mend']}": found for found in left if (found["name"], found["status"]) == (fault.check, fault.status)}
        fitting = [found for text, found in said.items() if all(word in text for word in fault.words)]
        assert fitting, f"{fault.name}: {fault.words} not in {left}"
        left.remove(fitting[0])
    assert left == []


def put_in(machine, faults):
    """Verify a machine with these faults, take them out again, return (exit code, results)."""
    done = []
    try:
        for fault in faults:
            done.insert(0, fault)
            machine.sh(fault.do)
        return verify(machine)
    finally:
        for fault in done:
            machine.sh(f"({fault.mend}) || true")  # what starts a service may have to wait for the next
        machine.sh(f"systemctl is-active -q {SERVICES} || (systemctl reset-failed; systemctl restart {SERVICES})")


SERVICES = "jupyterhub-proxy jupyterhub"
SAY_ALL = ("secrets", "groups", "folders", "homes", "server-settings", "kernels")  # checks that do not end with the first thing they find


def together(needs):
    """Return lists of faults that do not hide each other, by what checks need (dict: name to names)."""

    def grounds(check):
        return {check}.union(*(grounds(ground) for ground in needs[check]))

    def hides(one, other):
        if one.check == other.check:
            return one.check not in SAY_ALL
        if " /home" in one.do and " /home" in other.do:  # one is mounted over the other
            return True
        return other.check in grounds(one.check) or one.check in grounds(other.check)

    groups = []
    for fault in FAULTS:
        if not fault.slow:
            group = next((group for group in groups if not any(hides(fault, other) for other in group)), None)
            if group is None:
                groups.append(group := [])
            group.append(fault)
    return groups


NEEDS = """
import json
from debianized_jupyterhub.ctl import verify
from debianized_jupyterhub.ctl.verify import check
next(verify.results(["accounts"]))
print(json.dumps({each.name: each.needs for each in check.CHECKS}))
"""


def test_names_faults_that_do_not_hide_each_other(machine, hub, subtests):
    """All of the table, in as few runs as that takes."""
    groups = together(json.loads(machine.run(PYTHON, "-c", NEEDS).stdout))
    assert sum(map(len, groups)) >= 60
    for group in groups:
        with subtests.test(faults=[fault.name for fault in group]):
            code, results = put_in(machine, group)
            expect(results, group)
            assert code == (5 if any(fault.status == "failed" for fault in group) else 0)
            wait_for(hub.answers, "the hub answers", timeout=60, every=0.2)


@pytest.mark.slow("a run of verify for each; those that do not hide each other are put in together each time")
@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in FAULTS])
def test_names_the_fault_and_nothing_else(machine, hub, fault):
    code, results = put_in(machine, [fault])
    expect(results, [fault])
    assert code == (5 if fault.status == "failed" else 0)
    wait_for(hub.answers, "the hub answers", timeout=60, every=0.2)
    again = verify(machine, fault.check)
    assert again[0] == 0 and bad(again[1]) == []
    # That nothing else is left of it is what the next fault, and test_all_is_well_again, show.


def test_all_is_well_again(machine, hub):
    code, results = verify(machine)
    assert (code, bad(results)) == (0, [])


def test_one_check_alone(machine):
    """With those that it needs. An unknown name is wrong usage, and the names are listed."""
    code, results = verify(machine, "pam")
    assert code == 0
    assert {"pam", "pam-files", "groups"} <= {result["name"] for result in results}
    assert "configuration" not in {result["name"] for result in results}
    refused = machine.run(CTL, "verify", "pan", check=False)
    assert refused.returncode == 2 and "'pan'" in refused.stderr and "pam-files" in refused.stderr


def test_jobs_without_slurm(machine, suite):
    """Asked for on a machine that has no Slurm, or whose Python lacks what they need."""
    do, mend = edit(DEFAULTS, "s/^JUPYTERHUB_JOBS=.*/JUPYTERHUB_JOBS=beside/")
    machine.sh(f"{do}; cp /usr/share/doc/jupyterhub/examples/profiles.conf /etc/jupyterhub/")
    try:
        code, results = verify(machine, "profiles")
    finally:
        machine.sh(f"{mend}; rm /etc/jupyterhub/profiles.conf")
    (found,) = bad(results)
    assert (code, found["status"]) == (5, "failed")
    if suite[0] == "debian:bookworm":
        assert found["name"] == "configuration" and "jobs need Python 3.13, and Debian GNU/Linux 12 (bookworm) has 3.11" in found["what"]
    else:
        assert found["what"] == "Slurm is not installed: there is no sbatch" and "apt install slurm-client" in found["mend"]


# -- Output ------------------------------------------------------------------------------------------------------------------------


def test_output_for_programs_and_for_people(machine, hub):
    """One line a check with tabs where it is piped; on a terminal a table, and more only about what is wrong."""
    machine.sh("chmod 644 /etc/jupyterhub/proxy.env")
    piped = machine.run(CTL, "verify", check=False)
    shown = machine.run("script", "-qec", f"{CTL} verify", "/dev/null", check=False).stdout
    machine.sh("chmod 600 /etc/jupyterhub/proxy.env")
    rows = [line.split("\t") for line in piped.stdout.splitlines()]
    assert {len(row) for row in rows} == {5} and "\x1b" not in piped.stdout
    assert ["failed", "secrets"] in [row[:2] for row in rows] and ["passed", "accounts"] in [row[:2] for row in rows]
    assert piped.stderr.count("\n") == 1 and "1 failed" in piped.stderr and piped.stderr.endswith(": secrets\n")
    assert shown.count("to fix:") == 1 and "to fix: chown root: /etc/jupyterhub/proxy.env; chmod 600" in shown


# -- verify --user -----------------------------------------------------------------------------------------------------------------

STEPS = ["account", "login", "spawn", "cell", "stop"]


def journey(machine, user, password, *options):
    """Return (exit code, the results of STEPS by name)."""
    code, results = verify(machine, "--user", user, *options, input=f"{password}\n")
    steps = {result["name"]: result for result in results if result["name"] in STEPS}
    assert list(steps) == STEPS
    return code, steps


def processes(machine, user):
    return machine.sh(f"pgrep -u {user} -f 'singleuser|ipykernel' || true").split()


def test_user_who_may(machine, hub):
    """All four steps, with their times; nothing stays."""
    code, steps = journey(machine, "alice", "correct horse")
    assert code == 0, steps
    for step in STEPS:
        assert steps[step]["status"] == "passed"
        assert float(steps[step]["what"].removesuffix(" s")) < 60
    assert processes(machine, "alice") == []


@pytest.mark.slow("PAM's answer; test_user_who_may_not has another each time")
def test_user_with_the_wrong_password(machine, hub):
    code, steps = journey(machine, "alice", "wrong horse")
    assert code == 5
    assert steps["login"]["status"] == "failed" and "Invalid username or password" in steps["login"]["what"]
    assert [steps[step]["status"] for step in STEPS] == ["passed", "failed", *["skipped"] * 3]


def test_user_who_may_not(machine, hub):
    code, steps = journey(machine, "bob", "battery staple")
    assert code == 5
    assert steps["login"]["status"] == "failed" and "Invalid username or password" in steps["login"]["what"]
    assert "usermod -aG users bob" in steps["login"]["mend"]


def test_user_who_is_unknown(machine, hub):
    done = machine.run(CTL, "verify", "--user", "carol", input="secret\n", check=False)
    assert done.returncode == 7
    assert done.stdout == "" and "knows no user 'carol'" in done.stderr


def test_user_whose_server_cannot_start(machine, hub):
    """The step that fails has the server's own words; nothing stays."""
    machine.sh("chown root: /home/alice")
    try:
        code, steps = journey(machine, "alice", "correct horse")
    finally:
        machine.sh("chown alice: /home/alice")
    assert code == 5
    assert [steps[step]["status"] for step in STEPS] == ["passed", "passed", "failed", "skipped", "skipped"]
    assert "cannot be written to" in steps["spawn"]["what"]
    assert processes(machine, "alice") == []


def test_user_whose_server_runs_keeps_it(machine, hub):
    alice = hub.login("alice", "correct horse")
    alice.spawn()
    kernel = alice.kernel()
    kernel.execute("x = 42")
    before = processes(machine, "alice")
    code, steps = journey(machine, "alice", "correct horse")
    assert code == 0
    assert "ran before" in steps["spawn"]["what"] and "ran before" in steps["stop"]["what"]
    assert processes(machine, "alice") == before
    assert kernel.execute("x") == "42"
    assert len(alice.api("GET", "/kernels").json()) == 1
    alice.stop()


SLEEP = "import time\ntime.sleep(1000)\n"
KERNEL = "/home/alice/.ipython/profile_default/startup/00-site.py"


def hangs(machine, path, *options):
    """verify --user while a file of alice's sleeps: return (the steps, its seconds); nothing of it may be left."""
    owner = f"chown -R alice: {'/'.join(path.split('/')[:4])}"
    machine.write(path, SLEEP)
    machine.sh(owner)
    started = time.monotonic()
    try:
        code, steps = journey(machine, "alice", "correct horse", *options)
    finally:
        machine.sh(f"rm {path}")
    assert code == 5
    seconds = time.monotonic() - started
    assert processes(machine, "alice") == []
    assert "no server runs" in machine.run(CTL, "stop", "--all").stdout
    return steps, seconds


def test_user_whose_kernel_never_answers(machine, hub):
    """What a kernel runs first is named; kernel and server end."""
    steps, _ = hangs(machine, KERNEL, "--timeout", "5")
    assert [steps[step]["status"] for step in STEPS] == ["passed", "passed", "passed", "failed", "skipped"]
    assert "the kernel started and does not answer" in steps["cell"]["what"] and KERNEL in steps["cell"]["what"]
    assert "within 5 s" in steps["cell"]["what"]


@pytest.mark.slow("as with a kernel that never answers")
def test_user_whose_server_never_answers(machine, hub):
    steps, _ = hangs(machine, "/home/alice/.jupyter/jupyter_server_config.py", "--timeout", "5")
    assert [steps[step]["status"] for step in STEPS] == ["passed", "passed", "failed", "skipped", "skipped"]
    assert "the server started and does not answer" in steps["spawn"]["what"] and "~/.jupyter and /etc/jupyter" in steps["spawn"]["mend"]


@pytest.mark.slow("it waits that long; test_verify_limits has the mechanism each time")
@pytest.mark.parametrize("path", [KERNEL, "/home/alice/.jupyter/jupyter_server_config.py"])
def test_all_of_it_ends_in_90_seconds(machine, hub, path):
    """As shipped, with checks that hang beside it."""
    machine.sh("systemctl start jupyterhub-login; " + written(f"{JUPYTER}/jupyter_lab_config.py", SLEEP)[0])
    try:
        _, seconds = hangs(machine, path)
    finally:
        machine.sh(f"rm {JUPYTER}/jupyter_lab_config.py")
    assert seconds < 90


@pytest.mark.slow("waits for timeouts; test_verify_limits has the mechanism each time")
def test_checks_that_hang_hide_no_others(machine, hub):
    """A sudo and a PAM that wait for a directory, say."""
    slow = "#!/bin/sh\nsleep 1000\n"
    machine.write("/root/slow", slow, mode=0o755)
    machine.sh("mount --bind /root/slow /usr/sbin/visudo; mount --bind /root/slow /usr/bin/loginctl; chmod 644 /etc/jupyterhub/proxy.env")
    started = time.monotonic()
    try:
        code, results = verify(machine)
    finally:
        machine.sh("umount /usr/sbin/visudo /usr/bin/loginctl; chmod 600 /etc/jupyterhub/proxy.env")
    assert code == 5 and time.monotonic() - started < 90
    found = {result["name"]: result for result in bad(results)}
    assert {"secrets", "sudoers", "logind"} <= set(found)
    assert "no answer after" in found["logind"]["what"]
    assert machine.sh("pgrep -f '^/bin/sh /usr' || true") == ""


@pytest.mark.slow("a wait; what it leaves is cleared by systemd")
def test_user_whose_verify_is_ended(machine, hub):
    """By `timeout`, a terminal that is closed and the like: nothing stays."""
    machine.write(KERNEL, SLEEP)
    machine.sh("chown -R alice: /home/alice/.ipython")
    done = machine.run("timeout", "15", CTL, "verify", "--user", "alice", input="correct horse\n", check=False)
    machine.sh(f"rm {KERNEL}")
    assert done.returncode == 124
    wait_for(lambda: processes(machine, "alice") == [], "server and kernel have ended", timeout=20)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.check == "people"], ids=lambda fault: fault.name)
def test_user_whom_the_system_keeps_out(machine, hub, fault):
    """The step says what `people` says; neither password nor server is tried."""
    machine.sh(fault.do)
    try:
        code, results = verify(machine, "accounts", "--user", "alice", input="correct horse\n")
    finally:
        machine.sh(fault.mend)
    steps = {result["name"]: result for result in results if result["name"] in STEPS}
    said = f"{steps['account']['what']}: {steps['account']['mend']}"
    assert code == 5 and steps["account"]["status"] == "failed"
    assert [word for word in fault.words if word not in said] == [], said
    assert [steps[step]["status"] for step in STEPS[1:]] == ["skipped"] * 4


# -- report ------------------------------------------------------------------------------------------------------------------------

SECRETS = {
    "client": "Gh-client-0f2a",
    "service": "svc-token-77",
    "database": "db-pass-4411",
    "ldap": "b1nd Pa55",
    "crypt": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "environment": "env-s3cr3t-x",
    "log": "ey0123456789abcdefghijklmnopqrstuvwxyz",
}


@pytest.fixture(scope="module")
def bundle(machine, hub):
    """The text of all files of a report (by name), made on a machine with secrets in many places; and the secrets."""
    machine.write(
        "/etc/jupyterhub/jupyterhub_config.d/60-secrets.py",
        f"""c = get_config()
c.GitHubOAuthenticator.client_secret = "{SECRETS["client"]}"
c.JupyterHub.services = [{{"name": "cull", "api_token": '{SECRETS["service"]}'}}]
# c.JupyterHub.db_url = "postgresql://hub:{SECRETS["database"]}@db.example.org/hub"
c.LDAPAuthenticator.lookup_dn_search_password = (
    "{SECRETS["ldap"]}"
)
c.CryptKeeper.keys = []
""",
    )
    machine.sh(f"echo JUPYTERHUB_CRYPT_KEY={SECRETS['crypt']} >>{DEFAULTS}; echo 'export SITE_PASSWORD=\"{SECRETS['environment']}\"' >>{DEFAULTS}")
    machine.sh(f"logger -t jupyterhub-singleuser 'GET /user/alice/api?token={SECRETS['log']} Authorization: token {SECRETS['log']}'")
    secrets = dict(SECRETS)
    secrets["proxy"] = machine.sh("cut -d= -f2 /etc/jupyterhub/proxy.env")
    secrets["cookie"] = machine.sh("cat /var/opt/jupyterhub/cookie_secret")
    path = machine.run(CTL, "report", "/root/help.tar.gz").stdout.strip()
    assert machine.sh(f"stat -c '%a %U' {path}") == "600 root"
    machine.sh(f"mkdir /root/unpacked; tar -xzf {path} -C /root/unpacked")
    names = machine.sh("cd /root/unpacked/help; find . -type f").splitlines()
    texts = {name.removeprefix("./"): machine.sh(f"cat /root/unpacked/help/{name}") for name in names}
    yield texts, secrets
    machine.sh(f"rm -r /root/unpacked {path} /etc/jupyterhub/jupyterhub_config.d/60-secrets.py; sed -i '/CRYPT_KEY/d; /SITE_PASSWORD/d' {DEFAULTS}")


def test_report_has_what_helps(machine, bundle):
    texts, _ = bundle
    assert "sudoers" in [result["name"] for result in json.loads(texts["verify.json"])]
    version = machine.sh("dpkg-query -W -f '${Version}' jupyterhub")
    assert f"jupyterhub {version} installed" in texts["versions.txt"]
    assert "JupyterHub is now running" in texts["journal.txt"]
    assert "Active: active (running)" in texts["units.txt"]
    assert "c.GitHubOAuthenticator.client_secret" in texts["etc/jupyterhub/jupyterhub_config.d/60-secrets.py"]
    shipped = machine.sh("cat /etc/jupyterhub/jupyterhub_config.py")
    assert texts["etc/jupyterhub/jupyterhub_config.py"] == shipped
    assert texts["etc/sudoers.d/jupyterhub"] == machine.sh(f"cat {SUDOERS}")


def test_report_has_no_secret(bundle):
    texts, secrets = bundle
    found = [(name, secret) for name, text in texts.items() for secret, value in secrets.items() if value in text]
    assert found == []
    assert not any("sqlite" in name or "cookie" in name for name in texts)


def test_report_that_cannot_be_written(machine, hub):
    done = machine.run(CTL, "report", "/nowhere/help.tar.gz", check=False)
    assert done.returncode == 1 and done.stderr.startswith("jupyterhub-ctl: cannot write /nowhere/help.tar.gz")
    machine.sh("mkdir /mnt/small; mount -t tmpfs -o size=8k tmpfs /mnt/small")
    done = machine.run(CTL, "report", "/mnt/small/help.tar.gz", check=False)
    left = machine.sh("ls -A /mnt/small; umount /mnt/small; rmdir /mnt/small")
    assert (done.returncode, left) == (10, "")
    assert "No space left" in done.stderr
    machine.sh("echo mine >/root/mine")
    done = machine.run(CTL, "report", "/root/mine", check=False)
    assert (done.returncode, machine.sh("cat /root/mine")) == (1, "mine")
    assert done.stderr == "jupyterhub-ctl: /root/mine is there already: name another file\n"
