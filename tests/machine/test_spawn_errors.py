"""What can be wrong with a machine or an account: said on the page within 5 s, in the journal too, and nobody else is affected."""

import contextlib
import json
import re
import time

import pytest
from cases import further
from harness import wait_for
from hubclient import HubError, with_server

OWN_FILE = r"line 2 of /home/alice/\.jupyter/jupyter_server_config\.py \(owner: alice\)"
# of a user: (jupyter_server_config.py, what the page says of it)
OWN_SETTINGS = {
    "exit": ("\\nraise SystemExit(1)\\n", OWN_FILE),
    "contents manager": ('\\nc.ServerApp.contents_manager_class = "nope.Nope"\\n', f"nope.Nope.*{OWN_FILE}"),
    "kernelspec manager": ('\\nc.ServerApp.kernel_spec_manager_class = "nope.Nope"\\n', f"nope.Nope.*{OWN_FILE}"),
    "root_dir": ('\\nc.ServerApp.root_dir = "/home/alice/go" + "ne"\\n', f"No such directory.*/home/alice/gone.*{OWN_FILE}"),
}

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
        "the home folder that it had is not there",
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
        "cat /dev/zero >~alice/fill || true",
        "rm ~alice/fill",
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
    **{
        f"user's own: {what}": (
            f"mkdir -p ~alice/.jupyter; printf '{settings}' >~alice/.jupyter/jupyter_server_config.py; chown -R alice: ~alice/.jupyter",
            "rm -r ~alice/.jupyter",
            f"ended while it started: .*{said}.*journalctl -t jupyterhub-singleuser",
        )
        for what, (settings, said) in OWN_SETTINGS.items()
    },
    **{
        f"user's own: {path} is root's": (
            f"mkdir -p $(dirname ~alice/{path}); echo {{}} >~alice/{path}; chmod 600 ~alice/{path}",
            f"rm -r ~alice/{path.partition('/')[0]}",
            f"ended while it started: /home/alice/{path}: Permission denied. It belongs to root; `chown -R alice: /home/alice/{path}` as root gives it back",
        )
        for path in (".jupyter/jupyter_server_config.json", ".jupyter/jupyter_server_config.d/own.json")
    },
    **{
        f"limits.conf: {limit}": (
            f"echo 'alice - {limit}' >/etc/security/limits.d/alice.conf",
            "rm /etc/security/limits.d/alice.conf",
            limit.split()[0],
        )
        for limit in ("nproc 1", "nofile 64")
    },
    "user's own: .ipython is root's": (
        "mkdir -m 700 ~alice/.ipython",
        "rmdir ~alice/.ipython",
        "ended while it started: /home/alice/.ipython: .* belongs to root",
    ),
}


# sudo does not admit the account then, and its user reads what the login page says.
NOT_ADMITTED = {"sudoers edited into nonsense"}
SAID = {
    "user removed while logged in": "There is no account of yours any more",
    "home missing, and not to be made": "Your home folder is gone, or not there at the moment: ask your administrator",
}
ENDED = {"user removed while logged in"}  # the login, with all else that alice had: test_accounts_end.py
WORDS = "The account alice may not use notebooks on this server"


@pytest.fixture(scope="module")
def bob(machine, hub):
    """Somebody else, whose server runs all the time."""
    return with_server(machine, hub, "bob")


@pytest.fixture(scope="module")
def alice(machine, hub):
    """Somebody whose home is a small disk of its own."""
    machine.add_user("alice")
    machine.sh("mount -t tmpfs -o size=4m,mode=700,uid=$(id -u alice) tmpfs ~alice")
    return hub.login("alice", "secret")


@contextlib.contextmanager
def fault(machine, make, mend):
    machine.sh(make)
    try:
        yield
    finally:
        machine.sh(mend)


# One of a user's own configuration and one of its owners each time.
SELDOM = {f"user's own: {what}" for what in (*list(OWN_SETTINGS)[1:], ".ipython is root's", ".jupyter/jupyter_server_config.json is root's")}


@pytest.mark.parametrize("name", further(FAULTS, FAULTS.keys() - SELDOM, "further causes of messages that are tested each time"))
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
    if name in ENDED:
        alice.session = hub.login("alice", "secret").session
    alice.spawn()  # mended, it works
    alice.stop()


NOTEBOOK = {"type": "notebook", "format": "json", "content": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}}
ROOTS = "/home/alice/.local/share/jupyter: Permission denied. It belongs to root"


def test_data_folder_of_root(machine, hub, alice):
    """The server starts with it, but no notebook can be opened or saved: they are signed with a key that is kept there."""
    with fault(machine, "rm -rf ~alice/.local; mkdir -p ~alice/.local/share/jupyter", "rm -r ~alice/.local"):
        alice.spawn()
        machine.write("/home/alice/x.ipynb", json.dumps(NOTEBOOK["content"]))
        machine.sh("chown alice: ~alice/x.ipynb")
        for method in ("PUT", "GET"):
            with pytest.raises(HubError, match=ROOTS):
                alice.api(method, "/contents/x.ipynb", json=NOTEBOOK if method == "PUT" else None)
        alice.stop()


def test_full_disk_under_a_running_server(machine, hub, alice):
    """What was saved before is kept."""
    with fault(machine, "mkdir ~alice/work; mount -t tmpfs -o size=64k,uid=$(id -u alice) tmpfs ~alice/work", "umount ~alice/work; rmdir ~alice/work"):
        alice.spawn()
        text = {"type": "file", "format": "text", "content": "kept"}
        alice.api("PUT", "/contents/work/x.txt", json=text)
        machine.sh("cat /dev/zero >~alice/work/fill || true")
        with pytest.raises(HubError, match="The file system /home/alice/work has no room left"):
            alice.api("PUT", "/contents/work/x.txt", json={**text, "content": "x" * 100_000})
        assert machine.sh("cat ~alice/work/x.txt") == "kept"
        alice.stop()


def test_no_room_for_a_kernel(machine, hub, alice):
    alice.spawn()
    machine.sh("runuser -u alice -- prlimit --nproc=1 --pid $(pgrep -u alice -f bin/jupyterhub-singleuser)")
    with pytest.raises(HubError, match=r"The account has as many processes and threads as it may: nproc 1 in /etc/security/limits\.conf"):
        alice.kernel()
    alice.stop()


def test_own_place_to_listen_is_no_fault(machine, hub, alice):
    """Where a server listens is the gate's to say."""
    settings = 'c.ServerApp.sock = "/home/alice/own.sock"; c.ServerApp.port = 9999; c.ServerApp.ip = "0.0.0.0"'
    with fault(machine, f"mkdir -p ~alice/.jupyter; echo '{settings}' >~alice/.jupyter/jupyter_server_config.py", "rm -r ~alice/.jupyter"):
        alice.spawn()
        alice.stop()


def page_of_a_failed_start(user):
    """Start the server as a browser does; return the page (its HTML) that says why that failed."""
    page = user.session.get(f"{user.base}/hub/spawn", timeout=60)
    if "/spawn-pending/" in page.url:
        with pytest.raises(HubError):
            user._progress(60)
        # For a moment it is the page of a server that stops, which loads itself anew.
        pages = []
        wait_for(lambda: pages.append(user.session.get(page.url, timeout=60)) or pages[-1].status_code >= 400, "the page of the failed start")
        return pages[-1]
    assert page.status_code >= 400
    return page


def test_start_once_without_own_configuration(machine, hub, alice):
    """By the button on the page that says why; the site's configuration stays, and the next start is with the user's again."""
    machine.sh('mkdir -p /etc/jupyter; echo \'open("/tmp/site", "a").write("read")\' >/etc/jupyter/jupyter_server_config.py; rm -f /tmp/site')
    machine.sh("mkdir -p ~alice/.jupyter ~alice/.ipython; echo 'raise SystemExit(1)' >~alice/.jupyter/jupyter_server_config.py; chmod 700 ~alice/.ipython")
    page = page_of_a_failed_start(alice)
    assert 'id="start-bare"' in page.text
    form = {"without_own_configuration": "1"}
    assert alice.session.post(f"{alice.base}/hub/spawn/alice", data=form, timeout=60).status_code == 403, "any site could have it pressed"
    token = re.search(r'name="_xsrf" value="([^"]+)"', page.text)[1]
    started = alice.session.post(f"{alice.base}/hub/spawn/alice", data={**form, "_xsrf": token}, timeout=60)
    assert started.status_code == 200, started.text
    alice._progress(60)
    assert machine.sh("cat /tmp/site").strip().startswith("read")
    where = alice.run_cell("import jupyter_core.paths as p, os; print(p.jupyter_config_dir(), p.jupyter_data_dir(), os.environ['IPYTHONDIR'])")
    assert where.count("/run/user/") == 3
    alice.stop()
    assert 'id="start-bare"' in page_of_a_failed_start(alice).text, "the next start is without it, too"
    machine.sh("rm -r ~alice/.jupyter ~alice/.ipython /etc/jupyter/jupyter_server_config.py")
    alice.spawn()
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


@pytest.mark.parametrize("default", further(SITES_SUDO, SITES_SUDO[:2], "further settings that are passed by in the same way"))
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


def test_other_case_is_a_hint_for_the_journal_alone(machine, hub, alice):
    with pytest.raises(HubError) as error:
        hub.login("ALICE", "secret")
    assert "Invalid username or password" in error.value.text and "alice" not in error.value.text
    assert "There is no account 'ALICE', but one that is spelled alice" in machine.journal("-u", "jupyterhub", "--since", "-20s")


def test_name_of_digits(machine, hub):
    machine.sh("echo '47110:x:47110:100::/home/47110:/bin/bash' >>/etc/passwd; echo '47110:*:20000::::::' >>/etc/shadow; echo 47110:secret | chpasswd")
    user = hub.login("47110", "secret")
    with pytest.raises(HubError, match="systemd opens no sessions for names of digits alone"):
        user.spawn()


def test_two_names_of_one_number(machine, hub, alice):
    """Each has the home and the name that it has logged in with."""
    machine.sh("useradd --non-unique --uid $(id -u alice) --create-home --groups users --shell /bin/bash alias; echo alias:secret | chpasswd")
    user = hub.login("alias", "secret")
    assert user.run_cell("import os; print(os.environ['USER'], os.environ['HOME'], os.getcwd())") == "alias /home/alias /home/alias"
    user.stop()


@pytest.mark.parametrize("unit", ["dbus.socket dbus.service", "systemd-logind"])
def test_logind_or_dbus_missing(machine, hub, alice, bob, unit):
    """The last test: logind forgets everybody's sessions, those of ssh too, when it is stopped and started."""
    machine.sh(f"systemctl mask --now {unit} 2>&1")
    started = time.monotonic()
    with pytest.raises(HubError, match="systemd-logind"):
        alice.spawn()
    assert time.monotonic() - started < 5
    assert bob.api("GET", "/status").status_code == 200
