"""What `jupyterhub-ctl message` says comes up in a browser: in JupyterLab, in Notebook, whatever the hub went through meanwhile."""

import pytest
from harness import wait_for
from playwright.sync_api import expect

LONG = "Long, so that nothing may be cut off. " * 12 + "The end."
SOON = 20_000  # ms; a page that the hub has left comes back within 10 s


@pytest.fixture(scope="module")
def lab(machine, hub, browser):
    """alice's JupyterLab, as she opens it."""
    machine.add_user("alice")
    page = browser.page()
    page.goto("/hub/login")
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/user/alice/lab**", timeout=120_000)
    expect(page.locator("#jp-MainLogo")).to_be_visible(timeout=120_000)
    return page


@pytest.fixture(scope="module")
def notebook(lab):
    """A page of Notebook 7 beside it."""
    page = lab.context.new_page()
    page.goto("/user/alice/tree")
    expect(page.locator("#jp-MainLogo, #jp-NotebookLogo").first).to_be_visible(timeout=120_000)
    return page


def toast(page):
    return page.locator(".Toastify__toast")


def test_no_message_no_notification(lab, notebook):
    expect(toast(lab)).to_have_count(0)
    assert lab.evaluate("'jupyterhub-message' in window._JUPYTERLAB")


def test_message_comes_up(machine, lab, notebook):
    machine.run("jupyterhub-ctl", "message", "Reboot at <b>6</b> p.m., *really*")
    for page in (lab, notebook):
        page.bring_to_front()
        expect(toast(page)).to_contain_text("Reboot at <b>6</b> p.m., *really*", timeout=SOON)


def test_another_takes_its_place(machine, lab, notebook):
    machine.run("jupyterhub-ctl", "message", LONG)
    for page in (lab, notebook):
        page.bring_to_front()
        expect(toast(page).filter(has_text="Reboot")).to_have_count(0, timeout=SOON)
        expect(toast(page)).to_have_count(1, timeout=SOON)


def test_it_can_be_read_to_its_end(lab):
    lab.bring_to_front()
    lab.get_by_role("button", name="Read all").click()
    dialog = lab.locator(".jp-Dialog")
    expect(dialog).to_contain_text("The end.")
    dialog.get_by_role("button", name="Close").click()


def test_page_that_is_opened_later_shows_it(lab):
    page = lab.context.new_page()
    page.goto("/user/alice/lab")
    expect(toast(page)).to_contain_text("Long, so that", timeout=SOON + 60_000)
    page.close()


def test_it_comes_back_with_the_hub(machine, hub, lab):
    """The page notices by itself that the hub is back, and does not show twice what it has shown."""
    machine.run("systemctl", "stop", "jupyterhub")
    machine.run("jupyterhub-ctl", "message", "written while the hub was down")
    machine.run("systemctl", "start", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    lab.bring_to_front()
    expect(toast(lab).filter(has_text="written while the hub was down")).to_be_visible(timeout=SOON)
    expect(toast(lab)).to_have_count(1, timeout=SOON)


def test_cleared(machine, lab, notebook):
    machine.run("jupyterhub-ctl", "message", "--clear")
    for page in (lab, notebook):
        page.bring_to_front()
        expect(toast(page)).to_have_count(0, timeout=SOON)
