"""An upgrade, dpkg-reconfigure or reload that would end with no hub does not happen: the one that runs goes on.

The upgrade is the package itself with a higher version and one more migration of the database.
"""

import contextlib

import pytest
from database import DATABASE, sql
from harness import wait_for
from hubclient import BASE, HubError, HubUser, Prober
from repack import VENV, add_migration, repack

CONFIG_D = "/etc/jupyterhub/jupyterhub_config.d"
MENDED_BY_APT = "apt-get -qq -y -f install"


@pytest.fixture(scope="module")
def upgrade(deb, tmp_path_factory):
    """The path of a .deb of a higher version, whose login page says so."""

    def change(tree):
        add_migration(tree)
        page = tree / VENV / "share/jupyterhub/templates/page.html"
        page.write_text(page.read_text().replace("</body>", "<!-- of the upgrade --></body>"))

    return repack(deb, tmp_path_factory.mktemp("upgrade"), change)


@pytest.fixture(scope="module")
def alice(machine, hub):
    machine.add_user("alice")
    return hub.login("alice", "secret")


@contextlib.contextmanager
def broken(machine, text="c = get_config()\nc.JupyterHub.template_vars = {\n"):
    """A configuration with a mistake in its second line."""
    file = f"{CONFIG_D}/30-mine.py"
    machine.write(file, text)
    yield file
    machine.run("rm", file)


def state(machine):
    """What must not change where nothing is to happen: the hub's process, and the database with what may belong to it."""
    return machine.pid_of("jupyterhub"), machine.sh(f"sha256sum {DATABASE}*")


def ours(result):
    """Return the lines that are the package's, of what apt or dpkg printed."""
    return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("jupyterhub: ")]


def works(machine, hub):
    """Pages that the hub has not shown before, a login, and nothing that failed."""
    user = hub.login("alice", "secret")
    for page in ("/hub/home", "/hub/token"):
        user.get(page)
    return machine.sh("systemctl --failed --no-legend --plain") == ""


MISTAKES = {
    "syntax": ("c = get_config()\nc.JupyterHub.template_vars = {\n", "2: SyntaxError: '{' was never closed"),
    "name": ("c = get_config()\nc.JupyterHub.template_vars = names\n", "2: NameError: name 'names' is not defined"),
    "type": ("c = get_config()\nc.JupyterHub.concurrent_spawn_limit = 'many'\n", "2: The 'concurrent_spawn_limit' trait"),
    "class": ("c = get_config()\nc.JupyterHub.authenticator_class = 'missing.Authenticator'\n", "2: The 'authenticator_class' trait"),
    "scope": ("c = get_config()\nc.JupyterHub.load_roles = [{'name': 'mine', 'scopes': ['no:such']}]\n", "no:such"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_reload_of_a_broken_config_changes_nothing(machine, hub, alice, mistake):
    text, said = MISTAKES[mistake]
    before = state(machine)
    with broken(machine, text) as file, Prober(HubUser(BASE, "visitor"), "/hub/login") as login:
        assert machine.run("systemctl", "reload", "jupyterhub", check=False).returncode != 0
        message = machine.journal("-u", "jupyterhub", "-o", "cat", "-g", "^jupyterhub: ")
    assert said in message and (mistake == "scope" or f"{file}:{said}" in message)
    assert mistake == "scope" or "`jupyterhub-ctl check-config` shows all that is wrong" in message
    assert login.failures == []
    assert state(machine) == before


def test_reload_names_a_wrong_setting(machine, hub):
    machine.sh("cp -p /etc/default/jupyterhub /root/; echo JUPYTERHUB_LOGLEVEL=LOUD >>/etc/default/jupyterhub")
    line = machine.sh("wc -l </etc/default/jupyterhub")
    before = state(machine)
    assert machine.run("systemctl", "reload", "jupyterhub", check=False).returncode != 0
    assert f"JUPYTERHUB_LOGLEVEL=LOUD in /etc/default/jupyterhub:{line} is none of" in machine.journal("-u", "jupyterhub")
    machine.sh("cp -p /root/jupyterhub /etc/default/jupyterhub")
    assert state(machine) == before


def test_reload_of_a_good_config_takes_it(machine, hub):
    before = machine.pid_of("jupyterhub")
    machine.write(f"{CONFIG_D}/20-words.py", "c = get_config()\nc.JupyterHub.template_vars = {'announcement': 'hello again'}\n")
    machine.run("systemctl", "reload", "jupyterhub")
    assert machine.pid_of("jupyterhub") not in (0, before) and hub.answers()
    assert "hello again" in HubUser(BASE, "visitor").get("/hub/login").text
    machine.run("rm", f"{CONFIG_D}/20-words.py")


def test_reconfigure_with_a_broken_config_changes_nothing(machine, hub, alice):
    before = state(machine)
    with broken(machine) as file:
        result = machine.run("dpkg-reconfigure", "jupyterhub", check=False)
    assert result.returncode != 0
    what, then = ours(result)
    assert f"{file}:2: SyntaxError" in what and "systemctl reload jupyterhub" in then
    assert state(machine) == before
    assert hub.login("alice", "secret")


def test_upgrade_with_a_broken_config_leaves_the_hub_up(machine, hub, alice, upgrade):
    """Also with all of its files replaced: it runs from the tree of its own version."""
    before = state(machine)
    package = machine.push(upgrade)
    with broken(machine) as file, Prober(HubUser(BASE, "visitor"), "/hub/login") as login:
        result = machine.run("apt-get", "-qq", "-y", "install", package, check=False, timeout=300)
        assert result.returncode != 0
        what, then = ours(result)
        assert f"{file}:2: SyntaxError" in what and "apt-get -f install" in then
        assert state(machine) == before
        assert works(machine, hub)
    assert login.failures == []
    assert "of the upgrade" not in HubUser(BASE, "visitor").get("/hub/login").text


def test_it_goes_on_even_if_it_must_start_again(machine, hub):
    """With the configuration mended, and the upgrade still half done: the old version, with its database."""
    schema = "SELECT version_num FROM alembic_version"
    before = sql(machine, schema)
    machine.sh("systemctl kill --signal=KILL jupyterhub")
    wait_for(lambda: not hub.answers(), "the hub is gone")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    assert works(machine, hub)
    assert "of the upgrade" not in HubUser(BASE, "visitor").get("/hub/login").text
    assert sql(machine, schema) == before


def test_new_notebook_servers_are_of_the_hubs_version(machine, alice):
    alice.spawn()
    current = machine.sh("readlink /opt/venvs/jupyterhub-servers/current")
    installed = machine.sh("dpkg-query -W -f '${Version}' jupyterhub")
    assert f"jupyterhub-servers/{current}/bin/jupyterhub-singleuser" in machine.sh("pgrep -u alice -a -f bin/jupyterhub-singleuser")
    alice.stop()
    assert current != installed and installed in machine.sh("ls /opt/venvs/jupyterhub-servers").split()


def test_failing_migration_leaves_the_database_as_it_was(machine, hub, alice):
    sql(machine, "CREATE TRIGGER refuse BEFORE UPDATE ON alembic_version BEGIN SELECT RAISE(ABORT, 'not today'); END")
    wait_for(hub.answers, "the hub answers", timeout=20)
    before = state(machine)
    result = machine.run("sh", "-c", MENDED_BY_APT, check=False, timeout=300)
    assert result.returncode != 0
    what, then = ours(result)
    assert DATABASE in what and "cannot be migrated: " in what and "not today" in what and "apt-get -f install" in then
    assert state(machine) == before
    assert works(machine, hub)


def test_migration_switched_off_leaves_it_too(machine, hub):
    machine.sh("cp -p /etc/default/jupyterhub /root/; echo JUPYTERHUB_AUTO_MIGRATION=false >>/etc/default/jupyterhub")
    before = state(machine)
    result = machine.run("sh", "-c", MENDED_BY_APT, check=False, timeout=300)
    assert result.returncode != 0
    assert "JUPYTERHUB_AUTO_MIGRATION=true" in ours(result)[0]
    assert state(machine) == before
    machine.sh("cp -p /root/jupyterhub /etc/default/jupyterhub")


def test_auto_restart_off_is_checked_and_not_restarted(machine, hub):
    sql(machine, "DROP TRIGGER refuse")
    machine.sh("echo JUPYTERHUB_AUTO_RESTART=false >>/etc/default/jupyterhub")
    before = state(machine)
    assert "systemctl restart jupyterhub" in machine.sh(f"{MENDED_BY_APT} 2>&1", timeout=300)
    assert state(machine) == before
    assert works(machine, hub)
    machine.sh("cp -p /root/jupyterhub /etc/default/jupyterhub")


def test_once_mended_it_is_the_new_version(machine, hub, alice):
    machine.run("dpkg-reconfigure", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert "of the upgrade" in HubUser(BASE, "visitor").get("/hub/login").text
    assert sql(machine, "SELECT count(*) FROM of_the_upgrade") == "(0,)"
    assert machine.sh("dpkg --audit") == ""
    assert works(machine, hub)


def test_trees_are_pruned(machine):
    """Of the old version nothing runs any more."""
    machine.sh("/usr/libexec/jupyterhub/server-tree prune")
    assert machine.sh("ls /opt/venvs/jupyterhub-servers").split() == [machine.sh("dpkg-query -W -f '${Version}' jupyterhub"), "current"]


def test_restart_by_hand_with_a_broken_config_names_it(machine, hub):
    """That cannot be saved; the journal says what to mend, and the hub is back without a further command."""
    with broken(machine) as file:
        assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
        wait_for(lambda: f"{file}:2: SyntaxError" in machine.run("systemctl", "status", "jupyterhub", check=False).stdout, "systemctl names file and line")
        with pytest.raises(HubError):
            HubUser(BASE, "visitor").get("/hub/login")
    wait_for(hub.answers, "the hub is back by itself", timeout=40)
