"""A database that cannot be used for a while: the hub says so, to users and to administrators, and goes on by itself. PostgreSQL's: test_postgresql.py."""

import json

import pytest
import requests
from database import DATABASE, PYTHON, STATE
from harness import wait_for
from hubclient import BASE, HubError

LOCK = f"import sqlite3, time; sqlite3.connect('{DATABASE}', isolation_level=None).execute('BEGIN EXCLUSIVE'); print('have', 'it', flush=True); time.sleep(600)"
IN_USE = "The hub's database is in use by another program. Please try again in a minute. Notebooks that run keep running."
NO_ROOM = "There is no room left on the hub's disk. Please tell your administrator. Notebooks that run keep running."


@pytest.fixture(scope="module")
def alice(machine, hub):
    """A user with a server and a token."""
    machine.add_user("alice")
    user = hub.login("alice", "secret")
    user.spawn()
    user.token = user.hub_api("POST", "/users/alice/tokens", json={"note": "kept"}).json()["token"]
    return user


@pytest.fixture
def locked(machine, alice):
    machine.sh(f'systemd-run --quiet --unit=lock {PYTHON} -c "{LOCK}"')
    wait_for(lambda: "have it" in machine.journal("-u", "lock", "-o", "cat"), "the database is locked", timeout=10)
    yield
    machine.sh("systemctl stop lock 2>/dev/null || true")


@pytest.fixture
def full(machine, hub, alice):
    """The hub's state is on a small disk without any room."""
    machine.sh(f"systemctl stop jupyterhub; cp -a {STATE} /root/kept; mount -t tmpfs -o size=4M,mode=755 tmpfs {STATE}")
    machine.sh(f"chown --reference=/root/kept {STATE}; cp -a /root/kept/. {STATE}; systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    machine.sh(f"dd if=/dev/zero of={STATE}/fill bs=64k 2>/dev/null || true; dd if=/dev/zero of={STATE}/fill2 bs=1k 2>/dev/null || true")
    yield
    machine.sh(f"systemctl stop jupyterhub; umount {STATE}; systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)


def asked_with_token(alice, method="GET", path="/user", **options):
    return requests.request(method, f"{BASE}/hub/api{path}", headers={"Authorization": f"token {alice.token}"}, timeout=60, **options)


def test_locked_database_is_told(machine, hub, alice, locked):
    """And not that the token, or the login, is a wrong one."""
    answer = asked_with_token(alice)
    assert (answer.status_code, answer.json()["message"]) == (503, IN_USE)
    with pytest.raises(HubError) as error:
        alice.get("/hub/home")
    assert error.value.status == 503 and IN_USE in error.value.text
    assert alice.api("GET", "/status").ok
    assert alice.get("/hub/health").ok  # with her cookie: notebooks can be reached
    assert (hub.ready().status_code, hub.ready().json()) == (503, {"state": "degraded", "reason": IN_USE})
    assert machine.property("jupyterhub", "StatusText").startswith(f"Degraded: the database {DATABASE} is locked")
    assert machine.run("jupyterhub-ctl", "status", check=False).returncode == 3
    state = json.loads(machine.run("jupyterhub-ctl", "status", "--json", check=False).stdout)
    assert state["state"] == "degraded" and state["problem"].startswith(f"the database {DATABASE} is locked")
    done = machine.run("jupyterhub-ctl", "user", "lock", "alice", check=False)
    assert done.returncode and IN_USE in done.stderr and "This is for" not in done.stderr
    (line,) = [line for line in machine.journal("-p", "err", "-o", "cat", "-u", "jupyterhub").splitlines() if "is locked" in line]
    assert f"the database {DATABASE} is locked: `fuser -v {DATABASE}` names the program, stop that" in line
    machine.sh("systemctl stop lock")
    wait_for(lambda: machine.property("jupyterhub", "StatusText") == "Ready", "the hub finds out by itself", timeout=20)
    assert hub.answers()
    assert asked_with_token(alice).ok
    assert alice.get("/hub/home").ok


@pytest.mark.slow("the same wait with a hub that runs is test_locked_database_is_told")
def test_start_waits_for_a_locked_database(machine, hub, alice, locked):
    """Nobody else waits for longer than half a minute: neither systemctl, apt nor the boot."""
    machine.sh("systemctl restart jupyterhub")
    assert machine.property("jupyterhub", "StatusText").startswith(f"Degraded: the database {DATABASE} is locked")
    assert f"the database {DATABASE} is locked" in machine.run("jupyterhub-ctl", "status", check=False).stdout
    assert (hub.ready().status_code, hub.ready().json()) == (503, {"state": "degraded", "reason": IN_USE})
    assert requests.get(f"{BASE}/hub/health", timeout=5).ok
    assert requests.get(BASE, timeout=5).status_code == 503
    pid = machine.pid_of("jupyterhub")
    machine.sh("systemctl stop lock")
    wait_for(hub.answers, "the hub answers", timeout=40)
    assert machine.pid_of("jupyterhub") == pid
    assert machine.property("jupyterhub", "StatusText") == "Ready"


def test_full_disk_is_told(machine, hub, alice, full):
    """In use, and at the hub's start; it goes on when there is room."""
    answer = asked_with_token(alice, "POST", "/users/alice/tokens", json={"note": "no room" * 100})
    assert (answer.status_code, answer.json()["message"]) == (503, NO_ROOM)
    assert alice.api("GET", "/status").ok
    assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
    said = f"no room for the hub's database: `df {STATE}` shows the disk"
    assert said in machine.journal("-p", "err", "-o", "cat", "-u", "jupyterhub", "--since=-10s")
    assert "upgrade-db" not in machine.journal("-o", "cat", "-u", "jupyterhub")
    machine.sh(f"rm {STATE}/fill*")
    wait_for(hub.answers, "the hub answers", timeout=60)


def test_damaged_database_is_told(machine, hub):
    machine.sh(f"systemctl stop jupyterhub; cp -p {DATABASE} /root/kept.sqlite; printf nonsense | dd of={DATABASE} conv=notrunc status=none")
    try:
        assert machine.run("systemctl", "start", "jupyterhub", check=False).returncode != 0
        said = f"the database {DATABASE} is corrupt (file is not a database): `jupyterhub-ctl backups` lists"
        assert said in machine.journal("-p", "err", "-o", "cat", "-u", "jupyterhub", "--since=-10s")
        assert "Traceback" not in machine.journal("-o", "cat", "-u", "jupyterhub", "--since=-10s")
    finally:
        machine.sh(f"systemctl stop jupyterhub; cp -p /root/kept.sqlite {DATABASE}; systemctl start jupyterhub")
    assert hub.answers()


def test_second_hub_is_refused(machine, hub):
    """One that somebody starts by hand, say; the first goes on."""
    pid = machine.pid_of("jupyterhub")
    like_it = ["User=jupyterhub", "WorkingDirectory=/var/opt/jupyterhub", "EnvironmentFile=/etc/jupyterhub/proxy.env"]
    command = ["systemd-run", "--quiet", "--pipe", "--wait", *(f"--property={each}" for each in like_it), "jupyterhub-launcher", "hub"]
    second = machine.run(*command, check=False)
    assert second.returncode == 1
    said = f"jupyterhub: the database {DATABASE} is in use by another hub (process {pid} of {machine.sh('hostname')}): stop that"
    assert said in second.stdout + second.stderr
    assert hub.answers() and machine.pid_of("jupyterhub") == pid
