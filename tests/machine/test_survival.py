"""Running notebooks go on, whatever happens to the hub, the proxy and the spawner service.

Every test has a kernel that holds a variable and a websocket that stays open.
"""

import contextlib
import subprocess
import time

import pytest
import requests
from harness import wait_for
from hubclient import BASE, HubError, HubUser, Prober, with_server

pytestmark = pytest.mark.alone

SERVER = "pgrep --uid alice --full bin/jupyterhub-singleuser"

QUIET = {
    "restart of the hub": "systemctl restart jupyterhub",
    "kill -9 of the hub": "systemctl kill --signal=KILL jupyterhub",
    "dpkg-reconfigure": "dpkg-reconfigure jupyterhub",
    "end of the spawner's units": "systemctl stop jupyterhub-spawner.socket 'jupyterhub-spawner@*'; systemctl start jupyterhub",
}


@pytest.fixture(scope="module")
def alice(machine, hub):
    return with_server(machine, hub, "alice")


@pytest.fixture
def kernel(alice):
    kernel = alice.kernel()
    kernel.execute("held = 42")
    yield kernel
    kernel.shutdown()


def reachable(user):
    """Does the user's server answer?"""
    with contextlib.suppress(HubError, requests.RequestException):
        return user.get(f"{user.prefix}api/status").ok
    return False


@pytest.mark.parametrize("event", QUIET)
def test_notebook_notices_nothing(machine, hub, alice, kernel, event):
    before = machine.sh(SERVER)
    gaps = []
    # The time the login page is away is a bound on this package, not on what else the test's host does: it has three tries.
    while not gaps or (gaps[-1] > 2.5 and len(gaps) < 3):
        with (
            Prober(alice, f"{alice.prefix}api/status") as notebook,
            Prober(HubUser(BASE, "visitor"), "/hub/login") as login,
        ):
            machine.sh(QUIET[event])
            wait_for(hub.answers, "the hub answers again", timeout=20)
        gaps.append(login.longest_gap)
        assert notebook.failures == []
        assert kernel.execute("held") == "42"  # over the websocket it had before
        assert machine.sh(SERVER) == before
        assert alice.server_ready  # the new hub has adopted it
    assert min(gaps) <= 2.5


def test_new_hub_can_stop_what_the_old_one_started(machine, hub, alice):
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    alice.stop()
    assert machine.sh(f"{SERVER} || true") == ""
    alice.spawn()


def test_proxy_killed(machine, hub, alice, kernel):
    """Its connections end with it; what comes meanwhile waits for the next one, and the kernel is the same."""
    gaps = []
    while not gaps or (gaps[-1] > 3 and len(gaps) < 3):
        before = machine.pid_of("jupyterhub-proxy")
        with Prober(alice, f"{alice.prefix}api/status") as notebook:
            machine.sh("systemctl kill --signal=KILL jupyterhub-proxy")
            wait_for(lambda before=before: machine.pid_of("jupyterhub-proxy") not in (before, 0), "another proxy is there")
            wait_for(hub.answers, "the hub answers again", timeout=20)
            wait_for(lambda: reachable(alice), "the notebook answers again", timeout=20)
        gaps.append(notebook.longest_gap)
        assert len(notebook.failures) <= 1  # the request that it was answering
        kernel.connect()
        time.sleep(1)  # jupyter_server loses what comes before it has restored the kernel's channels
        assert kernel.execute("held") == "42"
    assert min(gaps) <= 3


def test_server_killed(machine, alice):
    """The user can start again at once: no need to wait until somebody polls, which takes up to 30 s."""
    old = machine.sh(SERVER)
    machine.sh(f"kill -9 {old}")
    wait_for(lambda: not alice.server_ready, "the hub has noticed", timeout=1)
    alice.spawn()
    assert machine.sh(SERVER) not in ("", old)


def test_spawner_killed_in_the_middle(machine, hub, alice):
    """The spawn fails and says where to look, no server is left that nobody knows of, and the next spawn works."""
    alice.stop()
    killer = "for try in $(seq 1000); do if pkill -9 -f libexec/jupyterhub/[s]pawner-gate; then exit 0; fi; sleep 0.01; done"
    machine.sh(f"systemd-run --quiet --unit=killer sh -c '{killer}'")
    with pytest.raises(HubError, match=r"spawner service failed: see .journalctl"):
        alice.spawn()
    time.sleep(1)
    assert machine.sh(f"{SERVER} || true") == ""
    alice.spawn()


def test_hub_killed_while_a_server_starts(machine, hub, alice):
    """The next hub ends what it cannot know the end of; no second server runs beside the user's next one."""
    alice.stop()
    killer = f"until {SERVER}; do sleep 0.01; done; sleep 0.3; systemctl kill --signal=KILL jupyterhub"
    machine.sh(f"systemd-run --quiet --unit=hub-killer sh -c '{killer}'")
    with pytest.raises((HubError, requests.RequestException)):
        alice.spawn()
    started = machine.sh(SERVER)
    wait_for(hub.answers, "the hub answers again", timeout=20)
    alice.spawn()
    wait_for(lambda: len(machine.sh(SERVER).split()) == 1, "one server is left")
    assert machine.sh(SERVER) != started


def test_adopted_server_killed(machine, hub, alice):
    """The same for a server that an earlier hub has started."""
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    test_server_killed(machine, alice)


def test_server_killed_while_the_hub_was_down(machine, hub, alice):
    machine.sh(f"systemctl stop jupyterhub; kill -9 $({SERVER}); systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    assert not alice.server_ready
    alice.spawn()


def impostor(machine, pid, uid):
    """Start a process with this pid (inside) and uid; it sleeps until it is killed.

    /proc/sys is read-only inside, but it is the writer's pid namespace whose counter is set.
    """
    script = """
        for try in $(seq 200); do
            echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
            setpriv --reuid="$2" --clear-groups sleep 600 >/dev/null 2>&1 &
            if [ $! = "$1" ]; then exit 0; fi
            kill $!
        done
        exit 1
    """
    command = ["nsenter", f"--target={machine.leader}", "--pid", "sh", "-euc", script, "sh", pid, uid]
    subprocess.run(command, check=True)


def test_pid_used_again_is_not_taken_for_the_server(machine, hub, alice):
    """The kernel hands out the server's pid a second time, to another process of the same user."""
    pid = machine.sh(SERVER)
    machine.sh(f"systemctl stop jupyterhub; kill -9 {pid}")
    wait_for(lambda: machine.run("test", "-e", f"/proc/{pid}", check=False).returncode, "the server is gone")
    impostor(machine, pid, machine.sh("id -u alice"))
    machine.sh("systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    assert not alice.server_ready
    alice.spawn()
    assert machine.run("test", "-e", f"/proc/{pid}", check=False).returncode == 0, "the hub ended a process that is not its own"
    machine.sh(f"kill {pid}")


@pytest.fixture
def forgetful(machine, hub, alice):
    """alice's server, asking the hub about its visitor at each request instead of every five minutes."""
    config = "/etc/jupyterhub/jupyterhub_config.d/90-forgetful.py"
    machine.write(config, "c = get_config()\nc.Spawner.args = ['--HubOAuth.cache_max_age=1']\n")
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    alice.stop()
    alice.spawn()
    yield alice
    machine.sh(f"rm {config}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)


def test_hub_down_for_longer_than_answers_are_cached(machine, forgetful, kernel):
    """Cells run, files are saved, kernels start: for whom the hub knew when it was there."""
    alice = forgetful
    machine.sh("systemctl stop jupyterhub")
    time.sleep(2)
    assert kernel.execute("held") == "42"
    note = {"type": "file", "format": "text", "content": "saved"}
    assert alice.api("PUT", "/contents/note.txt", json=note).status_code == 201
    assert alice.kernel().execute("6 * 7") == "42"
    with pytest.raises(HubError):  # a stranger is a stranger
        HubUser(BASE, "alice").get(f"{alice.prefix}api/contents")


def test_everybody_can_start_after_a_reboot(machine, hub, alice):
    machine.power_off()
    machine.boot()
    wait_for(hub.answers, "the hub answers again", timeout=30)
    assert machine.sh("systemctl --failed --no-legend --plain") == ""
    assert not alice.server_ready
    alice.spawn()
    assert alice.kernel().execute("6 * 7") == "42"
