"""A hub whose database is on PostgreSQL is saved, restored and upgraded like any other."""

import json
import re
import time

import pytest
import requests
from harness import wait_for
from hubclient import BASE, HubError
from repack import add_migration, repack

PACKAGES = ("--no-install-recommends", "postgresql", "postgresql-client")
CONFIG = "/etc/jupyterhub/jupyterhub_config.d/10-database.py"
# Her server keeps what the hub says for 1 s.
SETTINGS = """c = get_config()
c.JupyterHub.db_url = "postgresql+psycopg:///jupyterhub?host=/run/postgresql"
c.Spawner.args = ["--HubOAuth.cache_max_age=1"]
"""
WORDS = "The hub's database does not answer. Please try again in a minute. Notebooks that run keep running."
PSQL = "runuser -u postgres -- psql --no-psqlrc --tuples-only --no-align --dbname=jupyterhub --command"


@pytest.fixture(scope="module")
def alice(machine, hub):
    """A user of a hub that has moved to PostgreSQL, with a token."""
    if machine.run("/opt/venvs/jupyterhub/bin/python", "-c", "import psycopg", check=False).returncode:
        pytest.skip("this .deb was built without the extra postgresql")
    machine.add_user("alice")
    machine.sh("runuser -u postgres -- createuser jupyterhub; runuser -u postgres -- createdb --owner=jupyterhub jupyterhub")
    machine.write(CONFIG, SETTINGS)
    machine.sh("sed -i s/^JUPYTERHUB_CULL_IDLE=.*/JUPYTERHUB_CULL_IDLE=10h/ /etc/default/jupyterhub")  # it looks each 5 s
    machine.run("systemctl", "reload", "jupyterhub")
    wait_for(lambda: machine.sh(f"{PSQL} 'TABLE alembic_version' || true"), "the hub has made its tables", timeout=30)
    wait_for(hub.answers, "the hub answers", timeout=20)
    user = hub.login("alice", "secret")
    user.token = user.hub_api("POST", "/users/alice/tokens", json={"note": "kept"}).json()["token"]
    return user


def token_is_good(hub, alice):
    return requests.get(f"{hub.base}/hub/api/user", headers={"Authorization": f"token {alice.token}"}, timeout=10).ok


def content(machine):
    """Return what pg_dump has to say, less the line with a random key."""
    return machine.sh("runuser -u postgres -- pg_dump jupyterhub | grep -v restrict")


@pytest.mark.slow  # pg_dump and psql do it; test_nightly_backup_reaches_it is each time
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
    wait_for(lambda: "does not answer" in machine.property("jupyterhub", "StatusText"), "the hub says why it waits", timeout=20)
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
    machine.write(CONFIG, SETTINGS.replace("///jupyterhub?host=/run/postgresql", "//jupyterhub:wrong@127.0.0.1/jupyterhub"))
    assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
    assert 'password authentication failed for user "jupyterhub"' in machine.journal("-p", "err", "-u", "jupyterhub")
    assert "wrong" not in machine.journal("-u", "jupyterhub", "-g", "does not answer")
    machine.write(CONFIG, SETTINGS)
    wait_for(hub.answers, "the hub answers", timeout=60)


@pytest.mark.slow
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
