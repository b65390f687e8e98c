"""After an upgrade of a library that everything uses, needrestart restarts the hub, leaves the proxy to the administrator, and touches no notebook."""

import pytest
from harness import wait_for
from hubclient import Prober

pytestmark = pytest.mark.slow("its file and the names of our units seldom change")
PACKAGES = ("needrestart",)
LIBRARIES = ("libc.so.6", "libssl.so.3", "libz.so.1")


@pytest.fixture(scope="module")
def alice(machine, hub):
    if "\n" in machine.sh("cat /proc/1/cgroup"):
        # The host has hierarchies of cgroup v1 beside cgroup2, which no machine with Debian 13 has: needrestart is to look at cgroup2.
        machine.sh(r"sed -i 's/ || (\$type eq q(name=systemd))//' /usr/share/perl5/NeedRestart/Utils.pm; perl -c /usr/share/perl5/NeedRestart/Utils.pm")
    machine.add_user("alice")
    alice = hub.login("alice", "secret")
    alice.spawn()
    return alice


def upgrade_libraries(machine):
    """Do what dpkg does to them: another file in the old one's place, which running processes still map."""
    for name in LIBRARIES:
        machine.sh(f"file=$(realpath /usr/lib/*-linux-gnu/{name}); cp -p $file $file.new; mv $file.new $file")


def needrestart(machine, mode):
    """Return what needrestart says: (part about restarts, part about deferred ones)."""
    # Its end may be SIGPIPE, after it has said what counts here: it has restarted the journal that its children write to.
    said = machine.run("needrestart", "-r", mode, check=False, timeout=120).stdout
    done, _, rest = said.partition("Service restarts being deferred:")
    return done, rest


def test_conf_is_read(machine, hub, alice):
    assert machine.sh("perl -c /etc/needrestart/conf.d/jupyterhub.conf 2>&1").endswith("syntax OK")
    assert "jupyterhub" not in "".join(needrestart(machine, "l"))


def test_only_the_hub_is_restarted(machine, hub, alice):
    kernel = alice.kernel()
    kernel.execute("x = 42")
    before = {unit: machine.pid_of(unit) for unit in ("jupyterhub", "jupyterhub-proxy")}
    servers = machine.sh("pgrep -u alice -f 'singleuser|ipykernel'")
    upgrade_libraries(machine)
    for pattern in ("jupyterhub-singleuser", "ipykernel"):  # the upgrade concerns them
        pid = machine.sh(f"pgrep -u alice -f {pattern}").split()[-1]
        assert "(deleted)" in machine.sh(f"grep libc.so /proc/{pid}/maps")
    with Prober(alice, "/user/alice/api/status") as probe:
        done, deferred = needrestart(machine, "a")
        wait_for(lambda: machine.pid_of("jupyterhub") not in (0, before["jupyterhub"]), "the hub is restarted", timeout=30)
        wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    assert "jupyterhub.service" in done and "jupyterhub-proxy" not in done
    assert "jupyterhub-proxy.service" in deferred
    assert machine.pid_of("jupyterhub-proxy") == before["jupyterhub-proxy"]
    assert probe.failures == []
    assert machine.sh("pgrep -u alice -f 'singleuser|ipykernel'") == servers
    assert kernel.execute("x") == "42"  # over the same websocket


def test_auto_restart_off_is_for_needrestart_too(machine, hub, alice):
    machine.sh("sed -i 's/^JUPYTERHUB_AUTO_RESTART=.*/JUPYTERHUB_AUTO_RESTART=false/' /etc/default/jupyterhub")
    before = machine.pid_of("jupyterhub")
    upgrade_libraries(machine)
    done, deferred = needrestart(machine, "a")
    assert "jupyterhub.service" not in done and "jupyterhub.service" in deferred  # that of the ports may be: nobody notices
    assert machine.pid_of("jupyterhub") == before
