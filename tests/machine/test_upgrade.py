"""apt upgrades the package while a notebook runs: the old server keeps its own version, the next one is new.

The upgrade is the package itself with a higher version and another JupyterLab, from PyPI.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from harness import wait_for
from hubclient import BASE, HubUser, Prober, with_server
from repack import VENV, repack, site_packages
from wheels import offer

pytestmark = pytest.mark.alone

HERE = pathlib.Path(__file__).parent
TREES = "ls /opt/venvs/jupyterhub-servers"


@pytest.fixture(scope="session")
def upgrade(deb, tmp_path_factory):
    """The path of a .deb of a higher version with another JupyterLab."""
    work = tmp_path_factory.mktemp("upgrade")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", work]
    subprocess.run([*pip, "--requirement", HERE / "other-jupyterlab.txt"], check=True)
    (wheel,) = work.glob("jupyterlab-*.whl")

    def change(tree):
        venv, site = tree / VENV, site_packages(tree)
        for old in [site / "jupyterlab", *site.glob("jupyterlab-*.dist-info"), venv / "share/jupyter/lab"]:
            shutil.rmtree(old)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        (data,) = site.glob("jupyterlab-*.data")
        shutil.copytree(data / "data", venv, dirs_exist_ok=True)
        shutil.rmtree(data)
        # As debian/tidy-venv does in every build.
        shutil.rmtree(site / "jupyterlab/static")
        (site / "jupyterlab/static").symlink_to("../../../../share/jupyter/lab/static")

    return repack(deb, work, change)


@pytest.fixture(scope="module")
def alice(upgrade, machine, hub):
    return with_server(machine, hub, "alice")


@pytest.fixture(scope="module")
def kernel(machine, alice):
    """alice's, with a package of her own."""
    offer(machine, "answer", "1.0", {"answer.py": "value = 42\n"})
    kernel = alice.kernel()
    kernel.execute("held = 42")
    kernel.execute("%pip install answer")
    return kernel


@pytest.fixture(scope="module")
def before(machine, alice, kernel):
    """What there was before the upgrade: Lab's version, its page, the trees, the proxy's pid."""
    return {
        "jupyterlab": machine.sh("/opt/venvs/jupyterhub/bin/python -c 'import jupyterlab; print(jupyterlab.__version__)'"),
        "trees": machine.sh(TREES).split(),
        "proxy": machine.pid_of("jupyterhub-proxy"),
        "page": alice.get(f"{alice.prefix}lab").text,
    }


@pytest.fixture(scope="module")
def upgraded(machine, hub, alice, before, upgrade):
    """Upgrade; return what users and visitors noticed of it."""
    package = machine.push(upgrade)
    with (
        Prober(alice, f"{alice.prefix}api/status") as notebook,
        Prober(HubUser(BASE, "visitor"), "/hub/login") as login,
    ):
        machine.run("apt-get", "-qq", "-y", "install", package, timeout=300)
        wait_for(hub.answers, "the hub answers again", timeout=20)
    return {"notebook": notebook, "login": login}


def files_named_by(page):
    """Return the paths of all scripts and styles that Lab's page names, in tags and in its configuration."""
    return sorted(set(re.findall(r'(?:src|href)="([^"]+\.(?:js|css|ico)[^"]*)"', page)))


def test_notebook_notices_nothing(upgraded, kernel):
    assert upgraded["notebook"].failures == []
    assert kernel.execute("held") == "42"


def test_login_page_is_away_for_a_moment(machine, hub, upgraded):
    """With two more tries, as test_survival.py has them: what else the test's host does is not our business."""
    gaps = [upgraded["login"].longest_gap]
    while gaps[-1] > 2.5 and len(gaps) < 3:
        with Prober(HubUser(BASE, "visitor"), "/hub/login") as login:
            machine.sh("apt-get -qq -y --reinstall install /root/jupyterhub_*.deb", timeout=300)
            wait_for(hub.answers, "the hub answers again", timeout=20)
        gaps.append(login.longest_gap)
    assert min(gaps) <= 2.5


def test_proxy_is_left_alone(machine, upgraded, before):
    assert machine.pid_of("jupyterhub-proxy") == before["proxy"]


def test_new_hub_lists_the_old_server(upgraded, alice):
    assert alice.server_ready


def test_old_kernel_imports_old_modules(upgraded, kernel, before):
    """One that it had not imported before the upgrade."""
    assert kernel.execute("import sys; 'jupyterlab' in sys.modules") == "False"
    assert kernel.execute("import jupyterlab; print(jupyterlab.__version__)") == before["jupyterlab"]


def test_old_server_serves_its_own_lab(upgraded, alice, before):
    page = alice.get(f"{alice.prefix}lab").text
    files = files_named_by(before["page"])
    assert files and files_named_by(page) == files
    for path in files:
        assert alice.get(path).status_code == 200


def test_old_server_serves_what_its_page_loads_later(upgraded, machine, alice, before):
    """The chunks that Lab's scripts fetch when somebody opens something."""
    (old,) = set(before["trees"]) - {"current"}
    chunks = machine.sh(f"cd /opt/venvs/jupyterhub-servers/{old}/share/jupyter/lab/static; ls *.js").split()
    assert chunks
    for chunk in chunks:
        assert alice.get(f"{alice.prefix}static/lab/{chunk}").status_code == 200


def test_old_server_starts_kernels_of_its_version(upgraded, alice, before):
    kernel = alice.kernel()
    assert kernel.execute("import jupyterlab; print(jupyterlab.__version__)") == before["jupyterlab"]
    assert kernel.execute("import answer; answer.value") == "42"
    kernel.shutdown()


def test_both_trees_are_there(machine, upgraded, before):
    assert set(machine.sh(TREES).split()) > set(before["trees"])


def test_next_server_is_the_new_version(machine, upgraded, alice, before):
    alice.stop()
    alice.spawn()
    kernel = alice.kernel()
    new = machine.sh("/opt/venvs/jupyterhub/bin/python -c 'import jupyterlab; print(jupyterlab.__version__)'")
    assert new != before["jupyterlab"]
    assert kernel.execute("import jupyterlab; print(jupyterlab.__version__)") == new
    assert kernel.execute("import answer; answer.value") == "42"
    for path in files_named_by(alice.get(f"{alice.prefix}lab").text):
        assert alice.get(path).status_code == 200


def test_old_tree_is_gone_once_nobody_uses_it(machine, upgraded, alice, before):
    (old,) = set(before["trees"]) - {"current"}
    wait_for(lambda: old not in machine.sh(TREES).split(), "the old tree is removed", timeout=10)
