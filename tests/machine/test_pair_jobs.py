"""Notebook servers that are Slurm jobs are kept when the other hub of a pair takes over: docs/two-hubs.md. Three machines: two hubs, and one that is the
database's, slurmctld's and a node.
"""

import contextlib
import re
import time

import offloader
import pytest
import requests
from harness import wait_for
from hubclient import Hub, HubError
from slurm import BEFORE_PACKAGES, ask_for, configure, ready, start, where_it_stands  # noqa: F401 (the first is a fixture's)
from test_pair import (  # noqa: F401 (two of them are fixtures)
    CASES,
    give_the_configuration,
    machine_of_the_database,
    serves,
    settle,
    shows_login_page,
    start_keepalived,
    state,
    two_hubs,
)

pytestmark = pytest.mark.slow("three machines")
ON_HUBS = ("curl", "keepalived", "postgresql-client", "slurm-client", "munge")
PACKAGES = ("--no-install-recommends", *ON_HUBS, "haproxy", "postgresql", "slurmctld", "slurmd")
NAMES = {"192.0.2.1": "node database", "192.0.2.11": "one", "192.0.2.12": "other"}
ADDRESS = "192.0.2.10"  # of the pair, by keepalived
JOBS_ADDRESS = f"{ADDRESS}:8443"
CA = "/var/opt/jupyterhub/jobs-ca.pem"
NODES = "NodeName=node CPUs=8 RealMemory=16000\nPartitionName=main Nodes=ALL Default=YES State=UP\nPartitionName=off Nodes=ALL State=DOWN\n"
PROFILES = "[small]\nmemory = 400M\n\n[waiting]\npartition = off\nmemory = 400M\n"


@pytest.fixture(scope="module")
def homes(database):
    """The folder of the host that all three machines have as /home."""
    return database.root / "home"


@pytest.fixture(scope="module")
def cluster(suite, pair, database, node_deb):
    """The pair with one address, at which nodes find the hub that serves, and Slurm."""
    if suite[0] != "debian:trixie":
        pytest.skip("jobs of Slurm are for Debian 13")
    for machine, name in ((database, "node"), (pair.one, "one"), (pair.other, "other")):
        machine.sh(f"hostname {name}; echo {name} >/etc/hostname")
        machine.write("/etc/hosts", "127.0.0.1 localhost\n" + "".join(f"{address} {names}\n" for address, names in NAMES.items()))
        configure(machine, "node", NODES)
    database.add_user("alice")
    for machine in (database, pair.one, pair.other):
        machine.add_user("bob")
    database.sh("systemctl start slurmctld slurmd")
    database.sh(f"apt-get -qq -y --no-install-recommends install {database.push(node_deb)}", timeout=300)
    wait_for(lambda: "idle" in pair.one.run("sinfo", "--noheader", check=False).stdout, "the node is there", timeout=60, every=0.5)
    pair.one.write("/etc/jupyterhub/profiles.conf", PROFILES)
    settings = f"s/^JUPYTERHUB_JOBS=.*/JUPYTERHUB_JOBS=beside/; s/^JUPYTERHUB_JOBS_ADDRESS=.*/JUPYTERHUB_JOBS_ADDRESS={JOBS_ADDRESS}/"
    pair.one.sh(f"sed -i '{settings}' /etc/default/jupyterhub; systemctl restart jupyterhub")
    wait_for(lambda: serves(pair.one), "the first serves", timeout=60)
    give_the_configuration(pair)
    start_keepalived(pair)
    return database


@pytest.fixture
def at_one(pair, cluster):
    """Let `one` serve, at the pair's address; afterwards nothing of the users' is left."""
    settle(pair)
    wait_for(lambda: f"{ADDRESS}/" in pair.one.sh("ip -brief address show eth0"), "the address is where the hub serves", timeout=30)
    hub = Hub(f"http://{ADDRESS}:8000")
    wait_for(hub.answers, "the hub answers", timeout=20)
    yield hub
    cluster.sh("scancel --user=alice")
    pair.one.sh("loginctl terminate-user bob || true")


def numbers(machine, state):
    """Return the numbers of alice's jobs in a state, as Slurm has them."""
    return machine.sh(f"squeue --noheader --user=alice --states={state} --format=%i").split()


def answers(alice):
    """Does alice's server answer her browser? On a new connection, for those that there were lead to the machine that is lost."""
    alice.session.close()
    with contextlib.suppress(requests.RequestException):
        return alice.session.get(f"{alice.base}{alice.prefix}api/status", timeout=1, allow_redirects=False).status_code == 200
    return False


def knows_the_server(alice):
    """Does the hub answer, and know alice's server as one that runs?"""
    alice.session.close()
    with contextlib.suppress(requests.RequestException, HubError):
        return alice.server_ready
    return False


def back_again(pair):
    pair.one.sh("systemctl kill --signal=CONT jupyterhub; ip link set eth0 up; systemctl start jupyterhub")
    wait_for(lambda: state(pair.one) == "Standby", "the first stands by when it is back", timeout=60)
    assert serves(pair.other)


def test_certificates_are_the_same(pair, cluster):
    assert pair.one.sh(f"sha256sum {CA}") == pair.other.sh(f"sha256sum {CA}")


@pytest.mark.parametrize("event", CASES)
def test_server_is_kept(pair, cluster, at_one, event):
    """With kernel and login, though the machine that has started it is lost; bob's server ran on that, and his page says so."""
    alice, bob = at_one.login("alice", "secret"), at_one.login("bob", "secret")
    start(alice, "small")
    start(bob, "")
    (number,) = numbers(cluster, "running")
    kernel = alice.kernel()
    kernel.execute("kept = 42")
    began = time.monotonic()
    pair.one.sh(CASES[event])
    wait_for(lambda: shows_login_page(at_one) and answers(alice), "hub and notebook answer at the address", timeout=60, every=0.1)
    seconds = time.monotonic() - began
    print(f"{event}: {seconds:.1f} s")
    assert serves(pair.other)
    kernel.connect()
    assert kernel.execute("kept") == "42"
    assert alice.server_ready and numbers(cluster, "running") == [number]
    bob.session.close()
    assert "Your server ran on one, a machine that is out of service now" in bob.get("/hub/home").text
    assert "Your server ran on" not in alice.get("/hub/home").text
    back_again(pair)
    assert kernel.execute("kept") == "42"
    alice.stop()
    wait_for(lambda: numbers(cluster, "running") == [], "the job has ended", timeout=30)
    assert seconds < 10  # the issue's


@pytest.mark.parametrize("event", ["killed", "database restarted"])
def test_server_is_kept_where_the_first_comes_back(pair, cluster, at_one, event):
    alice = at_one.login("alice", "secret")
    start(alice, "small")
    kernel = alice.kernel()
    kernel.execute("kept = 42")
    (cluster if event.startswith("database") else pair.one).sh(
        "systemctl restart postgresql" if event.startswith("database") else "systemctl kill --signal=KILL jupyterhub"
    )
    wait_for(lambda: knows_the_server(alice) and answers(alice), "hub and notebook answer", timeout=60)
    kernel.connect()
    assert kernel.execute("kept") == "42"
    alice.stop()


def test_job_that_waits_keeps_its_place(pair, cluster, at_one):
    alice = at_one.login("alice", "secret")
    assert "/spawn-pending/" in ask_for(alice, "waiting").url
    wait_for(lambda: numbers(cluster, "pending"), "the job waits", timeout=30)
    (number,) = numbers(cluster, "pending")
    pair.one.sh(CASES["cut off, then killed"])
    wait_for(lambda: serves(pair.other) and at_one.answers(), "the hub answers at the address", timeout=60)
    alice.session.close()
    assert where_it_stands(alice).startswith(f"Job {number} ") and numbers(cluster, "pending") == [number]
    cluster.sh("scontrol update PartitionName=off State=UP")
    try:
        ready(alice)
        assert numbers(cluster, "running") == [number]
        assert alice.run_cell("import socket; socket.gethostname()") == "'node'"
        back_again(pair)
        alice.stop()
    finally:
        cluster.sh("scontrol update PartitionName=off State=DOWN")


def test_second_without_the_authorities(pair, cluster, at_one):
    """It says what is missing before it takes over, and afterwards."""
    alice = at_one.login("alice", "secret")
    start(alice, "small")
    pair.other.sh(f"systemctl stop jupyterhub; rm {CA}; systemctl start jupyterhub")
    wait_for(lambda: state(pair.other) == "Standby", "the second stands by", timeout=60)
    assert f"{CA} is not there" in pair.other.run("jupyterhub-ctl", "verify", "hub", check=False).stdout
    pair.one.sh("systemctl stop jupyterhub")
    wait_for(lambda: serves(pair.other), "the other serves", timeout=60)
    assert f"{CA} was not there: 1 notebook servers of jobs know another one" in pair.other.journal("-u", "jupyterhub")
    give_the_configuration(pair)
    wait_for(lambda: serves(pair.other) and answers(alice), "it is there again, and so is the server", timeout=60)
    alice.stop()


def asks_the_hub(alice, hub):
    """Does alice's server find out from the hub whose a token is that it has not seen before?"""
    token = alice.hub_api("POST", "/users/alice/tokens", json={"note": "new"}).json()["token"]
    with contextlib.suppress(requests.RequestException):
        url = f"{hub.base}{alice.prefix}api/status"
        return requests.get(url, headers={"Authorization": f"token {token}"}, timeout=5, allow_redirects=False).status_code == 200
    return False


def test_nodes_reach_the_hub_through_haproxy(pair, cluster, at_one):
    """By the lines of the example, on the third machine."""
    lines = re.findall(r"(?m)^#((?:listen|    ).*)", cluster.sh(f"cat {offloader.DOC}/examples/haproxy-pair.cfg"))
    cluster.write("/etc/haproxy/haproxy.cfg", "defaults\n    timeout connect 5s\n" + "\n".join(lines) + "\n")
    cluster.sh("haproxy -c -f /etc/haproxy/haproxy.cfg; systemctl restart haproxy")
    for machine, address in ((cluster, "192.0.2.1"), (pair.one, "192.0.2.11"), (pair.other, "192.0.2.12")):
        machine.sh(f"echo {address} hubs >>/etc/hosts")
    pair.one.sh("sed -i s/^JUPYTERHUB_JOBS_ADDRESS=.*/JUPYTERHUB_JOBS_ADDRESS=hubs:8443/ /etc/default/jupyterhub; systemctl restart jupyterhub")
    wait_for(lambda: serves(pair.one), "the first serves", timeout=60)
    give_the_configuration(pair)
    wait_for(lambda: state(pair.other) == "Standby", "the second stands by", timeout=60)
    alice = at_one.login("alice", "secret")
    start(alice, "small")
    assert asks_the_hub(alice, at_one)
    pair.one.sh("systemctl stop jupyterhub")
    wait_for(lambda: shows_login_page(at_one) and answers(alice), "hub and notebook answer at the address", timeout=60)
    wait_for(lambda: asks_the_hub(alice, at_one), "the server reaches the other hub", timeout=30, every=0.5)
    alice.stop()
