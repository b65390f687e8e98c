"""Air-gapped machines: the folder that `./build.sh --bundle` makes is all that a server without any network needs."""

import shutil

import harness
import pytest
from hubclient import Hub

pytestmark = pytest.mark.slow("what pip and npm fetch is most of it, and another build")


@pytest.fixture(scope="module")
def bundle(suite, build_sh, node_deb, tmp_path_factory):
    """The folder `public` of a bundle; made before there is a machine, for that has no network."""
    shutil.copy(node_deb, build_sh.tree / "dist")
    folder = tmp_path_factory.mktemp("bundle")
    build_sh(suite[0], "--bundle", folder)
    return folder / "public"


@pytest.fixture(scope="module")
def server(bundle, bare_machine, suite):
    """A server that has never seen an archive of Debian, with the bundle where docs/repository.md has it."""
    bare_machine.sh("rm -rf /var/lib/apt/lists/* /etc/apt/sources.list.d/* /etc/apt/sources.list; apt-get clean")
    shutil.copytree(bundle, bare_machine.root / "srv/jupyterhub", symlinks=True)
    bare_machine.sh(f"cp /srv/jupyterhub/jupyterhub-{suite[0].split(':')[1]}.sources /etc/apt/sources.list.d/")
    return bare_machine


def test_nothing_else_is_known_to_apt(server):
    assert server.run("apt-get", "-y", "install", "nodejs", check=False).returncode == 100


def test_apt_installs_it_from_the_bundle(server):
    server.sh("apt-get update && apt-get -qq -y install jupyterhub", timeout=300)
    assert server.sh("apt-get -qq check; dpkg --audit") == ""


def test_cell_runs(server):
    hub = Hub()
    harness.wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    server.add_user("alice")
    alice = hub.login("alice", "secret")
    assert alice.run_cell("5 * 4") == "20"
    alice.stop()


def test_nodes_can_have_theirs_from_it(server, deb):
    version = deb.name.split("_")[1]
    assert f"Inst jupyterhub-node ({version} " in server.sh("apt-get --simulate --no-install-recommends install jupyterhub-node")
