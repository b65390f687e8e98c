"""apt install, remove, purge and reinstall on a small Debian server, in this order."""

import os.path
import textwrap
import time

import pytest
from harness import wait_for
from hubclient import Hub

SERVICES = ["jupyterhub.service", "jupyterhub-proxy.service", "jupyterhub-spawner.socket", "jupyterhub-login.socket", "jupyterhub-sessions.socket"]
OURS = "ps -eo pid,user:32,args | grep -E 'jupyterhub|/opt/venvs/' | grep -v grep || true"


def files(machine):
    """Every path on the disk that is not a log, a cache or a package manager's note."""
    skip = "/proc /sys /run /dev /tmp /root /var/log/journal /var/log/apt /var/cache /var/lib/apt /var/lib/dpkg /var/tmp /var/lib/systemd"
    prune = " -o ".join(f"-path {path}" for path in skip.split())
    return set(machine.sh(f"find / -xdev \\( {prune} \\) -prune -o -print", timeout=120).splitlines())


@pytest.fixture(scope="module")
def server(bare_machine, deb):
    """A server with an account and the .deb in /root."""
    bare_machine.add_user("alice")
    bare_machine.package = bare_machine.push(deb)
    bare_machine.before = files(bare_machine)
    return bare_machine


@pytest.fixture(scope="module")
def hub():
    return Hub()


def run_a_cell(hub):
    """Log in, spawn, run a cell; return the user, whose server is up."""
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    user = hub.login("alice", "secret")
    assert user.run_cell("5 * 4") == "20"
    return user


def test_apt_installs_it_offline_from_debian_main(server):
    server.said = server.run("apt-get", "-qq", "-y", "install", server.package, timeout=300).stdout


def test_apts_last_lines_say_what_next(server):
    """Address, who may log in, and the next step."""
    said = [line.removeprefix("jupyterhub: ") for line in server.said.splitlines() if line.startswith("jupyterhub: ")]
    assert said[0] == "running at http://127.0.0.1:8000/"
    assert said[1] == "who may log in: %users (by visudo /etc/sudoers.d/jupyterhub; % is a group: usermod -aG users NAME)"
    assert said[2].startswith("next: HTTPS for the network") and "/usr/share/doc/jupyterhub/README.md" in said[2]
    assert server.sh("test -e /usr/share/doc/jupyterhub/README.md && echo yes") == "yes"


@pytest.mark.parametrize("unit", SERVICES)
def test_unit_is_enabled_and_active(server, unit):
    assert server.sh(f"systemctl is-enabled {unit}; systemctl is-active {unit}").split() == ["enabled", "active"]


def test_no_unit_failed(server):
    assert server.sh("systemctl --failed --no-legend --plain") == ""


def test_dpkg_verify_is_clean(server):
    assert server.sh("dpkg --verify jupyterhub") == ""


def test_every_library_loads(server):
    """debian/tidy-venv has stripped those of wheels: each still finds all its symbols."""
    code = """
        import ctypes, glob, os, sys
        print(len([ctypes.CDLL(path) for path in glob.glob(f"{sys.prefix}/lib/**/*.so*", recursive=True)]), flush=True)
        os._exit(0)  # some do not like to be unloaded
    """
    shipped = [path for path in server.sh("dpkg -L jupyterhub").splitlines() if path.startswith("/opt/") and ".so" in os.path.basename(path)]
    assert int(server.run("/opt/venvs/jupyterhub/bin/python", "-c", textwrap.dedent(code)).stdout) == len(shipped) > 30


def test_units_verify(server):
    result = server.run("sh", "-c", "systemd-analyze verify /usr/lib/systemd/system/jupyterhub*", check=False)
    assert "jupyterhub" not in result.stderr + result.stdout


def test_hub_answers_within_3_s_of_its_start(server, hub):
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    server.sh("systemctl stop jupyterhub; systemctl start --no-block jupyterhub")
    wait_for(lambda: server.property("jupyterhub", "MainPID") != "0", "the hub's process is there")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.02)
    answered = time.monotonic()  # the kernel's clock, the same inside
    started = int(server.property("jupyterhub", "ExecMainStartTimestampMonotonic")) / 1e6
    assert answered - started < 3


def test_cell_runs(server, hub):
    run_a_cell(hub)
    assert "jupyterhub-singleuser" in server.sh(OURS)


def test_remove_stops_what_it_started(server):
    server.run("apt-get", "-qq", "-y", "remove", "jupyterhub", timeout=120)
    wait_for(lambda: server.sh(OURS) == "", "no process of the package is left", timeout=15)
    assert server.sh("ss -Hltn 'sport = :8000 or sport = :8081'") == ""
    assert server.sh("systemctl --failed --no-legend --plain") == ""


def test_remove_keeps_settings_and_state(server):
    server.sh("test -f /etc/jupyterhub/jupyterhub_config.py; test -f /var/opt/jupyterhub/jupyterhub.sqlite")


def test_purge_leaves_nothing(server):
    server.run("apt-get", "-qq", "-y", "purge", "jupyterhub", timeout=120)
    owned = set(server.sh("cat /var/lib/dpkg/info/*.list").splitlines())
    now = files(server)
    assert server.before - now == set()
    left = now - server.before - owned
    # What the dependencies' own scripts have made, dpkg's logs, and the users' homes.
    made = (
        "/usr/lib/python3",
        "/usr/local/lib/python3",
        "/home/alice/",
        "/etc/alternatives/",
        "/etc/inputrc",
        "/etc/hosts",
        "/etc/networks",
        "/var/log/dpkg.log",
        "/var/log/alternatives.log",
    )
    left = {path for path in left if not path.startswith(made)}
    assert {path for path in left if not path.startswith(("/usr/", "/etc/ld.so", "/var/lib/")) or "jupyter" in path} == set()


def test_purge_leaves_only_the_system_users(server):
    accounts = set(server.sh("getent passwd | grep -i jupyter | cut -d: -f1").split())
    assert accounts == {"jupyterhub", "jupyterhub-login", "jupyterhub-ports", "jupyterhub-proxy"}
    named = server.sh("grep -rlis jupyterhub /etc || true").split()
    assert {os.path.basename(path).rstrip("-") for path in named} <= {"passwd", "shadow", "group", "gshadow"}


def test_homes_are_left_alone(server):
    server.sh("test -d /home/alice")


@pytest.mark.slow("piuparts does it, too: tests/judges")
def test_it_installs_again_and_works(server, hub):
    server.run("apt-get", "-qq", "-y", "install", server.package, timeout=300)
    user = run_a_cell(hub)
    user.stop()


@pytest.mark.slow("another unpacking; an upgrade is each time")
def test_reinstall_over_itself_works(server, hub):
    server.run("apt-get", "-qq", "-y", "--reinstall", "install", server.package, timeout=300)
    run_a_cell(hub)
    assert server.sh("dpkg --verify jupyterhub") == ""
