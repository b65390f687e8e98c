"""What a page of bob's server can do to alice who opens it: all that she can with one name for all servers, nothing where each has a host name of its own."""

import offloader
import pytest
from browser import idle, log_in, new_notebook, run_cell, wait_for_lab
from harness import wait_for
from hubclient import BASE, Hub
from playwright.sync_api import expect

pytestmark = pytest.mark.slow("a setting that is off as shipped, and nothing else touches what it changes")

PACKAGES = ("nginx", "openssl")
PASSWORD = "r1ght-Sesame!"
HOST = "jhub.example.org"
SITE = f"https://{HOST}"

# Opens a page of the hub's and reads the token of its forms there, which browsers let it within one origin. With that it asks for a token for the API, and
# with this for alice's files; else with her cookies alone.
PAGE = """<!DOCTYPE html>
<title>at work</title>
<script>
const [hub, server] = location.hash.slice(1).split("|");
const api = {};
async function tell(what) {
    try { return await what(); } catch (error) { return `refused: ${error}`; }
}
async function opened(address) {
    const other = window.open(address);
    for (let i = 0; i < 50 && !other.jhdata; i++) await new Promise(resolve => setTimeout(resolve, 100));
    return other.jhdata.xsrf_token;
}
async function token() {
    const form = await tell(() => opened(`${hub}/hub/token`));
    const headers = {"Content-Type": "application/json", ...(form.startsWith("refused") ? {} : {"X-XSRFToken": form})};
    const answer = await fetch(`${hub}/hub/api/users/alice/tokens`, {method: "POST", credentials: "include", headers, body: "{}"});
    api.Authorization = `token ${(await answer.json()).token}`;
    return api.Authorization;
}
async function files() {
    const answer = await fetch(`${server}/user/alice/api/contents`, {credentials: "include", headers: api});
    return `files ${(await answer.json()).content.map(file => file.name)}`;
}
async function blind() {
    await fetch(`${hub}/hub/api/users/alice/tokens`, {method: "POST", mode: "no-cors", credentials: "include", body: "{}"});
    return "sent";
}
(async () => {
    const said = [await tell(token), await tell(files), await tell(blind)];
    for (const name of ["jupyterhub-hub-login", "__Host-jupyterhub-hub-login"]) document.cookie = `${name}=bobs; domain=jhub.example.org; path=/; secure`;
    document.title = said.join("; ");
})();
</script>
"""

# The hub's pages have the same header, without which it would lose sight of what it has opened.
SETTINGS = """
c = get_config()
c.ServerApp.extra_static_paths = ["/home/bob/public"]
c.ServerApp.tornado_settings = {"headers": {"Cross-Origin-Opener-Policy": "same-origin"}}
"""


@pytest.fixture(scope="module", autouse=True)
def accounts(machine, hub, browser):
    """bob's server shows his page to everybody; alice has a file."""
    for name in ("alice", "bob"):
        machine.add_user(name, PASSWORD)
    machine.sh("mkdir -p ~/.jupyter ~/public; cat >~/public/page.html", user="bob", input=PAGE)
    machine.sh("cat >~/.jupyter/jupyter_server_config.py", user="bob", input=SETTINGS)
    machine.sh("echo words >~/letter.txt", user="alice")
    hub.login("bob", PASSWORD).spawn()
    browser.trust(offloader.self_signed(machine, names=(HOST, f"*.{HOST}")))


def made_tokens(machine):
    return machine.journal("_SYSTEMD_UNIT=jupyterhub.service", "JUPYTERHUB_EVENT=token", "JUPYTERHUB_USER=alice", "-o", "cat").splitlines()


def test_with_one_name_for_all_a_page_acts_as_who_opens_it(machine, browser):
    """What docs/security.md warns of, and the proof that the page below would do it if it could."""
    with browser.page(BASE) as page:
        page.goto(f"{BASE}/")
        log_in(page, "alice", PASSWORD)
        wait_for_lab(page)
        page.goto(f"{BASE}/user/bob/static/page.html#{BASE}|{BASE}")
        expect(page).not_to_have_title("at work", timeout=30_000)
        said = page.title()
    assert said.startswith("token ") and "files letter.txt" in said, said
    assert len(made_tokens(machine)) == 1


@pytest.fixture(scope="module")
def host_names(machine, hub):
    """The hub with a host name for each user, behind nginx, as docs/off-loader.md says."""
    setting = f"JUPYTERHUB_SUBDOMAIN_HOST={SITE}"
    assert f"\n        {setting.replace(HOST, 'YOUR.HOST.NAME')}\n" in offloader.page(machine)
    machine.run("jupyterhub-ctl", "stop", "--all")
    machine.sh(f"echo {setting} >>/etc/default/jupyterhub; echo '127.0.0.1 {HOST} name-of-a-user.{HOST}' >>/etc/hosts; systemctl restart jupyterhub-proxy")
    offloader.start(machine, offloader.NGINX, HOST)
    wait_for(lambda: machine.run("jupyterhub-ctl", "verify", "login-page", check=False).returncode == 0, "the hub is there, by its name", timeout=30)


def test_each_user_has_a_host_name(machine, browser, host_names):
    """bob's notebook works: pages, API and websockets."""
    with browser.page(SITE) as page:
        page.goto(f"{SITE}/user/bob/lab")  # an old link
        log_in(page, "bob", PASSWORD)
        page.goto(f"{SITE}/hub/spawn")
        wait_for_lab(page)
        assert page.url == f"https://bob.{HOST}/user/bob/lab"
        new_notebook(page)
        expect(run_cell(page, "6 * 7")).to_have_text("42")
        idle(page)


def test_message_of_root_reaches_the_page(machine, browser, host_names):
    with browser.page(SITE) as page:
        page.goto(f"{SITE}/hub/home")
        log_in(page, "bob", PASSWORD)
        page.goto(f"https://bob.{HOST}/user/bob/lab")
        wait_for_lab(page)
        machine.run("jupyterhub-ctl", "message", "lunch at noon")
        try:
            expect(page.locator("body")).to_contain_text("lunch at noon", timeout=20_000)
        finally:
            machine.run("jupyterhub-ctl", "message", "--clear")


def test_page_of_another_users_server_is_a_stranger(machine, browser, host_names):
    before = made_tokens(machine)
    with browser.page(SITE) as page:
        page.goto(SITE)
        log_in(page, "alice", PASSWORD)
        wait_for_lab(page)
        page.goto(f"https://bob.{HOST}/user/bob/static/page.html#{SITE}|https://alice.{HOST}")
        expect(page).not_to_have_title("at work", timeout=30_000)
        said = page.title().split("; ")
        assert [words.partition(":")[0] for words in said] == ["refused", "refused", "sent"], said
        assert made_tokens(machine) == before
        # Nor have the cookies that it set put her out, or another in her place.
        page.goto(f"{SITE}/hub/home")
        expect(page.get_by_text("alice").first).to_be_visible()


def test_verify_looks_at_proxy_and_names(machine, host_names):
    done = machine.run("jupyterhub-ctl", "verify", check=False)
    assert done.returncode == 0, done.stdout
    machine.sh("sed -i '/name-of-a-user/d' /etc/hosts")
    assert f"no user's server is found below {HOST}" in machine.run("jupyterhub-ctl", "verify", "host-names", check=False).stdout
    machine.sh("echo JUPYTERHUB_SUBDOMAIN_HOST= >>/etc/default/jupyterhub")
    done = machine.run("jupyterhub-ctl", "verify", "host-names", check=False)
    assert done.returncode == 5 and "systemctl restart jupyterhub-proxy" in done.stdout


def test_one_name_for_all_comes_back(machine, hub, host_names):
    machine.sh("jupyterhub-ctl stop --all; systemctl restart jupyterhub-proxy")
    wait_for(Hub().answers, "the hub answers at its address", timeout=30)
    hub.login("bob", PASSWORD).spawn()


def test_hub_refuses_what_its_proxy_does_not_know(machine, hub, host_names):
    """Before, the hub started and every page ended in a redirect, or in 503."""
    file = "/etc/jupyterhub/jupyterhub_config.d/50-test.py"
    for setting in ("internal_ssl = True", "subdomain_host = 'https://jhub.example.org'"):
        machine.write(file, f"c = get_config()\nc.JupyterHub.{setting}\n")
        assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
        words = f"c.JupyterHub.{setting.split()[0]} does not work"
        assert f"{file}:2: {words}" in machine.journal("-u", "jupyterhub", "-n", "20")
        assert machine.run("systemctl", "reload", "jupyterhub", check=False).returncode != 0
    machine.sh(f"rm {file}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
