"""What the hub tells browsers: headers, cookies; and a logout that copies of a cookie do not outlive."""

import time

import pytest
import requests
from database import sql
from harness import wait_for
from hubclient import BASE, HubError, HubUser

PASSWORD = "r1ght-Sesame!"
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"}


@pytest.fixture(scope="module", autouse=True)
def accounts(machine, hub):
    machine.write("/etc/jupyterhub/jupyterhub_config.d/40-servers.py", "c = get_config()\nc.Spawner.args = ['--HubOAuth.cache_max_age=1']\n")
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    for name in ("alice", "bob"):
        machine.add_user(name, PASSWORD)


def set_by(answer):
    """Return the attributes of all cookies of an answer and those before it: {name: set of str}."""
    found = {}
    for each in [*answer.history, answer]:
        for line in each.raw.headers.getlist("Set-Cookie"):
            first, *attributes = [part.strip() for part in line.split(";")]
            name, _, value = first.partition("=")
            if value.strip('"'):  # else it is one that is taken away
                found[name] = set(attributes)
    return found


def log_in(name, **headers):
    visitor = HubUser(BASE, name)
    visitor.session.headers.update(headers)
    form = visitor.session.get(f"{BASE}/hub/login")
    # What is for HTTPS alone, the session would not send over HTTP.
    token = form.raw.headers.getlist("Set-Cookie")[0].partition("=")[2].partition(";")[0]
    data = {"username": name, "password": PASSWORD, "_xsrf": token}
    cookies = {cookie.name: cookie.value for cookie in visitor.session.cookies}
    answer = requests.post(f"{BASE}/hub/login?next=/hub/home", data=data, cookies=cookies, headers=headers, allow_redirects=False, timeout=60)
    assert answer.status_code == 302, answer.text
    return {**set_by(form), **set_by(answer)}


@pytest.mark.parametrize(
    "path", ["/hub/login", "/hub/home", "/hub/api/", "/hub/api/users/nobody", "/hub/static/css/style.min.css", "/hub/logo", "/hub/nothing-here"]
)
def test_headers(hub, path):
    alice = hub.login("alice", PASSWORD)
    for visitor in (alice.session, requests):
        answer = visitor.get(f"{BASE}{path}", timeout=30, allow_redirects=False)  # it is the hub's that counts, not that of a server where it leads to
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_headers_that_a_site_has_set_stay(machine, hub):
    from directory import settings

    with settings(machine, hub, 'c.JupyterHub.tornado_settings = {"headers": {"referrer-policy": "no-referrer"}, "cookie_options": {"samesite": "Strict"}}'):
        answer = requests.get(f"{BASE}/hub/login", timeout=30)
        assert answer.headers["Referrer-Policy"] == "no-referrer" and answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "SameSite=Strict" in log_in("alice")["jupyterhub-hub-login"]


def test_opener_policy_is_for_where_browsers_heed_it(hub):
    answer = requests.get(f"{BASE}/hub/login", headers={"Host": "jhub.example.org"}, timeout=30)
    assert "Cross-Origin-Opener-Policy" not in answer.headers
    answer = requests.get(f"{BASE}/hub/login", headers={"Host": "jhub.example.org", "X-Forwarded-Proto": "https"}, timeout=30)
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "headers, secure", [({}, False), ({"X-Forwarded-Proto": "https"}, True), ({"X-Scheme": "https"}, True)], ids=["http", "https", "scheme"]
)
def test_cookies(headers, secure):
    cookies = log_in("alice", **headers)
    assert {"_xsrf", "jupyterhub-hub-login", "jupyterhub-session-id"} <= cookies.keys()
    for name, attributes in cookies.items():
        assert "SameSite=Lax" in attributes, (name, attributes)
        assert ("Secure" in attributes) == secure, (name, attributes)


def test_cookies_of_servers(hub):
    alice = hub.login("alice", PASSWORD)
    alice.spawn()
    alice.session.cookies.clear(domain="127.0.0.1", path="/user/alice/")
    cookies = {name: attributes for name, attributes in set_by(alice.get("/user/alice/lab")).items() if name.startswith("jupyterhub-user-alice")}
    assert cookies and all("SameSite=Lax" in attributes for attributes in cookies.values()), cookies


def copy_of(user):
    """Return a browser with copies of a user's cookies."""
    copy = HubUser(BASE, user.name)
    copy.session.cookies.update(user.session.cookies)
    return copy


def test_copied_cookie_ends_with_the_logout(hub):
    alice, bob = hub.login("alice", PASSWORD), hub.login("bob", PASSWORD)
    alice.spawn()
    copy = copy_of(alice)
    assert copy.hub_api("GET", "/user").json()["name"] == "alice"
    assert copy.api("GET", "/contents").status_code == 200
    alice.get("/hub/logout")
    assert copy.get("/hub/home").url.startswith(f"{BASE}/hub/login")
    with pytest.raises((HubError, AssertionError)):
        copy.hub_api("GET", "/user")
    time.sleep(1.5)
    with pytest.raises(HubError) as refused:
        copy.api("GET", "/contents")
    assert refused.value.status in (403, 404)
    assert bob.hub_api("GET", "/user").json()["name"] == "bob"
    again = hub.login("alice", PASSWORD)
    assert again.hub_api("GET", "/user").json()["name"] == "alice"


def test_logout_holds_through_a_restart(machine, hub):
    alice = hub.login("alice", PASSWORD)
    copy = copy_of(alice)
    alice.get("/hub/logout")
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert copy.get("/hub/home").url.startswith(f"{BASE}/hub/login")


def test_logout_of_a_stranger_is_nobodys(hub):
    alice = hub.login("alice", PASSWORD)
    HubUser(BASE, "eve").get("/hub/logout")
    assert alice.hub_api("GET", "/user").json()["name"] == "alice"


# -- Logins that are not used ------------------------------------------------------------------------------------------------------

IDLE = 4  # seconds


@pytest.fixture(scope="module")
def idle(machine, hub):
    machine.sh(f"echo JUPYTERHUB_LOGIN_IDLE={IDLE}s >>/etc/default/jupyterhub; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)


def is_in(user, path="/hub/home"):
    return "/hub/login" not in user.session.get(f"{BASE}{path}", timeout=30).url


def test_login_ends_in_the_browser_that_is_not_used(hub, idle):
    used, forgotten = hub.login("bob", PASSWORD), hub.login("bob", PASSWORD)
    for _ in range(4):
        time.sleep(IDLE / 2.5)
        assert is_in(used)
    assert not is_in(forgotten)
    time.sleep(IDLE + 1)
    assert not is_in(used)
    assert is_in(hub.login("bob", PASSWORD))


def test_work_at_a_server_is_use(machine, hub, idle):
    """Of the same browser; until it is idle there, too."""
    alice, forgotten = hub.login("alice", PASSWORD), hub.login("alice", PASSWORD)
    token = alice.hub_api("POST", "/users/alice/tokens").json()["token"]
    alice.spawn()
    time.sleep(IDLE + 1)
    assert is_in(alice) and not is_in(forgotten)
    assert alice.api("GET", "/contents").status_code == 200
    machine.sh("systemctl stop jupyterhub")
    sql(machine, "UPDATE api_tokens SET last_activity = datetime('now', '-1 day'), created = datetime('now', '-1 day')")
    machine.sh("systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    time.sleep(IDLE + 1)
    with pytest.raises((HubError, AssertionError)):
        alice.api("GET", "/contents")
    assert not is_in(alice, "/user/alice/lab") and not is_in(alice)
    headers = {"Authorization": f"token {token}"}
    assert requests.get(f"{BASE}/hub/api/user", headers=headers, timeout=10).json()["name"] == "alice"
    again = hub.login("alice", PASSWORD)
    assert again.server_ready and again.get("/user/alice/lab").url == f"{BASE}/user/alice/lab"
