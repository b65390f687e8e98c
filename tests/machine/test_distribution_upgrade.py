"""Debian 12 becomes Debian 13 with the package installed: users and settings stay, the hub serves afterwards.

Starts from SUITE=debian:bookworm and needs the packages of both suites in dist/.
"""

import json
import re
import shutil
import subprocess

import harness
import pytest
import requests
from harness import wait_for
from hubclient import BASE, Hub, HubError
from wheels import INDEX, for_environments, offer, offer_to_r

pytestmark = pytest.mark.slow("two suites' packages, and 10 minutes of apt")
PACKAGES = ("--no-install-recommends", "r-cran-irkernel", "python3-venv")

ACCOUNTS = (
    "/opt/venvs/jupyterhub/bin/python -c \"import sqlite3; print(sqlite3.connect('/var/opt/jupyterhub/jupyterhub.sqlite')"
    ".execute('select id, name, created from users').fetchall())\""
)
FETCH = """
cat /etc/resolv.conf >"$1/etc/resolv.conf"
sed -i 's/bookworm/trixie/g' "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* 2>/dev/null || true
chroot "$1" apt-get -qq -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any update
chroot "$1" apt-get -qq -y --download-only -o APT::Sandbox::User=root dist-upgrade
rm "$1/etc/resolv.conf"
"""


@pytest.fixture(scope="module")
def repository(suite, deb, build_sh, tmp_path_factory):
    """The folder `public` of a repository with the packages of both suites."""
    if suite[0] != "debian:bookworm":
        pytest.skip("starts from SUITE=debian:bookworm")
    newer = sorted(deb.parent.glob("jupyterhub_*+deb13_*.deb"), key=lambda path: path.stat().st_mtime)
    assert newer, "no jupyterhub_*+deb13_*.deb in dist/: run ./build.sh debian:trixie"
    shutil.copy(newer[-1], build_sh.tree / "dist")
    folder = tmp_path_factory.mktemp("repository")
    build_sh("--repository", folder, "--url", "file:/srv/jupyterhub")
    return folder / "public"


@pytest.fixture(scope="module")
def upgraded(site, base, installed, say, deb, repository):
    """What was Debian 12 with a user of the hub, fetched Debian 13 while it was off, took it without any network, and was booted again."""
    machine = site.machine("distribution-upgrade", *installed[:-1], harness.downloads(base, PACKAGES, say), base)
    (newer,) = repository.glob("pool/main/j/jupyterhub/*+deb13_*.deb")
    wheels = [wheel for each in (deb, newer) for wheel in for_environments(each, ["ipykernel"], say).iterdir()]
    shutil.copytree(repository, machine.root / "srv/jupyterhub", symlinks=True)
    machine.boot()
    with machine.network():
        machine.add_user("alice")
        machine.write(
            "/etc/jupyterhub/jupyterhub_config.d/10-site.py", "c = get_config()\nc.JupyterHub.template_vars = {'announcement': 'the words of the site'}\n"
        )
        run_a_cell("open('kept.txt', 'w').write('kept')")
        offer(machine, "answer", "1.0", {"answer.py": "value = 42\n"})
        run_a_cell("%pip install answer")
        make_an_environment(machine)
        make_a_shared_environment(machine, wheels)
        make_a_library(machine)
        machine.account = machine.sh(ACCOUNTS)
        machine.refusal = refused(machine, newer)
    machine.power_off()
    shutil.copy(repository / "jupyterhub-trixie.sources", machine.root / "etc/apt/sources.list.d")
    fetched = subprocess.run(["sh", "-euc", FETCH, "sh", machine.root], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert fetched.returncode == 0, fetched.stderr
    machine.boot()
    machine.sh("apt-get -qq -y -o Dpkg::Options::=--force-confold dist-upgrade", timeout=3600)
    machine.power_off()
    machine.boot()
    with machine.network():
        yield machine
    site.discard(machine)


def make_an_environment(machine):
    """alice has one of Debian 12's Python, with a package and a kernel; with ipykernel, from PyPI: test_all_kernels.py."""
    machine.run("apt-get", "-qq", "-y", "install", *PACKAGES, timeout=900)
    machine.sh("python3 -m venv ~/venvs/work; ~/venvs/work/bin/pip install -q answer", user="alice", timeout=180)
    argv = ["/home/alice/venvs/work/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    machine.write(
        "/home/alice/.local/share/jupyter/kernels/work/kernel.json", json.dumps({"argv": argv, "display_name": "Python (work)", "language": "python"})
    )


def make_a_shared_environment(machine, wheels):
    """The administrator has one of the package's Python, for all users."""
    for wheel in wheels:
        machine.push(wheel, INDEX)
    machine.write("/etc/uv/uv.toml", f'no-index = true\nfind-links = ["{INDEX}"]\n')
    machine.write("/srv/asked.txt", "answer\n")
    machine.run("jupyterhub-ctl", "environment", "add", "shared", "/srv/asked.txt", timeout=300)
    assert in_shared("answer.value") == "42"


def in_shared(code):
    """Run a cell in the administrator's environment."""
    user = Hub().login("alice", "secret")
    user.spawn()
    kernel = user.kernel("shared")
    try:
        return kernel.execute(f"import answer, sys; {code}")
    finally:
        kernel.shutdown()


def make_a_library(machine):
    """alice has one of Debian 12's R, with a package."""
    machine.write("/home/alice/.Rprofile", f"options(repos = '{offer_to_r(machine)}')\n")
    code = 'dir.create(own <- Sys.getenv("R_LIBS_USER"), FALSE, TRUE); install.packages("answer", own)'
    machine.run("Rscript", "-e", code, user="alice", timeout=120)
    assert machine.sh("Rscript -e 'answer::answer()'", user="alice") == "[1] 42"


def run_a_cell(code):
    hub = Hub()
    wait_for(hub.answers, "the hub answers", timeout=60, every=0.2)
    return hub.login("alice", "secret").run_cell(code)


def refused(machine, deb):
    """Ask apt for a package of the other suite; return its words."""
    file = machine.push(deb)
    result = machine.run("apt-get", "-y", "install", "--allow-downgrades", file, check=False)
    machine.run("rm", file)
    assert result.returncode == 100
    return result.stdout + result.stderr


def test_package_for_debian_13_was_refused_on_12(upgraded):
    assert re.search(r"jupyterhub : Depends: (.*\n.*Depends: )*python3\.13 but it is not installable", upgraded.refusal), upgraded.refusal


def test_it_is_debian_13_with_its_package(upgraded):
    assert upgraded.sh(". /etc/os-release; echo $VERSION_CODENAME") == "trixie"
    assert upgraded.sh("dpkg-query -W -f '${Version}' jupyterhub").endswith("+deb13")
    assert upgraded.sh("dpkg --audit; dpkg --verify jupyterhub") == ""


def test_no_unit_of_ours_failed(upgraded):
    assert upgraded.sh("systemctl list-units --failed --no-legend --plain 'jupyterhub*'") == ""
    units = "jupyterhub jupyterhub-proxy jupyterhub-spawner.socket"
    assert set(upgraded.sh(f"systemctl is-enabled {units}; systemctl is-active {units}").split()) == {"enabled", "active"}


def test_user_works_on_with_the_files_of_before(upgraded):
    assert run_a_cell("print(open('kept.txt').read(), __import__('sys').version_info[:2])") == "kept (3, 13)"


def test_packages_of_the_old_python_are_named_and_installed_anew(upgraded):
    assert "1 packages of Python 3.11" in upgraded.run("jupyterhub-packages", "list", user="alice").stdout
    assert "installed anew: answer==1.0" in upgraded.run("jupyterhub-packages", "rebuild", user="alice").stdout
    assert run_a_cell("import answer; answer.value") == "42"


def test_environment_and_library_of_before_are_named_and_made_anew(upgraded):
    """By the commands that are printed, word for word."""
    alice = Hub().login("alice", "secret")
    alice.spawn()
    with pytest.raises(HubError) as error:
        alice.kernel("work")
    assert "/home/alice/venvs/work is an environment of Python 3.11, and this machine has Python 3.13." in error.value.text
    check = upgraded.run("jupyterhub-packages", "check", user="alice", check=False)
    layer, environment, library = check.stdout.splitlines()
    assert "packages of Python 3.11, which are installed anew: rm -r " in layer
    for line in (environment, library):
        upgraded.sh(f"cd; {line.split(': ', 2)[2]}", user="alice", timeout=180)
    assert upgraded.sh("~/venvs/work/bin/python -c 'import answer; print(answer.value)'", user="alice") == "42"
    assert upgraded.sh("Rscript -e 'answer::answer()'", user="alice") == "[1] 42"


def test_shared_environment_is_kept_and_made_anew(upgraded):
    """It runs as long as its Python is there, and then by the command that verify names, word for word."""
    wanted = r"jupyterhub-ctl environment upgrade shared\b"
    assert in_shared("answer.value, sys.version_info[:2]") == "(42, (3, 11))"
    done = upgraded.run("jupyterhub-ctl", "verify", "environments", check=False)
    assert done.stdout.startswith("warning\t") and "shared is of Python 3.11" in done.stdout and re.search(wanted, done.stdout)
    upgraded.sh("apt-get -qq -y autoremove; ! test -e /usr/bin/python3.11", timeout=900)
    done = upgraded.run("jupyterhub-ctl", "verify", "environments", check=False)
    assert done.returncode == 5 and "shared: its Python, /usr/bin/python3.11, is missing" in done.stdout
    with pytest.raises(HubError, match="cannot start"):
        in_shared("answer.value")
    upgraded.sh(re.search(wanted, done.stdout)[0], timeout=300)
    assert in_shared("answer.value, sys.version_info[:2]") == "(42, (3, 13))"
    assert upgraded.run("jupyterhub-ctl", "verify", "environments").stdout.startswith("passed\t")


def test_hub_knows_its_users_and_settings(upgraded):
    assert upgraded.sh(ACCOUNTS) == upgraded.account
    assert "the words of the site" in requests.get(f"{BASE}/hub/login", timeout=10).text


def test_trees_of_the_old_python_are_gone(upgraded):
    """Once a user has asked for a server."""
    trees = "ls /opt/venvs/jupyterhub-servers"
    wait_for(lambda: "+deb12" not in upgraded.sh(trees), "the tree of Debian 12 is removed", timeout=20, every=0.2)
    assert upgraded.sh("ls -d /opt/venvs/jupyterhub/lib/python3.*") == "/opt/venvs/jupyterhub/lib/python3.13"
