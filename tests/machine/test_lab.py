"""JupyterLab as people use it: terminals that find their programs, kernels, files, exports; plain pages, without an off-loader before the hub."""

import json
import re

import pytest
from browser import SLOW, lab_of, menu, new_notebook, run_cell, wait_for_lab
from harness import wait_for
from hubclient import HubError, with_server
from playwright.sync_api import expect

PACKAGES = ("fish", "tcsh", "zsh")
SHELLS = ("bash", "dash", "zsh", "fish", "tcsh")
TREE = "/opt/venvs/jupyterhub-servers/current"
KERNELS = "/home/alice/.local/share/jupyter/kernels"
BUNDLED = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
ALWAYS = {"custom", "html", "markdown", "notebook", "python", "script", "slides"}  # formats that need no program beside the package
MIB = 1 << 20


@pytest.fixture(scope="module")
def alice(machine, hub):
    machine.sh("rm -f /usr/bin/python3")  # of Debian's python3, which fish brings; the package itself does without
    return with_server(machine, hub, "alice")


@pytest.fixture(scope="module")
def page(alice, browser):
    """alice's JupyterLab."""
    return lab_of(browser, "alice")


def restart(user):
    """Stop and start the user's server, which reads the machine's state anew."""
    user.stop()
    user.spawn()


# -- PATH --------------------------------------------------------------------------------------------------------------------------


def in_terminal(machine, user, command):
    """Type a command into a new terminal of JupyterLab; return what it wrote to standard output (str)."""
    terminal = user.api("POST", "/terminals").json()["name"]
    socket = user.websocket(f"terminals/websocket/{terminal}")
    home = f"/home/{user.name}"
    machine.sh(f"rm -f {home}/said {home}/done")
    socket.send(json.dumps(["stdin", f"sh -c '{command}' >said; echo >done\n"]))
    wait_for(lambda: machine.sh(f"ls {home}") and "done" in machine.sh(f"ls {home}").split(), f"the terminal runs {command}", timeout=30)
    socket.close()
    user.api("DELETE", f"/terminals/{terminal}")
    return machine.sh(f"cat {home}/said")


@pytest.fixture(scope="module", params=SHELLS)
def typist(request, machine, hub, alice):
    """Somebody with a server, whose login shell is each one in turn."""
    shell = request.param
    machine.add_user(f"uses-{shell}")
    machine.sh(f"chsh -s $(command -v {shell}) uses-{shell}; touch ~uses-{shell}/.zshrc")  # else zsh asks a newcomer questions
    user = hub.login(f"uses-{shell}", "secret")
    user.spawn()
    yield user
    user.stop()


def test_terminals_find_the_bundled_programs(machine, typist):
    """Also those of login shells, for which /etc/profile sets PATH; Debian's own python3 is not installed here."""
    bundled = machine.sh(f"readlink -f {TREE}") + "/bin"
    assert in_terminal(machine, typist, "command -v jupyter; command -v python3").split() == [f"{bundled}/jupyter", f"{bundled}/python3"]
    assert in_terminal(machine, typist, "jupyter kernelspec list --json 2>/dev/null | grep -c python3") != "0"


def test_programs_of_the_system_come_first(machine, typist):
    """In terminals and in cells alike; but python and pip of a cell are those of its kernel."""
    machine.sh("ln -s /usr/bin/python3.13 /usr/local/bin/python3; ln -s /bin/true /usr/local/bin/jupyter")
    try:
        assert in_terminal(machine, typist, "command -v python3; command -v jupyter").split() == ["/usr/local/bin/python3", "/usr/local/bin/jupyter"]
        assert typist.run_cell("import shutil; shutil.which('jupyter')") == "'/usr/local/bin/jupyter'"
        assert typist.run_cell("import shutil, sys; shutil.which('python3') == f'{sys.prefix}/bin/python3'") == "True"
    finally:
        machine.sh("rm /usr/local/bin/python3 /usr/local/bin/jupyter")


def test_cells_find_the_bundled_programs(machine, alice):
    bundled = machine.sh(f"readlink -f {TREE}") + "/bin"
    code = "import os, shutil, sys; print(shutil.which('jupyter'), shutil.which('python3'), os.path.dirname(sys.executable))"
    jupyter, python, own = alice.run_cell(code).split()
    assert (jupyter, python) == (f"{bundled}/jupyter", f"{own}/python3")
    kernel = alice.kernel("python3-bundled")
    assert kernel.execute(code).split() == [f"{bundled}/jupyter", f"{bundled}/python3", bundled]
    kernel.shutdown()


def test_other_sessions_keep_their_path(machine, alice):
    assert "/opt/venvs" not in machine.sh("su - alice -c 'echo $PATH'")


# -- Kernels -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_python3(machine, alice):
    """What `python -m ipykernel install --user` without a name leaves once its environment has been deleted; the file's path."""
    spec = {"argv": ["/home/alice/gone/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Python 3 (ipykernel)"}
    machine.sh(f"mkdir -p {KERNELS}/python3")
    machine.write(f"{KERNELS}/python3/kernel.json", json.dumps({**spec, "language": "python"}))
    yield f"{KERNELS}/python3/kernel.json"
    machine.sh(f"rm -r {KERNELS}")


def test_own_kernel_does_not_hide_the_bundled_one(alice, own_python3):
    listed = alice.api("GET", "/kernelspecs").json()
    assert listed["default"] == "python3"
    names = {name: kernel["spec"]["display_name"] for name, kernel in listed["kernelspecs"].items()}
    assert names == {"python3": "Python 3 (ipykernel)", "python3-own": "Python 3 (ipykernel) (your own)"}
    assert alice.run_cell("5 * 4") == "20"


def test_own_kernel_can_be_used(machine, alice, own_python3):
    machine.sh("mkdir -p ~alice/gone/bin")
    machine.write("/home/alice/gone/bin/python", f'#!/bin/sh\nexec {TREE}/bin/python "$@"\n', 0o755)
    try:
        assert alice.kernel("python3-own").execute("5 * 4") == "20"
    finally:
        machine.sh("rm -r ~alice/gone")


def test_missing_environment_is_named(alice, own_python3):
    with pytest.raises(HubError) as error:
        alice.kernel("python3-own")
    assert f"/home/alice/gone/bin/python, which {own_python3} names, is missing" in error.value.text


def test_missing_environment_is_named_in_the_browser(browser, page, alice, own_python3):
    kernelspec = {"name": "python3-own", "display_name": "Python 3 (ipykernel) (your own)", "language": "python"}
    content = {"cells": [], "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5}
    alice.api("PUT", "/contents/stale.ipynb", json={"type": "notebook", "content": content})
    with page.context.new_page() as stale:
        stale.goto("/user/alice/lab/workspaces/stale/tree/stale.ipynb")
        expect(stale.locator(".jp-Dialog")).to_contain_text(f"which {own_python3} names, is missing", timeout=SLOW)
        browser.screenshot(stale, "stale-kernel")


# -- Cells -------------------------------------------------------------------------------------------------------------------------


def type_at_once(page, *cells, number=0):
    """Type into a notebook from its last cell on, which is the one of that number, Shift+Enter after each; return the Locators of their outputs."""
    notebook = page.locator(".jp-NotebookPanel:visible")
    notebook.locator(".jp-CodeCell .cm-content").nth(number).click()
    for code in cells:
        page.keyboard.insert_text(code)
        page.keyboard.press("Shift+Enter")
    return [notebook.locator(".jp-CodeCell").nth(number + after).locator(".jp-OutputArea-output") for after in range(len(cells))]


@pytest.mark.parametrize("seconds", [pytest.param(0, marks=pytest.mark.slow("the easier half: the kernel is quick")), 3])
def test_cells_run_before_the_kernel_is_connected(page, seconds):
    """At full speed; and with a kernel that takes its time, so that all of it is typed before there is one."""
    page.route(re.compile(r"/api/sessions\?"), lambda route: (route.request.method == "POST" and page.wait_for_timeout(1000 * seconds), route.continue_()))
    page.goto("/user/alice/lab?reset")
    wait_for_lab(page)
    page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    first, second = type_at_once(page, "x = 6; print(x)", "print(x * 7)")
    expect(first).to_have_text("6", timeout=SLOW)
    expect(second).to_have_text("42", timeout=SLOW)
    page.unroute_all()


@pytest.mark.parametrize(
    "first, then, request_",
    [
        pytest.param("Shut Down Kernel", "Change Kernel…", r"POST .*/api/sessions\?", marks=pytest.mark.slow("another way to a new kernel")),
        (None, "Change Kernel…", r"PATCH .*/api/sessions/"),
        pytest.param(None, "Restart Kernel…", r"POST .*/api/kernels/.*/restart\?", marks=pytest.mark.slow("another way to a new kernel")),
    ],
    ids=["start", "change", "restart"],
)
def test_cells_run_while_one_kernel_follows_another(page, first, then, request_):
    """They wait for the new one."""
    asked = []

    def slowly(route):
        if re.match(request_, f"{route.request.method} {route.request.url}"):
            asked.append(route.request.url)
            tab.wait_for_timeout(3000)
        route.continue_()

    with page.context.new_page() as tab:
        tab.goto("/user/alice/lab/workspaces/follow?reset")
        wait_for_lab(tab)
        new_notebook(tab)
        expect(run_cell(tab, "x = 0; print(x)")).to_have_text("0", timeout=SLOW)
        if first:
            menu(tab, "Kernel", first)
            expect(tab.get_by_role("button", name="No Kernel", exact=True)).to_be_visible(timeout=SLOW)
        tab.route("**/api/**", slowly)
        menu(tab, "Kernel", then)
        if "Change" in then:
            tab.locator(".jp-Dialog select").select_option(json.dumps({"name": "python3"}, separators=(",", ":")))
        tab.locator(".jp-Dialog .jp-mod-accept").click()
        output = type_at_once(tab, "print('x' in globals())", "x = 1", number=1)[0]
        expect(output).to_have_text("False", timeout=SLOW)
        assert len(asked) == 1


def test_cells_run_before_the_kernel_is_connected_in_notebook_7(page, alice):
    content = {
        "cells": [{"cell_type": "code", "source": "", "metadata": {}, "outputs": [], "execution_count": None, "id": "a"}],
        "metadata": {"kernelspec": BUNDLED},
    }
    alice.api("PUT", "/contents/early.ipynb", json={"type": "notebook", "content": {**content, "nbformat": 4, "nbformat_minor": 5}})
    with page.context.new_page() as notebook:
        notebook.goto("/user/alice/notebooks/early.ipynb")
        (output,) = type_at_once(notebook, "print(6 * 7)")
        expect(output).to_have_text("42", timeout=SLOW)


# -- Files -------------------------------------------------------------------------------------------------------------------------


def test_folder_with_files_can_be_deleted(machine, alice):
    machine.sh("mkdir -p ~/folder/below; touch ~/folder/below/file", user="alice")
    alice.api("DELETE", "/contents/folder")
    assert machine.sh("ls -A ~alice | grep folder || true") == ""


@pytest.mark.parametrize("target", ["/nowhere", "kept", "kept/file"])
def test_link_can_be_deleted(machine, alice, target):
    """Wherever it leads; that stays."""
    machine.sh(f"mkdir -p ~/kept; touch ~/kept/file; ln -s {target} ~/link", user="alice")
    alice.api("DELETE", "/contents/link")
    assert machine.sh("ls ~alice/kept; ls ~alice | grep -x link || true") == "file"


def test_settings_of_the_site_come_first(machine, alice):
    """Those of docs/configuration.md, in /etc/jupyter, which Jupyter reads after the package's own."""
    machine.write("/etc/jupyter/jupyter_server_config.py", 'c.FileContentsManager.always_delete_dir = False\nc.ServerApp.tornado_settings = {"mine": 1}\n')
    machine.sh("mkdir -p ~/folder; touch ~/folder/file", user="alice")
    restart(alice)
    try:
        with pytest.raises(HubError) as error:
            alice.api("DELETE", "/contents/folder")
        assert error.value.status == 400
    finally:
        machine.sh("rm -r /etc/jupyter/jupyter_server_config.py ~alice/folder")
        restart(alice)


LONG = "n" * 300
TEXT = {"type": "file", "format": "text", "content": "words"}
NOTEBOOK = {
    "type": "notebook",
    "content": {"cells": [{"cell_type": "markdown", "source": "# Words", "metadata": {}, "id": "a"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
}


@pytest.mark.parametrize(
    "method, path, model",
    [
        ("PUT", LONG, TEXT),
        ("PUT", LONG, {"type": "directory"}),
        ("PUT", f"{'ü' * 130}.txt", TEXT),
        ("PUT", f"{'n' * 249}.ipynb", NOTEBOOK),  # fits, but the name of its checkpoint does not
        ("PATCH", "short.txt", {"path": LONG}),
    ],
)
def test_name_that_is_too_long_says_so(alice, method, path, model):
    alice.api("PUT", "/contents/short.txt", json=TEXT)
    with pytest.raises(HubError) as error:
        alice.api(method, f"/contents/{path}", json=model)
    assert error.value.status == 400
    assert re.search(r"The name [nü]{30}\.\.\. is too long", error.value.text)


@pytest.mark.slow("a limit of tornado's")
def test_file_of_100_mb_reaches_a_kernel(browser, page):
    """By the widget for uploads, and the connection stays."""
    size = 100 * MIB
    large = browser.directory / "large.bin"
    large.write_bytes(bytes(size))
    page.goto("/user/alice/lab?reset")
    wait_for_lab(page)
    page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    run_cell(page, "import ipywidgets; upload = ipywidgets.FileUpload(); upload")
    with page.expect_file_chooser() as chooser:
        page.locator(".jp-NotebookPanel:visible .widget-upload, .jp-NotebookPanel:visible .jupyter-button").first.click()
    chooser.value.set_files(large)
    expect(page.get_by_role("button", name="Upload (1)")).to_be_visible(timeout=SLOW)
    expect(run_cell(page, "print(len(upload.value[0].content))")).to_have_text(str(size), timeout=SLOW)


@pytest.mark.parametrize("path", ["/hub/home", "/user/alice/api/status"])
def test_headers_of_32_kb_are_taken(alice, path):
    assert alice.get(path, headers={"X-Large": "x" * 32 * 1024}).status_code == 200


# -- What JupyterLab offers --------------------------------------------------------------------------------------------------------


def test_extension_manager_installs_nothing(alice):
    page = alice.get(f"{alice.prefix}lab").text
    config = json.loads(re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert config["extensionManager"]["can_install"] is False


def exports(browser, page):
    """Open the menu of export formats and take a picture; return its entries (list of str)."""
    menu(page, "File", "Save and Export Notebook As")
    entries = page.locator(".lm-Menu").last.locator(".lm-Menu-itemLabel")
    expect(entries.filter(has_text="HTML")).to_be_visible()
    names = entries.all_inner_texts()
    browser.screenshot(page, "exports")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    return names


def test_exports_are_those_that_work(browser, page, alice):
    assert set(alice.api("GET", "/nbconvert").json()) == ALWAYS
    with page.expect_response(re.compile("/api/nbconvert"), timeout=SLOW):
        page.goto("/user/alice/lab?reset")
        wait_for_lab(page)
        page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    names = exports(browser, page)
    assert "HTML" in names and not [name for name in names if "PDF" in name.upper()]


@pytest.mark.parametrize("name", sorted(ALWAYS - {"custom"}))
def test_export(alice, name):
    alice.api("PUT", "/contents/export.ipynb", json=NOTEBOOK)
    assert alice.get(f"{alice.prefix}nbconvert/{name}/export.ipynb").status_code == 200


def test_pdf_is_offered_where_tex_is_installed(machine, alice):
    machine.sh("ln -s /bin/true /usr/local/bin/pandoc; ln -s /bin/true /usr/local/bin/xelatex")
    restart(alice)
    assert set(alice.api("GET", "/nbconvert").json()) == ALWAYS | {"asciidoc", "latex", "pdf", "rst"}
    machine.sh("rm /usr/local/bin/pandoc /usr/local/bin/xelatex")
