"""Two hub machines on one database of PostgreSQL: one hub serves, the other takes over, and never do both write.

PAIR_CHANGES=200 in the environment lets test_never_two force so many changes (15 minutes).
"""

import concurrent.futures
import contextlib
import os
import random
import re
import shutil
import subprocess
import threading
import time
from types import SimpleNamespace

import harness
import offloader
import pytest
import requests
from harness import wait_for
from hubclient import BASE, Hub, HubError, HubUser, Prober
from repack import add_migration, repack

pytestmark = pytest.mark.slow("three machines")
ON_HUBS = ("curl", "keepalived", "postgresql-client")
PACKAGES = ("--no-install-recommends", "curl", "haproxy", "keepalived", "openssl", "postgresql", "postgresql-client")
CONFIG = "/etc/jupyterhub/jupyterhub_config.d/10-pair.py"
URL = "postgresql+psycopg://jupyterhub:of-the-pair@database/jupyterhub"
SETTINGS = f'c = get_config()\nc.JupyterHub.db_url = "{URL}"\nc.JupyterHub.trusted_downstream_ips = ["192.0.2.1"]\n'
SECRETS = ("/etc/jupyterhub/proxy.env", "/var/opt/jupyterhub/cookie_secret")  # the same on both
PSQL = "runuser -u postgres -- psql --no-psqlrc --tuples-only --no-align --dbname=jupyterhub --command"
CHANGES = int(os.environ.get("PAIR_CHANGES", "20"))
SERVES = "the hub of one (192.0.2.11) serves"
# Who writes in which term, as the database sees it.
WITNESS = """
CREATE TABLE witness (term bigint, hub text, UNIQUE (term, hub));
CREATE FUNCTION witnessed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
INSERT INTO witness SELECT last_value, current_setting('application_name') FROM jupyterhub_terms ON CONFLICT DO NOTHING; RETURN NULL; END $$;
CREATE TRIGGER witnessed AFTER INSERT OR UPDATE OR DELETE ON api_tokens EXECUTE FUNCTION witnessed();
CREATE TRIGGER witnessed AFTER INSERT OR UPDATE OR DELETE ON users EXECUTE FUNCTION witnessed();
"""


def link(database, machine, number):
    """Plug a machine, 192.0.2.NUMBER, into the network of the database's machine, 192.0.2.1."""
    machine.sh("sed -i /database/d /etc/hosts; echo 192.0.2.1 database >>/etc/hosts")
    database.plug_in(machine, f"192.0.2.{number}/24")


@pytest.fixture(scope="module", name="database")
def machine_of_the_database(bare_machine):
    machine = bare_machine
    machine.be_a_switch("192.0.2.1/24")
    machine.sh(
        "cd /etc/postgresql/*/main; echo \"listen_addresses = '*'\" >conf.d/pair.conf\n"
        "echo 'host jupyterhub jupyterhub 192.0.2.0/24 scram-sha-256' >>pg_hba.conf; systemctl restart postgresql\n"
        "runuser -u postgres -- psql -c \"CREATE ROLE jupyterhub LOGIN PASSWORD 'of-the-pair'\"\n"
        "runuser -u postgres -- createdb --owner=jupyterhub jupyterhub; systemctl disable --quiet --now haproxy keepalived"
    )
    return machine


def give_the_configuration(pair):
    """Do what docs/two-hubs.md has ssh for."""
    with open(pair.one.root / "root/pair.tar.gz", "wb") as archive:
        archive.write(subprocess.run(pair.one._inside("jupyterhub-ctl", "backup", "--without-database", "-"), check=True, capture_output=True).stdout)
    with open(pair.one.root / "root/pair.tar.gz", "rb") as archive:
        return pair.other.run("jupyterhub-ctl", "restore", "-", input=archive)


@pytest.fixture(scope="module")
def homes():
    """The folder of the host that all machines have as /home, None where each has its own."""


@pytest.fixture(scope="module", name="pair")
def two_hubs(request, site, installed, base, database, homes, say):
    """Two machines with hubs, `one` that serves and `other`, and what the topic has in ON_HUBS (tuple of str, packages)."""
    layers = [*installed[:-1], harness.downloads(base, request.module.PACKAGES, say), base]
    pair = SimpleNamespace(one=site.machine("one", *layers), other=site.machine("other", *layers))
    machines = {11: pair.one, 12: pair.other}
    for machine in machines.values():
        if homes:
            subprocess.run(["mount", "--bind", str(homes), str(machine.root / "home")], check=True)
        machine.boot()
    for number, machine in machines.items():
        machine.write("/etc/hostname", f"{machine.name}\n")
        machine.sh(
            f"hostname {machine.name}; apt-get -qq -y --no-install-recommends install {' '.join(request.module.ON_HUBS)}; systemctl disable -q --now keepalived"
        )
        link(database, machine, number)
        machine.add_user("alice")
    pair.one.write(CONFIG, SETTINGS, 0o640)
    pair.one.sh(f"chgrp jupyterhub {CONFIG}; sed -i s,127.0.0.1:8000,0.0.0.0:8000, /etc/default/jupyterhub; systemctl restart jupyterhub-proxy jupyterhub")
    give_the_configuration(pair)
    yield pair
    for machine in machines.values():
        machine.kill()
        if homes:
            subprocess.run(["umount", str(machine.root / "home")], check=True)
        site.discard(machine)


def state(machine):
    """Return the first word that the hub says of itself."""
    return machine.property("jupyterhub", "StatusText").partition(":")[0]


def seen(machine, path="/hub/ready"):
    """Return status and answer of the hub at a machine's proxy."""
    with machine.network():
        answer = requests.get(BASE + path, timeout=5)
    return answer.status_code, answer.json() if "json" in answer.headers["Content-Type"] else answer.text


def serves(machine):
    with contextlib.suppress(requests.RequestException):
        return seen(machine)[0] == 200
    return False


def settle(pair):
    """Let `one` serve and `other` stand by, whatever was before."""
    for machine in (pair.one, pair.other):
        machine.sh("systemctl kill --signal=CONT jupyterhub; ip link set eth0 up; systemctl reset-failed jupyterhub || true")
    if not serves(pair.one):
        pair.other.sh("systemctl stop jupyterhub")
        pair.one.sh("systemctl start jupyterhub")
        wait_for(lambda: serves(pair.one), "the first serves", timeout=60)
    pair.other.sh("systemctl start jupyterhub")
    wait_for(lambda: state(pair.other) == "Standby", "the second stands by", timeout=60)


def test_second_stands_by_and_says_so(pair):
    settle(pair)
    assert seen(pair.one)[0] == 200
    assert seen(pair.other) == (503, {"state": "standby", "reason": "The hub of this machine stands by: another one serves."})
    assert seen(pair.other, "/hub/health")[0] == 200
    status = pair.other.run("jupyterhub-ctl", "status").stdout
    assert f"standby: {SERVES}" in status and "problem" not in status
    refused = pair.other.run("jupyterhub-ctl", "sessions", check=False)
    assert (refused.returncode, refused.stderr) == (
        3,
        f"jupyterhub-ctl: the hub of this machine stands by, {SERVES}: give the command there\n",
    )
    verified = pair.other.run("jupyterhub-ctl", "verify", check=False).stdout
    assert f"the hub stands by: {SERVES}" in verified and "failed " not in verified, verified
    time.sleep(35)  # longer than the watchdog's patience
    assert pair.other.property("jupyterhub", "NRestarts") == "0"


def test_both_have_the_same_secrets(pair):
    assert pair.one.sh(f"sha256sum {' '.join(SECRETS)}") == pair.other.sh(f"sha256sum {' '.join(SECRETS)}")
    assert seen(pair.one)[0] == 200  # its database is what it was


def test_restart_keeps_the_place(pair):
    """Notebook servers of that machine are its hub's alone."""
    settle(pair)
    with pair.one.network():
        alice = Hub().login("alice", "secret")
        alice.spawn()
        kernel = alice.kernel()
        kernel.execute("kept = 42")
    for command in ("systemctl restart jupyterhub", "systemctl kill --signal=KILL jupyterhub"):
        pair.one.sh(command)
        wait_for(lambda: serves(pair.one), "the hub serves again", timeout=30)
        assert state(pair.other) == "Standby"
        with pair.one.network():
            assert kernel.execute("print(kept)") == "42"
    with pair.one.network():
        alice.stop()


def end_what_nobody_reaches(machine):
    """End alice's server on a machine whose hub stands by as verify says."""
    verified = machine.run("jupyterhub-ctl", "verify", "servers", check=False).stdout
    assert "a notebook server of alice runs that the hub does not know" in verified, verified
    machine.sh(re.search(r"systemctl stop session-\S+\.scope", verified)[0])
    assert "jupyterhub-singleuser" not in machine.sh("ps -u alice -o args || true")


EVENTS = {
    "stopped": "systemctl stop jupyterhub",
    "hanging": "systemctl kill --signal=STOP jupyterhub",
    "cut off": "ip link set eth0 down",
}
CASES = {**EVENTS, "cut off, then killed": "ip link set eth0 down; sleep 1; systemctl kill --signal=KILL jupyterhub"}


@pytest.mark.parametrize("event", CASES)
def test_other_takes_over(pair, event):
    settle(pair)
    with pair.one.network():
        alice = Hub().login("alice", "secret")
        token = alice.hub_api("POST", "/users/alice/tokens", json={"note": "kept"}).json()["token"]
        alice.spawn()
    began = time.monotonic()
    pair.one.sh(CASES[event])
    wait_for(lambda: serves(pair.other), "the other serves", timeout=30, every=0.1)
    print(f"{event}: {time.monotonic() - began:.1f} s")
    alice.session.close()  # its connections lead to the other machine
    with pair.other.network():
        assert "Your server ran on one, a machine that is out of service now" in alice.get("/hub/home").text
        assert requests.get(f"{BASE}/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=5).json()["name"] == "alice"
        assert alice.run_cell("import socket; socket.gethostname()") == "'other'"
        assert "a machine that is out of service now" not in alice.get("/hub/home").text
        alice.stop()
    assert not serves(pair.one)
    pair.one.sh("systemctl kill --signal=CONT jupyterhub; ip link set eth0 up; systemctl start jupyterhub")
    wait_for(lambda: state(pair.one) == "Standby", "the first stands by when it is back", timeout=60)
    assert serves(pair.other)
    end_what_nobody_reaches(pair.one)


def test_database_restarted(pair, database):
    """It is the same hub that goes on, if nobody was faster; in any case one."""
    settle(pair)
    database.sh("systemctl restart postgresql")
    wait_for(lambda: serves(pair.one) != serves(pair.other), "one of them serves", timeout=30)
    time.sleep(6)
    assert [serves(pair.one), serves(pair.other)].count(True) == 1


def test_backup_and_restore(pair):
    settle(pair)
    with pair.one.network():
        alice = Hub().login("alice", "secret")
        token = alice.hub_api("POST", "/users/alice/tokens", json={"note": "restored"}).json()
    made = pair.one.run("jupyterhub-ctl", "backup").stdout.strip()
    with pair.one.network():
        alice.hub_api("DELETE", f"/users/alice/tokens/{token['id']}")
    refused = pair.one.run("jupyterhub-ctl", "restore", made, check=False)
    said = "jupyterhub-ctl: the database is used by the hub of other, too: `systemctl stop jupyterhub` there first\n"
    assert (refused.returncode, refused.stderr) == (11, said)
    pair.other.sh("systemctl stop jupyterhub")
    pair.one.run("jupyterhub-ctl", "restore", made)
    give_the_configuration(pair)
    pair.other.sh("systemctl start jupyterhub")
    wait_for(lambda: state(pair.other) == "Standby", "the second stands by", timeout=60)
    with pair.one.network():
        assert requests.get(f"{BASE}/hub/api/user", headers={"Authorization": f"token {token['token']}"}, timeout=5).json()["name"] == "alice"


def shows_login_page(hub):
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{hub.base}/hub/login", timeout=1, verify=hub.verify).status_code == 200


def until_login_page(hub):
    """Return how many seconds it takes from now until the other hub shows the login page."""
    began = time.monotonic()
    wait_for(lambda: shows_login_page(hub), "the login page is back", timeout=60, every=0.1)
    return time.monotonic() - began


# -- One address -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def through_haproxy(pair, database):
    """The pair as browsers see it through HAProxy on the database's machine, by docs/two-hubs.md and its example."""
    for folder in ("usr/share/jupyterhub/pages", "usr/share/doc/jupyterhub"):
        shutil.copytree(pair.one.root / folder, database.root / folder)
    (database.directory / "authority.pem").write_text(offloader.self_signed(database))
    (sed,) = re.findall(r"^    (sed .*haproxy-pair.cfg.*)$", database.sh(f"zcat --force {offloader.DOC}/two-hubs.md*"), re.MULTILINE)
    database.sh(
        f"cat {offloader.DOC}/examples/haproxy-jhub.cfg >>/etc/haproxy/haproxy.cfg; {sed}; haproxy -c -f /etc/haproxy/haproxy.cfg; systemctl restart haproxy"
    )
    return Hub(offloader.BASE, str(database.directory / "authority.pem"))


def at_work(hub):
    """Return alice (HubUser), and her kernel, which keeps a variable."""
    wait_for(hub.answers, "the hub answers through HAProxy", timeout=20)
    alice = hub.login("alice", "secret")
    alice.spawn()
    kernel = alice.kernel()
    kernel.execute("kept = 42")
    return alice, kernel


@contextlib.contextmanager
def cells(kernel):
    """Run a cell each second, over one connection, as an open notebook does; raise what went wrong with one."""
    done = threading.Event()

    def run():
        while not done.wait(1):
            assert kernel.execute("kept") == "42"

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            yield
        finally:
            done.set()
        running.result()


def test_haproxy_leads_to_the_one_that_serves(pair, database, through_haproxy):
    settle(pair)
    hub = through_haproxy
    alice, kernel = at_work(hub)
    with Prober(alice, "/user/alice/api/status") as probe:
        pair.one.sh("systemctl restart jupyterhub")
        wait_for(lambda: serves(pair.one), "the hub serves again", timeout=30)
        wait_for(hub.answers, "the hub answers through HAProxy", timeout=20)
    assert probe.failures == [] and kernel.execute("kept") == "42"
    pair.one.sh("systemctl stop jupyterhub")
    print(f"stopped, through HAProxy: {until_login_page(hub):.1f} s")
    assert alice.run_cell("import socket; socket.gethostname()") == "'other'"
    alice.stop()
    pair.one.sh("loginctl terminate-user alice; systemctl start jupyterhub")


def start_keepalived(pair):
    """Do what the example says, word for word."""
    for machine in (pair.one, pair.other):
        commands = re.findall(r"^#   (\S.*)", machine.sh(f"cat {offloader.DOC}/examples/keepalived-jhub.conf"), re.MULTILINE)
        machine.sh("\n".join(commands).replace("apt install", "apt-get -qq -y install"))


def test_keepalived_moves_the_address(pair, database):
    """The browser is the database's machine."""
    settle(pair)
    start_keepalived(pair)
    hub = Hub("http://192.0.2.10:8000")

    def is_at(machine):
        return "192.0.2.10/" in machine.sh("ip -brief address show eth0")

    try:
        wait_for(lambda: is_at(pair.one) and not is_at(pair.other), "the address is where the hub serves", timeout=30)
        wait_for(hub.answers, "the hub answers", timeout=20)
        alice = hub.login("alice", "secret")
        pair.one.sh("systemctl restart jupyterhub")
        wait_for(hub.answers, "the hub answers", timeout=20)
        assert is_at(pair.one) and not is_at(pair.other)
        for event in ("stopped", "cut off"):
            pair.one.sh(EVENTS[event])
            print(f"{event}, by keepalived: {until_login_page(hub):.1f} s")
            assert is_at(pair.other)
            alice.session.close()  # its connections lead to the other machine
            assert alice.get("/hub/home").ok
            settle(pair)
            wait_for(lambda: is_at(pair.one) and not is_at(pair.other), "the address is back", timeout=30)
    finally:
        for machine in (pair.one, pair.other):
            machine.sh("systemctl disable --quiet --now keepalived")


def test_rolling_upgrade(pair, deb, through_haproxy, tmp_path_factory):
    """With a migration of the database; the one that stands by first."""
    settle(pair)
    newer = repack(deb, tmp_path_factory.mktemp("newer"), add_migration)
    packages = {machine: machine.push(newer) for machine in (pair.other, pair.one)}
    hub = through_haproxy
    alice, kernel = at_work(hub)
    with Prober(HubUser(hub.base, "nobody", hub.verify), "/hub/login") as probe, Prober(alice, "/user/alice/api/status") as notebook, cells(kernel):
        for machine, package in packages.items():
            machine.run("apt-get", "-qq", "-y", "install", package, timeout=300)
            assert state(pair.other) == "Standby"
        wait_for(hub.answers, "the hub answers through HAProxy", timeout=60)
    print(f"upgrade: logins away for {probe.longest_gap:.1f} s")
    assert probe.longest_gap < 10  # seconds: the issue's
    assert notebook.failures == []
    assert serves(pair.one) and state(pair.other) == "Standby"
    alice.stop()
    for machine in packages:
        assert machine.sh("dpkg-query --show --showformat='${Version}' jupyterhub").split("+")[0].endswith(".1")


def test_power_of_the_first_is_cut(site, pair):
    settle(pair)
    pair.one.kill()
    began = time.monotonic()
    wait_for(lambda: serves(pair.other), "the other serves", timeout=30, every=0.1)
    print(f"power cut: {time.monotonic() - began:.1f} s")


@pytest.fixture
def booted_again(pair, database):
    if not pair.one.leader:
        pair.one.boot()
        pair.one.sh("systemctl stop jupyterhub")
        link(database, pair.one, 11)
        pair.one.sh("systemctl start jupyterhub")


# Whoever stands by takes over without a pause: more changes, and nothing but the lease between the two.
HASTY = """cd /opt/venvs/jupyterhub-servers/current/lib/python3*/site-packages/debianized_jupyterhub
sed -i 's/^GRACE = [0-9]*/GRACE = 0/' lease.py; grep -q '^GRACE = 0 ' lease.py; rm __pycache__/lease.*; systemctl restart jupyterhub"""


def test_never_two(pair, database, booted_again):
    """Forced changes at random moments, while clients let both write all the time; the database remembers who wrote in which term."""
    for machine in (pair.one, pair.other):
        machine.sh(HASTY, timeout=60)
    settle(pair)
    database.run("runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname=jupyterhub", input=WITNESS)
    done = threading.Event()

    def write(machine):
        with machine.network():
            while not done.is_set():
                with contextlib.suppress(requests.RequestException, HubError, AssertionError):
                    alice = Hub().login("alice", "secret")
                    for _ in range(200):
                        alice.hub_api("POST", "/users/alice/tokens", json={"note": "more", "expires_in": 60})
                        if done.is_set():
                            break

    clients = [threading.Thread(target=write, args=(machine,)) for machine in (pair.one, pair.other)]
    for client in clients:
        client.start()
    dice = random.Random(20)
    try:
        for _ in range(CHANGES):
            wait_for(lambda: serves(pair.one) or serves(pair.other), "one of them serves", timeout=60)
            active = pair.one if serves(pair.one) else pair.other
            time.sleep(dice.uniform(0, 1))
            event = dice.choice(["stopped", "stopped", "hanging", "cut off"])
            active.sh(EVENTS[event])
            time.sleep(dice.uniform(0, 2) if event == "stopped" else dice.uniform(2, 7))  # perhaps it is back before its lease has ended
            active.sh("systemctl kill --signal=CONT jupyterhub; ip link set eth0 up; systemctl start --no-block jupyterhub")
    finally:
        done.set()
        for client in clients:
            client.join()
    terms = database.sh(f"{PSQL} 'SELECT term, count(*) FROM witness GROUP BY term ORDER BY term'").splitlines()
    print(f"{len(terms)} terms with writes")
    assert len(terms) > CHANGES / 5 and all(line.endswith("|1") for line in terms), terms
