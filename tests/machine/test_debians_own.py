"""Debian's own package `jupyterhub` is installed first: `apt install` of this one takes over, and a purge leaves nothing of both.

It is an upgrade for dpkg, since both have one name, but theirs has a hub that is root, a configuration of another make and other folders.
"""

import pytest
import requests
from harness import wait_for
from hubclient import BASE, Hub

pytestmark = pytest.mark.slow("Debian's brings 390 packages")
# Debian's, with what it needs, fetched by name; this package comes from dist/.
PACKAGES = ("jupyterhub",)
CONFIG = "/etc/jupyterhub/jupyterhub_config.py"
TOKEN = "2" * 32


@pytest.fixture(scope="module")
def debians(bare_machine, suite):
    """A machine with Debian's hub in use: a setting in its configuration, users, a group."""
    assert "+ds" in bare_machine.sh("dpkg-query -W -f '${Version}' jupyterhub")
    bare_machine.add_user("alice")
    settings = (
        "c.Authenticator.admin_users = {'alice'}\nc.Authenticator.allow_all = True\n"
        "c.JupyterHub.load_groups = {'students': ['alice']}\n"
        "c.JupyterHub.services = [{'name': 'look', 'api_token': '" + TOKEN + "'}]\n"
    )
    bare_machine.sh(f"cat >>{CONFIG}; mkdir -p /var/lib/jupyterhub", input=settings)
    if "bookworm" in suite[0]:  # Debian 12's unit names another file, which its hub does not read
        unit = f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 -m jupyterhub.app -f {CONFIG}\n"
        bare_machine.sh("mkdir -p /run/systemd/system/jupyterhub.service.d")
        bare_machine.write("/run/systemd/system/jupyterhub.service.d/config.conf", unit)
        bare_machine.sh("systemctl daemon-reload")
    bare_machine.sh("systemctl restart jupyterhub")
    wait_for(Hub().answers, "Debian's hub answers", timeout=60)
    assert bare_machine.sh("ps -o user= -p $(systemctl show --value -p MainPID jupyterhub)") == "root"
    bare_machine.sh("rm -rf /run/systemd/system/jupyterhub.service.d; systemctl daemon-reload")
    return bare_machine


@pytest.fixture(scope="module")
def taken_over(debians, deb):
    """The same machine after `apt install ./jupyterhub_*.deb`, and what apt said."""
    said = debians.run("apt-get", "-qq", "-y", "install", debians.push(deb), timeout=300)
    wait_for(Hub().answers, "the hub answers", timeout=40)
    return debians, said.stdout + said.stderr


def test_hub_is_ours(taken_over):
    machine, _ = taken_over
    assert machine.sh("ps -o user= -p $(systemctl show --value -p MainPID jupyterhub)") == "jupyterhub"
    units = "jupyterhub jupyterhub-proxy jupyterhub-spawner.socket"
    assert machine.sh(f"systemctl is-enabled {units}; systemctl is-active {units}").split() == ["enabled"] * 3 + ["active"] * 3
    assert machine.sh("systemctl --failed --no-legend --plain; dpkg --audit; dpkg --verify jupyterhub") == ""
    assert machine.sh("pgrep -u root -f '[c]onfigurable-http-proxy' || true") == ""
    machine.sh("jupyterhub-ctl verify")


def test_configuration_is_kept_aside(taken_over):
    """It is not read, and apt says where it is."""
    machine, said = taken_over
    assert f"Debian's configuration is now {CONFIG}.debian" in said
    assert "allow_all" in machine.sh(f"cat {CONFIG}.debian")
    assert machine.sh("grep jupyterhub /var/lib/ucf/registry /var/lib/ucf/hashfile || true") == ""


def test_users_admins_and_groups_are_there(taken_over):
    user = Hub().login("alice", "secret")
    assert user.get("/hub/admin").ok
    found = user.hub_api("GET", "/groups/students").json()
    assert found["users"] == ["alice"]


def test_notebook_works(taken_over):
    user = Hub().login("alice", "secret")
    assert user.run_cell("5 * 4") == "20"
    user.stop()


def test_backup_and_reinstall_work(taken_over):
    machine, _ = taken_over
    machine.sh("jupyterhub-ctl backup /root/it.tar.gz; apt-get -qq -y --reinstall install /root/jupyterhub_*.deb", timeout=300)
    wait_for(Hub().answers, "the hub answers", timeout=40)


def test_purge_is_clean(taken_over):
    """Backups are the administrator's; so is Debian's old database, which its package would leave, too."""
    machine, _ = taken_over
    machine.run("apt-get", "-qq", "-y", "purge", "jupyterhub", timeout=120)
    with pytest.raises(requests.RequestException):
        requests.get(BASE, timeout=5)
    named = set(machine.sh("find / -xdev -iname '*jupyterhub*'").splitlines())
    owned = set(machine.sh("cat /var/lib/dpkg/info/*.list").splitlines())
    kept = ("/var/backups/jupyterhub", "/var/lib/jupyterhub", "/root/", "/var/cache/", "/var/log/", "/var/lib/apt/", "/proc/", "/tmp/")
    assert {path for path in named - owned if not path.startswith(kept)} == set()
    assert machine.sh("systemctl list-units --all --no-legend --plain 'jupyterhub*' | grep -v not-found || true") == ""


def test_unchanged_configuration_leaves_no_trace(taken_over, deb):
    """Debian's package again, with its configuration as it comes: nothing is asked, nothing is kept."""
    machine, _ = taken_over
    machine.sh("mv /root/jupyterhub_*.deb /root/ours.deb; apt-get -qq -y install jupyterhub", timeout=300)
    assert "+ds" in machine.sh("dpkg-query -W -f '${Version}' jupyterhub")
    said = machine.run("apt-get", "-qq", "-y", "install", "/root/ours.deb", timeout=300)
    lines = (said.stdout + said.stderr).splitlines()
    assert not [line for line in lines if "configuration" in line and not line.startswith("debconf: ")]
    assert machine.run("test", "-e", f"{CONFIG}.debian", check=False).returncode
    wait_for(Hub().answers, "the hub answers", timeout=40)
    machine.sh("jupyterhub-ctl verify")
