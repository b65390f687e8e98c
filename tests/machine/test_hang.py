"""A hub that hangs is restarted by systemd, and until then it is as one that is down: who works does not notice."""

import time

import pytest
from harness import wait_for
from hubclient import BASE, HubError, HubUser

PASSWORD = "secret"
SECONDS = 8  # of the unit's watchdog, in tests that need not last as long as it does as shipped
CONFIG = "/etc/jupyterhub/jupyterhub_config.d/50-test.py"
DROP_IN = "/etc/systemd/system/jupyterhub.service.d/watchdog.conf"


@pytest.fixture(scope="module")
def alice(machine, hub):
    """Her server keeps what the hub says for 1 s."""
    machine.write(CONFIG, "c = get_config()\nc.Spawner.args = ['--HubOAuth.cache_max_age=1']\n")
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    machine.add_user("alice", PASSWORD)
    alice = hub.login("alice", PASSWORD)
    alice.spawn()
    return alice


@pytest.fixture(scope="module")
def quick(machine, hub, alice):
    machine.write(DROP_IN, f"[Service]\nWatchdogSec={SECONDS}\n")
    machine.sh("systemctl daemon-reload; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)


def test_watchdog_is_on(machine, hub):
    assert machine.property("jupyterhub", "WatchdogUSec") == "30s"


def seconds_of(call):
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def test_server_does_not_wait_for_a_hub_that_hangs(machine, hub, alice):
    """Before, each expired answer took 25 s and more."""
    kernel = alice.kernel()
    alice.api("GET", "/contents")
    pid = machine.pid_of("jupyterhub")
    time.sleep(1.5)
    machine.sh(f"kill -STOP {pid}")
    try:
        first = seconds_of(lambda: alice.api("GET", "/contents"))
        time.sleep(1.5)
        following = [seconds_of(lambda: alice.api("GET", "/contents")) for _ in range(5)]
        saved = seconds_of(lambda: alice.api("PUT", "/contents/note.txt", json={"type": "file", "format": "text", "content": "saved"}))
        assert kernel.execute("6 * 7") == "42"
        assert alice.kernel().execute("6 * 7") == "42"
        assert first < 5 and max(*following, saved) < 1, (first, following, saved)
        with pytest.raises((HubError, OSError)):  # a stranger is a stranger
            HubUser(BASE, "alice").get(f"{alice.prefix}api/contents", timeout=10)
    finally:
        machine.sh(f"kill -CONT {pid} || true")
    wait_for(hub.answers, "the hub answers", timeout=60)


def test_hub_that_hangs_is_restarted(machine, hub, alice, quick):
    pid = machine.pid_of("jupyterhub")
    kernel = alice.kernel()
    machine.sh(f"kill -STOP {pid}")
    assert seconds_of(lambda: wait_for(lambda: machine.pid_of("jupyterhub") not in ("0", pid), "another hub", timeout=SECONDS + 30)) < SECONDS + 10
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert "Watchdog timeout" in machine.journal("-u", "jupyterhub")
    assert kernel.execute("6 * 7") == "42"
    assert hub.login("alice", PASSWORD).server_ready


@pytest.mark.slow("a process that hangs is noticed in the same way")
def test_event_loop_that_hangs_is_noticed(machine, hub, alice, quick):
    """The process is as busy as can be; it is its loop that counts."""
    machine.write(
        CONFIG,
        "c = get_config()\nc.Spawner.args = ['--HubOAuth.cache_max_age=1']\ndef hook(spawner):\n    while True: pass\nc.Spawner.pre_spawn_hook = hook\n",
    )
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    machine.add_user("bob", PASSWORD)
    pid = machine.pid_of("jupyterhub")
    bob = hub.login("bob", PASSWORD)
    bob.get("/hub/home")
    headers = {"X-XSRFToken": bob.xsrf("/hub/"), "Referer": f"{BASE}/hub/home"}
    with pytest.raises(Exception):  # noqa: B017, PT011 (the proxy's page, or a connection that breaks)
        bob.request("POST", "/hub/api/users/bob/server", headers=headers, timeout=SECONDS + 10)
    wait_for(lambda: machine.pid_of("jupyterhub") not in ("0", pid), "another hub", timeout=SECONDS + 10)
    machine.write(CONFIG, "c = get_config()\nc.Spawner.args = ['--HubOAuth.cache_max_age=1']\n")
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)


@pytest.mark.slow("waits for longer than the watchdog does")
def test_long_start_is_not_a_hang(machine, hub, alice, quick):
    """A migration of a large database, say."""
    machine.write(CONFIG, f"import time\ntime.sleep({2 * SECONDS})\nc = get_config()\nc.Spawner.args = ['--HubOAuth.cache_max_age=1']\n")
    machine.sh("systemctl restart jupyterhub")
    pid = machine.pid_of("jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=3 * SECONDS + 10)
    assert machine.pid_of("jupyterhub") == pid
    time.sleep(2 * SECONDS)
    assert machine.pid_of("jupyterhub") == pid
