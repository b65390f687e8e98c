"""The network is closed to notebook users where the site says so: by uid, with exempt groups and exceptions; not for who comes in, nor for the hub."""

import json
import os
import subprocess
import sys

import pytest
import requests
from harness import wait_for
from hubclient import BASE, with_server
from wheels import wheel

PACKAGES = ("nftables",)
DEFAULTS = "/etc/default/jupyterhub"
NEAR, FAR = {4: "10.7.0.1", 6: "fd07::1"}, {4: "10.7.0.2", 6: "fd07::2"}
TESTED, EXCEPTION = 443, 8443
SITES = "table inet site { chain output { type filter hook output priority 0; policy accept; tcp dport 7777 drop; }; }"

# The machine elsewhere: echoes on ports of TCP and UDP, and an index of packages on port 80.
ELSEWHERE = f"""
import functools, http.server, socket, threading
def echo(kind, port):
    with socket.socket(socket.AF_INET6, kind) as server:
        server.bind(("::", port))
        if kind == socket.SOCK_DGRAM:
            while True:
                data, sender = server.recvfrom(100)
                server.sendto(data, sender)
        server.listen()
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=[connection], daemon=True).start()
def answer(connection):
    while data := connection.recv(100):
        connection.sendall(data)
for kind, port in ((socket.SOCK_STREAM, {TESTED}), (socket.SOCK_STREAM, {EXCEPTION}), (socket.SOCK_DGRAM, {EXCEPTION}), (socket.SOCK_DGRAM, 53)):
    threading.Thread(target=echo, args=[kind, port], daemon=True).start()
http.server.ThreadingHTTPServer(("0.0.0.0", 80), functools.partial(http.server.SimpleHTTPRequestHandler, directory="FOLDER")).serve_forever()
"""
# Ask for an echo: FAMILY KIND ADDRESS PORT [further protocol or name of an attack]
ASK = """
import socket, sys
family, kind, address, port, *how = sys.argv[1:]
sock = socket.socket(getattr(socket, family), getattr(socket, kind), 262 if how == ["mptcp"] else 0)
sock.settimeout(3)
if how == ["by-lo"]:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
sock.connect((address, int(port)))
sock.send(b"x")
print("sent" if how == ["by-lo"] else sock.recv(10).decode())
"""


@pytest.fixture(scope="module")
def elsewhere(machine, tmp_path_factory):
    """Another machine in the network; the prefix (list of str) of commands that run there."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "simple/answer").mkdir(parents=True)
    (folder / "simple/answer/answer-1.0-py3-none-any.whl").write_bytes(wheel("answer", "1.0", {"answer.py": "value = 42\n"}))
    server = subprocess.Popen(["unshare", "--net", sys.executable, "-c", ELSEWHERE.replace("FOLDER", str(folder))], stderr=subprocess.DEVNULL)
    there = ["nsenter", f"--net=/proc/{server.pid}/ns/net"]
    wait_for(lambda: os.stat(f"/proc/{server.pid}/ns/net").st_ino != os.stat("/proc/thread-self/ns/net").st_ino, "it has a network of its own")
    subprocess.run(["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(server.pid)], check=True)
    for prefix, device, addresses in (([], "near", NEAR), (there, "far", FAR)):
        for command in (
            ["address", "add", f"{addresses[4]}/24", "dev", device],
            ["address", "add", f"{addresses[6]}/64", "dev", device, "nodad"],
            ["link", "set", device, "up"],
            ["link", "set", "lo", "up"],
        ):
            subprocess.run([*prefix, "ip", *command], check=True)
    yield there
    server.kill()
    server.wait()
    subprocess.run(["ip", "link", "delete", "near"], check=True)


def ask(machine, user, address=FAR[4], port=TESTED, kind="SOCK_STREAM", how=()):
    """Return what an account that asks for an echo gets: "x", or the error's last line."""
    family = "AF_INET6" if ":" in address else "AF_INET"
    done = machine.run("/opt/venvs/jupyterhub/bin/python", "-I", "-c", ASK, family, kind, address, port, *how, user=user, check=False)
    return done.stdout.strip() or done.stderr.splitlines()[-1]


def reload(machine, **settings):
    """Change settings and have them take effect; return what `systemctl reload` says (CompletedProcess)."""
    for name, value in settings.items():
        machine.sh(f"sed -i 's|^JUPYTERHUB_EGRESS_{name}=.*|JUPYTERHUB_EGRESS_{name}=\"{value}\"|' {DEFAULTS}")
    return machine.run("systemctl", "reload", "jupyterhub-egress", check=False)


def verified(machine):
    """Return what `verify egress` finds (list of dict)."""
    return json.loads(machine.run("jupyterhub-ctl", "verify", "egress", "--json", check=False).stdout)


@pytest.fixture(scope="module")
def people(machine, hub, elsewhere):
    """alice, who has a server (HubUser); ada, a member of the exempt group; otto, whose first group that is."""
    machine.sh("groupadd staffers")
    machine.add_user("ada", groups=("users", "staffers"))
    machine.add_user("otto")
    machine.sh("usermod -g staffers otto; useradd --system --create-home daemonic")
    user = with_server(machine, hub, "alice")
    machine.sh("grep -q ^alice: /etc/subuid")
    return user


def test_open_as_shipped(machine, people):
    assert machine.sh("systemctl is-active jupyterhub-egress jupyterhub-egress-refresh.timer").split() == ["active", "active"]
    assert ask(machine, "alice") == ask(machine, "alice", FAR[6]) == ask(machine, "alice", port=53, kind="SOCK_DGRAM") == "x"
    assert ask(machine, "alice", kind="SOCK_DGRAM", how=["by-lo"]) == "sent" and machine.sh("nft list tables") == ""
    assert [(row["status"], row["what"]) for row in verified(machine)] == [("passed", "the network is open to users")]


@pytest.fixture(scope="module")
def closed(machine, people):
    """The network is closed, but for the group and an exception; the site has rules of its own, which must stay."""
    machine.write("/etc/nftables.conf", f"flush ruleset\n{SITES}\n")
    machine.sh("systemctl enable --now nftables")
    allowed = f"{FAR[4]}:{EXCEPTION} [{FAR[6]}]:{EXCEPTION}"
    done = reload(machine, CLOSED_FOR="1000-59999", EXEMPT_GROUPS="staffers", ALLOW=allowed, TEST=f"{FAR[4]}:{TESTED} [{FAR[6]}]:{TESTED}")
    assert done.returncode == 0, done.stderr


REFUSED = {
    "tcp": {},
    "tcp6": {"address": FAR[6]},
    "other port of an exception": {"port": EXCEPTION + 1},
    "mptcp": {"how": ["mptcp"]},
    "dns": {"port": 53, "kind": "SOCK_DGRAM"},
    "dns6": {"address": FAR[6], "port": 53, "kind": "SOCK_DGRAM"},
    "dns of a local resolver": {"address": "127.0.0.53", "port": 53, "kind": "SOCK_DGRAM"},
    "lo as a way out": {"kind": "SOCK_DGRAM", "how": ["by-lo"]},
}


@pytest.mark.parametrize("what", REFUSED.values(), ids=REFUSED.keys())
def test_users_are_refused(machine, closed, what):
    """At once, not after a time."""
    assert "Connection refused" in (said := ask(machine, "alice", **what)) or "Operation not permitted" in said, said


def test_notebooks_are_refused(closed, people):
    """And have the hub and other services of the machine."""
    code = f"import socket, urllib.request\nprint(urllib.request.urlopen('{BASE}/hub/health').status)\nsocket.create_connection(('{FAR[4]}', {TESTED}), 3)"
    kernel = people.kernel()
    assert kernel.execute(f"try:\n  exec({code!r})\nexcept OSError as error: print(error)").split("\n") == ["200", "[Errno 111] Connection refused"]
    kernel.shutdown()


def test_exceptions_are_reached(machine, closed):
    assert ask(machine, "alice", port=EXCEPTION) == ask(machine, "alice", FAR[6], EXCEPTION) == ask(machine, "alice", port=EXCEPTION, kind="SOCK_DGRAM") == "x"


@pytest.mark.parametrize("account", ["root", "daemonic", "ada", "otto", "jupyterhub"])
def test_others_are_not_hit(machine, closed, account):
    """Services, and who is exempt as a member of the group, or has it as first group."""
    assert ask(machine, account) == ask(machine, account, FAR[6]) == ask(machine, account, port=53, kind="SOCK_DGRAM") == "x"


def test_container_of_a_user_is_refused(machine, closed):
    """A uid of the user's part of /etc/subuid, which newuidmap gives to containers."""
    first = machine.sh("sed -n 's/^alice:\\([0-9]*\\):.*/\\1/p' /etc/subuid")
    command = ["setpriv", f"--reuid={int(first) + 5}", f"--regid={int(first) + 5}", "--clear-groups", "/opt/venvs/jupyterhub/bin/python", "-I", "-c", ASK]
    done = machine.run(*command, "AF_INET", "SOCK_STREAM", FAR[4], TESTED, check=False)
    assert "Connection refused" in done.stderr
    assert ask(machine, "ada") == "x"


def test_who_comes_in_is_answered(machine, closed, elsewhere):
    """ssh, and what a user offers to the network."""
    machine.sh("systemctl is-active ssh || systemctl start ssh")
    machine.sh("systemd-run --quiet --uid=alice --unit=offer /opt/venvs/jupyterhub/bin/python -m http.server --bind 0.0.0.0 --directory /etc/jupyter 8500 ||:")
    for port, expected in ((22, "SSH-2.0"), (8500, "HTTP/1.0")):
        code = f"import socket; s = socket.create_connection(('{NEAR[4]}', {port}), 3); s.sendall(b'HEAD / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100))"
        answer = wait_for(
            lambda code=code: subprocess.run([*elsewhere, sys.executable, "-c", code], check=False, capture_output=True, text=True).stdout, f"port {port}"
        )
        assert expected in answer
    machine.sh("systemctl stop offer")


def test_pip_cannot_go_around_it(machine, closed):
    """With the user's own settings; who is exempt can."""
    command = "PIP_CONFIG_FILE=/dev/null jupyterhub-packages run pip install --retries 0 --trusted-host {0} --index-url http://{0}/simple answer"
    done = machine.run("sh", "-c", command.format(FAR[4]), user="alice", check=False)
    assert done.returncode and "No matching distribution found for answer" in done.stderr
    assert "Successfully installed answer-1.0" in machine.run("sh", "-c", command.format(FAR[4]), user="ada").stdout


def test_verify_proves_it(machine, closed):
    (row,) = verified(machine)
    assert row["status"] == "passed" and row["what"] == f"closed to uids 1000-59999: {FAR[4]}:{TESTED}, [{FAR[6]}]:{TESTED} refuses a user"


# Sends and waits for the echo until that fails.
KEEPS = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    while connection.send(b"x") and connection.recv(1):
        print("echo", flush=True)
        time.sleep(0.1)
"""


def test_connection_from_before_ends(machine, closed):
    """An exception that is taken back is closed to connections that are open, too."""
    machine.write("/srv/keeps.py", KEEPS)
    options = "--uid=alice --unit=keeps -p StandardOutput=file:/run/keeps -p StandardError=file:/run/keeps"
    machine.sh(f"systemd-run --quiet {options} /opt/venvs/jupyterhub/bin/python /srv/keeps.py {FAR[4]} {EXCEPTION}")
    wait_for(lambda: "echo" in machine.sh("cat /run/keeps || true"), "it is connected")
    before = machine.sh(f"cat {DEFAULTS}")
    reload(machine, ALLOW="")
    wait_for(lambda: "Error" in machine.sh("cat /run/keeps || true"), "the connection has ended")
    machine.write(DEFAULTS, before + "\n")
    assert reload(machine).returncode == 0


# -- What changes the rules --------------------------------------------------------------------------------------------------------

FLUSHES = {
    "reload of nftables": "systemctl reload nftables",
    "restart of nftables": "systemctl restart nftables",
    "restart of ours": "systemctl restart jupyterhub-egress",
}


@pytest.mark.parametrize("command", FLUSHES.values(), ids=FLUSHES.keys())
def test_rules_come_back(machine, closed, command):
    """At once; the site's own rules are there as well, each once."""
    machine.sh(command)
    assert "Connection refused" in ask(machine, "alice")
    assert sorted(machine.sh("nft list tables").splitlines()) == ["table inet jupyterhub_egress", "table inet site"]
    assert machine.sh("nft list table inet site | grep -c 'dport 7777 drop'") == "1"


def test_flush_by_hand(machine, closed):
    """The timer's next look brings them back."""
    machine.sh("nft flush ruleset")
    assert ask(machine, "alice") == "x"
    machine.sh("systemctl start jupyterhub-egress-refresh")
    assert "Connection refused" in ask(machine, "alice")
    machine.sh("systemctl reload nftables")


def test_stop_of_nftables(machine, closed):
    """Its rules are gone then, ours are not."""
    machine.sh("systemctl stop nftables")
    assert machine.sh("nft list tables") == "table inet jupyterhub_egress"
    machine.sh("systemctl start nftables")


def test_new_member_is_exempt(machine, closed):
    """At the next look; and is not any more when removed."""
    machine.sh("gpasswd -a alice staffers; systemctl start jupyterhub-egress-refresh")
    assert ask(machine, "alice") == "x"
    machine.sh("gpasswd -d alice staffers; systemctl start jupyterhub-egress-refresh")
    assert "Connection refused" in ask(machine, "alice")


WRONG = {
    "exception": ({"ALLOW": "example.org:443"}, "JUPYTERHUB_EGRESS_ALLOW in /etc/default/jupyterhub:"),
    "uids": ({"CLOSED_FOR": "0-59999"}, "has the uid of root (0), which needs the network: begin at 1000"),
}


@pytest.mark.parametrize("settings, words", WRONG.values(), ids=WRONG.keys())
def test_wrong_settings(machine, closed, settings, words):
    """One line, and what held still holds: at a reload, a start, and a boot."""
    before = machine.sh(f"cat {DEFAULTS}")
    try:
        assert reload(machine, **settings).returncode
        assert machine.run("systemctl", "restart", "jupyterhub-egress", check=False).returncode
        assert words in machine.journal("-u", "jupyterhub-egress", "-p", "err", "-o", "cat", "-n", "3")
        assert "Connection refused" in ask(machine, "alice") and ask(machine, "alice", port=EXCEPTION) == "x"
        assert [row["status"] for row in verified(machine)] == ["failed"] and words in verified(machine)[0]["what"]
    finally:
        machine.write(DEFAULTS, before + "\n")
        machine.sh("systemctl restart jupyterhub-egress")


def test_verify_finds_what_is_wrong(machine, closed):
    machine.sh("nft delete table inet jupyterhub_egress")
    found = " ".join(row["what"] for row in verified(machine) if row["status"] == "failed")
    assert "are not in force" in found and "the account with uid 1" in found and f"reaches {FAR[4]} port {TESTED}" in found
    machine.sh("systemctl reload jupyterhub-egress")
    reload(machine, TEST="")
    assert [(row["status"], "was not proven" in row["what"]) for row in verified(machine)] == [("warning", True)]
    reload(machine, TEST=f"{FAR[4]}:9", EXEMPT_GROUPS="staffers ghosts")
    found = {row["what"] for row in verified(machine)}
    assert any("root does not reach 10.7.0.2 port 9 either" in what for what in found) and any("there is no group ghosts" in what for what in found)
    reload(machine, TEST=f"{FAR[4]}:{TESTED}", EXEMPT_GROUPS="staffers")


def test_verify_names_a_resolver_that_answers_users(machine, closed):
    """Its network is open."""
    folder, name = "/run/systemd/resolve", "io.systemd.Resolve"
    listen = f"import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('{folder}/{name}'); s.listen(); time.sleep(60)"
    machine.sh(f'mkdir -p {folder}; systemd-run --quiet --unit=resolver -p UMask=0 /opt/venvs/jupyterhub/bin/python -c "{listen}"')
    wait_for(lambda: machine.run("test", "-S", f"{folder}/{name}", check=False).returncode == 0, "it listens")
    try:
        assert [(row["status"], f"systemd-resolved ({folder}/{name})" in row["what"]) for row in verified(machine)] == [("warning", True)]
    finally:
        machine.sh(f"systemctl stop resolver; rm -r {folder}")


def test_reboot(machine, hub, closed, elsewhere):
    """The rules are there before anybody can log in. The network of the machine outlives it here, so it is emptied while that is off."""
    machine.power_off()
    subprocess.run(["chroot", str(machine.root), "nft", "flush", "ruleset"], check=True)
    machine.boot()
    assert "Connection refused" in ask(machine, "alice") and ask(machine, "ada") == "x"
    order = "systemctl show --value --property=ActiveEnterTimestampMonotonic"
    loaded, logins = machine.sh(f"{order} jupyterhub-egress; {order} systemd-user-sessions").split()
    assert 0 < int(loaded) < int(logins)
    assert [row["status"] for row in verified(machine)] == ["passed"]
    wait_for(hub.answers, "the hub answers", timeout=30)
    assert requests.get(f"{BASE}/hub/health", timeout=10).status_code == 200


def test_without_nftables(machine, closed):
    """One line says what is missing; rules in force stay."""
    machine.sh("mv /usr/sbin/nft /root/")
    try:
        assert reload(machine, ALLOW="").returncode
        assert "nftables is not installed: `apt-get install nftables`" in machine.journal("-u", "jupyterhub-egress", "-p", "err", "-o", "cat", "-n", "3")
        assert "Connection refused" in ask(machine, "alice")
        assert "nftables is not installed" in verified(machine)[0]["what"]
    finally:
        machine.sh("mv /root/nft /usr/sbin/")
    assert reload(machine).returncode == 0


def test_opened_again(machine, closed):
    """Nothing is left of it, and the site's rules are."""
    assert reload(machine, CLOSED_FOR="").returncode == 0
    assert ask(machine, "alice") == "x" and machine.sh("nft list tables") == "table inet site"
    machine.sh("[ ! -e /var/lib/jupyterhub-egress/rules.nft ] && [ ! -L /run/jupyterhub-egress/rules.nft ]; systemctl reload nftables")
    assert ask(machine, "alice") == "x"
