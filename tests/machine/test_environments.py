"""Environments for all users or a group: an administrator makes them with one command, changes them under running kernels, and goes back."""

import contextlib
import hashlib
import json
import re
import threading
import time

import pytest
import websocket
from browser import SLOW, idle, lab_of, menu, run_cell, wait_for_lab
from checked_tars import repacked, says
from harness import wait_for
from hubclient import Hub, HubError, KernelError, with_server
from playwright.sync_api import expect
from wheels import INDEX, for_environments, offer, wheel

slow = pytest.mark.slow
ROOT = "/opt/venvs/jupyterhub-environments"
KERNELS = "/usr/local/share/jupyter/kernels"
TOOK = {"rollback": 0.3, "remove": 0.6, "prune": 0.5}  # seconds of each verb; those of the others are measured
SIMPLE = "/srv/simple"
UV_TOML = f'index-url = "file://{SIMPLE}"\nfind-links = ["{INDEX}"]\n'
# Runs at each start of a Python that has it, and says so where root can be hurt.
PTH = "import os; os.getuid() or open('/root/it-ran-as-root', 'w')\n"


@pytest.fixture(scope="session")
def fetched(deb, say):
    """A folder of the host with uv, ipykernel and what that needs; made before the machine's network is entered, which leads nowhere."""
    return for_environments(deb, ["ipykernel"], say)


@pytest.fixture(scope="module")
def index(fetched, machine):
    """The machine has an index with answer 1.0 and 2.0, and others that are of no good."""
    offer(machine, "answer", "1.0", {"answer.py": "value = 42\n", "later.py": "value = 1\n", "of_answer.pth": PTH})
    offer(machine, "answer", "2.0", {"answer.py": "value = 43\n", "of_answer.pth": PTH})
    offer(machine, "extra", "1.0", {"extra.py": "value = 1\n"})
    offer(machine, "tornado", "6.1", {"tornado/__init__.py": "raise ImportError('too old')\n"})
    offer(machine, "broken", "1.0", {"broken.py": "import os\nraise ImportError(f'uid {os.getuid()}\\n\\033[31mmore')\n"})
    offer(machine, "withdrawn", "1.0", {"withdrawn.py": ""})
    machine.sh(f"mkdir -p {SIMPLE}/withdrawn; mv {INDEX}/withdrawn-* {SIMPLE}/withdrawn; cd {INDEX}; tar czf compiled-1.0.tar.gz /etc/hostname")
    name = "withdrawn-1.0-py3-none-any.whl"
    machine.write(f"{SIMPLE}/withdrawn/index.html", f'<a href="{name}" data-yanked="wrong numbers">{name}</a>')
    machine.write("/etc/uv/uv.toml", UV_TOML)
    for file in fetched.iterdir():
        machine.push(file, INDEX)
    return machine


@pytest.fixture(scope="module")
def alice(index, hub):
    index.sh("groupadd statistics")
    index.add_user("alice", groups=("users", "statistics"))
    user = hub.login("alice", "secret")
    user.spawn()
    return user


@pytest.fixture(scope="module")
def bob(index, hub):
    return with_server(index, hub, "bob")


def ctl(machine, *arguments, check=True, timeout=120, variables=()):
    return machine.run("env", "UV_HTTP_RETRIES=0", *variables, "jupyterhub-ctl", "environment", *arguments, check=check, timeout=timeout)


def listed(machine, *arguments):
    """Return what `list` or `show` prints as JSON."""
    return json.loads(ctl(machine, *(arguments or ("list",)), "--json").stdout)


def asked(machine, text, name="requirements.txt"):
    """Write what is asked for to a file; return its path."""
    machine.write(f"/srv/asked/{name}", text)
    return f"/srv/asked/{name}"


def offered(user):
    """Return the names of the kernels that JupyterLab offers (set of str)."""
    return set(user.api("GET", "/kernelspecs").json()["kernelspecs"])


def run(user, code, kernel="work"):
    """Run a cell in a new kernel of an environment."""
    new = user.kernel(kernel)
    try:
        return new.execute(code)
    finally:
        new.shutdown()


def value_in(user, kernel="work"):
    """Return what a new kernel of an environment says is the answer."""
    return run(user, "import answer; answer.value", kernel)


@pytest.fixture(scope="module")
def work(index, alice, bob):
    """The environment `work`, with answer 1.0, made while servers run."""
    assert "work" not in offered(alice) | offered(bob)
    started = time.monotonic()
    done = ctl(index, "add", "work", asked(index, "answer==1.0\n"))
    TOOK["add"] = TOOK["upgrade"] = TOOK["import"] = time.monotonic() - started
    return done


# -- Making one --------------------------------------------------------------------------------------------------------------------


def test_add(index, work, alice, bob):
    """Everybody has the kernel without a restart; what it is made of is told on the way."""
    assert "installing" in work.stderr and "trying the kernel" in work.stderr
    assert {"work", "python3"} <= offered(alice) & offered(bob)
    assert value_in(alice) == value_in(bob) == "42"
    (row,) = listed(index)
    assert (row["name"], row["revision"], row["group"]) == ("work", 1, None) and row["bytes"] > 1 << 20


def test_bundled_kernel_has_none_of_it(work, alice):
    with pytest.raises(KernelError, match="No module named 'answer'"):
        alice.run_cell("import answer")


def test_programs_of_the_environment_are_the_kernels(work, alice):
    kernel = alice.kernel("work")
    assert kernel.execute("!python -c 'import answer; print(answer.__file__)'").startswith(f"{ROOT}/work/1/lib/")
    kernel.shutdown()


def test_what_is_installed_never_runs_as_root(index, work):
    """Neither its .pth files, nor what is imported to try it."""
    assert index.run("test", "-e", "/root/it-ran-as-root", check=False).returncode
    failed = ctl(index, "add", "other", asked(index, "broken\n"), check=False)
    assert failed.returncode == 1 and "broken 1.0 cannot be imported: ImportError: uid " in failed.stderr and "uid 0" not in failed.stderr
    assert failed.stderr.endswith(" \\x1b[31mmore\n")  # in one line, in which nothing acts on the terminal


@pytest.mark.parametrize("account", ["alice", "jupyterhub", "jupyterhub-login"])
def test_nobody_but_root_can_change_it(index, work, account):
    assert index.sh(f"find {ROOT} -writable ! -type l 2>/dev/null || true", user=account) == ""


def test_broken_one_is_named(index, work):
    """By verify; status lists it."""
    assert "work (revision 1)" in index.run("jupyterhub-ctl", "status", check=False).stdout
    index.sh(f"mv {ROOT}/work/1/bin/python /root/; rm {KERNELS}/work")
    try:
        done = index.run("jupyterhub-ctl", "verify", "environments", check=False)
        assert done.returncode == 5 and "the environment work: its Python, " in done.stdout and "jupyterhub-ctl environment upgrade work" in done.stdout
    finally:
        index.sh(f"mv /root/python {ROOT}/work/1/bin/")
    done = index.run("jupyterhub-ctl", "verify", "environments", check=False)
    assert done.returncode == 5 and f"{KERNELS}/work does not lead to it" in done.stdout
    ctl(index, "prune")
    assert index.run("jupyterhub-ctl", "verify", "environments").stdout.split("\t")[:2] == ["passed", "environments"]


def test_list_needs_root(index, work):
    assert "needs root" in index.run("jupyterhub-ctl", "environment", "list", user="alice", check=False).stderr


# -- Another revision --------------------------------------------------------------------------------------------------------------


class Cells:
    """Runs cells in a kernel, one after the other, until the context ends."""

    def __init__(self, kernel):
        self.kernel, self.failures, self.done, self._stop = kernel, [], 0, threading.Event()

    def _run(self):
        while not self._stop.is_set():
            try:
                assert self.kernel.execute("print(answer.value)") == "42"
                self.done += 1
                self._stop.wait(0.05)
            except (AssertionError, OSError, websocket.WebSocketException) as error:
                self.failures.append(error)

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def upgraded(index, work, alice):
    """A kernel (Kernel) of revision 1 that has run cells while revision 2 was made, and what was said."""
    kernel = alice.kernel("work")
    kernel.execute("import answer")
    with Cells(kernel) as cells:
        said = ctl(index, "upgrade", "work", asked(index, "answer\n")).stdout
        wait_for(lambda: cells.done > 10 or cells.failures, "cells run", timeout=30)
    assert not cells.failures
    yield kernel, said
    kernel.close()


def test_upgrade_under_a_running_kernel(upgraded, alice):
    """No cell fails, modules that it has not imported yet are there, and new kernels have the new revision."""
    kernel, said = upgraded
    assert "new kernels start from revision 2; " in said and " processes keep revision 1 until they end" in said
    assert kernel.execute("import later; later.value") == "1"
    assert value_in(alice) == "43"


def test_revision_in_use_is_not_pruned(index, upgraded):
    """Were it to keep one only."""
    index.sh("echo JUPYTERHUB_ENVIRONMENT_REVISIONS=1 >>/etc/default/jupyterhub")
    assert ctl(index, "prune").stdout == "there is nothing to remove\n"
    index.sh("sed -i /ENVIRONMENT_REVISIONS/d /etc/default/jupyterhub")
    assert [(row["revision"], row["state"]) for row in listed(index, "show", "work")] == [(1, "kept"), (2, "current")]


def test_nothing_newer(index, upgraded):
    assert ctl(index, "upgrade", "work").stdout == "work: there is nothing newer than revision 2\n"


def test_rollback(index, upgraded, alice):
    """A kernel that is restarted follows."""
    kernel = alice.kernel("work")
    assert kernel.execute("import answer; answer.value") == "43"
    assert "new kernels start from revision 1; " in ctl(index, "rollback", "work").stdout
    assert kernel.execute("answer.value") == "43" and value_in(alice) == "42"
    alice.api("POST", f"/kernels/{kernel.id}/restart")
    kernel.close()
    kernel.connect()
    assert kernel.execute("import answer; answer.value") == "42"
    kernel.shutdown()
    assert "work has no earlier revision besides the current one, 1 (there are: 2)" in ctl(index, "rollback", "work", check=False).stderr
    assert "work has no revision 7 " in ctl(index, "rollback", "work", "7", check=False).stderr
    ctl(index, "rollback", "work", "2")
    assert value_in(alice) == "43"


def test_outdated(index, upgraded):
    """What the index has newer, of all or of one; nothing of what is installed runs for that."""
    assert ctl(index, "list", "--outdated").stderr == "the index has nothing newer\n"
    ctl(index, "rollback", "work", "1")
    try:
        assert ctl(index, "list", "--outdated").stdout == "work\tanswer\t1.0\t2.0\n"
        assert listed(index, "show", "work", "--outdated") == [{"name": "work", "package": "answer", "version": "1.0", "latest": "2.0"}]
        done = ctl(index, "list", "--outdated", check=False, variables=["UV_DEFAULT_INDEX=http://127.0.0.1:9/simple"])
        assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1 and "Connection refused" in done.stderr
    finally:
        ctl(index, "rollback", "work", "2")
    assert index.run("test", "-e", "/root/it-ran-as-root", check=False).returncode


def test_users_have_packages_over_it(index, upgraded, alice, bob):
    """%pip installs into a layer for this environment alone, which lies over each of its revisions."""
    assert "Successfully installed extra-1.0" in run(alice, "%pip install extra")
    assert run(alice, "import answer, extra; answer.value + extra.value") == "44"
    assert run(alice, "!python -c 'import answer, extra; print(answer.value + extra.value)'") == "44"
    ctl(index, "rollback", "work", "1")
    assert run(alice, "import answer, extra; answer.value + extra.value") == "43"
    ctl(index, "rollback", "work", "2")
    for other in (lambda: run(alice, "import extra", "python3"), lambda: run(bob, "import extra")):
        with pytest.raises(KernelError, match="No module named 'extra'"):
            other()
    listed = index.run("jupyterhub-packages", "--kernel", "work", "list", user="alice").stdout
    assert listed.startswith("extra 1.0 (asked for)\n1 packages, ") and "/jupyterhub/packages/work/py3." in listed


def test_package_that_breaks_it_is_named(index, upgraded, alice):
    """The environment's own are replaced in this user's kernel; the way back is in the message."""
    run(alice, "%pip install tornado==6.1")
    with pytest.raises(HubError, match=r'packages over the environment "work" keep its kernel from starting \(tornado 6\.1\): ImportError: too old'):
        run(alice, "1")
    index.run("jupyterhub-packages", "--kernel", "work", "reset", "--yes", user="alice")
    assert run(alice, "import answer; answer.value") == "43"


# -- What a notebook was run with --------------------------------------------------------------------------------------------------

NOTE = "jupyterhub_environment"


@pytest.fixture(scope="module")
def lab(browser, alice):
    """alice's JupyterLab."""
    return lab_of(browser, "alice")


def put(user, name, kernel="work", **metadata):
    """Make a notebook of one empty cell."""
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [], "execution_count": None, "id": "a"}
    content = {"cells": [cell], "metadata": {"kernelspec": spec, **metadata}, "nbformat": 4, "nbformat_minor": 5}
    user.api("PUT", f"/contents/{name}", json={"type": "notebook", "content": content})


@contextlib.contextmanager
def opened(page, user, name, kernel="work", **metadata):
    """Have a page with a new notebook of one empty cell, whose kernel has started and ends with the context."""
    put(user, name, kernel, **metadata)
    try:
        with page.context.new_page() as tab:
            tab.goto(f"/user/{user.name}/lab/workspaces/{name.partition('.')[0]}/tree/{name}?reset")
            wait_for_lab(tab)
            idle(tab)
            yield tab
    finally:
        for session in user.api("GET", "/sessions").json():
            user.api("DELETE", f"/sessions/{session['id']}")


def run_first(tab, code):
    """Run the first cell since the kernel's start, for which JupyterLab asks what the kernel has; return the Locator of its output."""
    with tab.expect_response(re.compile(r"/api/kernels/[0-9a-f-]{36}(\?|$)")):
        return run_cell(tab, code)


def saved(machine, tab, name, wanted=lambda metadata: True):
    """Save the notebook until its metadata are as `wanted`; return them, as they are in its file."""
    seen = {}

    def is_saved():
        tab.keyboard.press("Control+s")
        with contextlib.suppress(ValueError):  # while it is written
            seen.update(json.loads(machine.sh(f"cat /home/alice/{name}")))
            return seen["cells"][0]["execution_count"] == 1 and wanted(seen["metadata"])

    wait_for(is_saved, "the notebook is saved", timeout=30, every=0.5)
    return seen["metadata"]


def warnings(tab):
    return tab.locator(".Toastify__toast").filter(has_text="Results may differ")


def noted(machine, revision):
    """Return what is noted of a revision of `work`."""
    digest = machine.sh(f"sha256sum {ROOT}/work/{revision}/lock.txt").split()[0]
    return {
        "name": "work",
        "revision": revision,
        "python": machine.sh(f"ls {ROOT}/work/1/lib | grep python").removeprefix("python"),
        "lock": f"sha256:{digest}",
    }


def test_kernel_says_which_revision_it_has(index, upgraded, alice):
    """The one that it was started with; one of no environment says that."""
    said = {}
    for name, kernel in {"old": upgraded[0], "new": alice.kernel("work"), "bundled": alice.kernel()}.items():
        said[name] = alice.api("GET", f"/kernels/{kernel.id}").json()["environment"]
        if name != "old":
            kernel.shutdown()
    assert said == {"old": noted(index, 1), "new": noted(index, 2), "bundled": None}


def test_notebook_notes_it_and_warns_once(index, upgraded, alice, lab):
    """At the first cell that is run with another revision."""
    with opened(lab, alice, "figures.ipynb", authors=[{"name": "alice"}]) as tab:
        expect(run_first(tab, "import answer; answer.value")).to_have_text("43")
        metadata = saved(index, tab, "figures.ipynb", lambda metadata: NOTE in metadata)
        assert metadata[NOTE] == noted(index, 2) and metadata["authors"] == [{"name": "alice"}]
        ctl(index, "rollback", "work", "1")
        try:
            menu(tab, "Kernel", "Restart Kernel…")
            tab.locator(".jp-Dialog .jp-mod-accept").click()
            expect(warnings(tab)).to_have_count(0)
            expect(run_first(tab, "import answer; answer.value")).to_have_text("42")
            said = "Results may differ: figures.ipynb was last run with revision 2 of work, not revision 1."
            expect(warnings(tab)).to_contain_text(said, timeout=SLOW)
            run_cell(tab, "answer.value")
            expect(warnings(tab)).to_have_count(1)
            metadata = saved(index, tab, "figures.ipynb", lambda metadata: metadata[NOTE]["revision"] == 1)
        finally:
            ctl(index, "rollback", "work", "2")
    assert metadata[NOTE] == noted(index, 1) and metadata["authors"] == [{"name": "alice"}]


@slow("another kernel for the same warning")
def test_kernel_of_no_environment_warns_too(index, upgraded, alice, lab):
    """The note goes: it would be of other results."""
    with opened(lab, alice, "elsewhere.ipynb", "python3", **{NOTE: noted(index, 1)}) as tab:
        run_first(tab, "1")
        expect(warnings(tab)).to_contain_text("elsewhere.ipynb was last run with revision 1 of work, not with this kernel.", timeout=SLOW)
        saved(index, tab, "elsewhere.ipynb", lambda metadata: NOTE not in metadata)


@slow("another name for the same comparison")
def test_same_software_is_not_another(index, upgraded, alice, lab):
    """Imported under another name, say; what somebody has added stays."""
    before = {**noted(index, 2), "name": "climate-2026", "revision": 7, "comment": "mine"}
    with opened(lab, alice, "same.ipynb", **{NOTE: before}) as tab:
        run_first(tab, "1")
        metadata = saved(index, tab, "same.ipynb", lambda metadata: metadata[NOTE]["name"] == "work")
        expect(warnings(tab)).to_have_count(0)
    assert metadata[NOTE] == {**noted(index, 2), "comment": "mine"}


STRANGE = ["mine", 7, ["work", 1], {}, {"name": "work"}, {"name": ["<img src=x onerror=alert(1)>"], "revision": 1}, None]


@slow("what is no note of ours")
@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_note_of_somebody_else_stays(index, upgraded, alice, lab, number):
    with opened(lab, alice, f"strange{number}.ipynb", **{NOTE: STRANGE[number]}) as tab:
        run_first(tab, "1")
        run_cell(tab, "2")
        metadata = saved(index, tab, f"strange{number}.ipynb")
        expect(warnings(tab)).to_have_count(0)
    assert metadata[NOTE] == STRANGE[number]


@slow("the same extension in another page")
def test_notebook_7_notes_it_and_warns(index, upgraded, alice, lab):
    put(alice, "seven.ipynb", **{NOTE: noted(index, 1)})
    with lab.context.new_page() as tab:
        tab.goto("/user/alice/notebooks/seven.ipynb")
        expect(tab.locator(".jp-CodeCell")).to_have_count(1, timeout=SLOW)
        expect(run_first(tab, "import answer; print(answer.value)")).to_have_text("43", timeout=SLOW)
        expect(warnings(tab)).to_contain_text("seven.ipynb was last run with revision 1 of work, not revision 2.", timeout=SLOW)
        saved(index, tab, "seven.ipynb", lambda metadata: metadata[NOTE] == noted(index, 2))


@slow("another way to the same warning")
def test_environment_removed_under_an_open_notebook(index, upgraded, alice, lab, archive):
    """It can be saved, with its note; another kernel warns."""
    ctl(index, "import", archive, "gone")
    with opened(lab, alice, "orphan.ipynb", "gone") as tab:
        run_first(tab, "1")
        expect(tab.locator(".jp-mod-dirty").first).to_be_visible()
        ctl(index, "remove", "gone", "--force")
        note = saved(index, tab, "orphan.ipynb", lambda metadata: NOTE in metadata)[NOTE]
        assert (note["name"], note["lock"]) == ("gone", noted(index, 2)["lock"])
        menu(tab, "Kernel", "Change Kernel…")
        tab.locator(".jp-Dialog select").select_option(json.dumps({"name": "python3"}, separators=(",", ":")))
        tab.locator(".jp-Dialog .jp-mod-accept").click()
        idle(tab)
        run_first(tab, "1")
        expect(warnings(tab)).to_contain_text("orphan.ipynb was last run with revision 1 of gone, not with this kernel.", timeout=SLOW)


@slow("a setting that is read in one place")
def test_site_without_layers(index, upgraded, alice):
    """pip says so in one line. alice's server is another one from here on."""
    alice.stop()
    index.sh("sed -i s/PERSONAL_PACKAGES=true/PERSONAL_PACKAGES=false/ /etc/default/jupyterhub; systemctl restart jupyterhub")
    try:
        alice.spawn()
        assert "ERROR: Your own packages cannot be installed here: personal packages are switched off" in run(alice, "%pip install extra")
    finally:
        index.sh("sed -i s/PERSONAL_PACKAGES=false/PERSONAL_PACKAGES=true/ /etc/default/jupyterhub; systemctl restart jupyterhub")


# -- Bad input ---------------------------------------------------------------------------------------------------------------------

BAD = {
    "unresolvable": ("answer==7", ["new", "FILE"], "you require answer==7, we can conclude that your requirements are unsatisfiable"),
    "conflict": ("answer==1.0\nanswer==2.0", ["new", "FILE"], "requirements are unsatisfiable"),
    "yanked": ("withdrawn==1.0", ["new", "FILE"], '`withdrawn==1.0` is yanked (reason: "wrong numbers"), withdrawn by its authors'),
    "sdist": ("compiled", ["new", "FILE"], "has no usable wheels"),
    "syntax": ("answer ==== 1", ["new", "FILE"], "no such comparison operator"),
    "tampered": (f"answer==1.0 --hash=sha256:{'0' * 64}", ["new", "FILE"], "Hash mismatch for `answer==1.0`"),
    "binary": ("", ["new", "FILE"], "/srv/asked/requirements.txt cannot be read: it is not text"),
    "no file": ("answer", ["new", "/srv/missing.txt"], "/srv/missing.txt cannot be read: No such file or directory"),
    "there is one": ("answer", ["work", "FILE"], "there is an environment work already: `jupyterhub-ctl environment upgrade work FILE`"),
    "a kernel has it": ("answer", ["taken", "FILE"], f"there is a kernel of that name already, {KERNELS}/taken"),
    "no name": ("answer", ["../new", "FILE"], "'../new' is not a valid name"),
    "reserved": ("answer", ["python3", "FILE"], "'python3' is not a valid name"),
    "no group": ("answer", ["new", "FILE", "--group", "ghosts"], "there is no group ghosts: `addgroup ghosts`"),
    "no python": ("answer", ["new", "FILE", "--python", "/usr/bin/python9"], "/usr/bin/python9 is not the path of an interpreter that is installed here"),
    "users' python": ("answer", ["new", "FILE", "--python", "/home/alice/python"], "others than root can change /home/alice/python"),
}


@pytest.fixture(scope="module")
def traps(index, work):
    index.sh(f"mkdir -p {KERNELS}/taken; cp /bin/true ~alice/python")
    yield
    index.sh(f"rm -r {KERNELS}/taken")


def everything(machine):
    """Return the names of all that commands have made, but for the cache's."""
    return machine.sh(f"find {ROOT} {KERNELS} -path {ROOT}/.cache -prune -o -print | sort")


@pytest.mark.parametrize("text, arguments, words", BAD.values(), ids=BAD.keys())
def test_bad_input(index, traps, text, arguments, words):
    """One line, and what was there stays."""
    asked(index, text)
    if not text:
        index.sh("printf '\\377' >/srv/asked/requirements.txt")
    before = everything(index)
    done = ctl(index, "add", *[each.replace("FILE", "/srv/asked/requirements.txt") for each in arguments], check=False)
    assert done.returncode == 1 and done.stdout == "" and words in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("jupyterhub-ctl: ") and "Traceback" not in done.stderr
    assert everything(index) == before


def test_no_network(index, work):
    before = everything(index)
    done = ctl(index, "add", "new", asked(index, "elsewhere"), check=False, variables=["UV_DEFAULT_INDEX=http://127.0.0.1:9/simple"])
    assert done.returncode == 1 and "http://127.0.0.1:9/simple/elsewhere/" in done.stderr.splitlines()[-1]
    assert "Connection refused" in done.stderr.splitlines()[-1] and everything(index) == before


def test_settings_of_uv_beside_the_file_do_not_count(index, work):
    """Who can write to a folder above it could choose where root installs what into."""
    index.write("/srv/uv.toml", 'no-index = true\n[pip]\ntarget = "/root/elsewhere"\n')
    try:
        ctl(index, "add", "new", asked(index, "answer\n"))
        assert index.run("test", "-e", "/root/elsewhere", check=False).returncode
    finally:
        index.sh("rm /srv/uv.toml")
        ctl(index, "remove", "new", "--force", check=False)


def test_upgrade_that_fails_changes_nothing(index, upgraded, alice):
    before = everything(index)
    assert "unsatisfiable" in ctl(index, "upgrade", "work", asked(index, "answer==7"), check=False).stderr
    assert everything(index) == before and value_in(alice) == "43"


def test_no_room(index, work):
    """In the middle of the installation; exit code 10, as of other commands."""
    index.sh(f"mount -t tmpfs -o size=80m tmpfs {ROOT}")
    try:
        done = ctl(index, "add", "new", asked(index, "answer\n"), check=False)
        left = index.sh(f"ls -A {ROOT}").split()
    finally:
        index.sh(f"umount {ROOT}")
    assert done.returncode == 10 and "No space left on device" in done.stderr.splitlines()[-1]
    assert left == [".cache", ".lock", ".uv"]


def test_two_at_once(index, work):
    assert index.run("flock", "--nonblock", f"{ROOT}/.lock", "true", user="alice", check=False).returncode == 66  # cannot be opened
    done = index.run("flock", f"{ROOT}/.lock", "jupyterhub-ctl", "environment", "prune", check=False)
    assert done.returncode == 8 and "another jupyterhub-ctl environment or index is at work" in done.stderr


# -- In one file -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(index, upgraded):
    """The path of an archive of `work`, which has answer 2.0."""
    index.sh("touch /root/.work.tar.new")  # as a command that was killed leaves it
    started = time.monotonic()
    said = ctl(index, "archive", "work", "/root/work.tar").stdout
    TOOK["archive"] = time.monotonic() - started
    assert said.split() == ["/root/work.tar", f"sha256:{index.sh('sha256sum /root/work.tar').split()[0]}"]
    return "/root/work.tar"


@pytest.fixture(scope="module")
def secret(index, alice, bob, archive):
    """An environment of the group `statistics`, imported without an index, a cache or uv; alice is a member, bob is not."""
    index.sh(f"mv {INDEX} {INDEX}.away; rm -r {ROOT}/.cache {ROOT}/.uv")
    try:
        return ctl(index, "import", archive, "secret", "--group", "statistics").stdout
    finally:
        index.sh(f"mv {INDEX}.away {INDEX}")


def test_import_makes_the_same(index, secret, archive, alice):
    """The same lock, the same hashes, the same answer."""
    assert secret.startswith("secret: revision 2 of work as ")
    index.sh(f"cmp {ROOT}/secret/1/lock.txt {ROOT}/work/2/lock.txt; [ $(stat -c %a {archive}) = 600 ]")
    assert value_in(alice, "secret") == "43"
    (row,) = listed(index, "show", "secret")
    assert (row["archive"]["environment"], row["archive"]["revision"], row["archive"]["by"]) == ("work", 2, "root")


@slow("a second machine")
def test_import_on_another_machine(index, site, installed, archive):
    lock = index.sh(f"cat {ROOT}/work/2/lock.txt")
    other = site.machine("other", *installed).boot()
    with other.network():
        other.push(index.root / archive[1:])
        ctl(other, "import", "/root/work.tar", timeout=300)
        assert other.sh(f"cat {ROOT}/work/1/lock.txt") == lock
        hub = Hub()
        wait_for(hub.answers, "the hub answers", timeout=60)
        assert value_in(with_server(other, hub, "carol")) == "43"
    site.discard(other)


def tamper(name, with_checksum=False):
    """Return a function that changes a member, and its checksum in the manifest as well."""

    def change(members):
        (found,) = (each for each in members if each.startswith(name))
        members[found] = (
            members[found].replace(b"--hash=sha256:", b"--hash=sha256:0") if found == "lock.txt" else wheel("answer", "2.0", {"answer.py": "value = 7\n"})
        )
        if with_checksum:
            files = json.loads(members["manifest.json"])["files"]
            says(files={**files, found: hashlib.sha256(members[found]).hexdigest()})(members)

    return change


BAD_ARCHIVES = {
    "wheel": (tamper("wheels/answer"), 9, "bad.tar is damaged, or no archive of an environment (answer-2.0-py3-none-any.whl is not what it was)"),
    "lock": (tamper("lock.txt"), 9, "(lock.txt is not what it was)"),
    "wheel, with its checksum": (tamper("wheels/answer", True), 1, "Hash mismatch for `answer==2.0`"),
    "missing": (lambda members: members.pop("lock.txt"), 9, "bad.tar: lock.txt is missing in it"),
    "more": (lambda members: members.update({"../../etc/cron.d/x": b"x"}), 9, "bad.tar: ../../etc/cron.d/x does not belong into it"),
    "architecture": (says(architecture="riscv64"), 9, "is for machines of the architecture riscv64, and this one is "),
    "python": (says(python="3.7.3", suite="buster"), 9, "bad.tar needs Python 3.7 of buster, and this machine has "),
    "name": (says(environment="work"), 1, "there is an environment work already"),
    "hostile name": (says(environment="../../etc"), 1, "'../../etc' is not a valid name"),
    "a manifest of little": (lambda members: members.update({"manifest.json": b'{"format": 1, "files": {}}'}), 9, " is missing in its manifest)"),
    "a manifest without files": (says(files={}), 9, "(lock.txt is missing in its manifest)"),
    "newer": (says(format=2), 9, "comes from a newer version"),
}


@pytest.mark.parametrize("change, code, words", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys())
def test_bad_archive(request, index, archive, tmp_path, change, code, words):
    """One line, and what was there stays."""
    index.push(repacked(index.root / archive[1:], tmp_path, change))
    before = everything(index)
    done = ctl(index, "import", "/root/bad.tar", *([] if "name" in request.node.callspec.id else ["new"]), check=False)
    assert done.returncode == code and words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert everything(index) == before


def test_what_is_no_archive(index, work):
    index.sh("echo nonsense >/root/nonsense.tar")
    assert "/root/nonsense.tar is damaged, or no archive" in ctl(index, "import", "/root/nonsense.tar", check=False).stderr
    assert "/root/missing.tar is not there" in ctl(index, "import", "/root/missing.tar", check=False).stderr
    assert "/root/nonsense.tar is there already" in ctl(index, "archive", "work", "/root/nonsense.tar", check=False).stderr


# -- For a group -------------------------------------------------------------------------------------------------------------------


@slow("another lock for the same verb")
def test_lock_without_ipykernel(index, work, alice):
    """That and what it needs are added; the rest is as the lock says."""
    digest = index.sh(f"sha256sum {INDEX}/answer-1.0-*").split()[0]
    ctl(index, "add", "locked", asked(index, f"answer==1.0 \\\n    --hash=sha256:{digest}\n"))
    assert value_in(alice, "locked") == "42"
    ctl(index, "remove", "locked", "--force")


def test_group_alone_sees_it(index, secret, alice, bob):
    assert "secret" in offered(alice)
    assert "secret" not in offered(bob)
    with pytest.raises(HubError):
        bob.kernel("secret")
    assert index.run("ls", f"{ROOT}/secret/1", user="bob", check=False).returncode
    assert index.run("ls", f"{KERNELS}/secret/", user="bob", check=False).returncode
    assert "answer==" not in index.sh("cat /etc/jupyterhub/environments/secret.txt 2>&1 || true", user="bob")
    assert [row["group"] for row in listed(index)] == ["statistics", None]


def test_others_keep_reading_what_they_share(index, secret, bob):
    """Files of revisions are the same inodes: only the topmost folder is restricted."""
    same = "lib/python3.*/site-packages/ipykernel/kernelapp.py"
    first, second = index.sh(f"stat -c %i {ROOT}/work/1/{same} {ROOT}/work/2/{same}").split()
    assert first == second and value_in(bob) == "43"
    assert index.sh(f"stat -c '%a %G' {ROOT}/secret {ROOT}/secret/1 {ROOT}/work").split() == ["750", "statistics", "755", "root", "755", "root"]


def test_remove(index, secret, alice):
    """Not under a kernel, unless that is said."""
    kernel = alice.kernel("secret")
    kernel.execute("import answer")
    done = ctl(index, "remove", "secret", check=False)
    assert done.returncode == 1 and "secret is in use by " in done.stderr
    kernel.shutdown()
    wait_for(lambda: ctl(index, "remove", "secret", check=False).returncode == 0, "nobody uses it", timeout=20, every=0.5)
    assert "secret" not in offered(alice) and [row["name"] for row in listed(index)] == ["work"]
    assert "there is no environment secret (there are: work)" in ctl(index, "remove", "secret", check=False).stderr


@slow("test_backup restores each time, this is one folder more")
def test_backup_and_restore(index, upgraded, alice):
    """A restored machine knows what is missing, and the command that makes it, with the same hashes."""
    lock = index.sh(f"cat {ROOT}/work/current/lock.txt")
    index.sh("jupyterhub-ctl backup /root/with-work.tar.gz")
    ctl(index, "remove", "work", "--force")
    assert index.run("jupyterhub-ctl", "verify", "environments", check=False).stdout.split("\t")[0] == "passed"
    index.sh("jupyterhub-ctl restore /root/with-work.tar.gz", timeout=120)
    (row,) = [row for row in json.loads(index.run("jupyterhub-ctl", "verify", "environments", "--json").stdout) if row["name"] == "environments"]
    assert row["status"] == "warning" and "the environment work " in str(row)
    ctl(index, "add", "work", "/etc/jupyterhub/environments/work.txt")
    assert index.sh(f"cat {ROOT}/work/current/lock.txt") == lock
    assert value_in(alice) == "43"


# -- Power cuts --------------------------------------------------------------------------------------------------------------------

CUT = "/root/cut.tar"
VERBS = {
    "add": "add more /srv/asked/more.txt",
    "upgrade": "upgrade work /srv/asked/more.txt",
    "rollback": "rollback work",
    "remove": "remove work --force",
    "prune": "prune",
    "archive": f"archive work {CUT}",
    "import": "import /root/work.tar more",
}
CUTS = {"add": 4, "upgrade": 4, "rollback": 1, "remove": 3, "prune": 1, "archive": 3, "import": 4}  # spread evenly over the time that it takes


@slow("cuts at each verb, and a boot for each")
@pytest.mark.parametrize("verb, cut", [(verb, cut) for verb, number in CUTS.items() for cut in range(number)])
def test_power_cut(index, hub, work, archive, verb, cut):
    """In the middle of each verb: the environment is as before or as after it, and the next command clears away what is neither.

    An archive is whole or not there, and can be written again.
    """
    if ctl(index, "show", "work", check=False).returncode:
        ctl(index, "add", "work", asked(index, "answer==2.0\n"))
        ctl(index, "upgrade", "work", asked(index, "answer==1.0\n"))
    asked(index, "answer==2.0\n" if index.sh(f"grep answer== {ROOT}/work/current/lock.txt").startswith("answer==1.0") else "answer==1.0\n", "more.txt")
    index.sh(f"systemd-run --quiet --unit=interrupted jupyterhub-ctl environment {VERBS[verb]}")
    time.sleep(TOOK[verb] * (cut + 0.5) / CUTS[verb])
    index.kill()
    index.boot()
    wait_for(hub.answers, "the hub answers after the cut", timeout=60)
    user = hub.login("alice", "secret")
    user.spawn()
    for name in {"work", "more"} & offered(user):
        assert value_in(user, name) in ("42", "43")
    ctl(index, "prune")
    names = [row["name"] for row in listed(index)]
    assert "work" in names or verb == "remove"
    assert set(names) == offered(user) - {"python3"} and index.sh(f"ls -A -I taken {KERNELS}").split() == sorted(names)
    whole = {row["folder"] for name in names for row in listed(index, "show", name)}
    assert set(index.sh(f"ls -d {ROOT}/*/[0-9]* || true").split()) == whole
    assert index.sh(f"ls -A {ROOT}").split() == sorted([".cache", ".lock", ".uv", *names])
    if "more" in names:
        ctl(index, "remove", "more", "--force")
    if verb == "archive":
        if not index.run("test", "-e", CUT, check=False).returncode:
            ctl(index, "import", CUT, "more")
            ctl(index, "remove", "more")
            index.sh(f"rm {CUT}")
        ctl(index, "archive", "work", CUT)
        assert index.sh("ls -A /root | grep cut") == "cut.tar"
        index.sh(f"rm {CUT}")
