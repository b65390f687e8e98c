"""The power is cut in the middle of a backup, a restore or an upgrade: after boot the hub serves, and no user or token is lost.

The machines' disks are overlays whose pages outlive the cut, so what is tested is the death of all processes at once and the order of
what they do, not what a disk does with writes that nobody has synced.
"""

import time

import pytest
import requests
from database import STATE, sql
from harness import wait_for
from hubclient import Hub
from repack import add_migration, repack

FOLDER = "/var/backups/jupyterhub"
CONFIG_D = "/etc/jupyterhub/jupyterhub_config.d"
TABLES = "SELECT count(*) FROM sqlite_master WHERE name = 'of_the_upgrade'"
SPREAD = {"backup": 3, "restore": 4, "upgrade": 4}  # cuts in each, spread evenly over the time that it takes
CUTS = [pytest.param(what, cut, id=f"{what}-{cut + 1}-of-{n}") for what, n in SPREAD.items() for cut in range(n)]
pytestmark = pytest.mark.slow("what is written in which order seldom changes, and a cut needs three machines")


@pytest.fixture(scope="module")
def upgrade(deb, tmp_path_factory):
    """A .deb whose hub migrates the database."""
    return repack(deb, tmp_path_factory.mktemp("upgrade"), add_migration)


@pytest.fixture(scope="module")
def chosen(request):
    """What is interrupted in this run (set of str)."""
    return {item.callspec.params["what"] for item in request.session.items if item.path == request.path and hasattr(item, "callspec")}


@pytest.fixture(scope="module")
def prepared(request, site, installed, chosen):
    """The layers of a machine with a user, a token and a backup that has one more setting; and the commands to interrupt."""
    machine = site.machine("before-the-cut", *installed).boot()
    if "upgrade" in chosen:
        machine.push(request.getfixturevalue("upgrade"))
    machine.add_user("alice")
    with machine.network():
        hub = Hub()
        wait_for(hub.answers, "the hub answers", timeout=30)
        machine.write(f"{CONFIG_D}/10-mine.py", "c = get_config()\nc.JupyterHub.template_vars = {'announcement': 'of the backup'}\n")
        user = hub.login("alice", "secret")
        token = user.hub_api("POST", "/users/alice/tokens", json={"note": "kept"}).json()["token"]
        machine.sh(f"jupyterhub-ctl backup /root/it.tar.gz; rm {CONFIG_D}/10-mine.py")
    machine.power_off()
    machine.unmount()
    return [machine.upper, *installed], token


COMMANDS = {
    "backup": "jupyterhub-ctl backup",
    "restore": "jupyterhub-ctl restore /root/it.tar.gz",
    "upgrade": "apt-get -qq -y install /root/jupyterhub_*.deb",
}


@pytest.fixture
def machine(site, prepared, request):
    machine = site.machine(f"cut-{request.node.callspec.id}", *prepared[0]).boot()
    with machine.network():
        wait_for(Hub().answers, "the hub answers", timeout=30)
        yield machine
    site.discard(machine)


@pytest.fixture(scope="module")
def durations(site, prepared, chosen):
    """Return what each command takes (s), measured once on a machine of its own."""
    took = {}
    machine = site.machine("uncut", *prepared[0]).boot()
    with machine.network():
        for what in sorted(chosen):
            wait_for(Hub().answers, "the hub answers", timeout=30)
            started = time.monotonic()
            machine.run("sh", "-c", COMMANDS[what], timeout=300)
            took[what] = time.monotonic() - started
    site.discard(machine)
    return took


@pytest.mark.parametrize("what, cut", CUTS)
def test_power_cut(machine, durations, prepared, what, cut):
    machine.sh(f"systemd-run --quiet --unit=interrupted --setenv=DEBIAN_FRONTEND=noninteractive sh -c '{COMMANDS[what]}'")
    time.sleep(durations[what] * (cut + 0.5) / SPREAD[what])
    machine.kill()
    machine.boot()
    hub, token = Hub(), prepared[1]
    wait_for(hub.answers, "the hub answers after the cut", timeout=60)
    if what == "upgrade":  # as an administrator would; a package whose files were being replaced is not configured, but installed again
        machine.sh(f"dpkg --configure -a || true; {COMMANDS[what]}", timeout=300)
        wait_for(lambda: hub.answers() and "1" in sql(machine, TABLES), "the upgrade is complete", timeout=60)
    answer = requests.get(f"{hub.base}/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=10)
    assert answer.ok and answer.json()["name"] == "alice"
    page = hub.login("alice", "secret").get("/hub/home").text
    if what == "restore":  # all of it or nothing
        assert ("of the backup" in page) == (machine.run("test", "-e", f"{CONFIG_D}/10-mine.py", check=False).returncode == 0)
        assert machine.run("test", "-e", f"{FOLDER}/.restore", check=False).returncode, "the restore is completed at boot"
    # What lies there is whole, and the next one clears away what does not.
    machine.run("jupyterhub-ctl", "backup")
    assert "unusable" not in machine.run("jupyterhub-ctl", "backups").stdout
    assert machine.sh(f"ls -A {FOLDER} | grep -v -e '^jupyterhub-' -e '^.lock$' || true") == ""
    assert machine.sh(f"ls {STATE}/*.new {STATE}/*.restored 2>/dev/null || true") == ""
    assert machine.sh("dpkg --audit; systemctl --failed --no-legend --plain") == ""
