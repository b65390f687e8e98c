"""Limits per user are systemd's, set by the example of the documentation; JupyterLab shows them to whom they concern."""

import json
import pathlib
import re

import pytest
from browser import SLOW, log_in, wait_for_lab
from playwright.sync_api import expect

EXAMPLE = pathlib.Path(__file__).parents[2] / "docs/examples/user-limits.conf"
GIB = 1 << 30
PLUGIN = "@jupyter-server/resource-usage"


@pytest.fixture(scope="module")
def alice(machine, hub):
    machine.add_user("alice")
    return hub.login("alice", "secret")


def disabled_plugins(user):
    """Return the plugins that Lab's page is told to leave off."""
    page = user.get(f"{user.prefix}lab").text
    config = re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)
    return json.loads(config[1])["disabledExtensions"]


def test_memory_is_shown_without_a_limit(machine, browser, alice):
    """In the status bar, as a number alone."""
    alice.spawn()
    assert alice.kernel().execute("import os; os.environ.get('MEM_LIMIT')") == ""
    memory = alice.api("GET", "/metrics/v1").json()
    assert memory["rss"] > 50 << 20 and memory["limits"]["memory"]["rss"] == 0
    assert PLUGIN not in disabled_plugins(alice)
    with browser.page() as page:
        log_in(page, "alice", "secret")
        wait_for_lab(page)
        expect(page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"Mem:\s+[0-9.]+ [MG]B"), timeout=SLOW)
        browser.screenshot(page, "memory")
    alice.stop()


@pytest.fixture(scope="module")
def limited(machine, alice):
    """alice, with a server that was started after the example was installed."""
    machine.write("/etc/systemd/system/user-.slice.d/50-jupyterhub.conf", EXAMPLE.read_text())
    machine.sh("systemctl daemon-reload")
    alice.spawn()
    return alice


def test_server_lives_in_the_limited_slice(machine, limited):
    uid = machine.sh("id -u alice")
    shown = machine.sh(f"systemctl show --property=MemoryHigh,MemoryMax,TasksMax user-{uid}.slice").splitlines()
    assert shown == [f"MemoryHigh={6 * GIB}", f"MemoryMax={8 * GIB}", "TasksMax=2000"]
    assert f"/user.slice/user-{uid}.slice/session-" in limited.kernel().execute("print(open('/proc/self/cgroup').read())")


def test_jupyterlab_shows_the_limit(limited):
    """The least of the limits is the one that a user meets."""
    assert limited.api("GET", "/metrics/v1").json()["limits"]["memory"]["rss"] == 6 * GIB
    assert PLUGIN not in disabled_plugins(limited)


# -- The services ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["jupyterhub", "jupyterhub-proxy", "jupyterhub-ports", "jupyterhub-backup", "jupyterhub-accounts@1", "jupyterhub-sessions@1"])
def test_services_have_limits(machine, unit):
    """Not those that servers are started from."""
    memory, tasks = int(machine.property(unit, "MemoryMax")), int(machine.property(unit, "TasksMax"))
    assert memory >= 256 << 20 and 64 <= tasks <= 1024
    current = machine.property(unit, "TasksCurrent")
    assert not current.isdecimal() or int(current) < tasks / 4


def test_limits_of_a_service_can_be_set(machine, hub):
    pid = machine.pid_of("jupyterhub")
    machine.run("systemctl", "set-property", "jupyterhub", "MemoryMax=4G", "TasksMax=4096")
    assert [machine.property("jupyterhub", name) for name in ("MemoryMax", "TasksMax")] == [str(4 * GIB), "4096"]
    machine.run("systemctl", "revert", "jupyterhub")
    assert machine.property("jupyterhub", "TasksMax") == "1024" and machine.pid_of("jupyterhub") == pid
