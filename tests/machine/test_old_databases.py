"""A hub that is given the database of an older JupyterHub serves its users, admins, groups and tokens.

The databases are in old-databases/, made by those versions. 1and1's debianized-jupyterhub, which this package follows, had its own
where this package has it: /var/opt/jupyterhub/jupyterhub.sqlite.
"""

import pathlib

import pytest
import requests
from database import DATABASE, PYTHON, sql
from harness import wait_for
from hubclient import BASE

pytestmark = pytest.mark.slow("JupyterHub's migrations of long ago; test_safe_upgrade has one each time, at an upgrade")

DUMPS = sorted((pathlib.Path(__file__).parent / "old-databases").glob("*.sql"))
CAROLS_TOKEN = "0123456789abcdef0123456789abcdef"
GROUPS = {"students": {"bob", "carol"}, "teachers": {"alice"}}
LOAD = f"import sqlite3, sys; sqlite3.connect('{DATABASE}').executescript(sys.stdin.read())"


@pytest.fixture(scope="module")
def admins(machine, hub):
    """alice's account, and a token of an administrator to look with, made by the hub's configuration."""
    for name in ("alice", "bob", "carol"):
        machine.add_user(name)
    machine.write(
        "/etc/jupyterhub/jupyterhub_config.d/50-look.py",
        "c = get_config()\n"
        "c.JupyterHub.services = [{'name': 'look', 'api_token': '" + "1" * 32 + "'}]\n"
        "c.JupyterHub.load_roles = [{'name': 'look', 'scopes': ['list:users', 'read:users', 'list:groups', 'read:groups'], 'services': ['look']}]\n",
    )


@pytest.fixture
def old_hub(machine, hub, admins, request):
    """The hub, stopped, with the database of an older version in its place."""
    machine.sh(f"systemctl stop jupyterhub; rm -f {DATABASE}*")
    machine.run("runuser", "-u", "jupyterhub", "--", PYTHON, "-c", LOAD, input=request.param.read_text())
    return hub


def look(path, token="1" * 32):
    answer = requests.get(f"{BASE}/hub/api{path}", headers={"Authorization": f"token {token}"}, timeout=10)
    assert answer.ok, answer.text
    return answer.json()


@pytest.mark.parametrize("old_hub", DUMPS, ids=lambda path: path.stem, indirect=True)
def test_users_admins_groups_and_tokens_are_there(machine, old_hub, request):
    machine.sh("systemctl start jupyterhub")
    wait_for(old_hub.answers, "the hub answers", timeout=40)
    assert {user["name"]: user["admin"] for user in look("/users")} == {"alice": True, "bob": False, "carol": False}
    assert {group["name"]: set(group["users"]) for group in look("/groups")} == GROUPS
    if "1.0" not in request.node.name:  # JupyterHub 2.0 drops the tokens of earlier versions
        assert look("/user", CAROLS_TOKEN)["name"] == "carol"
    assert old_hub.login("alice", "secret").get("/hub/admin").ok
    machine.sh(f"ls {DATABASE}.20*")  # the old one, beside it


@pytest.mark.parametrize("old_hub", DUMPS[:1], ids=[DUMPS[0].stem], indirect=True)
def test_failed_migration_leaves_the_database_as_it_was(machine, old_hub):
    """dpkg-reconfigure says so, and so does the journal of a hub that is started all the same."""
    sql(machine, "DROP TABLE oauth_access_tokens")  # which the migration wants to drop, after other changes
    before = machine.sh(f"sha256sum {DATABASE}")
    result = machine.run("dpkg-reconfigure", "jupyterhub", check=False)
    assert result.returncode != 0
    assert f"jupyterhub: the database sqlite:///{DATABASE} cannot be migrated: " in result.stderr
    wait_for(lambda: "no such table: oauth_access_tokens" in machine.journal("-u", "jupyterhub"), "the journal says so", timeout=20)
    machine.sh("systemctl stop jupyterhub")
    assert machine.sh(f"sha256sum {DATABASE}") == before


@pytest.mark.parametrize("old_hub", DUMPS[:1], ids=[DUMPS[0].stem], indirect=True)
def test_migration_that_is_killed_leaves_the_database_as_it_was(machine, old_hub, request):
    """Half a migration is in the copy alone; the next start begins anew."""
    before = machine.sh(f"sha256sum {DATABASE}")
    machine.sh(
        f"systemctl start --no-block jupyterhub; until [ -e {DATABASE}.new ]; do sleep 0.01; done\n"
        "systemctl kill --signal=KILL jupyterhub; systemctl stop jupyterhub"
    )
    assert machine.sh(f"sha256sum {DATABASE}") == before
    test_users_admins_groups_and_tokens_are_there(machine, old_hub, request)
    assert machine.run("test", "-e", f"{DATABASE}.new", check=False).returncode


UPGRADE = "cd /var/opt/jupyterhub && jupyterhub upgrade-db -f /etc/jupyterhub/jupyterhub_config.py"


@pytest.mark.parametrize("old_hub", DUMPS[-1:], ids=[DUMPS[-1].stem], indirect=True)
def test_migration_by_root_leaves_the_database_to_the_hub(machine, old_hub, request):
    """As the hub's own message advises; then the hub serves. What the hub's account has laid into its folder gets nothing of root's."""
    before = machine.sh(f"stat --format '%U:%G %a' {DATABASE}")
    code = 'import os\nopen(f"/tmp/alembic-by-{os.geteuid()}", "w")\n'
    machine.run("runuser", "-u", "jupyterhub", "--", "sh", "-c", "cat >/var/opt/jupyterhub/alembic.py", input=code)
    machine.sh(UPGRADE)
    assert machine.sh(f"stat --format '%U:%G %a' {DATABASE}") == before
    assert machine.sh("rm /var/opt/jupyterhub/alembic.py; ls -d /tmp/alembic-by-* || true") == ""
    assert machine.sh("find /var/opt/jupyterhub ! -user jupyterhub") == ""
    test_users_admins_groups_and_tokens_are_there(machine, old_hub, request)


def test_database_that_root_makes_is_the_hubs(machine, hub, admins):
    machine.sh(
        f"systemctl stop jupyterhub; rm -f {DATABASE}*; {UPGRADE}; find /var/opt/jupyterhub ! -user jupyterhub | grep . && exit 1; systemctl start jupyterhub"
    )
    wait_for(hub.answers, "the hub answers", timeout=40)
