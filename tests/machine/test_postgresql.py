"""The hub's database moves to PostgreSQL and back, with all that is in it; there it is saved, restored and upgraded like any other."""

import json
import re
import time

import pytest
import requests
from database import sql
from harness import wait_for
from hubclient import BASE, HubError
from repack import add_migration, repack

pytestmark = pytest.mark.slow("a database that a site chooses; what the hub does without its database, test_outage has with SQLite each time")

PACKAGES = ("--no-install-recommends", "postgresql", "postgresql-client")
CONFIG = "/etc/jupyterhub/jupyterhub_config.d/10-database.py"
# Her server keeps what the hub says for 1 s, and all that the hub does again and again is done while its database is away.
SETTINGS = """c = get_config()
c.JupyterHub.last_activity_interval = c.JupyterHub.purge_expired_tokens_interval = c.JupyterHub.service_check_interval = c.Spawner.poll_interval = 2
c.Authenticator.admin_users = {"alice"}
c.Spawner.args = ["--HubOAuth.cache_max_age=1"]
"""
WORDS = "The hub's database does not answer. Please try again in a minute. Notebooks that run keep running."
PSQL = "runuser -u postgres -- psql --no-psqlrc --tuples-only --no-align --dbname=jupyterhub --command"
FILE = "/etc/jupyterhub/database.url"
SQLITE = "/var/opt/jupyterhub/jupyterhub.sqlite"
THERE = "postgresql:///{}?host=/run/postgresql"
NAMED = "postgresql+psycopg:///jupyterhub?host=/run/postgresql"


def move(machine, url, **options):
    return machine.run("jupyterhub-ctl", "database", "move", url, **options)


@pytest.fixture(scope="module")
def before(machine, hub):
    """A user with a token, a group, and a kernel that keeps a variable, of a hub whose database is SQLite. PostgreSQL has an empty database for it."""
    if machine.run("/opt/venvs/jupyterhub/bin/python", "-c", "import psycopg", check=False).returncode:
        pytest.skip("this .deb was built without the extra postgresql")
    machine.add_user("alice")
    machine.sh("""as() { runuser -u postgres -- "$@"; }
        as createuser jupyterhub; as createdb --owner=jupyterhub jupyterhub
        as createdb theirs; as createdb --owner=jupyterhub used; as psql --quiet --command='CREATE TABLE accounts (name TEXT)' used""")
    machine.write(CONFIG, SETTINGS)
    machine.sh("sed -i s/^JUPYTERHUB_CULL_IDLE=.*/JUPYTERHUB_CULL_IDLE=10h/ /etc/default/jupyterhub")  # it looks each 5 s
    machine.run("systemctl", "reload", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    user = hub.login("alice", "secret")
    user.spawn()
    user.running = user.kernel()
    user.running.execute("x = 42")
    user.token = user.hub_api("POST", "/users/alice/tokens", json={"note": "kept"}).json()["token"]
    user.hub_api("POST", "/groups/physics", json={"users": ["alice"]})
    sql(machine, "CREATE TABLE users_info (id INTEGER NOT NULL PRIMARY KEY, username VARCHAR(128) NOT NULL, password BLOB NOT NULL, is_authorized BOOLEAN)")
    sql(machine, "INSERT INTO users_info VALUES (1, 'alice', x'00ff', 1)")
    return user


@pytest.fixture(scope="module")
def alice(machine, hub, before):
    """The same user when the hub has moved to PostgreSQL; `moved` is what the command has said."""
    before.moved = move(machine, THERE.format("jupyterhub"))
    assert hub.answers(), "the command returns when the hub answers"
    return before


def is_kept(hub, user):
    """Whatever the hub knows of her is as it was, and her server is hers."""
    assert token_is_good(hub, user)
    model = user.hub_api("GET", "/users/alice").json()  # by her cookie
    assert model["admin"] and model["groups"] == ["physics"] and model["servers"][""]["ready"]
    user.running.connect()
    assert user.running.execute("x") == "42"
    assert user.api("GET", "/contents").ok
    assert hub.login("alice", "secret").get("/hub/home").ok
    return True


REFUSED = {
    "none of that name": (THERE.format("nosuch"), 11, 'database "nosuch" does not exist: /usr/share/doc/jupyterhub/database.md says how'),
    "not the hub's": (THERE.format("theirs"), 11, "permission denied for schema public: /usr/share/doc/jupyterhub/database.md says how"),
    "not empty": (THERE.format("used"), 11, "is not empty (table accounts): make another one, `createdb --owner=jupyterhub NAME`"),
    "outside of the sandbox": (
        "sqlite:////srv/hub.sqlite",
        1,
        "/srv: jupyterhub cannot make a file there (Read-only file system); /var/opt/jupyterhub is its own",
    ),
    "another driver": (THERE.format("jupyterhub").replace(":", "+psycopg2:", 1), 11, "the driver of postgresql+psycopg2:// is not in this package"),
    "a file that is there": ("sqlite:////etc/passwd", 11, "/etc/passwd is there already"),
    "the same": ("sqlite:////var/opt/../opt/jupyterhub/jupyterhub.sqlite", 11, f"the hub's database is {SQLITE} already"),
    "a password": ("postgresql://hub:geheim@db/hub", 1, "every account of the machine can read a password on the command line"),
}


def is_refused(machine, result, code, words):
    """It is one line, and nothing has happened."""
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("jupyterhub-ctl: ") and result.stderr.count("\n") == 1 and words in result.stderr, result.stderr
    assert machine.sh(f"ls {FILE}* /var/opt/jupyterhub/*~ 2>/dev/null || true") == ""
    return True


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(machine, before, case):
    url, code, words = REFUSED[case]
    pid = machine.pid_of("jupyterhub")
    assert is_refused(machine, move(machine, url, check=False), code, words)
    assert machine.pid_of("jupyterhub") == pid


def test_setting_in_a_configuration_file_is_named(machine, before):
    """Also where it says the same as the package does: it would go on saying it."""
    machine.write(CONFIG, f"{SETTINGS}c.JupyterHub.db_url = 'sqlite:///{SQLITE}'\n")
    result = move(machine, THERE.format("jupyterhub"), check=False)
    machine.write(CONFIG, SETTINGS)
    assert is_refused(machine, result, 1, f"{CONFIG}:5: c.JupyterHub.db_url is set there, where this command changes nothing: write its value into {FILE}")


@pytest.mark.parametrize(
    "statement, words",
    [
        ("UPDATE alembic_version SET version_num = '4621fec11365'", "has the schema 4621fec11365, and this version of the package"),
        ("UPDATE users SET name = 'a' || char(0) WHERE name = 'alice'", "the table users cannot be copied: PostgreSQL text fields cannot contain NUL"),
        ("UPDATE api_tokens SET user_id = 4711 WHERE note = 'kept'", "the table api_tokens cannot be copied: insert or update on table "),
    ],
)
def test_what_does_not_fit_is_named(machine, before, statement, words):
    """In the rehearsal, while the hub runs."""
    machine.sh(f"cp -p {SQLITE} /root/kept")
    machine.run("/opt/venvs/jupyterhub/bin/python", "-c", f"import sqlite3; c = sqlite3.connect('{SQLITE}'); c.execute({statement!r}); c.commit()")
    pid = machine.pid_of("jupyterhub")
    try:
        assert is_refused(machine, move(machine, THERE.format("jupyterhub"), check=False), 11, words)
    finally:
        machine.sh(f"cat /root/kept >{SQLITE}")
    assert machine.pid_of("jupyterhub") == pid


def test_copy_without_a_hub_is_of_no_consequence(machine, hub, before):
    """As where the power was cut when all was copied: the hub has what it had, and the next attempt replaces the copy."""
    machine.run("mkdir", f"{FILE}.jupyterhub-ctl~")
    result = move(machine, THERE.format("jupyterhub"), check=False)
    machine.run("rmdir", f"{FILE}.jupyterhub-ctl~")
    assert (result.returncode, result.stderr) == (1, f"jupyterhub-ctl: {FILE}.jupyterhub-ctl~: Is a directory\n")
    assert machine.sh(f"{PSQL} 'SELECT count(*) FROM debianized_move, users'") == "1"
    assert hub.answers() and token_is_good(hub, before) and machine.sh(f"ls {FILE} 2>/dev/null || true") == ""


def test_move_keeps_everything(machine, hub, alice):
    said = alice.moved.stdout.splitlines()
    assert re.fullmatch(rf"checked: all \d+ rows of {SQLITE} fit into {re.escape(NAMED)}", said[0])
    assert said[1:4] == ["the hub stops; notebook servers keep running", "copied and compared", "the hub starts"]
    assert said[4:] == [f"the hub's database is {NAMED}; the one before is kept as it was: {SQLITE}"]
    assert is_kept(hub, alice)
    assert machine.sh(f"cat {FILE}; stat -c '%U %G %a' {FILE}") == f"{NAMED}\nroot jupyterhub 640"
    assert machine.sh(f"{PSQL} \"SELECT to_regclass('debianized_move')\"") == ""
    # Tables that JupyterHub knows nothing of: of this package, and of an authenticator.
    assert machine.sh(f"{PSQL} 'SELECT count(*) > 0 FROM debianized_logins JOIN users ON users.id = user_id'") == "t"
    assert machine.sh(f"{PSQL} 'SELECT * FROM users_info'") == f"1|alice|{chr(92)}x00ff|t"
    alice.hub_api("POST", "/users/alice/tokens", json={"note": "new"})  # what comes after has numbers of its own
    assert machine.run("jupyterhub-ctl", "verify", "database", "secrets").stdout.count("passed") >= 2


def token_is_good(hub, alice):
    return requests.get(f"{hub.base}/hub/api/user", headers={"Authorization": f"token {alice.token}"}, timeout=10).ok


def content(machine):
    """Return what pg_dump has to say, less the line with a random key."""
    return machine.sh("runuser -u postgres -- pg_dump jupyterhub | grep -v restrict")


def test_backup_and_restore(machine, hub, alice):
    made = machine.run("jupyterhub-ctl", "backup").stdout.strip()
    assert json.loads(machine.run("jupyterhub-ctl", "backups", "--json").stdout)[-1]["database"] == "postgresql"
    machine.sh(f"{PSQL} 'DELETE FROM api_tokens; CREATE TABLE of_the_upgrade (later INTEGER); ALTER TABLE of_the_upgrade OWNER TO jupyterhub'")
    assert not token_is_good(hub, alice)
    machine.run("jupyterhub-ctl", "restore", made)
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert token_is_good(hub, alice)
    assert machine.sh(f"{PSQL} \"SELECT to_regclass('of_the_upgrade')\"") == ""


def test_nightly_backup_reaches_it(machine, hub, alice):
    machine.run("systemctl", "start", "jupyterhub-backup.service")
    newest = json.loads(machine.run("jupyterhub-ctl", "backups", "--json").stdout)[-1]
    assert (newest["label"], newest["database"]) == ("timer", "postgresql")


# -- Another hub, which psql is here (two machines: test_pair.py) ------------------------------------------------------------------------

KEY = int.from_bytes(b"jupyter")
END_LEASE = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
AS_OTHER = "runuser -u jupyterhub -- env 'PGAPPNAME=jupyterhub other 1' psql --quiet --no-psqlrc --host=/run/postgresql jupyterhub"


@pytest.fixture
def other(machine):
    """A function that has a hub of the machine `other` do some SQL and stay connected."""

    def connect(*statements):
        machine.run("systemd-run", "--quiet", "--unit=other-hub", "sh", "-c", f'(echo "{"; ".join(["SELECT 1", *statements])};"; exec sleep 600) | {AS_OTHER}')

    yield connect
    machine.sh("systemctl stop other-hub 2>/dev/null || true")


def test_lease_that_nobody_else_had_goes_on(machine, hub, alice):
    pid = machine.pid_of("jupyterhub")
    machine.sh(f'{PSQL} "{END_LEASE}"')
    wait_for(lambda: "has its lease on the database again" in machine.journal("-u", "jupyterhub", f"_PID={pid}"), "the hub has its lease again", timeout=20)
    assert machine.pid_of("jupyterhub") == pid and token_is_good(hub, alice)


def test_hub_starts_anew_where_another_had_the_lease(machine, hub, alice):
    """What it knows may not be true any more."""
    pid = machine.pid_of("jupyterhub")
    machine.sh(f'{PSQL} "SELECT nextval(\'jupyterhub_terms\')" -c "{END_LEASE}"')
    wait_for(lambda: machine.pid_of("jupyterhub") not in (0, pid), "another hub runs", timeout=20)
    assert "another hub has had the lease on the database meanwhile" in machine.journal("-p", "err", "-u", "jupyterhub", f"_PID={pid}")
    wait_for(hub.answers, "the hub answers", timeout=30)
    assert is_kept(hub, alice)


def test_hub_stands_by_while_another_serves(machine, hub, alice, other):
    other(f"SELECT pg_advisory_lock({KEY})")  # it waits, and so has the lease before the hub can take it again
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    wait_for(lambda: machine.sh(f'{PSQL} "{waiting}"'), "the other one waits for the lease")
    machine.sh(f'{PSQL} "{END_LEASE}"')
    line = "the hub of other serves"
    wait_for(lambda: machine.property("jupyterhub", "StatusText") == f"Standby: {line}", "the hub stands by", timeout=30)
    assert hub.ready().json() == {"state": "standby", "reason": "The hub of this machine stands by: another one serves."}
    status = machine.run("jupyterhub-ctl", "status")
    assert re.search(f"^state: +standby: {line}$", status.stdout, re.M)
    refused = machine.run("jupyterhub-ctl", "sessions", check=False)
    assert (refused.returncode, refused.stderr) == (3, f"jupyterhub-ctl: the hub of this machine stands by, {line}: give the command there\n")
    assert f"the hub stands by: {line}" in machine.run("jupyterhub-ctl", "verify", "hub", check=False).stdout
    pid = machine.pid_of("jupyterhub")
    machine.sh("systemctl stop other-hub")
    wait_for(hub.answers, "the hub takes over", timeout=30)
    assert machine.pid_of("jupyterhub") == pid and is_kept(hub, alice)


def test_database_of_two_hubs_is_not_replaced(machine, hub, alice, other):
    """The other one would go on with what it knows, or take over while the copy is made."""
    made = machine.run("jupyterhub-ctl", "backup").stdout.strip()
    other()
    wait_for(lambda: machine.sh(f"{PSQL} \"SELECT 1 FROM pg_stat_activity WHERE application_name = 'jupyterhub other 1'\""), "it is connected")
    pid = machine.pid_of("jupyterhub")
    for command in (["restore", made], ["database", "move", "sqlite:////var/opt/jupyterhub/moved.sqlite"]):
        refused = machine.run("jupyterhub-ctl", *command, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (11, 1), refused.stderr
        assert "is used by the hub of other, too: `systemctl stop jupyterhub` there first" in refused.stderr
    assert machine.pid_of("jupyterhub") == pid and hub.answers()


@pytest.fixture
def down(machine, hub, alice):
    """The server of the database does not run; alice's notebook server does."""
    alice.spawn()
    machine.sh("systemctl stop postgresql")
    yield
    machine.sh("systemctl start postgresql")
    wait_for(lambda: token_is_good(hub, alice), "the hub has its database again", timeout=40)


def test_server_that_is_down(machine, hub, alice, down):
    """Users read that it is not their fault, and their servers and the proxy go on."""
    since = machine.sh("date +%s")
    result = machine.run("jupyterhub-ctl", "backup", check=False)
    assert result.returncode == 11 and result.stderr.startswith("jupyterhub-ctl: pg_dump: ") and result.stderr.count("\n") == 1
    answer = requests.get(f"{hub.base}/hub/api/user", headers={"Authorization": f"token {alice.token}"}, timeout=10)
    assert (answer.status_code, answer.json()["message"]) == (503, WORDS)
    with pytest.raises(HubError) as error:
        alice.get("/hub/home")
    assert error.value.status == 503 and WORDS in error.value.text
    time.sleep(6)  # what the server knew of alice is stale, and the hub has looked who is idle
    assert alice.api("GET", "/contents").ok
    assert requests.get(f"{hub.base}/hub/health", timeout=5).ok
    assert (hub.ready().status_code, hub.ready().json()) == (503, {"state": "degraded", "reason": WORDS})
    assert "Traceback" not in machine.journal("-o", "cat", "-u", "jupyterhub", f"--since=@{since}")
    said = machine.journal("-p", "err", "-o", "cat", "-u", "jupyterhub")
    assert "the database postgresql+psycopg:///jupyterhub?host=%2Frun%2Fpostgresql does not answer: connection " in said


def test_start_waits_for_the_database(machine, hub, alice, down):
    machine.sh("systemctl restart --no-block jupyterhub")
    wait_for(lambda: "does not answer" in machine.property("jupyterhub", "StatusText"), "the hub says why it waits", timeout=60)
    assert "timed out. Killing" not in machine.journal("-u", "jupyterhub")  # the one before has ended by itself
    status = machine.run("jupyterhub-ctl", "status", check=False).stdout
    assert re.search("^state: +degraded$", status, re.M) and re.search("^problem: +the database postgresql", status, re.M)
    assert hub.ready().json() == {"state": "degraded", "reason": WORDS}
    assert requests.get(BASE, timeout=5).status_code == 503  # at once
    assert alice.api("GET", "/contents").ok
    pid = machine.pid_of("jupyterhub")
    machine.sh("systemctl start postgresql")
    wait_for(hub.answers, "the hub answers", timeout=40)
    assert machine.pid_of("jupyterhub") == pid


def test_wrong_password_is_not_waited_for(machine, hub, alice):
    """Nobody but the administrator can do something about it, and reads what."""
    machine.write(CONFIG, f"{SETTINGS}c.JupyterHub.db_url = 'postgresql+psycopg://jupyterhub:wrong@127.0.0.1/jupyterhub'\n")
    assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
    assert 'password authentication failed for user "jupyterhub"' in machine.journal("-p", "err", "-u", "jupyterhub")
    assert "wrong" not in machine.journal("-u", "jupyterhub", "-g", "does not answer")
    machine.write(CONFIG, SETTINGS)
    wait_for(hub.answers, "the hub answers", timeout=60)


def test_migration_is_rehearsed_and_taken_back(machine, hub, alice, deb, tmp_path_factory):
    package = machine.push(repack(deb, tmp_path_factory.mktemp("upgrade"), add_migration))
    machine.sh(f"{PSQL} 'CREATE TABLE of_the_upgrade (in_the_way INTEGER)'")
    before = machine.pid_of("jupyterhub"), content(machine)
    result = machine.run("apt-get", "-qq", "-y", "install", package, check=False, timeout=300)
    assert result.returncode != 0
    said = result.stdout + result.stderr
    assert "cannot be migrated: " in said and 'relation "of_the_upgrade" already exists' in said
    assert (machine.pid_of("jupyterhub"), content(machine)) == before

    machine.sh(f"{PSQL} 'DROP TABLE of_the_upgrade'; apt-get -qq -y -f install", timeout=300)
    wait_for(hub.answers, "the hub answers", timeout=30)
    assert machine.sh(f"{PSQL} 'SELECT count(*) FROM of_the_upgrade'") == "0"
    assert token_is_good(hub, alice)


# -- And back ------------------------------------------------------------------------------------------------------------------------


def test_hub_that_does_not_start_has_the_one_before(machine, hub, alice):
    """Of what the hub makes of another database, no rehearsal knows everything."""
    machine.sh("runuser -u postgres -- createdb --owner=jupyterhub second")
    machine.write(CONFIG, f"{SETTINGS}if 'second' in open('{FILE}').read():\n    raise SystemExit('not that one')\n")
    result = move(machine, THERE.format("second"), check=False)
    machine.write(CONFIG, SETTINGS)
    assert result.returncode == 11 and result.stderr.count("\n") == 1
    assert f"the hub does not start with postgresql+psycopg:///second?host=/run/postgresql ({CONFIG}:6: SystemExit" in result.stderr
    assert f"): it has {NAMED} as before, and runs with that" in result.stderr
    assert hub.answers() and is_kept(hub, alice)


def test_back_to_sqlite(machine, hub, alice):
    """The old file is not touched; a new one takes what has come since."""
    old, new = machine.sh(f"sha256sum {SQLITE}"), "/var/opt/jupyterhub/again.sqlite"
    result = machine.run("jupyterhub-ctl", "database", "move", "-", input=f"sqlite:///{new}\n")
    assert result.stdout.splitlines()[-1] == f"the hub's database is {new}; the one before is kept as it was: {NAMED}"
    assert hub.answers() and is_kept(hub, alice)
    assert machine.sh(f"sha256sum {SQLITE}") == old
    assert machine.sh(f"stat -c '%U %G %a' {new}; ls /var/opt/jupyterhub/*~ 2>/dev/null || true") == "jupyterhub jupyterhub 640"
    assert machine.sh(f"{PSQL} 'SELECT count(*) FROM users'") == "1"


def test_what_the_hub_had_before_is_not_overwritten(machine, hub, alice):
    for url, words in (
        (f"sqlite:///{SQLITE}", f"{SQLITE} is there already, maybe a database that"),
        (THERE.format("jupyterhub"), f"{NAMED} holds a hub's state"),
    ):
        refused = move(machine, url, check=False)
        assert (refused.returncode, refused.stdout) == (11, "") and words in refused.stderr


def test_restore_brings_back_where_it_was(machine, hub, alice):
    at = machine.sh(f"cat {FILE}")
    made = machine.run("jupyterhub-ctl", "backup").stdout.strip()
    machine.sh("runuser -u postgres -- createdb --owner=jupyterhub third")
    move(machine, THERE.format("third"))
    machine.run("jupyterhub-ctl", "restore", made)
    assert machine.sh(f"cat {FILE}") == at and is_kept(hub, alice)


@pytest.mark.parametrize("number", ["TERM", "HUP", "INT"])
def test_command_that_is_ended_starts_the_hub_again(machine, hub, alice, number):
    machine.sh(f"runuser -u postgres -- createdb --owner=jupyterhub ended{number}")
    at = machine.sh(f"cat {FILE}")
    machine.sh(f"systemd-run --quiet --unit=ended{number} jupyterhub-ctl database move '{THERE.format(f'ended{number}')}'")
    wait_for(lambda: machine.property("jupyterhub", "ActiveState") in ("deactivating", "inactive"), "the hub stops", timeout=30, every=0.01)
    machine.sh(f"systemctl kill --kill-whom=main --signal={number} ended{number} 2>/dev/null || true")
    wait_for(lambda: machine.property(f"ended{number}", "ActiveState") in ("failed", "inactive"), "the command ends", timeout=30)
    assert machine.sh(f"cat {FILE}") == at and hub.answers() and token_is_good(hub, alice)


@pytest.mark.parametrize("cut", range(8))
def test_power_cut(machine, hub, alice, cut):
    """All of the one or all of the other, and the same command once more has the rest done; there and back in turns."""
    here = machine.sh(f"cat {FILE}")
    url = f"sqlite:////var/opt/jupyterhub/cut{cut}.sqlite" if here.startswith("postgresql") else THERE.format(f"cut{cut}")
    if url.startswith("postgresql"):
        machine.sh(f"runuser -u postgres -- createdb --owner=jupyterhub cut{cut}")
    machine.sh(f"systemd-run --quiet --unit=interrupted jupyterhub-ctl database move '{url}'")
    if cut > 1:  # the first are in the rehearsal
        wait_for(lambda: machine.property("jupyterhub", "ActiveState") in ("deactivating", "inactive"), "the hub stops", timeout=30, every=0.01)
    time.sleep(0.4 + cut % 2 if cut < 2 else 0.25 * (cut - 2))
    machine.kill()
    machine.boot()
    wait_for(hub.answers, "the hub answers after the cut", timeout=60)
    assert token_is_good(hub, alice)
    there = machine.sh(f"cat {FILE}")
    again = move(machine, url, check=False)
    assert (there == here and again.returncode == 0) or (there != here and "already" in again.stderr), (there, again.stderr)
    assert hub.answers() and token_is_good(hub, alice)
    assert hub.login("alice", "secret").hub_api("GET", "/users/alice").json()["groups"] == ["physics"]
    assert machine.sh("systemctl --failed --no-legend --plain; ls /var/opt/jupyterhub/*~ 2>/dev/null || true") == ""
