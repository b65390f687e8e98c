"""Debian's chromium, driven by Playwright, in the network of a machine.

It lives in a root of its own in the cache, so that it need not be on the host nor in the machine, whatever suite that runs. Playwright's
driver and the chromium it starts inherit the network namespace of the calling thread: start them inside `with machine.network():`.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import harness
from hubclient import BASE
from playwright.sync_api import Error, expect, sync_playwright

TOP = pathlib.Path(__file__).resolve().parents[2]
SCREENSHOTS = pathlib.Path(os.environ.get("SCREENSHOTS") or TOP / "dist/screenshots")
SUITE = "trixie"  # Ubuntu has chromium as a snap only
PACKAGES = "chromium,fonts-dejavu-core,libnss3-tools,pngquant"

# chromium's own sandbox needs user namespaces that a container may not have. Instead: its own root, pid namespace and no capability;
# nothing of it outlives Playwright's driver.
WRAPPER = """\
#!/bin/sh
exec unshare --mount --pid --fork --kill-child sh -euc '
    root=$1; shift
    mount -t proc proc "$root/proc"
    exec chroot "$root" setpriv --no-new-privs --inh-caps=-all --bounding-set=-all chromium "$@"
' sh {root} "$@"
"""
SLOW = 60_000  # ms: a busy machine starts a server or a kernel
ARGUMENTS = ["--disable-gpu", "--disable-quic", "--host-resolver-rules=MAP * 127.0.0.1"]


def browser_root(say):
    """Return the cached root (Path) with Debian's chromium. Raises HarnessError."""
    key = hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]

    def make(root):
        harness.mmdebstrap(root, SUITE, f"--include={PACKAGES}")

    return harness.cached(harness.CACHE / "roots" / f"browser-{key}", "making a root with Debian's chromium", make, say)


class Browser:
    """A chromium, started with the first page. Every host name leads to 127.0.0.1."""

    def __init__(self, site, root, docs_images=False):
        self._docs_images = docs_images
        self._stack = contextlib.ExitStack()
        directory = site.directory / "browser"
        # The same path inside and outside: the driver and chromium tell each other where profile, uploads and downloads are.
        self.directory = directory / "tmp"
        for sub in ("upper", "tmp"):
            (directory / sub).mkdir(parents=True)
        self._stack.callback(shutil.rmtree, directory)
        self.root = self._stack.enter_context(harness.overlay(directory, [root], directory / "upper"))
        for path in (pathlib.Path("/dev"), self.directory):
            inside = pathlib.Path(f"{self.root}{path}")
            inside.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--rbind", "--make-rslave", str(path), str(inside)], check=True)
        self._wrapper = directory / "chromium"
        self._wrapper.write_text(WRAPPER.format(root=shlex.quote(str(self.root))))
        self._wrapper.chmod(0o755)
        self._authorities = self.directory / ".pki/nssdb"
        self._authorities.mkdir(parents=True)
        self._chromium = None
        self.errors = []

    def run(self, *argv, input=None):
        """Run a command of the browser's root; return what it prints (bytes)."""
        return subprocess.run(["chroot", str(self.root), *argv], input=input, check=True, capture_output=True).stdout

    def trust(self, authority):
        """Trust the certificates that the authority (text of its PEM file) signs; call it before the first page."""
        assert not self._chromium, "chromium has started: it reads its authorities once"
        self.run("certutil", "-d", f"sql:{self._authorities}", "-A", "-n", f"test {len(authority)}", "-t", "C,,", "-a", input=authority.encode())

    def _start(self):
        environment = {"HOME": str(self.directory), "TMPDIR": str(self.directory), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        before, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), environment["TMPDIR"]  # from here alone the driver takes it
        try:
            playwright = self._stack.enter_context(sync_playwright())
        finally:
            del os.environ["TMPDIR"]
            os.environ |= {"TMPDIR": before} if before else {}
        self._chromium = playwright.chromium.launch(executable_path=self._wrapper, env=environment, args=ARGUMENTS)
        self._stack.callback(self._chromium.close)

    def page(self, base=BASE, **options):
        """Return a blank page (playwright.sync_api.Page) of a visitor who has no cookies yet; its paths are below `base`.

        `options` are those of Playwright's new_context(). What the console calls an error is added to `errors`.
        """
        if not self._chromium:
            self._start()
        page = self._chromium.new_context(base_url=base, viewport={"width": 1280, "height": 800}, **options).new_page()
        page.on("console", lambda message: message.type == "error" and self.errors.append(f"{message.text} {message.location['url']}"))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        return page

    def screenshot(self, page, name, docs=False):
        """Save what the page shows as SCREENSHOTS/NAME.png and, with `docs` and --docs-images, in few colours as docs/images/NAME.png."""
        picture = page.screenshot(path=SCREENSHOTS / f"{name}.png")
        if docs and self._docs_images:
            file = TOP / f"docs/images/{name}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(self.run("pngquant", "--strip", "--speed=1", "--nofs", "32", "-", input=picture))

    def on_failure(self, name):
        """Save what the open pages show as `failed-NAME-NUMBER.png`; return text that says where, with the console's errors."""
        lines = []
        pages = [page for context in (self._chromium.contexts if self._chromium else []) for page in context.pages]
        for number, page in enumerate(pages):
            file = SCREENSHOTS / f"failed-{re.sub(r'[^A-Za-z0-9_]+', '-', name)}-{number}.png"
            with contextlib.suppress(Error):  # a page that shows nothing any more
                page.screenshot(path=file)
            lines.append(f"{page.url}\n    {file}")
        return "\n".join([*lines, *self.errors[-20:]])

    def close(self):
        """End chromium and remove all that it wrote."""
        self._stack.close()


def log_in(page, user, password):
    """Fill in the login form (of the page that is shown, or the hub's) and press its button."""
    if not page.get_by_label("Password:").is_visible():
        page.goto("hub/login")
    page.get_by_label("Username:").fill(user)
    page.get_by_label("Password:").fill(password)
    page.get_by_role("button", name="Sign in").click()


def lab_of(browser, user, password="secret"):
    """Log a user in; return the page with the user's JupyterLab."""
    page = browser.page()
    log_in(page, user, password)
    wait_for_lab(page)
    return page


def wait_for_lab(page):
    """Return when JupyterLab is there and ready to be used. The server starts meanwhile, if it has to."""
    expect(page.locator("#jp-main-dock-panel .jp-MainAreaWidget:visible").first).to_be_visible(timeout=SLOW)
    expect(page.locator("#jupyterlab-splash")).to_have_count(0, timeout=SLOW)


def new_notebook(page):
    """Click on the launcher's notebook; return when its kernel is idle."""
    page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    idle(page)


def idle(page):
    """Return when the kernel of the notebook in front is idle. Only the status bar knows: its picture is a circle before there is a kernel, too."""
    expect(page.locator("#jp-main-statusbar").get_by_text("| Idle")).to_be_visible(timeout=SLOW)


def run_cell(page, code):
    """Run code in the notebook's last cell; return the Locator of its output."""
    cell = page.locator(".jp-NotebookPanel:visible .jp-CodeCell").last
    cell.locator(".cm-content").click()
    page.keyboard.insert_text(code)  # as pasted: no brackets close themselves
    number = page.locator(".jp-NotebookPanel:visible .jp-CodeCell").count()
    page.keyboard.press("Shift+Enter")
    ran = page.locator(".jp-NotebookPanel:visible .jp-CodeCell").nth(number - 1)
    expect(ran.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=SLOW)
    return ran.locator(".jp-OutputArea-output")


def menu(page, *names):
    """Choose from JupyterLab's menus, e.g. menu(page, "File", "New", "Terminal")."""
    page.locator("#jp-MainMenu .lm-MenuBar-item").get_by_text(names[0], exact=True).click()
    for name in names[1:]:
        page.locator(".lm-Menu-item:visible").filter(has=page.get_by_text(name, exact=True)).click()
