"""Users' own packages: %pip install works and stays, in the bundled kernel and nowhere else; whatever a user installs, the way back is one click."""

import json
import time

import pytest
from browser import SLOW, log_in, run_cell
from cases import further
from harness import wait_for
from hubclient import HubError, KernelError, with_server
from playwright.sync_api import expect
from wheels import INDEX, offer

slow = pytest.mark.slow
TREE = "/opt/venvs/jupyterhub-servers/current"
PACKAGES_OF = "/home/{}/.local/share/jupyterhub/packages/python3"
DEFAULTS = "/etc/default/jupyterhub"
COMMAND = "/usr/bin/jupyterhub-packages"
WITHOUT = "Python 3 (without my packages)"
OLD = "raise ImportError('this tornado is too old')\n"


@pytest.fixture(scope="module")
def alice(machine, hub):
    offer(machine, "answer", "1.0", {"answer.py": "value = 42\n"})
    offer(machine, "answer", "2.0", {"answer.py": "value = 43\n"})
    offer(machine, "large", "1.0", {"large.py": "x = 1\n" + "#" * (4 << 20)})
    offer(machine, "numpy", "1.0", {"numpy/__init__.py": "__version__ = '1.0'\n"})
    offer(machine, "tornado", "6.1", {"tornado/__init__.py": OLD})
    with_server(machine, hub, "bob")
    return with_server(machine, hub, "alice")


@pytest.fixture(scope="module")
def layer(machine, alice):
    """The folder of alice's layer (str)."""
    alice.run_cell("1")
    return machine.sh(f"echo {PACKAGES_OF.format('alice')}/py3.*")


@pytest.fixture
def kernel(alice):
    kernel = alice.kernel()
    yield kernel
    kernel.shutdown()


@pytest.fixture
def clean(machine, alice):
    """alice has no packages, before and after."""
    machine.run(COMMAND, "reset", "--all", "--yes", user="alice")
    yield
    machine.run(COMMAND, "reset", "--all", "--yes", user="alice")


def install(kernel, what, magic="%pip"):
    return kernel.execute(f"{magic} install {what}")


def shown(user):
    """Return the names for people of the kernels that JupyterLab offers (set of str)."""
    return {kernel["spec"]["display_name"] for kernel in user.api("GET", "/kernelspecs").json()["kernelspecs"].values()}


# -- Installing --------------------------------------------------------------------------------------------------------------------


def test_nobody_has_packages_at_first(alice, kernel):
    """Neither is there another kernel than the bundled one, nor a module that the bundle does not have."""
    assert shown(alice) == {"Python 3 (ipykernel)"}
    assert kernel.execute("import numpy; print(numpy.__file__)").startswith("/opt/venvs/jupyterhub-servers/")


@pytest.mark.parametrize("magic", further(["%pip", "!pip", "!python -m pip"], ["%pip", "!pip"], "a third way to the same pip"))
def test_install(alice, clean, kernel, magic):
    """And it stays: for the next kernel, and the next server."""
    assert "Successfully installed answer-1.0" in install(kernel, "answer==1.0", magic)
    assert kernel.execute("import answer; answer.value") == "42"
    assert kernel.execute("!python -c 'import answer, numpy; print(answer.value)'") == "42"
    alice.api("POST", f"/kernels/{kernel.id}/restart")
    kernel.close()
    kernel.connect()
    assert kernel.execute("import answer; answer.value") == "42"
    assert "Successfully installed answer-2.0" in install(kernel, "--upgrade answer", magic)
    assert alice.run_cell("import answer; answer.value") == "43"


def test_packages_outlive_the_server(alice, clean):
    alice.run_cell("%pip install answer==1.0")
    alice.stop()
    assert alice.run_cell("import answer; answer.value") == "42"


def test_packages_are_the_users_alone(hub, alice, clean, kernel):
    install(kernel, "answer==1.0")
    with pytest.raises(KernelError, match="No module named 'answer'"):
        hub.login("bob", "secret").run_cell("import answer")


def test_server_sees_none_of_it(machine, alice, clean, layer):
    """A package that the server would import, had it the chance."""
    alice.run_cell("%pip install tornado==6.1")
    alice.stop()
    alice.spawn()
    pid = machine.sh("pgrep -u alice -f bin/jupyterhub-singleuser | head -n 1")
    assert layer not in machine.sh(f"tr '\\0' '\\n' </proc/{pid}/environ") and alice.api("GET", "/status").status_code == 200


def test_bundled_package_is_replaced(alice, clean, kernel):
    """In this kernel; the others have the bundled one."""
    install(kernel, "numpy==1.0")
    assert alice.run_cell("import numpy; print(numpy.__version__)") == "1.0"
    bundled = alice.kernel("python3-bundled")
    assert bundled.execute("import numpy; print(numpy.__version__)") not in ("1.0", "")
    bundled.shutdown()


def test_what_the_bundle_shares_is_found(kernel):
    """nbconvert's templates, which are not among its modules."""
    code = "import nbformat, nbconvert; print(len(nbconvert.HTMLExporter().from_notebook_node(nbformat.v4.new_notebook())[0]) > 1000)"
    assert kernel.execute(code) == "True"


def test_terminal_for_packages(machine, alice, clean, layer):
    """Its prompt says so, and pip, python and what packages bring are the layer's."""
    terminal = alice.api("POST", "/terminals").json()["name"]
    socket = alice.websocket(f"terminals/websocket/{terminal}")
    said = []

    def prompt_is_there():
        said.append(json.loads(socket.recv()))
        return "(my packages)" in "".join(part[1] for part in said if part[0] == "stdout")

    socket.send(json.dumps(["stdin", "jupyterhub-packages shell\n"]))
    wait_for(prompt_is_there, "the prompt names the packages", timeout=20)
    socket.send(
        json.dumps(["stdin", "pip install answer==1.0; python -c 'import answer; print(answer.value)' >said; command -v pip python >>said; echo >done\n"])
    )
    wait_for(lambda: "done" in machine.sh("ls ~alice").split(), "the terminal has done it", timeout=30)
    assert machine.sh("cat ~alice/said; rm ~alice/said ~alice/done").split() == ["42", f"{layer}/bin/pip", f"{layer}/bin/python"]
    socket.close()
    alice.api("DELETE", f"/terminals/{terminal}")


@pytest.mark.slow("the launcher's setting reaches nbconvert as it does kernels")
def test_notebooks_run_without_a_browser(machine, alice, clean, kernel):
    """As docs/packages.md says, with nbconvert; HTML needs templates."""
    install(kernel, "answer==1.0")
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": "import answer; print(answer.value)"}
    spec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    machine.write("/srv/run.ipynb", json.dumps({"cells": [cell], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 4}))
    machine.run(COMMAND, *["run", "python", "-m", "nbconvert", "--execute", "--to", "html", "--output-dir", "/tmp", "/srv/run.ipynb"], user="alice")
    assert "<pre>42\n</pre>" in machine.sh("cat /tmp/run.html; rm /tmp/run.html")


# -- Breaking it, and the way back -------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(alice, clean, kernel):
    """alice's layer has a tornado with which no kernel starts; her kernel (Kernel) was started before."""
    install(kernel, "tornado==6.1")
    return kernel


def test_broken_packages_break_this_kernel_at_most(alice, broken):
    """What runs keeps running, and a new kernel says which package it is."""
    assert broken.execute("6 * 7") == "42"
    with pytest.raises(HubError) as error:
        alice.kernel()
    assert "Your own packages keep this kernel from starting (tornado 6.1): ImportError: this tornado is too old" in error.value.text
    assert WITHOUT in error.value.text
    other = alice.kernel("python3-bundled")
    assert other.execute("import tornado; tornado.version_info > (6, 1)") == "True"
    other.shutdown()


def test_restart_with_broken_packages_says_so(alice, broken):
    with pytest.raises(HubError, match=r"keep this kernel from starting \(tornado 6\.1\)"):
        alice.api("POST", f"/kernels/{broken.id}/restart")


def test_way_back(machine, alice, broken):
    """The kernel without packages is offered as long as there are some; removing them brings the other back."""
    assert WITHOUT in shown(alice)
    assert "tornado 6.1: ImportError: this tornado is too old" in machine.run(COMMAND, "check", user="alice", check=False).stdout
    assert "1 packages removed" in machine.run(COMMAND, "reset", "--yes", user="alice").stdout
    assert WITHOUT not in shown(alice)
    assert alice.run_cell("6 * 7") == "42"


def test_kernel_without_packages_installs_none(alice):
    kernel = alice.kernel("python3-bundled")
    said = install(kernel, "answer")
    kernel.shutdown()
    assert 'ERROR: Your own packages cannot be installed here: this kernel is the one without them: choose "Python 3 (ipykernel)".' in said


def test_way_back_is_one_click(browser, alice, broken):
    """In JupyterLab's own message."""
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [], "execution_count": None, "id": "a"}
    content = {"cells": [cell], "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}}
    alice.api("PUT", "/contents/broken.ipynb", json={"type": "notebook", "content": {**content, "nbformat": 4, "nbformat_minor": 5}})
    page = browser.page()
    log_in(page, "alice", "secret")
    page.goto("/user/alice/lab/workspaces/broken/tree/broken.ipynb")
    expect(page.locator(".jp-Dialog")).to_contain_text("(tornado 6.1)", timeout=SLOW)
    browser.screenshot(page, "broken-packages")
    page.get_by_role("button", name="Start without my packages").click()
    expect(page.locator(".jp-NotebookPanel-toolbar").get_by_text(WITHOUT)).to_be_visible(timeout=SLOW)
    expect(run_cell(page, "print(6 * 7)")).to_have_text("42", timeout=SLOW)


# -- jupyterhub-packages -----------------------------------------------------------------------------------------------------------


def test_list_and_check(machine, alice, clean, kernel, layer):
    install(kernel, "answer==1.0 numpy==1.0")
    lines = machine.run(COMMAND, "list", user="alice").stdout.splitlines()
    assert lines[0] == "answer 1.0 (asked for)"
    assert lines[1].startswith("numpy 1.0 (asked for, instead of the bundled ")
    assert lines[2].startswith("2 packages, ") and lines[2].endswith(f" MB in {layer}")
    found = machine.run(COMMAND, "check", user="alice", check=False)
    assert found.returncode == 1 and "pandas" in found.stdout and "but you have numpy 1.0" in found.stdout


def test_rebuild_after_a_change_of_python(machine, alice, clean, kernel, layer):
    """The layer of another Python is kept and named, and its list installed anew by one command."""
    install(kernel, "answer==1.0")
    older = layer.replace("py3.", "py3.1")  # py3.113
    machine.sh(f"mv {layer} {older}; cd {older}/lib; mv python3.* python3.1")
    assert "see jupyterhub-packages rebuild" in machine.run(COMMAND, "list", user="alice").stdout
    assert "which notebooks no longer use: jupyterhub-packages rebuild" in machine.run(COMMAND, "check", user="alice", check=False).stdout
    alice.run_cell("%pip install large==1.0")  # the first thing that somebody does who has not read this
    assert "installed anew: large==1.0 answer==1.0" in machine.run(COMMAND, "rebuild", user="alice").stdout
    assert alice.run_cell("import answer, large; answer.value") == "42"
    assert f"which are installed anew: rm -r {older}" in machine.run(COMMAND, "check", user="alice", check=False).stdout
    machine.sh(f"rm -r {older}")
    assert machine.run(COMMAND, "check", user="alice").stdout == "all of your packages fit\n"


def test_rebuild_that_fails_changes_nothing(machine, alice, clean, kernel):
    install(kernel, "answer==1.0")
    machine.sh(f"mv {INDEX}/answer-1.0-py3-none-any.whl /root/")
    try:
        found = machine.run(COMMAND, "rebuild", user="alice", check=False)
    finally:
        machine.sh(f"mv /root/answer-1.0-py3-none-any.whl {INDEX}/")
    assert found.returncode == 1 and "nothing was changed: No matching distribution found for answer==1.0" in found.stderr
    assert alice.run_cell("import answer; answer.value") == "42"


# -- Where there can be none -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what, words", [("nothing-of-that-name", "No matching distribution found for nothing-of-that-name"), ("/srv/broken", "this build fails")]
)
def test_what_cannot_be_installed_is_named(machine, clean, kernel, what, words):
    build = '[build-system]\nrequires = []\nbuild-backend = "broken"\nbackend-path = ["."]\n[project]\nname = "broken"\nversion = "1"\n'
    machine.write("/srv/broken/pyproject.toml", build)
    machine.write("/srv/broken/broken.py", "raise SystemExit('this build fails')\n")
    assert words in install(kernel, what)


@pytest.fixture
def unusable(request, machine, alice, clean, layer):
    """alice's layer cannot be made or used, for the reason that is the parameter."""
    base = layer.rpartition("/python3/")[0]
    do, undo = {
        "read-only": (f"mkdir -p {base}; mount --bind {base} {base}; mount -o remount,bind,ro {base}", f"umount {base}"),
        "full": (f"mkdir -p {base}; mount -t tmpfs -o size=16k,mode=777 tmpfs {base}; dd if=/dev/zero of={base}/x bs=4k || true", f"umount {base}"),
        "another's": (f"install -d -m 755 {layer}", f"rm -r {layer}"),
        "a file": (f"mkdir -p {base}/python3; touch {layer}", f"rm {layer}"),
    }[request.param]
    machine.sh(f"rm -rf {base}/python3; {do}")
    yield
    machine.sh(f"{undo}; rm -rf {base}")


@pytest.mark.parametrize(
    "unusable, words",
    [
        ("read-only", "Read-only file system"),
        ("full", "No space left on device"),
        ("another's", "others can write to"),
        pytest.param("a file", "cannot be made", marks=slow("a further thing in the layer's place")),
    ],
    indirect=["unusable"],
)
def test_kernel_starts_without_a_layer(machine, alice, unusable, words):
    """It has all that is bundled; pip says in one line what is in the way."""
    kernel = alice.kernel()
    assert kernel.execute("import numpy, sys; sys.prefix.startswith('/opt/venvs/')") == "True"
    assert "ERROR: Your own packages cannot be installed here: " in (said := install(kernel, "answer")) and words in said
    kernel.shutdown()


def test_no_room_in_the_middle(machine, alice, clean, layer):
    """What was there stays."""
    base = layer.rpartition("/python3/")[0]
    machine.sh(f"rm -rf {base}; mkdir -p {base}; mount -t tmpfs -o size=2m,mode=777 tmpfs {base}")
    kernel = alice.kernel()
    try:
        install(kernel, "answer==1.0")
        assert "No space left on device" in install(kernel, "large")
        assert alice.run_cell("import answer; answer.value") == "42"
    finally:
        kernel.shutdown()
        machine.sh(f"umount {base}; rm -rf {base}")


@pytest.mark.slow("pip and flock")
def test_two_installations_at_once(machine, alice, clean, kernel):
    code = "for n in answer==1.0 large; do pip install -q $n & done; wait; pip list 2>/dev/null | grep -cE '^(answer|large) '"
    assert kernel.execute(f"import subprocess; print(subprocess.run({code!r}, shell=True, capture_output=True, text=True).stdout)") == "2"
    assert alice.run_cell("import answer, large; answer.value") == "42"


def test_layer_that_was_damaged_is_made_whole(machine, alice, clean, layer):
    alice.run_cell("%pip install answer==1.0")
    machine.sh(f"rm -r {layer}/bin {layer}/pyvenv.cfg; for file in {layer}/lib/*/site-packages/jupyterhub_bundle.py; do : >$file; done")
    assert alice.run_cell("import answer, numpy; answer.value") == "42"


@slow("a setting that is read in one place")
def test_site_without_personal_packages(machine, hub, alice, clean):
    """The setting; and one that is neither true nor false."""
    alice.run_cell("%pip install answer==1.0")
    setting = "s/^JUPYTERHUB_PERSONAL_PACKAGES=.*/JUPYTERHUB_PERSONAL_PACKAGES={}/"
    machine.sh(f"cp -p {DEFAULTS} /root/; sed -i '{setting.format('false')}' {DEFAULTS}; systemctl restart jupyterhub")
    try:
        wait_for(hub.answers, "the hub is back")
        alice.stop()
        with pytest.raises(KernelError, match="No module named 'answer'"):
            alice.run_cell("import answer")
        assert "personal packages are switched off on this machine" in alice.run_cell("%pip install answer")
        assert shown(alice) == {"Python 3 (ipykernel)"}
        machine.sh(f"sed -i '{setting.format('perhaps')}' {DEFAULTS}")
        found = machine.run("/usr/sbin/jupyterhub-ctl", "check-config", check=False)
        said = (
            f"JUPYTERHUB_PERSONAL_PACKAGES in {DEFAULTS}:{machine.sh(f'grep -n ^JUPYTERHUB_PERSONAL_PACKAGES= {DEFAULTS} | cut -d: -f1')}: write true or false"
        )
        assert found.returncode != 0 and said in found.stdout + found.stderr
    finally:
        machine.sh(f"mv /root/jupyterhub {DEFAULTS}; systemctl restart jupyterhub")
        wait_for(hub.answers, "the hub is back")
        alice.stop()
        alice.spawn()


# -- What it costs -----------------------------------------------------------------------------------------------------------------

COST = """
import time
from debianized_jupyterhub import layers
for _ in range(3):
    started = time.perf_counter()
    layer = layers.Layer(layers.bundle())
    layer.prepare()
    layer.suspects()
    print(time.perf_counter() - started)
"""


def test_layer_is_made_in_milliseconds(machine, alice, clean):
    """At most 50 for the first kernel and 5 for later ones."""
    first, *later = map(float, machine.run(f"{TREE}/bin/python", "-c", COST, user="alice").stdout.split())
    print(f"first {first * 1000:.1f} ms, later {min(later) * 1000:.2f} ms")
    assert first < 0.05 and min(later) < 0.005


@slow("a measurement, of eight starts")
def test_kernels_start_as_fast_as_without(alice, clean):
    """Within a fifth, the fastest of four in turn."""
    seconds = {"python3": [], "python3-bundled": []}
    for _ in range(4):
        for name, taken in seconds.items():
            started = time.monotonic()
            kernel = alice.kernel(name)
            kernel.execute("1")
            taken.append(time.monotonic() - started)
            kernel.shutdown()
    print(seconds)
    assert min(seconds["python3"]) < 1.2 * min(seconds["python3-bundled"]) + 0.05
