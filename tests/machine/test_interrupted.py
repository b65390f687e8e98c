"""dpkg killed in the middle of installing or removing the package: `dpkg --configure -a` and the same command again complete it."""

import pytest
from harness import CommandFailed, wait_for
from hubclient import Hub

UNPACKED = "/opt/venvs/jupyterhub"
TREES = "/opt/venvs/jupyterhub-servers"
STATUS = "dpkg-query -W -f '${db:Status-Status}' jupyterhub"

# Run dpkg ($2...) in a process group of its own and kill that as soon as $1 holds.
KILL_WHEN = """
condition=$1; shift
setsid "$@" >/root/dpkg.log 2>&1 &
until eval "$condition"; do
    kill -0 $! || { echo "dpkg has ended by itself:"; cat /root/dpkg.log; exit 1; }
    sleep 0.005
done 2>/dev/null
kill -KILL -- -$!
wait $! || true
"""

pytestmark = pytest.mark.slow("what dpkg does in which order seldom changes; test_safe_upgrade breaks an upgrade each time")


@pytest.fixture(scope="module")
def package(machine, deb):
    """The .deb inside, on a machine that has everything else that it needs."""
    file = machine.push(deb)
    machine.run("dpkg", "--purge", "jupyterhub", timeout=120)
    return file


def complete(machine, *command):
    """What a person does after the power came back."""
    machine.run("dpkg", "--configure", "-a", timeout=300)
    machine.run("apt-get", "-qq", "-y", *command, timeout=300)
    assert machine.sh("dpkg --audit; apt-get check -qq") == ""


@pytest.mark.parametrize(
    "moment",
    [
        f"test -d {UNPACKED}/lib/python3*/site-packages/jupyterhub",  # unpacking
        f"test -d {TREES}/.new",  # making the servers' tree
        f"test -e {TREES}/current",  # making accounts and folders
        "systemctl is-active --quiet jupyterhub-proxy",  # starting the services
    ],
)
def test_interrupted_installation(machine, package, moment):
    machine.run("bash", "-euc", KILL_WHEN, "bash", moment, "dpkg", "--install", package, timeout=300)
    assert machine.sh(STATUS) != "installed"
    complete(machine, "install", package)
    assert machine.sh(STATUS) == "installed"
    assert machine.sh("dpkg --verify jupyterhub") == ""
    wait_for(Hub().answers, "the hub answers", timeout=20, every=0.2)
    assert machine.sh(f"ls -A {TREES} | wc -l") == "2"  # one version and `current`
    machine.run("dpkg", "--purge", "jupyterhub", timeout=120)
    assert machine.sh("ls -d /opt/venvs/jupyterhub* /etc/jupyterhub* /var/opt/jupyterhub* 2>/dev/null || true") == ""


@pytest.mark.parametrize("command", ["--remove", "--purge"])
def test_interrupted_removal(machine, package, command):
    machine.run("apt-get", "-qq", "-y", "install", package, timeout=300)
    gone = "! systemctl is-active --quiet jupyterhub"
    machine.run("bash", "-euc", KILL_WHEN, "bash", gone, "dpkg", command, "jupyterhub", timeout=300)
    complete(machine, command[2:], "jupyterhub")
    assert "jupyterhub" not in machine.sh("systemctl list-units --plain --no-legend 'jupyterhub*'")
    with pytest.raises(CommandFailed):
        machine.sh(f"test -e {TREES} -o -e {UNPACKED}")
    machine.run("dpkg", "--purge", "jupyterhub", timeout=120)
