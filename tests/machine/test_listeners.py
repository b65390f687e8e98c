"""Nobody gets the place of the hub, the proxy or a notebook server, not even for the second of a restart.

`mallory` has an account of the machine and may not use the hub; `bob` may. Both try for as long as the tests run.
"""

import contextlib
import http.client
import re
import socket
import threading
import time

import pytest
import requests
import websocket
from cases import further
from harness import wait_for
from hubclient import BASE, Hub, with_server
from repack import repack

PACKAGES = ("cron",)
PYTHON = "/opt/venvs/jupyterhub/bin/python"
PORTS = (8000, 8081)
SERVERS = "/run/jupyterhub-servers"
THIEF = "answered by a thief"
SOON = "/etc/jupyterhub/jupyterhub_config.d/80-soon.py"  # a hub that asks servers for three seconds only

# Takes whichever of the ports it can, for good, and answers at it; says so in its home.
GRAB = f"""#!{PYTHON}
import os, socket, threading, time

def serve(port, listener):
    open(os.path.expanduser(f"~/got-{{port}}"), "w").close()
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: {len(THIEF)}\\r\\n\\r\\n{THIEF}")
        connection.close()

def grab(port):
    while True:
        for address in ("127.0.0.1", "0.0.0.0", "127.0.0.1"):
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                listener = socket.socket()
                try:
                    listener.setsockopt(socket.SOL_SOCKET, option, 1)
                    listener.bind((address, port))
                    listener.listen()
                except OSError:
                    listener.close()
                    time.sleep(0.0005)
                else:
                    return serve(port, listener)

for port in {PORTS}:
    threading.Thread(target=grab, args=(port,)).start()
open(os.path.expanduser("~/tries"), "w").close()
"""


@pytest.fixture(scope="module")
def thieves(machine, hub):
    """mallory and bob, each with a program that tries to have the ports, also from cron and from a lingering session at the next boot."""
    machine.add_user("mallory", groups=())
    machine.add_user("bob")
    machine.write("/usr/local/bin/grab", GRAB, mode=0o755)
    machine.run("crontab", "-u", "mallory", "-", input="@reboot /usr/local/bin/grab\n")
    machine.write("/etc/systemd/user/grab.service", "[Service]\nExecStart=/usr/local/bin/grab\n[Install]\nWantedBy=default.target\n")
    machine.sh("systemctl --global enable grab; loginctl enable-linger bob")
    machine.sh("systemd-run --quiet --uid=mallory --setenv=HOME=/home/mallory --unit=thief /usr/local/bin/grab")
    wait_for(lambda: machine.sh("ls /home/mallory").split() == ["tries"], "mallory tries")


@pytest.fixture(scope="module")
def alice(machine, hub, thieves):
    return with_server(machine, hub, "alice")


@pytest.fixture(scope="module")
def kernel(alice):
    kernel = alice.kernel()
    kernel.execute("held = 42")
    return kernel


@pytest.fixture
def connected(alice, kernel):
    """The kernel over a websocket made now: those of earlier tests broke with the proxy."""
    kernel.connect()
    time.sleep(1)  # jupyter_server loses what comes before it has restored the kernel's channels
    return kernel


def stolen(machine):
    """Return what the thieves have got (str), "" for nothing."""
    return machine.sh("ls /home/mallory /home/bob | grep got- || true")


class Loop:
    """Asks for one path again and again, each time over a connection of its own, and remembers what went wrong."""

    def __init__(self, port, path, **headers):
        self.port, self.path, self.headers = port, path, headers
        self.answers, self.refused, self.others = 0, [], []
        self._stop = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()

    def _ask(self):
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            try:
                connection.request("GET", self.path, headers=self.headers)
                answer = connection.getresponse()
                body = answer.read()
                assert THIEF.encode() not in body
                if answer.status != 200:
                    self.others.append(f"status {answer.status}")
            except ConnectionRefusedError as error:
                self.refused.append(str(error))
            except (OSError, http.client.HTTPException) as error:
                self.others.append(repr(error))
            finally:
                connection.close()
            self.answers += 1


@pytest.fixture(scope="module")
def token(alice):
    return alice.hub_api("POST", "/users/alice/tokens", json={"note": "loop"}).json()["token"]


@pytest.fixture(scope="module")
def newer(deb, tmp_path_factory):
    """The package with a higher version, and a proxy that is to be restarted."""

    def change(tree):
        (proxy,) = tree.glob("opt/venvs/*/lib/node_modules/configurable-http-proxy/lib/configproxy.js")
        proxy.write_text(proxy.read_text() + "\n// newer\n")

    return repack(deb, tmp_path_factory.mktemp("newer"), change)


slow = pytest.mark.slow
EVENTS = {
    "restart of the hub": "systemctl restart jupyterhub",
    "restart of the proxy": "systemctl restart jupyterhub-proxy",
    "restart of the keeper": "systemctl restart jupyterhub-ports",
    "kill -9 of the hub": "systemctl kill --signal=KILL jupyterhub",
    "kill -9 of the proxy": "systemctl kill --signal=KILL jupyterhub-proxy",
    "kill -9 of the keeper": "systemctl kill --signal=KILL jupyterhub-ports",
    "upgrade": "apt-get -qq -y install /root/jupyterhub_*.deb",
}
OFTEN = ("restart of the hub", "kill -9 of the proxy")  # the upgrade, which restarts all three, takes minutes
ANSWERS = []


@pytest.mark.parametrize("event", further(EVENTS, OFTEN, "further events under the same load"))
def test_no_request_is_refused_or_answered_by_others(machine, hub, alice, connected, token, event, request):
    if event == "upgrade":
        machine.push(request.getfixturevalue("newer"))
    cookie = alice.session.prepare_request(requests.Request("GET", f"{BASE}{alice.prefix}api/status")).headers["Cookie"]
    loops = [
        Loop(8000, "/hub/login"),
        Loop(8081, "/hub/api/user", Authorization=f"token {token}"),
        Loop(8000, f"{alice.prefix}api/status", Cookie=cookie),
    ]
    seconds = 5 if request.config.getoption("slow") else 1
    with contextlib.ExitStack() as stack:
        for loop in loops:
            stack.enter_context(loop)
        time.sleep(seconds)
        machine.sh(EVENTS[event], timeout=300)
        wait_for(hub.answers, "the hub answers again", timeout=20)
        time.sleep(seconds)
    for loop in loops:
        assert loop.answers > 20 and loop.refused == [], loop.path
        assert len(loop.others) <= 1, (loop.path, loop.others)
    ANSWERS.extend(loop.answers for loop in loops)
    assert stolen(machine) == ""
    if "proxy" not in event and event != "upgrade":
        assert connected.execute("held") == "42"  # over the websocket that it had before


@slow("a claim about all events together")
def test_there_were_enough_requests():
    assert len(ANSWERS) < 3 * len(EVENTS) or sum(ANSWERS) >= 10000


def test_only_two_ports_listen(machine, alice, kernel):
    listening = {line.split()[3] for line in machine.sh("ss -Hltnp | grep -v -e sshd -e exim").splitlines()}
    assert listening == {"127.0.0.1:8000", "127.0.0.1:8081"}


# -- Users' servers ----------------------------------------------------------------------------------------------------------------


def run(machine, user, code):
    return machine.run(PYTHON, "-c", code, user=user, check=False)


@pytest.mark.parametrize("who", ["mallory", "bob"])
def test_server_is_out_of_reach(machine, alice, who):
    (name,) = machine.sh(f"ls {SERVERS}").split()
    assert re.fullmatch(r"server-[0-9a-f]{16}\.sock", name)
    for code in (
        f"import os; os.listdir({SERVERS!r})",
        f"import socket; socket.socket(socket.AF_UNIX).connect('{SERVERS}/{name}')",
        f"import socket; socket.socket(socket.AF_UNIX).bind('{SERVERS}/server-0123456789abcdef.sock')",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/jupyterhub-ports/keeper.sock')",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/jupyterhub-ports/hub.sock')",
    ):
        assert "PermissionError" in run(machine, who, code).stderr, code


def test_place_of_a_killed_server_is_nobodys(machine, hub, alice):
    """Its socket goes with it, and the next has another."""
    user = Hub().login("bob", "secret")
    user.spawn()
    before = set(machine.sh(f"ls {SERVERS}").split())
    machine.sh("pkill -KILL -u bob -f bin/jupyterhub-[s]ingleuser")
    wait_for(lambda: not user.server_ready, "the hub has noticed")
    left = set(machine.sh(f"ls {SERVERS}").split())
    assert left < before and len(left) == 1
    user.spawn()
    assert set(machine.sh(f"ls {SERVERS}").split()) & (before - left) == set()


@pytest.mark.parametrize("name", ["../jupyterhub/ctl.json", "/tmp/x.sock", "hub.sock", "server-0.sock", 7, None])
def test_gate_binds_no_other_name(machine, alice, name):
    from test_boundary import ask_gate

    answer = ask_gate(machine, f'{{"action": "spawn", "user": "alice", "args": [], "env": {{}}, "socket": {str(name).join(["~", "~"]).replace("~", chr(34))}}}')
    assert '"ok": false' in answer and "Traceback" not in answer


def test_hub_asks_who_answers(machine, hub, alice):
    """A process of somebody else's at a server's socket, which only the hub's account itself could put there, is not taken for the server."""
    server = alice.hub_api("GET", "/users/alice").json()["servers"][""]
    (name,) = [name for name in machine.sh(f"ls {SERVERS}").split() if name in machine.sh(f"cat /proc/{server_pid(machine)}/cmdline | tr '\\0' ' '")]
    path = f"{SERVERS}/{name}"
    machine.sh(
        f"mv {path} {path}.away; systemd-run --quiet --unit=impostor --uid=jupyterhub {PYTHON} -c "
        f'"import socket, time; s = socket.socket(socket.AF_UNIX); s.bind({path!r}); s.listen(); time.sleep(600)"'
    )
    machine.write(SOON, "c.Spawner.http_timeout = 3\n")
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    said = f"listens at {name}, not the server of alice"
    wait_for(lambda: said in machine.journal("-u", "jupyterhub"), "the hub says so", timeout=30)
    machine.sh(f"systemctl stop impostor; mv {path}.away {path}; systemctl restart jupyterhub")
    assert server["ready"]
    wait_for(hub.answers, "the hub answers again", timeout=20)
    wait_for(lambda: alice.server_ready, "and finds her server")


def test_server_that_is_halted_outlives_a_restart_of_the_hub(machine, hub, alice, connected):
    """It has answered nothing for longer than the hub asks it (SOON)."""
    pid = server_pid(machine)
    assert connected.execute("held") == "42"  # the websocket is all there

    def given_up():
        return machine.journal("-u", "jupyterhub").count("alice does not answer at")

    before = given_up()
    machine.sh(f"kill -STOP {pid}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again, and does not wait for one server", timeout=20)
    wait_for(lambda: given_up() > before, "the hub gives up asking", timeout=30)
    machine.sh(f"kill -CONT {pid}; rm {SOON}")
    assert connected.execute("held") == "42"
    wait_for(lambda: alice.server_ready, "the hub has it in its list")


def server_pid(machine):
    return machine.sh("pgrep -o -u alice -f bin/jupyterhub-[s]ingleuser")


# -- The hub's two doors -----------------------------------------------------------------------------------------------------------


def test_proxys_headers_count_at_its_own_socket_alone(machine, alice, token):
    """Who speaks to 8081 cannot say who he is to the log, nor that he came by TLS."""
    headers = {"X-Real-IP": "192.0.2.7", "X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    requests.get("http://127.0.0.1:8081/hub/no-such-page", headers=headers, timeout=10)
    requests.get(f"{BASE}/hub/no-such-page-either", headers=headers, timeout=10)
    journal = machine.journal("-u", "jupyterhub", "-n", "100")
    assert re.search(r"/hub/no-such-page \(@127\.0\.0\.1\)", journal)
    assert re.search(r"/hub/no-such-page-either \(@192\.0\.2\.7\)", journal)


def test_one_account_cannot_have_all_connections(machine, hub, alice, token):
    """Neither at the hub's port, nor for its messages: others are served."""
    code = (
        "import socket, time\n"
        "connections = []\n"
        "for _ in range(900):\n"
        "    s = socket.create_connection(('127.0.0.1', 8081)); s.sendall(b'GET /hub/message HTTP/1.1\\r\\nHost: x\\r\\n"
        "Upgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n\\r\\n')\n"
        "    connections.append(s)\n"
        "time.sleep(3)\n"
        "open_ = 0\n"
        "for s in connections:\n"
        "    s.setblocking(False)\n"
        "    try:\n"
        "        open_ += s.recv(4096).startswith(b'HTTP/1.1 101')\n"
        "    except (BlockingIOError, ConnectionError): pass\n"
        "print(open_)\n"
    )
    assert 100 <= int(run(machine, "mallory", code).stdout) <= 200
    answer = requests.get("http://127.0.0.1:8081/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=5)
    assert answer.status_code == 200


def test_messages_reach_those_who_have_logged_in(machine, hub, alice):
    """Whoever opens all the connections for messages that he can get, by the proxy, too: pages of users still hear."""
    request = (
        "GET /hub/message HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n\\r\\n"
    )
    code = (
        "import resource, socket, time\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))\n"
        "connections = []\n"
        "for _ in range(4200):\n"
        f"    s = socket.create_connection(('127.0.0.1', 8000)); s.sendall(b'{request}')\n"
        "    connections.append(s)\n"
        "for s in connections: s.recv(1000)\n"
        "print('all', flush=True)\n"
        "time.sleep(90)\n"
    )
    machine.write("/usr/local/bin/crowd", f"#!{PYTHON}\n{code}", mode=0o755)
    machine.sh("systemd-run --quiet --unit=crowd --uid=mallory --property=LimitNOFILE=5000 /usr/local/bin/crowd")
    try:
        wait_for(lambda: "all" in machine.journal("-u", "crowd"), "they are all there", timeout=90)
        machine.run("jupyterhub-ctl", "message", "heard by all")
        cookie = alice.session.prepare_request(requests.Request("GET", f"{BASE}/hub/home")).headers["Cookie"]
        page = websocket.create_connection(f"{BASE.replace('http', 'ws')}/hub/message", cookie=cookie, timeout=10)
        assert "heard by all" in page.recv()
        page.close()
    finally:
        machine.sh("systemctl stop crowd; jupyterhub-ctl message --clear")


# -- Servers of the version before -------------------------------------------------------------------------------------------------


@pytest.mark.slow("servers of a version of long ago")
def test_server_at_a_port_goes_on(machine, hub):
    """Those that the version before has started stay where they are until they end; the next one has a socket."""
    config = "/etc/jupyterhub/jupyterhub_config.d/80-before.py"
    machine.write(
        config,
        "from debianized_jupyterhub.spawner import GateSpawner\nclass Before(GateSpawner):\n    on_unix_sockets = False\nc.JupyterHub.spawner_class = Before\n",
    )
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    machine.add_user("carol")
    carol = Hub().login("carol", "secret")
    carol.spawn()
    kernel = carol.kernel()
    kernel.execute("held = 7")
    machine.sh(f"rm {config}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert kernel.execute("held") == "7"
    assert carol.server_ready and carol.get(f"{carol.prefix}api/status").ok
    kernel.close()
    before = machine.sh(f"ls {SERVERS}").split()
    carol.stop()
    carol.spawn()
    assert len(machine.sh(f"ls {SERVERS}").split()) == len(before) + 1
    carol.stop()


# -- Stop, disable, boot -----------------------------------------------------------------------------------------------------------


def status(port, path="/hub/login"):
    """Return the status of an answer that has come at once, 0 for none."""
    with contextlib.suppress(requests.Timeout):
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=3).status_code
    return 0


def test_stopped_hub_is_said_to_be_away_at_once(machine, hub, alice):
    machine.sh("systemctl stop jupyterhub")
    assert (status(8000), status(8081)) == (503, 503)
    machine.sh("systemctl stop jupyterhub-proxy")
    assert status(8000) == 503
    assert stolen(machine) == ""
    machine.sh("systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert alice.server_ready  # and its route is there
    assert alice.get(f"{alice.prefix}api/status").ok


def test_hub_that_does_not_start_is_said_to_be_away(machine, hub):
    machine.write("/etc/jupyterhub/jupyterhub_config.d/90-broken.py", "c = (\n")
    machine.sh("systemctl restart jupyterhub || true")
    wait_for(lambda: "90-broken.py" in machine.journal("-u", "jupyterhub", "-n", "50"), "the hub has ended")
    wait_for(lambda: (status(8000), status(8081)) == (503, 503), "both say so", timeout=20)
    for _ in range(5):  # while it tries again
        assert (status(8000), status(8081)) == (503, 503)
        time.sleep(0.5)
    machine.sh("rm /etc/jupyterhub/jupyterhub_config.d/90-broken.py; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)


def move(machine, address):
    """Have the proxy listen at another address, a URL."""
    machine.sh(f"sed -i 's,^JUPYTERHUB_BIND_URL=.*,JUPYTERHUB_BIND_URL={address},' /etc/default/jupyterhub; systemctl restart jupyterhub-proxy")
    port = int(address.rpartition(":")[2].strip("/"))
    wait_for(lambda: status(port) == 200, "the new address answers", timeout=10)
    listening = {line.split()[3] for line in machine.sh("ss -Hltnp | grep -v -e sshd -e exim").splitlines()}
    assert listening == {address[7:].strip("/"), "127.0.0.1:8081"}


@pytest.mark.parametrize("address", ["http://0.0.0.0:8000/", "http://127.0.0.1:8000/"])
def test_address_follows_a_restart_of_the_proxy(machine, hub, address):
    """Of the same port, which is nobody's for no moment."""
    move(machine, address)
    assert stolen(machine) == ""


def test_ports_are_ours_at_boot(machine, hub, alice):
    """Before cron and sessions that linger run anything."""
    machine.power_off()
    machine.boot()
    wait_for(hub.answers, "the hub answers", timeout=30, every=0.2)
    wait_for(lambda: "tries" in machine.sh("ls /home/bob"), "the thieves have tried, too")
    assert machine.sh("pgrep -u mallory -f bin/grab") and machine.sh("pgrep -u bob -f bin/grab")
    assert stolen(machine) == ""


def test_disabled_service_frees_its_port(machine, hub):
    machine.sh("pkill -f bin/[g]rab; systemctl --global disable grab")
    machine.sh("systemctl disable --now jupyterhub jupyterhub-proxy 2>&1")
    listening = machine.sh("ss -Hltnp | grep -v -e sshd -e exim || true")
    assert listening == ""
    machine.sh("systemctl enable --now jupyterhub jupyterhub-proxy 2>&1")
    wait_for(hub.answers, "the hub answers", timeout=20)


def test_port_follows_a_restart_of_the_proxy(machine, hub):
    """The thieves are gone: a port that is given up is everybody's."""
    move(machine, "http://127.0.0.1:8080/")
    move(machine, "http://127.0.0.1:8000/")


@slow("a drop-in of the docs")
def test_low_port_is_the_administrators_to_choose(machine, hub):
    """The keeper reads the setting at its start; it does as root has written, not as the proxy asks."""
    machine.sh("sed -i 's,^JUPYTERHUB_BIND_URL=.*,JUPYTERHUB_BIND_URL=http://127.0.0.1:80/,' /etc/default/jupyterhub")
    assert machine.run("systemctl", "restart", "jupyterhub-proxy", check=False).returncode != 0
    assert "port 80 is below 1024" in machine.journal("-u", "jupyterhub-proxy", "-n", "20")
    machine.sh("systemctl restart jupyterhub-ports jupyterhub-proxy")
    wait_for(lambda: status(80) == 200, "the new address answers", timeout=20)
    move(machine, "http://127.0.0.1:8000/")


def test_keeper_says_who_has_the_port(machine, hub):
    machine.sh("systemctl stop jupyterhub jupyterhub-proxy jupyterhub-ports")
    machine.sh(f"systemd-run --quiet --uid=mallory --unit=squatter {PYTHON} -m http.server --bind 127.0.0.1 8081")
    with contextlib.suppress(OSError):
        wait_for(lambda: socket.create_connection(("127.0.0.1", 8081), timeout=1), "the port is taken")
    machine.sh("systemctl start --no-block jupyterhub")
    said = "127.0.0.1, port 8081: taken by the account mallory"
    wait_for(lambda: said in machine.journal("-u", "jupyterhub", "-u", "jupyterhub-ports", "-n", "100"), "the journal names it", timeout=20)
    assert "mallory" in machine.run("jupyterhub-ctl", "verify", check=False, timeout=120).stdout
    machine.sh("systemctl stop squatter; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=30)
