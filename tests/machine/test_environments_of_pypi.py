"""An environment as statisticians want it, pandas, scikit-learn and matplotlib: how long it takes beside plain pip, and what a second revision weighs."""

import json
import time

import pytest
from hubclient import with_server
from test_environments import KERNELS, ROOT, ctl, run
from wheels import INDEX, PIP_CONF, for_environments

pytestmark = pytest.mark.slow("pandas and others from PyPI; test_environments has packages of the tests' own each time")
ASKED = "pandas\nscikit-learn\nmatplotlib\n"
CODE = """
import matplotlib, pandas, sklearn.linear_model
frame = pandas.DataFrame({"x": [1, 2, 3], "y": [2, 4, 6]})
round(sklearn.linear_model.LinearRegression().fit(frame[["x"]], frame["y"]).coef_[0])
"""


@pytest.fixture(scope="session")
def fetched(deb, say):
    """A folder of the host with all of it; made before the machine's network is entered, which leads nowhere."""
    return for_environments(deb, ["ipykernel", "tabulate", *ASKED.split()], say)


@pytest.fixture(scope="module")
def index(fetched, machine):
    machine.sh(f"mkdir -p {INDEX}")
    machine.write("/etc/pip.conf", PIP_CONF)
    machine.write("/etc/uv/uv.toml", f'no-index = true\nfind-links = ["{INDEX}"]\n')
    for file in fetched.iterdir():
        machine.push(file, INDEX)
    machine.write("/srv/asked.txt", ASKED)
    return machine


def test_made_faster_than_by_pip(index, hub, say):
    """With the trial of its kernel; a second revision takes a part of the room, and works."""
    started = time.monotonic()
    ctl(index, "add", "statistics", "/srv/asked.txt", timeout=600)
    ours = time.monotonic() - started
    started = time.monotonic()
    index.run(
        "/opt/venvs/jupyterhub/bin/python", *["-m", "pip", "install", "--quiet", "--target", "/srv/by-pip", "-r", "/srv/asked.txt", "ipykernel"], timeout=900
    )
    plain = time.monotonic() - started
    user = with_server(index, hub, "alice")
    assert run(user, CODE, "statistics") == "2"
    first = json.loads(ctl(index, "list", "--json").stdout)[0]["bytes"]
    index.write("/srv/more.txt", f"{ASKED}tabulate\n")
    started = time.monotonic()
    ctl(index, "upgrade", "statistics", "/srv/more.txt", timeout=600)
    second = time.monotonic() - started
    added = json.loads(ctl(index, "list", "--json").stdout)[0]["bytes"] - first
    say(f"environment: {ours:.0f} s, pip: {plain:.0f} s, second revision: {second:.0f} s; {first >> 20} MiB, the second {added >> 20} MiB more")
    assert run(user, "import tabulate\n" + CODE, "statistics") == "2"
    assert added < first * 0.6 and index.sh(f"readlink {KERNELS}/statistics").startswith(ROOT)
