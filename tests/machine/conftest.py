"""Machines as fixtures, the journal on failure, --sit. See docs/testing.md."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

import harness
import pytest
from hubclient import Hub

TOP = pathlib.Path(__file__).resolve().parents[2]
SITE = pytest.StashKey[harness.Site]()
SEEN = pytest.StashKey[dict]()
BROWSER = pytest.StashKey()  # a browser.Browser
JOURNAL_LINES = 100


def pytest_configure(config):
    def terminated(*_):
        raise KeyboardInterrupt  # the way on which pytest tears everything down

    signal.signal(signal.SIGTERM, terminated)


@pytest.fixture(scope="session")
def say(request):
    """Tell the person who waits what takes its time."""
    plugins = request.config.pluginmanager

    def line(text):
        with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
            print(f"\n# {text}", flush=True)

    return line


@pytest.fixture(scope="session")
def site(request):
    """The place where machines are made; at the end nothing of it may be left."""
    site = harness.Site()
    request.config.stash[SITE] = site
    yield site
    site.close()
    site.check_clean()


@pytest.fixture(scope="session")
def base(suite, deb, say):
    """Root of a server with everything in apt's cache that the package depends on."""
    return harness.base_root(suite[0], deb, say)


@pytest.fixture(scope="session")
def installed(site, base, deb, say):
    """The layers of a server on which `apt install ./jupyterhub_*.deb` was run."""
    return [harness.with_package(site, base, deb, say), base]


@contextlib.contextmanager
def _topics_machine(request, lowers):
    """A booted machine named after the topic, with the Debian packages that the topic's PACKAGES (tuple of str) names."""
    site, base, say = (request.getfixturevalue(name) for name in ("site", "base", "say"))
    packages = getattr(request.module, "PACKAGES", ())
    if packages:
        lowers = [*lowers[:-1], harness.downloads(base, packages, say), base]
    if any("browser" in item.fixturenames for item in request.session.items if item.module is request.module):
        request.getfixturevalue("chromium")  # in a machine's network it could not be fetched any more
    machine = site.machine(pathlib.Path(request.node.name).stem.replace("_", "-"), *lowers).boot()
    with machine.network():
        if packages:
            machine.sh(getattr(request.module, "BEFORE_PACKAGES", ":"))
            machine.run("apt-get", "-qq", "-y", "-o", "APT::Install-Recommends=true", "install", *packages, timeout=900)
        yield machine
    site.discard(machine)


@pytest.fixture(scope="module")
def machine(request):
    """A booted machine with the package installed; the module's tests live in its network, where the hub is 127.0.0.1:8000."""
    if request.config.getoption("here"):
        here = harness.Here()
        yield here
        here.discard()
        return
    with _topics_machine(request, request.getfixturevalue("installed")) as machine:
        yield machine


@pytest.fixture(scope="module")
def bare_machine(request, base):
    """A booted server without the package, for tests of installing and removing it."""
    with _topics_machine(request, [base]) as machine:
        yield machine


@pytest.fixture(scope="module")
def hub(machine):
    """The hub of the module's machine, answering."""
    hub = Hub()
    harness.wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    return hub


@pytest.fixture(scope="session")
def chromium(site, say):
    """The root with Debian's chromium; made before a machine's network, which has no mirror, is entered."""
    # Here, for debian/tests does without Playwright, which Debian has not.
    from browser import browser_root

    return browser_root(say)


@pytest.fixture(scope="module")
def browser(request, site, chromium, machine):
    """A Browser in the machine's network."""
    from browser import Browser

    browser = Browser(site, chromium, docs_images=request.config.getoption("docs_images"))
    request.config.stash[BROWSER] = browser
    yield browser
    del request.config.stash[BROWSER]
    browser.close()


@pytest.fixture(scope="module")
def build_sh(deb, tmp_path_factory):
    """A function that runs build.sh of a copy of the sources with the given arguments and returns what it said.

    The copy is its attribute `tree`, with nothing but `deb` in dist/; keys and caches are its own. Raises CalledProcessError.
    """
    work = tmp_path_factory.mktemp("build")
    tree = work / "tree"
    shutil.copytree(TOP, tree, ignore=shutil.ignore_patterns(".git", "dist", "tests", "npm", "__pycache__"))
    (tree / "dist").mkdir()
    shutil.copy(deb, tree / "dist")

    def run(*arguments):
        environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache"), "XDG_CONFIG_HOME": str(work / "config")}
        command = [tree / "build.sh", *arguments]
        return subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout

    run.tree, run.config = tree, work / "config"
    return run


@pytest.hookimpl(hookwrapper=True)  # Debian 12's pytest knows no other wrapper
def pytest_runtest_makereport(item, call):
    """Attach the journals of the machines that are up to the report of a failure; with --sit, wait."""
    report = (yield).get_result()
    site = item.config.stash.get(SITE, None)
    if not site or not report.failed:
        return
    for machine in site.up():
        try:
            # The hub's own lines again: the proxy complains about each of our questions to a hub that is down.
            journal = machine.journal("--boot", "--lines=60", "--output=short-precise", "-u", "jupyterhub")
            journal += "\n...\n" + machine.journal("--boot", f"--lines={JOURNAL_LINES}", "--output=short-precise")
        except (AssertionError, OSError) as error:
            journal = f"unreadable: {error}"
        if item.config.stash.setdefault(SEEN, {}).get(machine) != journal:  # a broken session fixture fails every test: say it once
            item.config.stash[SEEN][machine] = journal
            report.sections.append((f"journal of {machine.name}", journal))
    browser = item.config.stash.get(BROWSER, None)
    if browser:
        report.sections.append(("the browser's pages", browser.on_failure(item.name)))
    if item.config.getoption("sit") and site.up():
        _sit(item, report, site.up())


def _sit(item, report, machines):
    """Show the failure and wait for Ctrl-C; then this was the last test."""
    item.session.shouldstop = "--sit: stopped after the failure"
    with item.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{report.nodeid} failed in {report.when}:\n{report.longreprtext}\n")
        for machine in machines:
            print(machine.how_to_enter())
        print("Ctrl-C ends the machines and the test run.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
