"""What can be wrong with a machine or an account: said on the page within 5 s, in the journal too, and nobody else is affected."""

import contextlib
import re
import time

import pytest
from harness import wait_for
from hubclient import HubError, with_server

# fault: (how to make it, how to mend it, what the journal says, and the page, unless it is one of NOT_ADMITTED)
FAULTS = {
    "spawner socket not listening": (
        "systemctl stop jupyterhub-spawner.socket 'jupyterhub-spawner@*'",
        "systemctl start jupyterhub-spawner.socket",
        "systemctl start jupyterhub-spawner.socket",
    ),
    "sudoers edited into nonsense": (
        "cp -a /etc/sudoers.d/jupyterhub /root/; echo 'let me = in' >/etc/sudoers.d/jupyterhub",
        "cp -a /root/jupyterhub /etc/sudoers.d/",
        "sudo did not start a server for alice: .*/etc/sudoers.d/jupyterhub",
    ),
    "pam_systemd missing": (
        "mv /usr/lib/*/security/pam_systemd.so /root/",
        "mv /root/pam_systemd.so $(dirname /usr/lib/*/security/pam_unix.so)/",
        "sudo did not start a server for alice: .*Module is unknown",
    ),
    "home missing, and not to be made": (
        "sed -i 's,:/home/alice:,:/proc/homes/alice:,' /etc/passwd",
        "sed -i 's,:/proc/homes/alice:,:/home/alice:,' /etc/passwd",
        "The home folder /proc/homes/alice cannot be written to .*: create it",
    ),
    "home of somebody else": (
        "chown root: ~alice; chmod 755 ~alice",
        "chown alice: ~alice",
        "The home folder /home/alice cannot be written to .*: give it to the user",
    ),
    "homes closed": (
        "chmod 700 /home",
        "chmod 755 /home",
        "The home folder /home/alice cannot be written to .*: /home must let its users through",
    ),
    "home full": (
        "mount -t tmpfs -o size=64k,uid=$(id -u alice) tmpfs ~alice; cat /dev/zero >~alice/fill || true",
        "umount ~alice",
        "The home folder /home/alice cannot be written to .*: free space",
    ),
    "/run full": (
        "mount -o remount,size=$(df --output=used -k /run | tail -n 1 | tr -d ' ')k /run; cat /dev/zero >/run/fill || true",
        "rm /run/fill; mount -o remount,size=200m /run",
        "sudo|logind|runtime folder|spawner",
    ),
    "user removed while logged in": (
        "cp -a /etc/passwd /etc/shadow /root/; sed -i /^alice:/d /etc/passwd /etc/shadow",
        "cp -a /root/passwd /root/shadow /etc/",
        "there is no such account any more",
    ),
    "package half gone": (
        "mv /opt/venvs/jupyterhub-servers/current/bin/jupyterhub-singleuser /root/",
        "mv /root/jupyterhub-singleuser /opt/venvs/jupyterhub-servers/current/bin/",
        "jupyterhub-singleuser is missing: reinstall the package jupyterhub",
    ),
    "server that ends while it starts": (
        "mkdir -p ~alice/.jupyter; echo 'raise SystemExit(1)' >~alice/.jupyter/jupyter_server_config.py",
        "rm -r ~alice/.jupyter",
        "ended while it started.*journalctl -t jupyterhub-singleuser",
    ),
}


# sudo does not admit the account then, and its user reads what the login page says.
NOT_ADMITTED = {"sudoers edited into nonsense"}
SAID = {"user removed while logged in": "There is no account of yours any more"}
WORDS = "The account alice may not use notebooks on this server"


@pytest.fixture(scope="module")
def bob(machine, hub):
    """Somebody else, whose server runs all the time."""
    return with_server(machine, hub, "bob")


@pytest.fixture(scope="module")
def alice(machine, hub):
    machine.add_user("alice")
    return hub.login("alice", "secret")


@contextlib.contextmanager
def fault(machine, make, mend):
    machine.sh(make)
    try:
        yield
    finally:
        machine.sh(mend)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(machine, hub, alice, bob, name):
    make, mend, message = FAULTS[name]
    shown = WORDS if name in NOT_ADMITTED else SAID.get(name, message)
    pid = machine.pid_of("jupyterhub")
    with fault(machine, make, mend):
        started = time.monotonic()
        with pytest.raises(HubError, match=f"(?s){shown}") as error:
            alice.spawn()
        assert time.monotonic() - started < 5
        assert name not in NOT_ADMITTED or not re.search("sudo|/etc", error.value.text)
        assert bob.api("GET", "/status").status_code == 200
    assert machine.pid_of("jupyterhub") == pid, "the hub did not live through it"
    assert re.search(message, machine.journal("-u", "jupyterhub", "--since", "-10s"))
    alice.spawn()  # mended, it works
    alice.stop()


def test_kill_user_processes_does_not_end_servers(machine, hub, alice):
    """The session is open for as long as the server lives, so logind has nothing to kill."""
    machine.write("/etc/systemd/logind.conf.d/kill.conf", "[Login]\nKillUserProcesses=yes\n")
    machine.sh("systemctl restart systemd-logind")
    alice.spawn()
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    assert alice.api("GET", "/status").status_code == 200
    alice.stop()
    machine.sh("rm /etc/systemd/logind.conf.d/kill.conf; systemctl restart systemd-logind")


SITES_SUDO = ["requiretty", "noexec", "intercept", "stay_setuid", "use_pty", "log_subcmds"]


@pytest.mark.parametrize("default", SITES_SUDO)
def test_site_settings_of_sudo(machine, alice, default):
    with fault(machine, f"echo 'Defaults {default}' >/etc/sudoers.d/zz-site", "rm /etc/sudoers.d/zz-site"):
        assert alice.run_cell("6 * 7") == "42"
        alice.stop()


LOGIN_VARIABLES = """\
PYTHONPATH=/opt/broken
PYTHONHOME=/nowhere
LD_LIBRARY_PATH=/opt/broken
PYTHONHASHSEED=7
"""


def test_python_and_linker_of_the_login_are_not_the_servers(machine, alice):
    """Kernels have them, but for what would keep the bundled one from starting."""
    make = "cp -p /etc/environment /root/; mkdir -p /opt/broken; echo 'raise SystemExit(1)' | tee /opt/broken/tornado.py >/opt/broken/jupyter_server.py"
    spoil = "for name in ssl crypto sqlite3 zmq; do echo nonsense >/opt/broken/lib$name.so.1; cp /opt/broken/lib$name.so.1 /opt/broken/lib$name.so.3; done"
    with fault(machine, f"{make}; {spoil}; printf %s '{LOGIN_VARIABLES}' >>/etc/environment", "cp -p /root/environment /etc/; rm -r /opt/broken"):
        assert (
            alice.run_cell("import os; print(*sorted(name for name in os.environ if name.startswith(('PYTHON', 'LD_'))))") == "LD_LIBRARY_PATH PYTHONHASHSEED"
        )
        said = machine.journal("-t", "jupyterhub-singleuser", "--since", "-60s")
        for name in ("PYTHONPATH=/opt/broken", "PYTHONHOME=/nowhere"):
            assert f"{name} keeps the bundled kernel from starting" in said
        alice.stop()
    machine.sh("cp -p /etc/environment /root/; mkdir /opt/modules; echo 'x = 42' >/opt/modules/own.py; echo PYTHONPATH=/opt/modules >>/etc/environment")
    assert alice.run_cell("import own; own.x") == "42"
    alice.stop()
    machine.sh("cp -p /root/environment /etc/environment; rm -r /opt/modules")


@pytest.mark.parametrize("name", ["first.last", "user@example.org", "Anna", "u" * 32, "_under-score"])
def test_unusual_names(machine, hub, name):
    machine.sh(f"useradd --badname --create-home --groups users --shell /bin/bash '{name}'; echo '{name}:secret' | chpasswd")
    user = hub.login(name, "secret")
    assert user.run_cell("import getpass; print(getpass.getuser())") == name
    user.stop()


def test_names_that_differ_in_case_are_two_accounts(machine, hub):
    machine.add_user("carl", "lower")
    machine.sh("useradd --badname --create-home --groups users Carl; echo Carl:upper | chpasswd")
    hub.login("Carl", "upper")
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("Carl", "lower")


@pytest.mark.parametrize("unit", ["dbus.socket dbus.service", "systemd-logind"])
def test_logind_or_dbus_missing(machine, hub, alice, bob, unit):
    """The last test: logind forgets everybody's sessions, those of ssh too, when it is stopped and started."""
    machine.sh(f"systemctl mask --now {unit} 2>&1")
    started = time.monotonic()
    with pytest.raises(HubError, match="systemd-logind"):
        alice.spawn()
    assert time.monotonic() - started < 5
    assert bob.api("GET", "/status").status_code == 200
