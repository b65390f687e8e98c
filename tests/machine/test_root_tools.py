"""What the hub's and the proxy's accounts put into their own folders gets nothing of root's, and lets none of root's commands hang.

The machine's administrator runs `backup`, `restore`, `verify`, `report`, `status`, upgrades and `jupyterhub token`; a hub that somebody has taken
over can lay links, FIFOs and databases of its own making where these look.
"""

import shlex

import pytest
import requests
from cases import further
from database import DATABASE, PYTHON, STATE
from harness import wait_for

COOKIE = f"{STATE}/cookie_secret"
CTL_FILE, MADE_OF, API = "/run/jupyterhub/ctl.json", "/run/jupyterhub-proxy/made-of", "/run/jupyterhub-proxy/api.sock"
CONFIG = "/etc/jupyterhub/jupyterhub_config.py"
CONFIG_D = "/etc/jupyterhub/jupyterhub_config.d"
VICTIM = "/etc/victim"  # root's, for nobody else
MARK = "words-of-the-victim"
HUB, PROXY = "jupyterhub", "jupyterhub-proxy"

# A journal as a hub leaves it in the middle of a transaction over two databases: SQLite rolls back, and removes the file whose
# name is at the end (https://www.sqlite.org/fileformat.html#the_rollback_journal).
HOT_JOURNAL = """
import struct, sys
database, victim = sys.argv[1], sys.argv[2].encode()
header = open(database, "rb").read(100)
size, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
magic = bytes.fromhex("d9d505f920a163d7")
journal = (magic + struct.pack(">5I", 0, 0, pages, 512, size)).ljust(512, b"\\0")
journal += struct.pack(">I", 0x40000000 // size + 1) + victim + struct.pack(">2I", len(victim), sum(victim)) + magic
open(database + "-journal", "wb").write(journal)
"""

# Give an archive places, entries and members of another's choice.
REWRITE = """
import hashlib, io, json, sys, tarfile
with tarfile.open(sys.argv[1]) as old, tarfile.open("/root/bad.tar.gz", "w:gz") as new:
    for member in old:
        content = old.extractfile(member).read()
        if member.name == "manifest.json":
            manifest, more = json.loads(content), {}
            exec(sys.argv[2])
            content = json.dumps(manifest).encode()
            member.size = len(content)
        elif member.name == "database":
            for name, text in more.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                new.addfile(info, io.BytesIO(text))
        new.addfile(member, io.BytesIO(content))
"""
ENTRY = """
def entry(path, kind="file", text=b"* * * * * root touch /root/owned\\n", **fields):
    if kind == "file":
        more["files" + path] = text
    sha256 = hashlib.sha256(text).hexdigest() if kind == "file" else ""
    manifest["entries"].append({"path": path, "kind": kind, "mode": 0o644, "owner": "root", "group": "root", "sha256": sha256, **fields})
"""


def ctl(machine, *arguments, **options):
    return machine.run("jupyterhub-ctl", *arguments, **{"timeout": 90, **options})


def by(machine, account, script):
    """Do what somebody can who has taken a service over."""
    machine.run("setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups", "--", "sh", "-euc", script)


@pytest.fixture(scope="module")
def alice(machine, hub):
    """A user of the hub, on a machine with a good backup, /root/good.tar.gz, and copies of what the hub has now in /root/kept."""
    machine.add_user("alice")
    user = hub.login("alice", "secret")
    ctl(machine, "backup", "/root/good.tar.gz")
    machine.sh(f"mkdir /root/kept; systemctl stop jupyterhub; cp -a {STATE}/. /root/kept/; systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    return user


@pytest.fixture
def attacked(machine, alice):
    """The machine with the hub stopped; what is done to it is undone afterwards."""
    machine.sh(f"systemctl stop jupyterhub; rm -f {VICTIM}; (umask 077; echo {MARK} >{VICTIM})")
    before = victim(machine)
    yield machine
    machine.sh(f"rm -rf {CTL_FILE} {MADE_OF} {STATE}; cp -a /root/kept {STATE}; systemctl restart jupyterhub-proxy; systemctl start jupyterhub")
    assert victim(machine) == before


def victim(machine):
    return machine.sh(f"stat -c '%U:%G %a %s %Y %i' {VICTIM}; cat {VICTIM}")


def one_line(result, code):
    assert result.returncode == code, result
    (line,) = result.stderr.splitlines()
    return line


# -- Links -------------------------------------------------------------------------------------------------------------------------


LINKS = ["jupyterhub.sqlite.restored", "jupyterhub.sqlite.jupyterhub-ctl~", "cookie_secret.jupyterhub-ctl~", "jupyterhub.sqlite"]


@pytest.mark.parametrize("name", further(LINKS, LINKS[:1], "further names, which are opened by the same function"))
def test_restore_writes_through_no_link(attacked, name):
    by(attacked, HUB, f"ln -sf {VICTIM} {STATE}/{name}")
    ctl(attacked, "restore", "/root/good.tar.gz")
    assert attacked.sh(f"stat -c '%U:%G %a %F' {DATABASE} {COOKIE}").splitlines() == [f"{HUB}:{HUB} 640 regular file", f"{HUB}:{HUB} 600 regular file"]
    assert attacked.sh(f"cmp {COOKIE} /root/kept/cookie_secret") == ""


def test_backup_rolls_nothing_back_as_root(attacked):
    """The database is opened by its owner, who may not remove the file that the journal names."""
    by(attacked, HUB, f"{PYTHON} -c {shlex.quote(HOT_JOURNAL)} {DATABASE} {VICTIM}")
    ctl(attacked, "backup", check=False)
    assert attacked.run("test", "-e", VICTIM, check=False).returncode == 0


def test_owner_of_the_database_rolls_back(attacked):
    """Else the test above would show nothing: SQLite does remove what the journal names, where it may."""
    by(attacked, HUB, f"echo >/tmp/named; {PYTHON} -c {shlex.quote(HOT_JOURNAL)} {DATABASE} /tmp/named")
    ctl(attacked, "backup")
    assert attacked.sh("ls /tmp/named || true") == ""


def test_verify_advises_nothing_that_follows_a_link(attacked):
    by(attacked, HUB, f"rm {COOKIE}; ln -s /etc/shadow {COOKIE}")
    said = ctl(attacked, "verify", "secrets", check=False).stdout
    assert f"{COOKIE} is a link" in said and "chown" not in said


def test_token_by_root_is_made_by_the_owner(attacked, hub, alice):
    """Neither is a configuration that the hub's account has laid into its folder read as root, nor the database opened."""
    by(attacked, HUB, f'echo \'import os; open(f"/tmp/config-by-{{os.geteuid()}}", "w")\' >{STATE}/jupyterhub_config.py')
    attacked.run("sh", "-c", f"cd {STATE} && jupyterhub token alice", check=False)
    assert attacked.sh("ls /tmp/config-by-*") == f"/tmp/config-by-{attacked.sh('id -u jupyterhub')}"
    by(attacked, HUB, f"rm {STATE}/jupyterhub_config.py; {PYTHON} -c {shlex.quote(HOT_JOURNAL)} {DATABASE} {VICTIM}")
    attacked.run("sh", "-c", f"cd / && jupyterhub token alice -f {CONFIG}", check=False)
    assert attacked.run("test", "-e", VICTIM, check=False).returncode == 0

    by(attacked, HUB, f"rm -f {DATABASE}-journal")
    token = attacked.sh(f"cd {STATE} && jupyterhub token alice -f {CONFIG}").splitlines()[-1]
    attacked.sh("systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert requests.get(f"{hub.base}/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=10).json()["name"] == "alice"


# -- What is no file ---------------------------------------------------------------------------------------------------------------

IN_STATE = ("jupyterhub.sqlite", "jupyterhub.sqlite-journal", "jupyterhub.sqlite.jupyterhub-ctl~", "cookie_secret", "cookie_secret.jupyterhub-ctl~")
OF_THE_HUB = [*(f"{STATE}/{name}" for name in (*IN_STATE, "message", "offline")), CTL_FILE]
OF_THE_PROXY = [MADE_OF, API]
KINDS = {
    "links": f"ln -s {VICTIM}",
    "FIFOs": "mkfifo",
    "devices": "mknod --mode=666 {} c 1 5; : ",  # /dev/zero
    "files of 10 GB": "cp /tmp/sound {}; truncate --size=10G",
    "links to FIFOs": "ln -s /tmp/fifo",
}


OFTEN = ("links",)


@pytest.mark.parametrize("kind", further(KINDS, OFTEN, "further kinds of files, refused by the same line"))
def test_nothing_is_followed_and_nothing_hangs(attacked, kind):
    """At all paths at once that root's commands look at: each says a line where it cannot go on."""
    attacked.sh("mkdir -p /run/jupyterhub; chown jupyterhub: /run/jupyterhub; test -p /tmp/fifo || mkfifo -m 666 /tmp/fifo")
    attacked.sh("cp /root/kept/jupyterhub.sqlite /tmp/sound; chmod 644 /tmp/sound")
    for account, paths in {HUB: OF_THE_HUB, PROXY: OF_THE_PROXY}.items():
        for path in paths:
            make = f"{KINDS[kind].replace('{}', path)} {path}"
            attacked.sh(f"rm -f {path}; {make}") if kind == "devices" else by(attacked, account, f"rm -f {path}; {make}")
    said = ""
    for command in (["jupyterhub-ctl", "backup"], ["jupyterhub-launcher", "check"]):
        result = attacked.run(*command, check=False, timeout=90)
        assert result.returncode not in (0, 124) and len(result.stderr.splitlines()) <= 2, result
        assert DATABASE in result.stderr
        said += result.stdout + result.stderr
    for command in (["status"], ["verify"], ["message"], ["report", "/root/attacked.tar.gz"]):
        result = ctl(attacked, *command, check=False)
        assert "Traceback" not in result.stdout + result.stderr and "cannot be done" not in result.stdout, result
        said += result.stdout + result.stderr
    said += attacked.sh("tar -xOzf /root/attacked.tar.gz; rm /root/attacked.tar.gz")
    assert MARK not in said
    # And it comes back from there: what is no file is replaced.
    result = ctl(attacked, "restore", "/root/good.tar.gz")
    assert len(result.stderr.splitlines()) <= 2
    assert attacked.sh(f"stat -c %F {DATABASE} {COOKIE}").splitlines() == ["regular file"] * 2
    assert attacked.sh(f"tar -xOzf {result.stdout.split()[-1]} | grep -c {MARK} || true") == "0"


@pytest.mark.slow("an upgrade for one line of postinst")
def test_upgrade_does_not_wait_for_the_proxy_or_the_hub(attacked):
    attacked.sh("systemctl start jupyterhub; sleep 1")
    by(attacked, PROXY, f"rm -f {MADE_OF}; mkfifo {MADE_OF}")
    by(attacked, HUB, f"rm -f {CTL_FILE}; mkfifo {CTL_FILE}")
    attacked.run("dpkg-reconfigure", "jupyterhub", timeout=100)  # a FIFO would hold it for ever
    wait_for(lambda: not attacked.run("test", "-f", MADE_OF, check=False).returncode, "the proxy was restarted, and noted what it is made of", timeout=20)


def test_note_of_the_proxy_is_not_obeyed(attacked):
    """It names files and their checksums; root looks at its own list of files."""
    attacked.sh("rm -f /tmp/fifo; mkfifo -m 666 /tmp/fifo")
    by(attacked, PROXY, f"rm -f {MADE_OF}; printf '%064d  /tmp/fifo\\n' 0 >{MADE_OF}")
    assert "the proxy's files have changed" in ctl(attacked, "status", check=False).stdout


def test_hub_that_writes_nonsense_for_ctl_is_named(attacked):
    attacked.sh("mkdir -p /run/jupyterhub; chown jupyterhub: /run/jupyterhub")
    for text in ("[]", "{}", '{"token": 1}', "\\377"):
        by(attacked, HUB, f"printf '{text}' >{CTL_FILE}")
        assert f"{CTL_FILE} is damaged" in one_line(ctl(attacked, "sessions", check=False), 3)


@pytest.mark.parametrize("command", ["backup", "report"])
def test_nothing_of_roots_is_written_into_the_hubs_folder(machine, alice, command):
    file = f"{STATE}/mine.tar.gz"
    assert f"{STATE} belongs to {HUB}: " in one_line(ctl(machine, command, file, check=False), 1)
    assert machine.run("test", "-e", file, check=False).returncode


# -- Archives ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, named",
    [
        ("manifest['places'].append('/etc/cron.d'); entry('/etc/cron.d', 'folder', mode=0o755); entry('/etc/cron.d/evil')", "/etc/cron.d"),
        ("manifest['places'].append('/etc/cron.d')", "/etc/cron.d"),
        ("manifest['places'].append('/etc/cron.d/evil'); entry('/etc/cron.d/evil')", "/etc/cron.d/evil"),
        ("entry('/etc/jupyterhub/x', 'link', target='/etc/cron.d'); entry('/etc/jupyterhub/x/evil')", "/etc/jupyterhub/x/evil"),
        ("manifest['places'].append('/etc/jupyterhub/../cron.d')", "/etc/jupyterhub/../cron.d"),
        ("manifest['database_path'] = '/etc/cron.d/evil'", "/etc/cron.d/evil"),
        (f"manifest['places'].append('{STATE}/x'); entry('{STATE}/x', 'link', target='/etc/cron.d')", f"{STATE}/x"),
    ],
    ids=["files", "removal", "file", "below a link", "dots", "database", "link of the hub's"],
)
def test_archive_with_other_places_is_refused(machine, alice, change, named):
    """Before anything is changed."""
    machine.sh("mkdir -p /etc/cron.d; echo '# mine' >/etc/cron.d/mine")
    state = f"find /etc/cron.d /etc/jupyterhub {STATE} -not -name '*-journal' -printf '%p %u:%g %m %l\\n' | sort; systemctl show -p MainPID --value jupyterhub"
    before = machine.sh(state)
    machine.run(PYTHON, "-c", REWRITE, "/root/good.tar.gz", ENTRY + change)
    line = one_line(ctl(machine, "restore", "/root/bad.tar.gz", check=False), 9)
    assert f"/root/bad.tar.gz holds {named}, " in line or f"/root/bad.tar.gz is damaged: {named} is " in line
    assert machine.sh(state) == before


@pytest.mark.slow("a setting in a drop-in")
def test_folder_of_the_sites_own(machine, hub, alice):
    """JUPYTERHUB_CONFDIR is saved and restored where /etc/default/jupyterhub names it, and refused elsewhere."""
    own = "/srv/site/conf"
    machine.sh(f"mkdir -p /srv/site; cp -a /etc/jupyterhub {own}; echo 'x = 1' >{own}/mine.txt; echo JUPYTERHUB_CONFDIR={own} >>/etc/default/jupyterhub")
    try:
        ctl(machine, "backup", "/root/own.tar.gz")
        machine.sh(f"rm {own}/mine.txt")
        ctl(machine, "restore", "/root/own.tar.gz")
        assert machine.sh(f"cat {own}/mine.txt; stat -c '%U:%G %a' {own}") == "x = 1\nroot:jupyterhub 750"
        # Others could put a link to root's files there.
        machine.sh("chown alice: /srv/site")
        for command in (["backup"], ["restore", "/root/own.tar.gz"]):
            assert f"JUPYTERHUB_CONFDIR={own}" in one_line(ctl(machine, *command, check=False), 1)
    finally:
        machine.sh("chown root: /srv/site; sed -i /JUPYTERHUB_CONFDIR=.srv/d /etc/default/jupyterhub")
    assert f"holds {own}, " in one_line(ctl(machine, "restore", "/root/own.tar.gz", check=False), 9)
    ctl(machine, "restore", "/root/good.tar.gz")


def test_folder_that_others_write_to_is_restored_by_root_alone(machine, hub, alice):
    """Links in it are replaced, none is followed; it belongs to whom it belonged then."""
    site = "/etc/jupyterhub/site"
    machine.sh(f"mkdir {site}; echo old >{site}/file; chown -R jupyterhub: {site}; echo {MARK} >{VICTIM}")
    ctl(machine, "backup", "/root/site.tar.gz")
    by(machine, HUB, f"rm {site}/file; ln -s {VICTIM} {site}/file; ln -s {VICTIM} '{site}/file.jupyterhub-ctl~'; ln -s /etc {site}/etc")
    ctl(machine, "restore", "/root/site.tar.gz")
    assert machine.sh(f"cat {site}/file {VICTIM}; ls -A {site}; stat -c '%U:%G %F' {site} {site}/file").splitlines() == [
        *("old", MARK, "file", "jupyterhub:jupyterhub directory", "jupyterhub:jupyterhub regular file")
    ]
    machine.sh(f"rm -r {site}")


# -- report ------------------------------------------------------------------------------------------------------------------------

SECRETS = [f"geheim-{number}" for number in range(20)]
SETTINGS = """# the old password was {0}
c = get_config()
pepper = "{1}"
DB_PASS = "{2}"
c.JupyterHub.db_url = f"sqlite:////var/opt/jupyterhub/jupyterhub.sqlite?{3}"[:46]
c.Site.bind_pw = (
    "{4}"
    "-and-more"
)
c.Site.salts = ["{5}", "{6}"]
c.Site.servers = {{"one": {{"name": "n", "password": "{7}"}}}}
c.Site.passphrase = '''
{8}
'''
c.Site.salt = b"{9}"
c.Site.args = ["--pw", "{10}"]
c.Site.api_token = pepper
def connect(where="{11}", *args, **kwargs): pass
connect("me", "{12}", user_password="{13}")
# c.Site.secrets = [
#     "{14}",
# ]
"""


def test_report_masks_what_python_calls_a_secret(machine, hub, alice):
    file = f"{CONFIG_D}/60-secrets.py"
    machine.write(file, SETTINGS.format(*SECRETS) + "c.Spawner.default_url = '/tree'\n")
    machine.write(f"{CONFIG_D}/61-broken.py", f"c.Site.x = '{SECRETS[15]}'\nc = (\n")
    machine.write(f"{CONFIG_D}/site.yaml", f"x: {SECRETS[16]}\n")
    machine.write(f"{CONFIG_D}/site.env", f"DB_PASS={SECRETS[17]}\nLDAP_PW='{SECRETS[18]}'\nHOST=db1\n")
    machine.sh(f"logger -t jupyterhub-singleuser 'it said {SECRETS[4]}-and-more, {SECRETS[1]}'")
    ctl(machine, "report", "/root/secrets.tar.gz")
    texts = machine.sh("tar -xOzf /root/secrets.tar.gz")
    shown = machine.sh("tar -xOzf /root/secrets.tar.gz --wildcards '*/60-secrets.py' '*/site.env'")
    machine.sh(f"rm {file} {CONFIG_D}/61-broken.py {CONFIG_D}/site.* /root/secrets.tar.gz")
    assert [secret for secret in SECRETS if secret in texts] == []
    assert "c.Spawner.default_url = '/tree'" in shown and "HOST=db1" in shown and "c.Site.bind_pw = " in shown
