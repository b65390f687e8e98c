"""What the hub's pages tell a user, in the browser: refusals, other people's servers, administrators, pages that are not there."""

import re

import pytest
from browser import SLOW, log_in, wait_for_lab
from harness import wait_for
from hubclient import HubError
from playwright.sync_api import expect

GONE = "/hub/no-such-page"


@pytest.fixture(scope="module", autouse=True)
def accounts(machine, hub):
    """alice and bob have servers; carol is an administrator of the hub."""
    for name in ("alice", "bob", "carol"):
        machine.add_user(name)
    machine.sh("echo JUPYTERHUB_ADMIN_USERS=carol >>/etc/default/jupyterhub; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub is back", timeout=30)
    for name in ("alice", "bob"):
        hub.login(name, "secret").spawn()


@pytest.fixture
def alice(browser):
    with browser.page() as page:
        log_in(page, "alice", "secret")
        wait_for_lab(page)
        yield page


@pytest.fixture
def carol(browser):
    with browser.page() as page:
        page.goto("/hub/login?next=%2Fhub%2Fadmin")
        log_in(page, "carol", "secret")
        yield page


def test_page_that_is_not_there(browser, alice):
    assert alice.goto(GONE).status == 404
    expect(alice.get_by_role("heading", level=1)).to_have_text("Not found")
    expect(alice.get_by_text("There is no such page, or it belongs to another account. You are logged in as alice.")).to_be_visible()
    browser.screenshot(alice, "not-found")
    alice.get_by_role("link", name="Go to your start page").click()
    expect(alice.get_by_role("button", name="Stop My Server")).to_be_visible()


def test_page_that_is_not_there_before_the_login(browser):
    with browser.page() as page:
        page.goto(GONE)
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
        expect(page.get_by_text("You are logged in as")).to_have_count(0)


def test_server_of_somebody_else(browser, alice):
    alice.goto("/user/bob/lab")
    expect(alice.get_by_text("This notebook server belongs to bob. You are logged in as alice, who may not use it.")).to_be_visible()
    browser.screenshot(alice, "server-of-bob")


@pytest.mark.slow("a script that seldom changes, and a wait")
def test_page_of_a_start_looks_again_where_it_is_refused(machine, browser):
    """By a hub that restarts, say, or by a start that has failed before the page asks for its events."""
    machine.add_user("erin")
    machine.write("/home/erin/.jupyter/jupyter_server_config.py", "import time; time.sleep(3)\n")
    machine.sh("chown -R erin: /home/erin/.jupyter")
    refused = []
    with browser.page() as page:
        page.route("**/server/progress*", lambda route: route.continue_() if refused else (refused.append(1), route.fulfill(status=503)))
        log_in(page, "erin", "secret")
        wait_for_lab(page)
    assert refused
    browser.errors.clear()  # the answer 503 is one for the console
    machine.run("jupyterhub-ctl", "stop", "erin")


def test_administrator_enters_a_server_of_somebody_else(browser, carol):
    carol.goto("/user/bob/lab")
    expect(carol.locator("#whose")).to_contain_text("You are about to open the notebook server of bob.")
    expect(carol.locator("#whose")).to_contain_text("You are logged in as carol.")
    browser.screenshot(carol, "enter-server-of-bob")
    carol.get_by_role("button", name="Authorize").click()
    wait_for_lab(carol)


def test_admin_page_shows_administrators(browser, carol):
    expect(carol.get_by_test_id("user-row-alice")).to_be_visible(timeout=SLOW)
    expect(carol.locator("#administrators")).to_have_text(re.compile(r"Administrators:\s+carol\s*$"))
    browser.screenshot(carol, "administrators")


def test_account_that_cannot_be_added_is_named(browser, carol):
    """And nobody else is added with it."""
    carol.get_by_role("button", name="Add Users").click()
    carol.get_by_test_id("user-textarea").fill("dave\ncarol\nnobody-of-this-name")
    carol.get_by_test_id("submit").click()
    expect(carol.get_by_text("Nobody was added: the system knows no account dave, nobody-of-this-name.")).to_be_visible(timeout=SLOW)
    browser.screenshot(carol, "cannot-be-added")


@pytest.mark.slow("400 accounts")
def test_many_accounts_are_added_by_few_processes(machine, hub):
    machine.sh("for n in $(seq 400); do echo many$n:x:$((20000 + n)):100::/home/many$n:/bin/bash; done >>/etc/passwd")
    carol = hub.login("carol", "secret")
    newest = "set -- $(cat /proc/loadavg); echo $5"  # pid; proc_loadavg(5)
    before = int(machine.sh(newest))
    added = carol.hub_api("POST", "/users", json={"usernames": [f"many{n}" for n in range(1, 401)]}).json()
    assert len(added) == 400
    assert int(machine.sh(newest)) - before < 100
    with pytest.raises(HubError, match="no account nobody-of-this-name"):
        carol.hub_api("POST", "/users/nobody-of-this-name")
    with pytest.raises(HubError) as error:
        hub.login("alice", "secret").hub_api("POST", "/users", json={"usernames": ["nobody-of-this-name"]})
    assert error.value.status == 403 and "nobody-of-this-name" not in error.value.text  # who may not add anybody finds out about nobody


def test_stop_by_an_administrator_is_told(machine, hub, browser, alice, carol):
    """On the start page and where Lab was, also after a restart of the hub, until the server is started again."""
    row = carol.get_by_test_id("user-row-alice")
    row.get_by_role("button", name="Stop Server").click()
    wait_for(lambda: machine.sh("pgrep -u alice -f jupyterhub-singleuser || true") == "", "alice's server has ended", timeout=60)
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub is back", timeout=30)
    for path in ("/user/alice/lab", "/hub/home"):
        alice.goto(path)
        expect(alice.locator("#ended")).to_have_text(re.compile(r"Your server was stopped on \d{4}-\d\d-\d\d at \d\d:\d\d UTC by the administrator carol\."))
    browser.screenshot(alice, "stopped-by-administrator")
    alice.get_by_role("button", name="Start My Server").click()
    wait_for_lab(alice)


def test_stop_by_oneself_is_not(browser, alice):
    alice.goto("/hub/home")
    expect(alice.locator("#ended")).to_have_count(0)
    alice.get_by_role("button", name="Stop My Server").click()
    expect(alice.get_by_role("button", name="Start My Server")).to_be_visible(timeout=SLOW)
    alice.reload()
    expect(alice.locator("#ended")).to_have_count(0)


def test_start_that_is_refused(machine, browser, alice):
    """In the words of the login page: what alice reads is nothing about sudo; the journal has the reason."""
    alice.goto("/hub/home")
    alice.get_by_role("button", name="Stop My Server").click()
    start = alice.get_by_role("button", name="Start My Server")
    expect(start).to_be_visible(timeout=SLOW)
    machine.sh("gpasswd -d alice users")
    start.click()
    expect(alice.get_by_text("The account alice may not use notebooks on this server. Ask your administrator to admit it.")).to_be_visible(timeout=SLOW)
    browser.screenshot(alice, "start-refused")
    assert not re.search("sudo|/etc|try restarting", alice.inner_text("body"))
    assert "JUPYTER_USERS in /etc/sudoers.d/jupyterhub does not admit the account" in machine.journal("-u", "jupyterhub", "--since", "-60s")
