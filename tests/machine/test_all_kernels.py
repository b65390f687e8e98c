"""Every kernel that docs/kernels.md names: it starts, computes, and shows a plot where it can. Debian's, one from PyPI, one from npm, a user's venv."""

import json
import os
import pathlib
import shutil
import subprocess

import harness
import pytest
from hubclient import with_server

pytestmark = pytest.mark.slow("some 300 packages; test_lab has users' own kernels and broken ones each time")
NOT_IN_DEBIAN_12 = {"xeus-gp"} if os.environ.get("SUITE") == "debian:bookworm" else set()
PACKAGES = (
    *("--no-install-recommends", "xpython", "python3-ipython", "r-cran-irkernel", "python3-octave-kernel", "gnuplot-nox", "fonts-freefont-otf", "ghostscript"),
    *("macaulay2-jupyter-kernel", "python3-venv", "python3-matplotlib", *({"xeus-gp"} - NOT_IN_DEBIAN_12)),
)
FROM_PYPI = {"bash": ("bash_kernel",), "venv": ("ipykernel", "matplotlib", "pip")}
PYTHON_PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 2, 3]); plt.show()"
# Name of the kernel: a cell, what it prints, and a cell that plots.
KERNELS = {
    "ir": ("6 * 7", "[1] 42", "plot(1:10)"),
    "octave": ("disp(6 * 7)", "42", "plot(1:10)"),
    "xpython": ("6 * 7", "42", ""),
    "xeus-gp": ("6 * 7", "42", ""),
    "m2": ("6 * 7", "42", ""),
    "python3-machine": ("6 * 7", "42", f"%matplotlib inline\n{PYTHON_PLOT}"),
    "bash": ("echo $((6 * 7))", "42", ""),
    "jslab": ("console.log(6 * 7)", "42", ""),
    "tslab": ("const answer: number = 6 * 7; console.log(answer)", "42", ""),
    "work": ("6 * 7", "42", f"%matplotlib inline\n{PYTHON_PLOT}"),
}
KERNELS = {name: cells for name, cells in KERNELS.items() if name not in NOT_IN_DEBIAN_12}


@pytest.fixture(scope="session")
def fetched(deb, say):
    """A folder of the host with what users and administrators get from PyPI and npm; made before a machine's network is entered."""
    python = harness.python_of(deb)

    def make(new):
        for name, packages in FROM_PYPI.items():
            wheels = ["--dest", str(new / name), "--only-binary=:all:", f"--python-version={python}", "--platform=manylinux_2_28_x86_64"]
            wheels += ["--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64", "--platform=manylinux_2_12_x86_64"]
            subprocess.run(["python3", "-m", "pip", "download", "--quiet", *wheels, *packages], check=True)
        # Global, as its own page says: it looks for the types of Node in the folder that npm then makes.
        subprocess.run(["npm", "install", "--silent", "--global", "--prefix", str(new / "npm"), "tslab"], check=True)

    return harness.cached(harness.CACHE / "roots" / f"kernels-{python}-2", "fetching kernels of PyPI and npm", make, say)


def push_folder(machine, folder, target):
    """Copy a folder (Path) of the host to the machine."""
    archive = pathlib.Path(shutil.make_archive(f"/var/tmp/{folder.name}-{machine.leader}", "tar", folder))
    try:
        pushed = machine.push(archive)
    finally:
        archive.unlink()
    machine.sh(f"mkdir -p {target}; tar -C {target} -xf {pushed}; rm {pushed}")


@pytest.fixture(scope="module")
def alice(fetched, machine, hub):
    """Somebody with a server, on a machine with all the kernels, and one of her own."""
    for name in ("bash", "venv", "npm"):
        push_folder(machine, fetched / name, f"/srv/{name}")
    # As an administrator: docs/kernels.md.
    site = "/opt/venvs-site/bash/bin"
    machine.sh(f"python3 -m venv --system-site-packages {site}/..; {site}/pip install -q --no-index -f /srv/bash bash_kernel", timeout=120)
    machine.sh(f"{site}/python -m bash_kernel.install --prefix /usr/local")
    tslab = "/srv/npm/bin/tslab"
    machine.sh(f"PATH=/opt/venvs/jupyterhub/bin:$PATH {tslab} install --binary {tslab} --prefix /usr/local")
    user = with_server(machine, hub, "alice")
    install = "-m ipykernel install --user --name work --display-name 'Python (work)'"
    machine.sh("python3 -m venv ~/venvs/work; ~/venvs/work/bin/pip install -q --no-index -f /srv/venv ipykernel matplotlib", user="alice", timeout=180)
    machine.sh(f"~/venvs/work/bin/python {install}", user="alice")
    return user


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(alice, name):
    cell, answer, plot = KERNELS[name]
    kernel = alice.kernel(name)
    assert answer in kernel.execute(cell, timeout=120)
    if plot:
        said = kernel.execute(plot, timeout=120)
        assert kernel.shown & {"image/png", "image/svg+xml"}, said
    kernel.shutdown()


def test_all_are_offered(alice):
    assert set(KERNELS) | {"python3"} <= set(alice.api("GET", "/kernelspecs").json()["kernelspecs"])


def test_verify_names_those_on_ports(machine):
    (row,) = [row for row in json.loads(machine.run("/usr/sbin/jupyterhub-ctl", "verify", "kernels", "--json").stdout) if row["name"] == "kernels"]
    assert row["status"] == "warning"
    for name in {"XPython", "xeus-gp", "JavaScript", "TypeScript"} - NOT_IN_DEBIAN_12:
        assert name in row["what"]
    for name in ("R", "Octave", "Bash", "M2"):
        assert f" {name}," not in f" {row['what']},"
