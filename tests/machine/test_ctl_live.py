"""jupyterhub-ctl and the running hub: status, sessions, stop, message, offline, online."""

import json
import time

import pytest
import requests
import websocket
from harness import wait_for
from hubclient import BASE, HubError, Prober, page_text

CTL = "jupyterhub-ctl"
CTL_FILE = "/run/jupyterhub/ctl.json"
MIB = 1 << 20


@pytest.fixture(scope="module")
def alice(machine, hub):
    """A user with a server, and a kernel on it."""
    machine.add_user("alice")
    alice = hub.login("alice", "secret")
    alice.spawn()
    alice.one = alice.kernel()
    return alice


@pytest.fixture(scope="module")
def root(machine, hub):
    """An administrator of the hub, without a server, on a hub whose configuration sets all that ours could clash with."""
    machine.write(
        "/etc/jupyterhub/jupyterhub_config.d/10-site.py",
        "c = get_config()\n"
        'c.Authenticator.admin_users = {"root2"}\n'
        'c.JupyterHub.services = [{"name": "mine", "api_token": "0123456789abcdef0123456789abcdef"}]\n'
        'c.JupyterHub.load_roles = [{"name": "mine", "scopes": ["list:users"], "services": ["mine"]}]\n'
        'c.JupyterHub.template_vars = {"announcement": "<b>of the site</b>"}\n',
    )
    machine.add_user("root2")
    restart(machine, hub)
    return "root2"


def restart(machine, hub):
    machine.run("systemctl", "restart", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def ctl(machine, *arguments, check=True):
    return machine.run(CTL, *arguments, check=check)


def refused(machine, code, *arguments):
    """Return the one line on stderr of a command that must fail with exit code `code`."""
    result = ctl(machine, *arguments, check=False)
    assert (result.returncode, result.stdout) == (code, ""), result.stdout + result.stderr
    assert result.stderr.startswith(f"{CTL}: ") and result.stderr.count("\n") == 1
    return result.stderr


def status(machine):
    return json.loads(ctl(machine, "status", "--json", check=False).stdout)


def sessions(machine):
    return json.loads(ctl(machine, "sessions", "--json").stdout)


# -- The way to the hub ------------------------------------------------------------------------------------------------------------


def test_token_is_roots_and_new_with_each_start(machine, hub, root):
    assert machine.sh(f"stat -c '%a %U' {CTL_FILE}") == "600 jupyterhub"
    old = json.loads(machine.sh(f"cat {CTL_FILE}"))
    restart(machine, hub)
    new = json.loads(machine.sh(f"cat {CTL_FILE}"))

    def ask(token, path="/users"):
        return requests.get(new["url"] + path, headers={"Authorization": f"token {token}"}, timeout=10).status_code

    assert (ask(old["token"]), ask(new["token"])) == (403, 200)
    assert ask("0123456789abcdef0123456789abcdef") == 200  # the site's own service
    machine.run("systemctl", "stop", "jupyterhub")
    assert machine.run("test", "-e", CTL_FILE, check=False).returncode == 1
    machine.run("systemctl", "start", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


@pytest.mark.parametrize("method, path", [("POST", "/users/alice/server"), ("POST", "/users/alice/tokens"), ("DELETE", "/users/alice"), ("POST", "/shutdown")])
def test_token_is_no_administrators(machine, alice, method, path):
    access = json.loads(machine.sh(f"cat {CTL_FILE}"))
    answer = requests.request(method, access["url"] + path, headers={"Authorization": f"token {access['token']}"}, timeout=10)
    assert answer.status_code in (403, 404), answer.text


# -- status, sessions --------------------------------------------------------------------------------------------------------------


def test_status(machine, hub, root, alice):
    state = status(machine)
    assert set(state["units"].values()) == {"active"}
    assert state["hub"] == state["installed"] == machine.sh("dpkg-query -W -f '${Version}' jupyterhub")
    assert (state["users"], state["servers"], state["server_versions"]) == (2, 1, {state["installed"]: 1})
    assert (state["address"], state["offline"], state["message"], state["restart"]) == ("http://127.0.0.1:8000/", None, None, [])
    assert 0 <= state["uptime"] < 3600
    shown = ctl(machine, "status").stdout
    assert f"hub:       {state['hub']}\n" in shown and "logins:    open\n" in shown and f"servers:   1 (1 of {state['hub']})\n" in shown


def test_status_names_what_waits_for_a_restart(machine, hub, root):
    machine.sh("touch /etc/jupyterhub/jupyterhub_config.d/10-site.py")
    assert status(machine)["restart"] == ["/etc/jupyterhub/jupyterhub_config.d/10-site.py was changed after the hub's start"]
    restart(machine, hub)
    assert status(machine)["restart"] == []


def test_change_while_the_hub_starts_waits_for_a_restart(machine, hub, root):
    """It came too late for the process, though that answers only later."""
    file, shown = "/etc/jupyterhub/jupyterhub_config.d/10-site.py", "$(systemctl show --value --property=MainPID jupyterhub)"
    before = machine.pid_of("jupyterhub")
    machine.sh(f"systemctl restart --no-block jupyterhub; until pid={shown}; [ $pid != 0 ] && [ $pid != {before} ]; do sleep 0.05; done; touch {file}")
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert status(machine)["restart"] == [f"{file} was changed after the hub's start"]
    restart(machine, hub)
    assert status(machine)["restart"] == []


def test_sessions(machine, alice):
    (row,) = sessions(machine)
    assert (row["user"], row["server"], row["url"], row["state"]) == ("alice", None, "/user/alice/", "ready")
    assert row["version"] == machine.sh("readlink /opt/venvs/jupyterhub-servers/current")
    assert row["session"].startswith("session-") and row["idle"] < 600 and row["since"]
    line = ctl(machine, "sessions").stdout.splitlines()
    assert len(line) == 1 and line[0].split("\t")[0] == "alice" and line[0].endswith("/user/alice/")


def test_sessions_count_the_kernels(machine, alice):
    """Memory and processor time are those of the whole session."""
    (before,) = sessions(machine)
    kernel = alice.kernel()
    kernel.execute(f"x = bytearray({200 * MIB})")
    kernel.execute("import threading; threading.Thread(target=lambda: [None for _ in iter(lambda: 'stop' in globals(), True)], daemon=True).start()")
    (after,) = sessions(machine)
    assert 200 * MIB < after["memory"] - before["memory"] < 400 * MIB
    wait_for(lambda: sessions(machine)[0]["cpu"] > 10, "the kernel's work is seen", timeout=30)
    kernel.execute("stop = True")
    kernel.shutdown()


# -- message -----------------------------------------------------------------------------------------------------------------------


def listen():
    return websocket.create_connection("ws://127.0.0.1:8000/hub/message", timeout=10)


def test_message_reaches_pages_at_once(machine, hub, root, alice):
    socket = listen()
    assert json.loads(socket.recv()) == {"id": None, "text": None, "ends": []}
    started = time.monotonic()
    ctl(machine, "message", "Reboot at 6 <p.m.>,", "100% sure")
    said = json.loads(socket.recv())
    assert said["text"] == "Reboot at 6 <p.m.>, 100% sure" and said["id"]
    assert time.monotonic() - started < 5
    for page in (requests.get(f"{BASE}/hub/login", timeout=10).text, alice.get("/hub/home").text):
        assert "Reboot at 6 &lt;p.m.&gt;, 100% sure" in page and "<b>of the site</b>" in page
    assert ctl(machine, "message").stdout == "Reboot at 6 <p.m.>, 100% sure\n"
    assert status(machine)["message"] == "Reboot at 6 <p.m.>, 100% sure"
    assert json.loads(listen().recv()) == said  # a page that is opened later
    ctl(machine, "message", "--clear")
    assert json.loads(socket.recv()) == {"id": None, "text": None, "ends": []}
    page = requests.get(f"{BASE}/hub/login", timeout=10).text
    assert "Reboot" not in page and "<b>of the site</b>" in page
    assert ctl(machine, "message", "--clear").stdout == "there was no message\n"


def test_labs_page_has_the_listener(alice):
    """JupyterLab and Notebook are told to load it, and it is there."""
    for path in ("lab", "tree"):
        page = alice.get(f"{alice.prefix}{path}").text
        assert '"jupyterhub-message"' in page and '"hubPrefix": "/hub/"' in page
    script = alice.get(f"{alice.prefix}lab/extensions/jupyterhub-message/message.js")
    assert "new WebSocket(url)" in script.text


def test_message_outlives_the_hub(machine, hub, root):
    machine.run("systemctl", "stop", "jupyterhub")
    ctl(machine, "message", "written while the hub was down")
    machine.run("systemctl", "start", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    assert json.loads(listen().recv())["text"] == "written while the hub was down"
    ctl(machine, "message", "--clear")


def test_full_disk_leaves_the_old_message(machine, hub):
    ctl(machine, "message", "the old one")
    machine.sh("mount -t tmpfs -o size=16k,uid=$(id -u jupyterhub),mode=750 tmpfs /mnt && cp -p /var/opt/jupyterhub/message /mnt/")
    machine.sh("mount --bind /mnt /var/opt/jupyterhub; head -c 1M /dev/zero >/mnt/fill || true")
    try:
        assert "No space left on device: nothing was changed" in refused(machine, 10, "message", "the new one " * 100)
        assert ctl(machine, "message").stdout == "the old one\n"
        assert machine.sh("ls -A /mnt").split() == ["fill", "message"]
    finally:
        machine.sh("umount /var/opt/jupyterhub /mnt")
    ctl(machine, "message", "--clear")


# -- offline, online ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offline(machine, hub, root, alice):
    machine.add_user("bob")
    bob = hub.login("bob", "secret")  # was logged in before
    assert ctl(machine, "offline", "New disks,", "until <noon>.").stdout == "offline: New disks, until <noon>.\n"
    yield bob
    ctl(machine, "online")


def test_offline_login_page(machine, offline):
    answer = requests.get(f"{BASE}/hub/login", timeout=10)
    assert answer.status_code == 503 and "New disks, until <noon>." in page_text(answer)
    assert status(machine)["offline"] == "New disks, until <noon>."
    assert "logins:    OFFLINE: New disks, until <noon>.\n" in ctl(machine, "status").stdout
    assert requests.get(f"{BASE}/hub/health", timeout=10).status_code == 200


def test_offline_lets_nobody_in(machine, hub, offline):
    with pytest.raises(HubError) as error:
        hub.login("bob", "secret")
    assert error.value.status == 503 and "New disks, until <noon>." in error.value.text
    with pytest.raises(HubError) as error:
        hub.login("bob", "wrong")
    assert error.value.status == 403


def test_offline_starts_no_server(offline):
    with pytest.raises(HubError) as error:
        offline.spawn()
    assert error.value.status == 503 and "New disks, until <noon>." in error.value.text
    with pytest.raises(HubError) as error:
        offline.hub_api("POST", "/users/bob/server")
    assert error.value.status == 503


def test_offline_leaves_running_servers_alone(hub, alice, offline):
    """Who has a server goes on, and can come to it from another browser."""
    assert alice.one.execute("6 * 7") == "42"
    again = hub.login("alice", "secret")
    again.get(again.prefix)
    assert again.kernel().execute("1 + 1") == "2"


def test_offline_is_not_for_administrators(hub, root, offline):
    admin = hub.login(root, "secret")
    admin.spawn()
    admin.stop()


def test_offline_outlives_hub_and_machine(machine, hub, alice, offline):
    restart(machine, hub)
    assert requests.get(f"{BASE}/hub/login", timeout=10).status_code == 503
    assert alice.one.execute("6 * 7") == "42"


def test_online(machine, hub, root, offline):
    assert ctl(machine, "online").stdout == "online\n"
    assert requests.get(f"{BASE}/hub/login", timeout=10).status_code == 200
    hub.login("bob", "secret").spawn()
    assert ctl(machine, "online").stdout == "it was online already\n"


# -- stop, and what goes wrong -----------------------------------------------------------------------------------------------------


def test_stop(machine, hub, alice):
    with Prober(alice, "/hub/health") as probe:
        assert ctl(machine, "stop", "alice").stdout.startswith("stopped the server of alice (process ")
    assert probe.failures == []
    assert not alice.server_ready
    gone = "not a process of it is left"
    wait_for(lambda: not machine.run("pgrep", "-u", "alice", "-f", "ipykernel|singleuser", check=False).stdout, gone)
    assert [row["user"] for row in sessions(machine)] == ["bob"]


def test_two_at_once(machine, hub, root):
    """Both say what is true, and the server is gone."""
    said = machine.sh(f"{CTL} stop bob & {CTL} stop bob; wait; {CTL} sessions")
    assert "stopped the server of bob" in said and "/user/bob/" not in said
    machine.sh(f"for i in 1 2 3 4 5 6 7 8; do {CTL} message text $i & done; wait")
    assert ctl(machine, "message").stdout[:-2] == "text "
    assert machine.sh("ls -A /var/opt/jupyterhub | grep '^[.]message' || true") == ""
    ctl(machine, "message", "--clear")


def test_stop_all(machine, hub, root):
    """With their kernels, which end as at every stop: what they do at their exit is done."""
    names = [f"of-a-class-{number}" for number in range(3)]
    for name in names:
        machine.add_user(name)
        user = hub.login(name, "secret")
        user.spawn()
        user.kernel().execute(f"import atexit, pathlib; atexit.register(pathlib.Path('/home/{name}/exit').touch)")
    said = ctl(machine, "stop", "--all").stdout.splitlines()
    assert sorted(line.partition(" (process ")[0] for line in said) == [f"stopped the server of {name}" for name in names]
    assert sessions(machine) == []
    for name in names:
        assert machine.sh(f"ls /home/{name}") == "exit"
        assert "by the administrator." in page_text(hub.login(name, "secret").get("/hub/home"))
    assert ctl(machine, "stop", "--all").stdout == "no server runs\n"


def test_refusals(machine, hub, root):
    for command in (["stop"], ["stop", "--all", "bob"], ["stop", "--all", "--server", "one"]):
        result = ctl(machine, *command, check=False)
        assert result.returncode == 2 and "name one USER, or give --all alone" in result.stderr
    assert "nobody-here: the hub knows no such user" in refused(machine, 7, "stop", "nobody-here")
    assert "bob: no server runs" in refused(machine, 12, "stop", "bob")
    for command in (["status"], ["sessions"], ["stop", "bob"], ["message"], ["offline"], ["online"]):
        result = machine.run("/usr/sbin/jupyterhub-ctl", *command, user="bob", check=False)
        assert (result.returncode, result.stdout) == (4, "") and "needs root" in result.stderr, command
    assert ctl(machine, "message", "x" * 3000, check=False).returncode == 2
    assert ctl(machine, "message", "--clear", "text", check=False).returncode == 2


def test_hub_down(machine, hub, root):
    machine.run("systemctl", "stop", "jupyterhub")
    try:
        for command in (["sessions"], ["stop", "bob"]):
            assert "the hub does not run: `systemctl start jupyterhub`" in refused(machine, 3, *command)
        result = ctl(machine, "status", check=False)
        assert result.returncode == 3 and "jupyterhub.service inactive" in result.stdout and "the hub does not run" in result.stdout
        assert json.loads(ctl(machine, "status", "--json", check=False).stdout)["hub"] is None
    finally:
        machine.run("systemctl", "start", "jupyterhub")
        wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def test_hub_hangs(machine, hub, root):
    """A hub that does not answer is one line, too."""
    pid = machine.pid_of("jupyterhub")
    machine.sh(f"kill -STOP {pid}")
    try:
        assert "the hub does not answer" in machine.run("sh", "-c", f"{CTL} sessions 2>&1", check=False, timeout=120).stdout
    finally:
        machine.sh(f"kill -CONT {pid}")
