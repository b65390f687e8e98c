"""Users' own packages as PyPI has them: scikit-learn, uv, and a tornado and an ipykernel that are years older than the bundled ones."""

import subprocess

import harness
import pytest
from hubclient import HubError, with_server
from wheels import INDEX, PIP_CONF

pytestmark = pytest.mark.slow("from PyPI; test_packages has packages of the tests' own each time")
WHEELS = ("scikit-learn", "uv", "ipykernel==6.9", "jupyter-client==7.1.2", "setuptools", "wheel")
SOURCES = ("tornado==6.1",)  # there is no wheel for today's Python


@pytest.fixture(scope="session")
def fetched(deb, say):
    """A folder of the host with all that is installed; made before the machine's network is entered, which leads nowhere."""
    python = harness.python_of(deb)

    def make(new):
        pip = ["python3", "-m", "pip", "download", "--quiet", "--dest", str(new)]
        platforms = [f"--platform=manylinux{name}_x86_64" for name in ("_2_28", "_2_17", "2014", "_2_12", "1")]
        subprocess.run([*pip, "--only-binary=:all:", f"--python-version={python}", *platforms, *WHEELS], check=True)
        subprocess.run([*pip, "--no-deps", "--no-binary=:all:", *SOURCES], check=True)

    return harness.cached(harness.CACHE / "roots" / f"packages-{python}-2", "fetching packages of PyPI", make, say)


@pytest.fixture(scope="module")
def alice(fetched, machine, hub):
    machine.sh(f"mkdir -p {INDEX}")
    machine.write("/etc/pip.conf", PIP_CONF)
    for file in fetched.iterdir():
        machine.push(file, INDEX)
    return with_server(machine, hub, "alice")


@pytest.fixture
def kernel(alice):
    kernel = alice.kernel()
    yield kernel
    kernel.shutdown()


def test_scikit_learn(alice, kernel):
    """With the bundled numpy; scipy comes along."""
    said = kernel.execute("%pip install scikit-learn", timeout=300)
    assert "Successfully installed" in said and " numpy-" not in said
    code = "from sklearn.linear_model import LinearRegression; round(LinearRegression().fit([[1], [2], [3]], [2, 4, 6]).coef_[0])"
    assert alice.run_cell(code) == "2"


def test_uv_installs_into_the_same_layer(alice, kernel):
    kernel.execute("%pip install uv", timeout=300)
    kernel.execute(f"!uv pip install --no-index --find-links {INDEX} setuptools", timeout=120)
    assert "jupyterhub/packages/python3" in alice.run_cell("import setuptools; setuptools.__file__")


def test_old_tornado_and_ipykernel(machine, alice, kernel):
    """The server and the kernels that run keep running; the kernel without packages is there, and a reset brings all back."""
    kernel.execute("held = 42")
    assert "Successfully installed" in kernel.execute("%pip install tornado==6.1 ipykernel==6.9", timeout=300)
    assert kernel.execute("held") == "42"
    with pytest.raises(HubError, match=r"Your own packages keep this kernel from starting \(.*tornado 6\.1"):
        alice.kernel()
    bundled = alice.kernel("python3-bundled")
    assert bundled.execute("6 * 7") == "42"
    bundled.shutdown()
    machine.run("jupyterhub-packages", "reset", "--yes", user="alice")
    assert alice.run_cell("6 * 7") == "42"
