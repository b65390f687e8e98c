"""Idle notebook servers are stopped where two settings say so, and nowhere else; who works or computes is left alone."""

import contextlib
import json
import re
import threading
import time

import pytest
import websocket
from harness import wait_for
from hubclient import Prober, page_text

DEFAULTS = "/etc/default/jupyterhub"
IDLE = 8  # seconds


def set_and_restart(machine, hub, **settings):
    for name, value in settings.items():
        machine.sh(f"sed -i 's/^{name}=.*/{name}={value}/' {DEFAULTS}; grep -q '^{name}={value}$' {DEFAULTS}")
    machine.run("systemctl", "restart", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def culler(machine):
    """Return the pids of the culling service."""
    return machine.run("pgrep", "-u", "jupyterhub", "-f", "jupyterhub_idle_culler", check=False).stdout.split()


def with_server(machine):
    """Return the users that have a server, as jupyterhub-ctl sees it."""
    return {row["user"] for row in json.loads(machine.sh("jupyterhub-ctl sessions --json"))}


def test_off_by_default(machine, hub):
    assert culler(machine) == []
    assert "jupyterhub-cull" not in machine.journal("-u", "jupyterhub")


@pytest.mark.parametrize("setting", ["JUPYTERHUB_CULL_IDLE=soon", "JUPYTERHUB_CULL_IDLE=0", "JUPYTERHUB_CULL_MAX_AGE=-5h"])
def test_wrong_setting_is_named(machine, hub, setting):
    machine.sh(f"cp -p {DEFAULTS} /root/; echo {setting} >>{DEFAULTS}")
    machine.run("systemctl", "restart", "jupyterhub", check=False)
    wait_for(lambda: f"{setting} in {DEFAULTS} is not a valid duration" in machine.journal("-u", "jupyterhub"), "the journal names the setting", timeout=60)
    machine.sh(f"cp -p /root/jupyterhub {DEFAULTS}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


@pytest.fixture(scope="module")
def culling(machine, hub):
    """Culling switched on; servers are started after that."""
    set_and_restart(machine, hub, JUPYTERHUB_CULL_IDLE=f"{IDLE}s")
    assert len(culler(machine)) == 1


def test_culler_is_the_hubs_sandboxed_child(machine, culling):
    (pid,) = culler(machine)
    assert machine.sh(f"ps -o user:32= -p {pid}") == "jupyterhub"
    assert machine.sh(f"grep NoNewPrivs /proc/{pid}/status").split() == ["NoNewPrivs:", "1"]
    assert machine.sh(f"cat /proc/{pid}/cgroup").endswith("/jupyterhub.service")
    assert machine.sh(f"tr '\\0' '\\n' </proc/{pid}/cmdline").find("token") == -1


def test_idle_server_ends_busy_ones_go_on(machine, hub, culling):
    """idle: nothing after the start. reader: asks for pages. watcher: a page with a notebook is open, and nothing happens on it.

    worker: no browser, a kernel that computes and says nothing. asker, asker2: a cell waits at input(), and the page was closed while it did or before.
    """
    # A page's connection to a kernel answers the server's pings, every 30 s as shipped.
    machine.write("/etc/jupyter/jupyter_server_config.py", 'c = get_config()\nc.ServerApp.tornado_settings = {"ws_ping_interval": 1000}\n')
    spawn(machine, hub, "idle")
    reader = spawn(machine, hub, "reader")
    with Prober(reader, "/user/reader/api/status", every=1) as probe:
        watcher = spawn(machine, hub, "watcher").kernel()
        in_background(answer_pings, watcher)
        worker = spawn(machine, hub, "worker").kernel()
        in_background(worker.execute, "import os, time\nwhile not os.path.exists('stop'): time.sleep(0.1)")
        wait_for(lambda: worker.user.api("GET", f"/kernels/{worker.id}").json()["execution_state"] == "busy", "the cell runs")
        worker.socket.abort()  # unlike close() it can be called while the other thread reads
        for name, wait in (("asker", 0), ("asker2", 3)):
            asker = spawn(machine, hub, name).kernel()
            in_background(asker.execute, f"import time; time.sleep({wait}); input()", 60, True)
            wait_for(lambda asker=asker: asker.user.api("GET", f"/kernels/{asker.id}").json()["execution_state"] == "busy", "the cell runs")
            time.sleep(0 if wait else 1)
            asker.socket.abort()
        wait_for(lambda: "idle" not in with_server(machine), "the idle server is stopped", timeout=60, every=1)
        assert "Culling server idle" in machine.journal("-u", "jupyterhub")
        assert re.search(r"Your server was stopped on .* UTC, because it was idle\.", page_text(hub.login("idle", "secret").get("/hub/home")))
        wait_for(lambda: not with_server(machine) & {"asker", "asker2"}, "who waits for input() is idle", timeout=60, every=1)
        time.sleep(3 * IDLE)
        assert with_server(machine) == {"reader", "watcher", "worker"}
    assert probe.failures == []
    watcher.socket.abort()
    machine.run("touch", "/home/worker/stop")
    wait_for(lambda: with_server(machine) == set(), "the others are stopped when they are idle", timeout=60, every=1)


def spawn(machine, hub, name):
    """Return a new user (HubUser) with a server."""
    machine.add_user(name)
    user = hub.login(name, "secret")
    user.spawn()
    return user


def in_background(function, *arguments):
    """Call it in a thread, until the websocket that it reads is closed."""

    def run():
        with contextlib.suppress(websocket.WebSocketException, OSError):
            function(*arguments)

    threading.Thread(target=run, daemon=True).start()


def answer_pings(kernel):
    """Do what an open page does while nothing happens on it."""
    kernel.socket.settimeout(None)
    while True:
        kernel.socket.recv()


def test_site_may_have_services_of_its_own(machine, hub, culling):
    machine.write(
        "/etc/jupyterhub/jupyterhub_config.d/10-site.py",
        'c = get_config()\nc.JupyterHub.services = [{"name": "mine", "command": ["sleep", "1000"]}]\nc.JupyterHub.load_roles = []\n',
    )
    machine.run("systemctl", "restart", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    assert len(culler(machine)) == 1
    users = hub.login("idle", "secret")
    users.spawn()
    wait_for(lambda: with_server(machine) == set(), "the idle server is stopped", timeout=60, every=1)


def test_no_token_is_left_of_earlier_starts(machine, hub, culling):
    count = (
        "import sqlite3; print(sqlite3.connect('file:/var/opt/jupyterhub/jupyterhub.sqlite?mode=ro', uri=True)"
        ".execute(\"select count(*) from api_tokens t join services s on t.service_id = s.id where s.name like 'jupyterhub-%'\").fetchone()[0])"
    )
    assert machine.run("/opt/venvs/jupyterhub/bin/python", "-c", count).stdout.strip() == "2"  # ctl's and the culler's


def test_off_again(machine, hub, culling):
    set_and_restart(machine, hub, JUPYTERHUB_CULL_IDLE="")
    assert culler(machine) == []
