"""systemctl, journalctl and the settings do what an administrator expects."""

import json
import re
import socket

import pytest
import requests
from cases import further
from harness import wait_for
from hubclient import BASE

PNG = b"\x89PNG\r\n\x1a\n" + b"not much of a picture"


def restart(machine, hub, unit="jupyterhub"):
    machine.run("systemctl", "restart", unit)
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def answers(address, port=8000):
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def test_status(machine, hub):
    assert "Active: active (running)" in machine.sh("systemctl status --no-pager jupyterhub")


def test_stop_and_start(machine, hub):
    machine.run("systemctl", "stop", "jupyterhub")
    assert machine.run("systemctl", "status", "jupyterhub", check=False).returncode == 3  # LSB: not running
    assert not hub.answers()
    assert machine.sh("pgrep -u jupyterhub || true") == ""
    machine.run("systemctl", "start", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def test_start_brings_up_all_of_it(machine, hub):
    machine.sh("systemctl stop jupyterhub jupyterhub-proxy jupyterhub-spawner.socket")
    assert requests.get(BASE, timeout=2).status_code == 503  # the keeper of the port, at once
    machine.run("systemctl", "start", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    assert machine.sh("systemctl is-active jupyterhub-proxy jupyterhub-spawner.socket").split() == ["active", "active"]


@pytest.mark.parametrize("command", ["start", "restart", "reload"])
def test_systemctl_returns_when_the_hub_answers(machine, hub, command):
    """In one word: to systemd, to whoever asks the hub, and in `jupyterhub-ctl status`."""
    before = machine.pid_of("jupyterhub")
    if command == "start":
        machine.run("systemctl", "stop", "jupyterhub")
    machine.run("systemctl", command, "jupyterhub")
    assert (hub.ready().status_code, hub.ready().json()) == (200, {"state": "ready", "reason": None})
    assert machine.pid_of("jupyterhub") not in (0, before)
    assert machine.property("jupyterhub", "StatusText") == "Ready"
    assert json.loads(machine.run("jupyterhub-ctl", "status", "--json").stdout)["state"] == "ready"


MISTAKES = {
    "syntax": ("c = get_config()\nc.JupyterHub.template_vars = {\n", "2: SyntaxError: '{' was never closed"),
    "type": ("c = get_config()\nc.JupyterHub.concurrent_spawn_limit = 'many'\n", "2: The 'concurrent_spawn_limit' trait"),
    "end": ("import sys\nsys.exit('hunter2')\n", "2: SystemExit"),
}


@pytest.mark.parametrize("mistake", further(["syntax", "type", "end"], ["syntax"], "further mistakes with the same report"))
def test_start_that_fails_names_file_and_line(machine, hub, mistake):
    """As systemctl's failure, and where that says to look; to everybody else the hub is away."""
    text, said = MISTAKES[mistake]
    file = "/etc/jupyterhub/jupyterhub_config.d/90-broken.py"
    machine.write(file, text)
    try:
        assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
        assert f"jupyterhub: {file}:{said}" in machine.journal("_SYSTEMD_UNIT=jupyterhub.service", "-p", "err", "-n", "60", "-o", "cat")
        # It is tried again, which clears systemd's lines for as long as the new process needs to say it once more.
        for _ in range(3):
            wait_for(lambda: f": {file}:{said}" in machine.run("systemctl", "status", "jupyterhub", check=False).stdout, "systemctl shows it", timeout=5)
        assert "hunter2" not in machine.property("jupyterhub", "StatusText")  # which every account can read
        assert (hub.ready().status_code, hub.ready().json()) == (503, {"state": "failed", "reason": "The hub has ended with an error, and is started again."})
        problem = rf"^problem: +{file}:{re.escape(said)}"
        wait_for(lambda: re.search(problem, machine.run("jupyterhub-ctl", "status", check=False).stdout, re.M), "jupyterhub-ctl shows it")
    finally:
        machine.sh(f"rm {file}; systemctl restart jupyterhub")
    assert hub.answers()


def test_restart(machine, hub):
    before = machine.pid_of("jupyterhub")
    restart(machine, hub)
    assert machine.pid_of("jupyterhub") not in (0, before)


def test_hub_follows_a_new_token_of_the_proxy(machine, hub):
    """A restart of the proxy, which `verify` advises, is all that it takes."""
    before = machine.pid_of("jupyterhub")
    machine.sh("sed -i 's/=..../=0000/' /etc/jupyterhub/proxy.env; systemctl restart jupyterhub-proxy")
    wait_for(lambda: machine.pid_of("jupyterhub") not in (0, before), "the hub restarts", timeout=20)
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    machine.add_user("tom")
    tom = hub.login("tom", "secret")
    assert tom.run_cell("6 * 7") == "42"
    tom.stop()


def test_journal_has_the_hubs_log(machine, hub):
    assert "JupyterHub is now running" in machine.journal("-u", "jupyterhub")


def test_journal_knows_what_matters(machine, hub):
    """`journalctl -p` finds errors and warnings, and leaves out requests that went well and ordinary ends: of the hub, the proxy and a notebook server."""
    machine.add_user("judy")
    judy = hub.login("judy", "secret")
    judy.spawn()
    judy.stop()
    judy.spawn()
    restart(machine, hub)
    for path in ("/hub/no-such-page", "/user/judy/no-such-page", "/user/judy/api/status"):
        judy.session.get(f"{judy.base}{path}", timeout=10)
    server = ("-t", "jupyterhub-singleuser")

    def found(text, priority, *of):
        return text in machine.journal("-p", priority, *of)

    wait_for(lambda: found("404 GET /user/judy/no-such-page", "warning", *server), "the journal has the warning")
    assert all(found(f"404 GET {path}", "warning", "-t", "jupyterhub-launcher", *server) for path in ("/hub/no-such-page", "/user/judy/no-such-page"))
    for text, of in (("Received signal SIGTERM", ("-u", "jupyterhub")), ("received signal 15", server)):
        assert found(text, "info", *of) and not found(text, "warning", *of)
    assert found("404 GET /hub/no-such-page", "warning", "-u", "jupyterhub") and not found("no-such-page", "err", "-u", "jupyterhub")
    for path, of in (("/hub/login", ("-u", "jupyterhub")), ("/user/judy/api/status", server)):
        assert found(f"200 GET {path}", "debug", *of) and not found(f"200 GET {path}", "info", *of)
    assert found("User logged in: judy", "info", "-u", "jupyterhub") and not found("User logged in: judy", "notice", "-u", "jupyterhub")
    assert "<" not in {line[:1] for line in machine.journal("-u", "jupyterhub", "-u", "jupyterhub-proxy", "-o", "cat").splitlines()}
    machine.sh("pkill -KILL -u judy -f bin/jupyterhub-singleuser")
    judy.session.get(f"{judy.base}/user/judy/api/status", timeout=10)
    wait_for(lambda: found("/user/judy/api/status", "err", "-u", "jupyterhub-proxy"), "the proxy's error is one")
    judy.stop()


@pytest.mark.parametrize("unit, user", [("jupyterhub", "jupyterhub"), ("jupyterhub-proxy", "jupyterhub-proxy")])
def test_runs_as_its_user_never_as_root(machine, hub, unit, user):
    group = machine.property(unit, "ControlGroup")
    users = machine.sh(f"ps -o user:32= -p $(paste -sd, /sys/fs/cgroup{group}/cgroup.procs)").split()
    assert set(users) == {user}


def test_listens_on_loopback_only(machine, hub):
    lines = machine.sh("ss -Hltnp").splitlines()
    ours = [line.split()[3] for line in lines if "sshd" not in line]
    assert {"127.0.0.1:8000", "127.0.0.1:8081"} <= set(ours)
    assert all(address.startswith(("127.0.0.1:", "[::1]:")) for address in ours), ours


def test_one_line_opens_it_to_the_network(machine, hub):
    """127.0.0.2 is an address of the machine that a service on 127.0.0.1 alone does not answer at."""
    assert not answers("127.0.0.2")
    machine.sh("sed -i 's,^JUPYTERHUB_BIND_URL=.*,JUPYTERHUB_BIND_URL=http://0.0.0.0:8000/,' /etc/default/jupyterhub")
    restart(machine, hub, "jupyterhub-proxy")
    assert answers("127.0.0.2")
    assert not answers("127.0.0.2", 8081)  # the hub's own port stays private


def test_banner_replaces_the_logo(machine, hub, tmp_path):
    upstream = requests.get(f"{BASE}/hub/logo", timeout=10).content
    assert upstream.startswith(b"\x89PNG") and upstream != PNG
    banner = tmp_path / "banner.png"
    banner.write_bytes(PNG)
    machine.push(banner, "/etc/jupyterhub")
    restart(machine, hub)
    assert requests.get(f"{BASE}/hub/logo", timeout=10).content == PNG
    assert machine.sh("dpkg --verify jupyterhub | grep -v /etc/default/jupyterhub || true") == ""


def test_config_d_is_loaded_in_order(machine, hub):
    for name, words in (("20-second.py", "the second word"), ("10-first.py", "the first word")):
        machine.write(f"/etc/jupyterhub/jupyterhub_config.d/{name}", f'c = get_config()\nc.JupyterHub.template_vars = {{"announcement": "{words}"}}\n')
    restart(machine, hub)
    page = requests.get(f"{BASE}/hub/login", timeout=10).text
    assert "the second word" in page and "the first word" not in page


def test_broken_config_is_named(machine, hub):
    """A syntax error stops the hub, and its journal says in which file; mended, it starts."""
    machine.write("/etc/jupyterhub/jupyterhub_config.d/30-broken.py", "c = (\n")
    machine.run("systemctl", "restart", "jupyterhub", check=False)
    wait_for(lambda: "30-broken.py" in machine.journal("-u", "jupyterhub"), "the journal names the file")
    assert "30-broken.py" in machine.journal("-u", "jupyterhub", "-p", "err")
    assert not hub.answers()
    machine.sh("rm /etc/jupyterhub/jupyterhub_config.d/30-broken.py; systemctl reset-failed jupyterhub || true")
    restart(machine, hub)


def test_hub_collects_garbage_once_it_is_up(machine, hub):
    """Not while it starts: in its own words, which its configuration has it write."""
    said = "/var/opt/jupyterhub/gc"
    lines = [
        "import asyncio, gc",
        "assert not gc.isenabled()",
        f"say = lambda: open({said!r}, 'w').write(f'{{gc.isenabled()}} {{gc.get_freeze_count() > 10000}}')",
        "asyncio.get_event_loop().call_later(8, say)",
    ]
    machine.write("/etc/jupyterhub/jupyterhub_config.d/30-gc.py", "\n".join(lines) + "\n")
    restart(machine, hub)
    assert wait_for(lambda: machine.sh(f"cat {said} || true"), "the hub has told", timeout=60) == "True True"
    machine.sh(f"rm /etc/jupyterhub/jupyterhub_config.d/30-gc.py {said}")
    restart(machine, hub)


def test_taken_port_is_named(machine, hub):
    """Somebody else on port 8000: the journal says who, and what to do; once they are gone, a start is enough."""
    machine.sh("systemctl stop jupyterhub jupyterhub-proxy jupyterhub-ports")
    machine.sh("systemd-run --quiet --unit=squatter --uid=games /opt/venvs/jupyterhub/bin/python -m http.server --bind 127.0.0.1 8000")
    wait_for(lambda: answers("127.0.0.1"), "the port is taken")
    assert machine.run("systemctl", "start", "jupyterhub-proxy", check=False).returncode != 0
    said = "port 8000: taken by the account games"
    assert said in machine.journal("-u", "jupyterhub-proxy", "-n", "50", "-p", "err")
    assert said in machine.journal("-u", "jupyterhub-ports", "-n", "50")
    machine.sh("systemctl stop squatter; systemctl reset-failed; systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


DEFAULTS = "/etc/default/jupyterhub"


@pytest.mark.parametrize(
    "setting, said",
    [
        ("JUPYTERHUB_BIND_URL=https://127.0.0.1:8000/", "is not of the form http://ADDRESS:PORT/PATH"),
        ("JUPYTERHUB_LOGLEVEL=LOUD", "is none of DEBUG, INFO, WARN, ERROR"),
        ("JUPYTERHUB_SUBDOMAIN_HOST=https://jhub.example.org/hub", "is not of the form https://HOST.NAME"),
        ("JUPYTERHUB_SUBDOMAIN_HOST=https://192.0.2.7", "is not of the form https://HOST.NAME"),
    ],
)
def test_wrong_setting_is_named(machine, hub, setting, said):
    machine.sh(f"cp -p {DEFAULTS} /root/; echo {setting} >>{DEFAULTS}")
    line = machine.sh(f"wc -l <{DEFAULTS}")
    assert machine.run("systemctl", "restart", "jupyterhub-proxy", check=False).returncode != 0
    assert f"{setting} in {DEFAULTS}:{line} {said}" in machine.journal("-u", "jupyterhub-proxy", "-p", "err")
    machine.sh(f"cp -p /root/jupyterhub {DEFAULTS}; systemctl restart jupyterhub-proxy; systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


@pytest.mark.slow("test_safe_upgrade has it with a configuration that is checked")
def test_auto_restart_off_leaves_the_hub_alone(machine, hub):
    machine.sh(f"cp -p {DEFAULTS} /root/; echo JUPYTERHUB_AUTO_RESTART=false >>{DEFAULTS}")
    before = machine.pid_of("jupyterhub")
    assert "systemctl restart jupyterhub" in machine.sh("dpkg-reconfigure jupyterhub 2>&1")
    assert machine.pid_of("jupyterhub") == before
    machine.sh(f"cp -p /root/jupyterhub {DEFAULTS}; dpkg-reconfigure jupyterhub")
    assert machine.pid_of("jupyterhub") != before
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def test_comes_up_after_a_power_cut(machine, hub):
    machine.kill()
    machine.boot()
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    assert machine.sh("systemctl --failed --no-legend --plain") == ""
