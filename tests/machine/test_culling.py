"""Notebook servers that are stopped by themselves: idle ones and old ones where settings say so, all of them at a maintenance; pages say it before."""

import contextlib
import json
import re
import threading
import time

import pytest
import requests
import websocket
from harness import wait_for
from hubclient import Prober, page_text
from playwright.sync_api import expect

DEFAULTS = "/etc/default/jupyterhub"
IDLE = 8  # seconds


def set_and_restart(machine, hub, **settings):
    for name, value in settings.items():
        machine.sh(f"sed -i 's/^{name}=.*/{name}={value}/' {DEFAULTS}; grep -q '^{name}={value}$' {DEFAULTS}")
    machine.run("systemctl", "restart", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def with_server(machine):
    """Return the users that have a server, as jupyterhub-ctl sees it."""
    return {row["user"] for row in json.loads(machine.sh("jupyterhub-ctl sessions --json"))}


@pytest.fixture(scope="module")
def idle(machine, hub):
    """A user whose server is never used (HubUser)."""
    return spawn(machine, hub, "idle")


def test_off_by_default(machine, idle):
    time.sleep(IDLE + 2)
    assert with_server(machine) == {"idle"}


def test_wrong_setting_is_named(machine, hub, idle):
    """Each kind of mistake: tests/unit/test_durations.py."""
    machine.sh(f"cp -p {DEFAULTS} /root/; echo JUPYTERHUB_CULL_IDLE=soon >>{DEFAULTS}")
    line = machine.sh(f"wc -l <{DEFAULTS}")
    said = f"JUPYTERHUB_CULL_IDLE=soon in {DEFAULTS}:{line} is not a valid duration"
    assert said in machine.run("jupyterhub-ctl", "check-config", check=False).stdout
    assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
    assert said in machine.journal("-u", "jupyterhub")
    machine.sh(f"cp -p /root/jupyterhub {DEFAULTS}")


@pytest.fixture(scope="module")
def culling(machine, hub, idle):
    """Culling switched on, with a group whose members may be idle for longer."""
    machine.run("groupadd", "patient")
    machine.add_user("patience")
    machine.run("usermod", "-aG", "patient", "patience")
    wait_for(hub.answers, "the hub answers", timeout=60)
    idle.stop()  # or it would be stopped while the next test asks for it
    set_and_restart(machine, hub, JUPYTERHUB_CULL_IDLE=f"{IDLE}s", JUPYTERHUB_CULL_IDLE_GROUPS="patient=1h")


def listen(machine, user):
    """Return what a page of the user's is told meanwhile: the list of answers, which grows."""
    told = []
    cookie = user.session.prepare_request(requests.Request("GET", f"{user.base}/hub/message")).headers["Cookie"]
    socket = websocket.create_connection(f"{user.base.replace('http', 'ws', 1)}/hub/message", cookie=cookie, timeout=120)

    def read():
        while True:
            told.append(json.loads(socket.recv()))

    in_background(read)
    return told


def test_idle_server_ends_busy_ones_go_on(machine, hub, idle, culling):
    """idle: nothing after the start. patience: the same, in a group that may. reader: asks for pages. watcher: a page with a
    notebook is open, and nothing happens on it.

    worker: no browser, a kernel that computes and says nothing. asker, asker2: a cell waits at input(), and the page was closed while it did or before.
    """
    # A page's connection to a kernel answers the server's pings, every 30 s as shipped.
    machine.write("/etc/jupyter/jupyter_server_config.py", 'c = get_config()\nc.ServerApp.tornado_settings = {"ws_ping_interval": 1000}\n')
    patience = hub.login("patience", "secret")
    patience.spawn()
    idle.spawn()
    told, others = listen(machine, idle), listen(machine, patience)
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
        assert "Your notebook server is not in use." in [end["text"] for answer in told for end in answer["ends"] if end["server"] == "/user/idle/"]
        assert not [answer for answer in others if answer["ends"]]
        assert re.search(r"Your server was stopped on .* UTC, because it was idle\.", page_text(idle.get("/hub/home")))
        wait_for(lambda: not with_server(machine) & {"asker", "asker2"}, "who waits for input() is idle", timeout=60, every=1)
        time.sleep(2 * IDLE)
        assert with_server(machine) == {"reader", "watcher", "worker", "patience"}
    assert probe.failures == []
    watcher.socket.abort()
    machine.run("touch", "/home/worker/stop")
    wait_for(lambda: with_server(machine) == {"patience"}, "the others are stopped when they are idle", timeout=60, every=1)


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


@pytest.mark.slow("nothing of the services is the site's since they are added behind its configuration")
def test_site_may_have_services_of_its_own(machine, hub, idle, culling):
    machine.write(
        "/etc/jupyterhub/jupyterhub_config.d/10-site.py",
        'c = get_config()\nc.JupyterHub.services = [{"name": "mine", "command": ["sleep", "1000"]}]\nc.JupyterHub.load_roles = []\n',
    )
    machine.run("systemctl", "restart", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    idle.spawn()
    wait_for(lambda: "idle" not in with_server(machine), "the idle server is stopped", timeout=60, every=1)


def test_no_token_is_left_of_earlier_starts(machine, hub, culling):
    count = (
        "import sqlite3; print(sqlite3.connect('file:/var/opt/jupyterhub/jupyterhub.sqlite?mode=ro', uri=True)"
        ".execute(\"select count(*) from api_tokens t join services s on t.service_id = s.id where s.name like 'jupyterhub-%'\").fetchone()[0])"
    )
    assert machine.run("/opt/venvs/jupyterhub/bin/python", "-c", count).stdout.strip() == "1"  # jupyterhub-ctl's


@pytest.fixture(scope="module")
def lab(machine, hub, browser, idle, culling):
    """idle's JupyterLab, with an idle time and an age that people can read a notification in."""
    set_and_restart(machine, hub, JUPYTERHUB_CULL_IDLE="30s", JUPYTERHUB_CULL_MAX_AGE="120s")
    page = browser.page()
    page.goto("/hub/login")
    page.get_by_label("Username").fill("idle")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/user/idle/lab**", timeout=120_000)
    expect(page.locator("#jp-MainLogo")).to_be_visible(timeout=120_000)
    kept = {}

    def from_memory(route):
        """Answer what a page asks its server for now and then, without asking it: nobody is there, or the tab is not on show."""
        asked = route.request.method, route.request.url.partition("?")[0]
        if asked not in kept:
            kept[asked] = route.fetch()
        route.fulfill(response=kept[asked])

    page.route(re.compile(r"/user/idle/(lab/)?api/(?!me\b)"), from_memory)
    return page


def test_page_says_that_its_server_will_be_stopped(lab, browser):
    notice = lab.locator(".Toastify__toast")
    expect(notice).to_contain_text("Your notebook server is not in use. This server and its kernels are stopped in less than a minute", timeout=60_000)
    browser.screenshot(lab, "about-to-be-stopped")
    with lab.expect_response(re.compile(r"/user/idle/api/me\b")) as answer:
        notice.get_by_role("button", name="Keep it running").click()
    assert answer.value.ok
    expect(notice).to_have_count(0, timeout=10_000)


@pytest.mark.slow("waits for minutes; an idle server's end is each time")
def test_server_that_is_kept_reaches_the_age_limit(machine, lab, idle):
    lab.evaluate("setInterval(() => fetch('/user/idle/api/me', {headers: {'X-XSRFToken': document.cookie.match(/_xsrf=([^;]+)/)[1]}}), 3000)")
    expect(lab.locator(".Toastify__toast")).to_contain_text("Your notebook server reaches the age limit.", timeout=150_000)
    wait_for(lambda: "idle" not in with_server(machine), "the server is stopped", timeout=90, every=1)
    assert "because it had reached the age limit." in page_text(idle.get("/hub/home"))


# -- Maintenance -------------------------------------------------------------------------------------------------------------------

AT_EXIT = "import atexit, time\n@atexit.register\ndef end():\n    time.sleep(1)\n    open('ended', 'w').write('in order')"


@pytest.fixture(scope="module")
def no_culling(machine, hub, culling):
    set_and_restart(machine, hub, JUPYTERHUB_CULL_IDLE="", JUPYTERHUB_CULL_IDLE_GROUPS="", JUPYTERHUB_CULL_MAX_AGE="")
    for name in with_server(machine):
        hub.login(name, "secret").stop()
    yield
    machine.run("jupyterhub-ctl", "online")


def test_maintenance_is_announced_and_kernels_end_in_order(machine, hub, idle, no_culling):
    idle.spawn()
    idle.kernel().execute(AT_EXIT)
    told = listen(machine, idle)
    said = machine.run("jupyterhub-ctl", "offline", "--stop-at", "+15s", "New disks.").stdout
    assert re.fullmatch(r"offline: New disks\.\nthe servers that run at 20\d\d-\d\d-\d\d \d\d:\d\d are stopped then; open pages say so\n", said)
    due = json.loads(machine.run("jupyterhub-ctl", "status", "--json").stdout)["stop_at"]
    wait_for(lambda: told[-1]["ends"], "the page is told", timeout=10)
    assert told[-1]["ends"] == [{"server": "/user/idle/", "at": due, "text": "Maintenance is due.", "idle": False}]
    assert with_server(machine) == {"idle"}
    wait_for(lambda: with_server(machine) == set(), "the server is stopped", timeout=40, every=0.5)
    assert time.time() >= due
    assert machine.sh("cat /home/idle/ended") == "in order"
    assert "for maintenance." in page_text(idle.get("/hub/home"))


@pytest.mark.slow("a time in a file, looked at each second")
def test_time_that_passes_while_the_hub_is_down(machine, hub, idle, no_culling):
    machine.run("jupyterhub-ctl", "online")
    idle.spawn()
    machine.run("jupyterhub-ctl", "offline", "--stop-at", "+3s")
    machine.run("systemctl", "stop", "jupyterhub")
    time.sleep(4)
    machine.run("systemctl", "start", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    wait_for(lambda: with_server(machine) == set(), "the server is stopped", timeout=40, every=0.5)


@pytest.mark.slow("a time in a file, and a wait for what does not happen")
def test_online_withdraws_the_time(machine, hub, idle, no_culling):
    machine.run("jupyterhub-ctl", "offline", "--stop-at", "+5s")
    machine.run("jupyterhub-ctl", "online")
    idle.spawn()
    time.sleep(8)
    assert with_server(machine) == {"idle"}
    assert "no server is stopped" not in machine.run("jupyterhub-ctl", "offline").stdout
