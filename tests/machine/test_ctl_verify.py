"""jupyterhub-ctl verify: passes on a fresh install; names each of many faults, its remedy and nothing else; passes when it is mended.

And its relatives: verify --user does what a user does, report puts all of it into a file without secrets.
"""

import json
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


def config(text):
    """Shell that writes a configuration file of the site."""
    return f"printf '%b' \"{text}\" >{CONFIG}; chown root:jupyterhub {CONFIG}; chmod 640 {CONFIG}"


def edit(path, script):
    """Shell that edits a file with sed, and shell that brings it back."""
    return f"cp -p {path} /root/kept; sed -i {script!r} {path}", f"cp -p /root/kept {path}; rm /root/kept"


def moved(path):
    """Shell that moves a file away, and shell that brings it back."""
    return f"mv {path} /root/kept", f"mv /root/kept {path}"


def sql(statement):
    """Shell that executes a statement on the hub's database."""
    return f"""{PYTHON} -c 'import sqlite3; d = sqlite3.connect("{DATABASE}"); d.execute("{statement}"); d.commit()'"""


def mode(path, wrong, right):
    return f"chmod {wrong} {path}", f"chmod {right} {path}"


def fault(name, check, words, do, mend):
    return Fault(name, do, check, words, mend)


def squat(port, stop):
    do = f"systemctl stop {stop}; systemd-run -q --unit=squatter {PYTHON} -m http.server --bind 127.0.0.1 {port}"
    return f"{do}; until grep -q :{port:04X} /proc/net/tcp; do sleep 0.05; done", "systemctl stop squatter; systemctl start jupyterhub-proxy jupyterhub"


def home_of_its_own(options, then):
    return f"mount -t tmpfs -o {options} tmpfs /home; {then}", "umount /home"


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
        "chmod 755 /etc/jupyterhub",
        "systemd-tmpfiles --create jupyterhub.conf",
    ),
    fault("proxy's token open to all", "secrets", ["proxy.env", "chmod 600"], *mode("/etc/jupyterhub/proxy.env", 644, 600)),
    fault("cookie secret open to all", "secrets", ["cookie_secret", "chmod 600"], *mode("/var/opt/jupyterhub/cookie_secret", 644, 600)),
    fault("database of root", "secrets", [DATABASE, "chown jupyterhub"], f"chown root: {DATABASE}", f"chown jupyterhub: {DATABASE}"),
    fault(
        "state open to all",
        "secrets",
        ["/var/opt/jupyterhub has mode 0777", "systemd-tmpfiles --create"],
        "chmod 777 /var/opt/jupyterhub",
        "systemd-tmpfiles --create jupyterhub.conf",
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
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25


FIRST = {fault.check: fault for fault in reversed(FAULTS)}  # of each check; the others take minutes


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name, marks=() if FIRST[fault.check] is fault else pytest.mark.slow) for fault in FAULTS])
def test_names_the_fault_and_nothing_else(machine, hub, fault):
    machine.sh(fault.do)
    try:
        code, results = verify(machine)
    finally:
        machine.sh(fault.mend)
    assert code == 5
    (found,) = bad(results)
    assert found["name"] == fault.check
    said = f"{found['what']}: {found['why']}: {found['mend']}"
    assert [word for word in fault.words if word not in said] == [], said
    assert [result for result in results if result["status"] == "warning"] == []

    wait_for(hub.answers, "the hub answers", timeout=60, every=0.2)
    assert verify(machine, fault.check)[0] == 0
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

STEPS = ["login", "spawn", "cell", "stop"]


def journey(machine, user, password):
    """Return (exit code, the results of STEPS by name)."""
    code, results = verify(machine, "--user", user, input=f"{password}\n")
    steps = {result["name"]: result for result in results if result["name"] in STEPS}
    assert list(steps) == STEPS
    return code, steps


def processes(machine, user):
    return machine.sh(f"pgrep -u {user} -f singleuser || true").split()


def test_user_who_may(machine, hub):
    """All four steps, with their times; nothing stays."""
    code, steps = journey(machine, "alice", "correct horse")
    assert code == 0, steps
    for step in STEPS:
        assert steps[step]["status"] == "passed"
        assert float(steps[step]["what"].removesuffix(" s")) < 60
    assert processes(machine, "alice") == []


def test_user_with_the_wrong_password(machine, hub):
    code, steps = journey(machine, "alice", "wrong horse")
    assert code == 5
    assert steps["login"]["status"] == "failed" and "Invalid username or password" in steps["login"]["what"]
    assert [steps[step]["status"] for step in STEPS[1:]] == ["skipped"] * 3


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
    assert [steps[step]["status"] for step in STEPS] == ["passed", "failed", "skipped", "skipped"]
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
