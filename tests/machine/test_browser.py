"""What people do with a browser, through nginx and TLS: Debian's chromium on the pages as they are."""

import hashlib
import re

import offloader
import pytest
from browser import SLOW, idle, log_in, menu, new_notebook, run_cell, wait_for_lab
from harness import wait_for
from playwright.sync_api import expect

PACKAGES = ("nginx", "openssl")
URL = f"{offloader.BASE}/"
PASSWORDS = {"alice": "al1ce-Sesame!", "bob": "b0b-Sesame!", "carol": "car0l-Sesame!", "dora": "d0ra-Sesame!"}

PLOT = """
import matplotlib.pyplot as plt
from math import sin
plt.figure(figsize=(6, 3))
plt.plot([sin(x / 10) for x in range(100)]);
"""


@pytest.fixture(scope="module", autouse=True)
def site_with_tls(machine, hub, browser):
    """alice may use notebooks, bob may not, carol is an administrator; nginx as the example has it."""
    machine.add_user("alice", PASSWORDS["alice"])
    machine.add_user("bob", PASSWORDS["bob"], groups=())
    machine.add_user("carol", PASSWORDS["carol"], groups=("users", "sudo"))
    machine.sh("echo JUPYTERHUB_ADMIN_GROUPS=sudo >>/etc/default/jupyterhub; systemctl restart jupyterhub")
    browser.trust(offloader.self_signed(machine))
    offloader.start(machine, offloader.NGINX)
    wait_for(hub.answers, "the hub is back", timeout=30)


@pytest.fixture(scope="module")
def page(browser):
    """alice's page, from the login form on."""
    return browser.page(URL)


@pytest.fixture(autouse=True)
def console_is_quiet(browser):
    """No page of the hub or of JupyterLab may log an error that nobody has asked for."""
    browser.errors.clear()
    yield
    assert browser.errors == []


def checksum(machine, path):
    return machine.run("sha256sum", path).stdout.split()[0]


def test_login_form(browser, page):
    page.goto("/")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    browser.screenshot(page, "login", docs=True)


def test_login_leads_to_lab(browser, page):
    log_in(page, "alice", PASSWORDS["alice"])
    wait_for_lab(page)
    assert page.url == f"{URL}user/alice/lab"
    browser.screenshot(page, "lab-start")


def test_start_page(browser, page):
    with page.context.new_page() as home:
        home.goto("/hub/home")
        expect(home.get_by_role("button", name="Stop My Server")).to_be_visible()
        expect(home.get_by_text("alice")).to_be_visible()
        browser.screenshot(home, "home")


def test_plot(browser, page):
    new_notebook(page)
    plot = run_cell(page, PLOT.strip()).locator("img")
    expect(plot).to_be_visible(timeout=SLOW)
    assert plot.evaluate("image => image.naturalWidth") > 400
    browser.screenshot(page, "lab", docs=True)


def test_kernel_restart_forgets(page):
    expect(run_cell(page, "x = 42; print(x)")).to_have_text("42")
    menu(page, "Kernel", "Restart Kernel…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    idle(page)
    expect(run_cell(page, "print('x' in globals())")).to_have_text("False")


def test_notebook_is_saved(machine, page):
    menu(page, "File", "Save Notebook")
    page.locator(".jp-Dialog input[type=text], .jp-Dialog input:not([type])").first.fill("plot.ipynb")
    page.get_by_role("button", name="Rename and Save").click()
    wait_for(lambda: "import matplotlib" in machine.sh("cat /home/alice/plot.ipynb 2>/dev/null || true"), "saved", timeout=30)


def test_terminal(machine, browser, page):
    menu(page, "File", "New", "Terminal")
    page.locator(".jp-Terminal .xterm").click()
    page.keyboard.type("echo $(id -un) is at $(tty) | tee from-terminal.txt\n")
    said = wait_for(lambda: machine.sh("cat /home/alice/from-terminal.txt 2>/dev/null || true"), "the terminal writes", timeout=30)
    assert re.fullmatch(r"alice is at /dev/pts/\d+", said)
    browser.screenshot(page, "terminal")


def test_upload(machine, browser, page):
    content = bytes(range(256)) * 12_000  # 3 MB
    with page.expect_file_chooser() as chooser:
        page.locator("[data-command='filebrowser:upload'], .jp-FileBrowser-toolbar [data-jp-item-name=uploader]").first.click()
    chooser.value.set_files({"name": "upload ü.bin", "mimeType": "application/octet-stream", "buffer": content})
    expect(page.locator(".jp-DirListing-item", has_text="upload ü.bin")).to_be_visible(timeout=SLOW)
    # In pieces, so that the name is there before the end is.
    wait_for(lambda: checksum(machine, "/home/alice/upload ü.bin") == hashlib.sha256(content).hexdigest(), "the upload is complete", timeout=30)
    assert machine.sh("stat -c %U '/home/alice/upload ü.bin'") == "alice"


def test_download(machine, page):
    page.locator(".jp-DirListing-item", has_text="upload ü.bin").click(button="right")
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Download", exact=True).click()
    assert download.value.suggested_filename == "upload ü.bin"
    assert hashlib.sha256(download.value.path().read_bytes()).hexdigest() == checksum(machine, "/home/alice/upload ü.bin")


def test_notebook_7(browser, page):
    with page.context.new_page() as tree:
        tree.goto("/user/alice/tree")
        expect(tree.locator(".jp-DirListing-item", has_text="plot.ipynb")).to_be_visible(timeout=SLOW)
        browser.screenshot(tree, "notebook")


def has_button(row, name):
    """Reload the admin page, which does not always notice by itself; return whether the row has the button."""
    row.page.reload()
    expect(row).to_be_visible()
    return row.get_by_role("button", name=name).is_visible()


def test_admin_stops_and_starts_a_server(machine, browser, page):
    with browser.page(URL) as carol:
        log_in(carol, "carol", PASSWORDS["carol"])
        wait_for_lab(carol)
        carol.goto("/hub/admin")
        row = carol.get_by_test_id("user-row-alice")
        row.get_by_role("button", name="Stop Server").click()
        wait_for(lambda: has_button(row, "Start Server"), "alice's server has stopped", timeout=60, every=1)
        assert machine.sh("pgrep -u alice -f jupyterhub-singleuser || true") == ""
        row.get_by_role("button", name="Start Server").click()
        wait_for(lambda: has_button(row, "Stop Server"), "alice's server has started", timeout=60, every=1)
        assert machine.sh("pgrep -u alice -f jupyterhub-singleuser")
        browser.screenshot(carol, "admin", docs=True)
    browser.errors.clear()  # alice's Lab has lost its server meanwhile


def test_logout(browser, page):
    page.goto("/user/alice/lab?reset")  # the layout still has the notebook by its old name
    wait_for_lab(page)
    menu(page, "File", "Log Out")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible(timeout=SLOW)
    page.goto("/user/alice/lab")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    # From the logout until Lab is gone, what it asks for (events, the terminal of the server that carol has stopped) is refused.
    refused = re.compile(r"(Unexpected response code: 403|with a status of 403) |^Connection lost, reconnecting in \d+ seconds")
    browser.errors[:] = [error for error in browser.errors if not refused.search(error)]


def test_wrong_password(browser, page):
    log_in(page, "alice", "wr0ng-Sesame!")
    expect(page.get_by_text("Invalid username or password")).to_be_visible()
    assert browser.errors.pop().startswith("Failed to load resource: the server responded with a status of 403")


def test_account_that_is_not_allowed(browser, page):
    log_in(page, "bob", PASSWORDS["bob"])
    expect(page.get_by_text("Invalid username or password")).to_be_visible()
    browser.screenshot(page, "not-allowed")
    assert browser.errors.pop().startswith("Failed to load resource: the server responded with a status of 403")


@pytest.mark.slow("test_offloaders has pages below a path each time, without a browser")
def test_below_a_path(machine, hub, browser):
    """One setting moves the hub to /jupyter/."""
    machine.add_user("dora", PASSWORDS["dora"])
    machine.sh("sed -i 's,^JUPYTERHUB_BIND_URL=.*,JUPYTERHUB_BIND_URL=http://127.0.0.1:8000/jupyter/,' /etc/default/jupyterhub")
    machine.sh("systemctl restart jupyterhub-proxy")
    hub.base += "/jupyter"
    wait_for(hub.answers, "the hub is back", timeout=30)
    with browser.page(f"{URL}jupyter/") as page:
        page.goto(f"{URL}jupyter/")
        log_in(page, "dora", PASSWORDS["dora"])
        wait_for_lab(page)
        assert page.url == f"{URL}jupyter/user/dora/lab"
        new_notebook(page)
        expect(run_cell(page, "5 * 4")).to_have_text("20")
