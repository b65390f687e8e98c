"""docs/cluster.md, word for word: two plain servers become a cluster whose notebook servers are jobs on the second. A third machine has the directory.

The kernel of the tests has no NFS: what mounts it on the node is a stand-in, which mounts the same folder. Where control groups are hybrid, Slurm does without.
"""

import contextlib
import pathlib
import subprocess
import sys

import harness
import pytest
from directory import HOST, PASSWORD, Directory
from directory import PACKAGES as SLAPD
from harness import wait_for
from hubclient import Hub
from slurm import start

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import blocks

pytestmark = pytest.mark.slow("three machines")
BLOCKS = [block for block in blocks.ALL if block.page == "cluster.md"]
PACKAGES = (*SLAPD, "sssd-ldap", "libnss-sss", "libpam-sss", "nfs-kernel-server", "nfs-common", "slurmctld", "slurmd", "slurm-client", "munge")
ADDRESSES = {"ldap": "192.0.2.1", "hub": "192.0.2.11", "node1": "192.0.2.12"}
# What a reader of the page edits, and what the tests' machines need.
EDITOR = r"""#!/bin/sh -eu
for file; do :; done
case $file in
*/slurm.conf)
    sed -i -e 's/^NodeName=.*/NodeName=node1 CPUs=4 RealMemory=8000/' "$file"
    sed -i -e 's,proctrack/cgroup,proctrack/linuxproc,' -e 's,^TaskPlugin=.*,TaskPlugin=task/none,' "$file"
    echo SlurmdParameters=config_overrides >>"$file"
    echo CgroupPlugin=disabled >"${file%/*}/cgroup.conf"
    ;;
*/profiles.conf) sed -i '/^\[gpu]/,$d' "$file" ;;
*/sudoers.d/*) sed -i 's/^Runas_Alias.*/Runas_Alias JUPYTER_USERS = %users, %lab/' "$file" ;;
esac
"""
MOUNT_NFS = '#!/bin/sh -eu\necho "$@" >>/root/mounted\nexec mount --bind /srv/homes "$2"\n'
ENVIRONMENT = "export EDITOR=/usr/local/bin/editor DEBIAN_FRONTEND=noninteractive SYSTEMD_PAGER="


def make_plain_servers(machines, authority):
    """Let both be as the page begins: they know one another, trust the directory's authority, and root of the first can log in to the second."""
    for machine in machines:
        machine.write("/etc/hosts", "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items() if name != "ldap"))
        machine.sh(f"hostname {machine.name}; echo {machine.name} >/etc/hostname; echo {ADDRESSES['ldap']} {HOST} >>/etc/hosts")
        machine.write("/usr/local/share/ca-certificates/example.crt", authority)
        machine.write("/etc/apt/apt.conf.d/yes", 'APT::Get::Assume-Yes "true";\n')
        machine.sh("update-ca-certificates >/dev/null; echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections")
    hub, node = machines
    hub.write("/usr/local/bin/editor", EDITOR, 0o755)
    hub.write("/etc/ssh/ssh_config.d/first.conf", "StrictHostKeyChecking accept-new\n")
    hub.sh("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    node.write("/root/.ssh/authorized_keys", hub.sh("cat /root/.ssh/id_ed25519.pub") + "\n", 0o600)
    node.sh("dpkg-divert --quiet --local --no-rename --divert /usr/sbin/mount.nfs4.real --add /usr/sbin/mount.nfs4")
    node.write("/usr/sbin/mount.nfs4", MOUNT_NFS, 0o755)


@pytest.fixture(scope="module")
def machines(suite, site, base, say):
    """The three machines by name, booted, with a network."""
    if suite[0] != "debian:trixie":
        pytest.skip("jobs of Slurm are for Debian 13")
    found = {name: site.machine(name, harness.downloads(base, PACKAGES, say), base) for name in ADDRESSES}
    homes = found["node1"].root / "srv/homes"
    with contextlib.ExitStack() as stack:
        for machine in found.values():
            stack.callback(site.discard, machine)
        homes.mkdir()
        subprocess.run(["mount", "--bind", str(found["hub"].root / "home"), str(homes)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(homes)], check=True)
        for machine in found.values():
            machine.boot()
        ldap = found["ldap"]
        ldap.be_a_switch(f"{ADDRESSES['ldap']}/24")
        for name in ("hub", "node1"):
            ldap.plug_in(found[name], f"{ADDRESSES[name]}/24")
        ldap.run("apt-get", "-qq", "-y", "install", *SLAPD, timeout=300)
        Directory(ldap, is_hub=False)
        make_plain_servers([found["hub"], found["node1"]], ldap.sh("cat /etc/ldap/ca.crt") + "\n")
        yield found


@pytest.fixture(scope="module")
def said(machines, deb, node_deb):
    """What the page's blocks have said (str), one after the other, as root types them on the first server; each must succeed."""
    hub = machines["hub"]
    for package in (deb, node_deb):
        hub.push(package)
    return [hub.run("bash", "-euo", "pipefail", "-c", f"cd /root; {ENVIRONMENT}\n{block.text}", timeout=600).stdout for block in BLOCKS]


def test_it_works_as_the_page_says(said, machines):
    assert "STATUS:          Success (0)" in "".join(said)
    assert any("node1\nuid=30000(alice)" in text for text in said)
    assert machines["hub"].sh("id alice") == machines["node1"].sh("id alice")
    assert "/home" in machines["hub"].sh("exportfs")
    assert machines["node1"].sh("cat /root/mounted").startswith("hub:/home /home ")


def test_notebook_runs_on_the_node(said, machines):
    with machines["hub"].network():
        hub = Hub()
        wait_for(hub.answers, "the hub answers", timeout=30)
        alice = hub.login("alice", PASSWORD)
        start(alice, "small")
        assert alice.kernel().execute("import os, socket; print(socket.gethostname(), os.getcwd())") == "node1 /home/ldap/alice"
        assert machines["hub"].sh("stat --format=%U /home/ldap/alice/.local") == "alice"
        alice.stop()
