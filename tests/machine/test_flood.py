"""Many wrong passwords and large requests are of no harm to others; jupyterhub-ctl shows and lifts what is counted."""

import concurrent.futures
import json
import re
import socket
import time

import pytest
import requests
from cases import further
from hubclient import BASE, HubError, HubUser, page_text

PASSWORD = "r1ght-Sesame!"
TOO_MANY = r"or too many wrong ones before\. Try again in \d+ minutes"
THERE, ELSEWHERE = "192.0.2.7", "192.0.2.8"  # RFC 5737's, as a web server on this machine would name them


@pytest.fixture(scope="module", autouse=True)
def accounts(machine, hub):
    for name in ("alice", "bob", "carl"):
        machine.add_user(name, PASSWORD)
        hub.login(name, PASSWORD)


def log_in(name, password, address=None):
    """Log in as a browser at `address` does, behind a web server of this machine; return the answer."""
    visitor = HubUser(BASE, name)
    if address:
        visitor.session.headers["X-Forwarded-For"] = address
    visitor.session.get(f"{BASE}/hub/login", timeout=60)
    data = {"username": name, "password": password, "_xsrf": visitor.xsrf("/hub/")}
    return visitor.session.post(f"{BASE}/hub/login?next=/hub/home", data=data, timeout=120)


def is_in(answer):
    return answer.status_code == 200 and answer.url.endswith("/hub/home")


def guesses(count, name="alice", address=None, threads=20):
    """Try that many passwords, of accounts that there are not where `name` has a number; return the pages' words."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        answers = pool.map(lambda number: log_in(name.format(number), f"guess-{number}", address), range(count))
        return [page_text(answer) for answer in answers]


def lift(machine, *names):
    for name in names:
        machine.run("jupyterhub-ctl", "logins", "--lift", name)


def listed(machine):
    return {(row["account"], row["address"]): row for row in json.loads(machine.run("jupyterhub-ctl", "logins", "--json").stdout)}


@pytest.mark.parametrize("name", further(["stranger-{}", "carl"], ["carl"], "the same flood, by names that no account has"))
def test_hundred_and_fifty_wrong_logins_at_once_make_nobody_wait(machine, name):
    """All from the same address as alice's, in the worst case. Before, she waited for all of them."""
    with concurrent.futures.ThreadPoolExecutor(1) as attack:
        crowd = attack.submit(guesses, 150, name, None, 150)
        time.sleep(1)
        assert not crowd.done()
        begun = time.monotonic()
        assert is_in(log_in("alice", PASSWORD))
        assert time.monotonic() - begun < 6
        assert all("Invalid username or password" in words for words in crowd.result())
    lift(machine, "carl")


def test_account_is_limited_and_its_owner_is_not_locked_out(machine):
    said = guesses(25, "alice", THERE)
    assert sum(bool(re.search(TOO_MANY, words)) for words in said) == 5
    # Not even the right password is looked at there any more, nor where nobody has logged in as alice yet.
    for address in (THERE, ELSEWHERE):
        answer = log_in("alice", PASSWORD, address)
        assert answer.status_code == 429 and re.search(TOO_MANY, page_text(answer))
    assert is_in(log_in("alice", PASSWORD))
    assert is_in(log_in("bob", PASSWORD, THERE))


def test_counts_are_shown_and_lifted(machine):
    rows = listed(machine)
    assert rows["alice", None]["wrong"] == 20 and 0 < rows["alice", None]["wait"] <= 901
    assert rows[None, THERE]["wrong"] == 20 and rows[None, THERE]["wait"] == 0
    assert re.search(r"(?m)^alice\t-\t20\t1[45] min$", machine.run("jupyterhub-ctl", "logins").stdout)
    assert machine.run("jupyterhub-ctl", "logins", "--lift", "alice").stdout == "forgotten: the wrong logins of alice\n"
    assert machine.run("jupyterhub-ctl", "logins", "--lift", "alice").stdout == "there were no wrong logins of alice\n"
    assert is_in(log_in("alice", PASSWORD, ELSEWHERE))
    assert re.search(r"Too many wrong logins of 'alice' at 192\.0\.2\.[78]: the next is looked at in \d+ s", machine.journal("-u", "jupyterhub"))


def test_counts_are_for_root(hub, machine):
    alice = hub.login("alice", PASSWORD)
    for method in ("GET", "DELETE"):
        with pytest.raises(HubError, match=r"This is for jupyterhub-ctl\.") as refused:
            alice.hub_api(method, "/wrong-logins?of=alice")
        assert refused.value.status == 403
    machine.run("usermod", "--append", "--groups", "users", "nobody")
    assert machine.run("setpriv", "--reuid=nobody", "--clear-groups", "jupyterhub-ctl", "logins", check=False).returncode == 4


def test_address_is_limited_over_all_accounts(machine):
    lift(machine, THERE)
    said = guesses(110, "stranger-{}", THERE)
    assert sum(bool(re.search(TOO_MANY, words)) for words in said) == 10
    assert log_in("carl", PASSWORD, THERE).status_code == 429
    assert is_in(log_in("bob", PASSWORD, THERE))  # who was there before
    assert is_in(log_in("bob", PASSWORD, ELSEWHERE))
    assert is_in(log_in("bob", PASSWORD))
    lift(machine, THERE)
    assert is_in(log_in("carl", PASSWORD, THERE))


@pytest.mark.parametrize("name", ["X-Real-IP", "X-Scheme", "Forwarded"])
def test_address_is_not_what_the_browser_says(machine, hub, name):
    visitor = HubUser(BASE, "bob")
    visitor.session.headers[name] = "198.51.100.9"
    visitor.session.get(f"{BASE}/hub/login")
    visitor.session.post(f"{BASE}/hub/login", data={"username": "bob", "password": f"by {name}", "_xsrf": visitor.xsrf("/hub/")}, timeout=60)
    said = [line for line in machine.journal("-u", "jupyterhub").splitlines() if "PAM did not let 'bob'" in line]
    assert "127.0.0.1" in said[-1] and "198.51.100.9" not in said[-1]


# -- Large requests ----------------------------------------------------------------------------------------------------------------


def memory(machine):
    """Return the hub's memory (RSS) in MB."""
    return int(machine.sh(f"awk '/^VmRSS/ {{print $2}}' /proc/{machine.pid_of('jupyterhub')}/status")) >> 10


PATHS = ["/hub/login", "/hub/api/users/alice/tokens", "/hub/spawn", "/hub/security/csp-report"]


@pytest.mark.parametrize("path", PATHS)
def test_half_sent_bodies_take_no_memory(machine, hub, path):
    """Four times 90 of 95 MB at the hub's own port."""
    before = memory(machine)
    connections = [socket.create_connection(("127.0.0.1", 8081)) for _ in range(4)]
    try:
        for connection in connections:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 95000000\r\n\r\n".encode())
        for _ in range(90):
            for connection in connections:
                connection.sendall(b"x" * 1_000_000)
        time.sleep(0.5)
        assert memory(machine) - before < 30
        assert hub.answers()
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_large_body_is_answered_once(machine, path, chunked):
    """Through the proxy, whole."""
    body = b"x" * 20_000_000
    content = iter([body[:5_000_000]] * 4) if chunked else body
    answer = requests.post(f"{BASE}{path}", data=content, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code == 413
    assert answer.json() == {"status": 413, "message": "The request is too large: at most 1048576 bytes are taken here."}
    assert "its body has more than 1048576 bytes" in machine.journal("-u", "jupyterhub")


def test_request_of_a_usual_size_is_taken(hub):
    alice = hub.login("alice", PASSWORD)
    note = {"note": "usual", "more": "x" * 1_000_000}
    assert alice.hub_api("POST", "/users/alice/tokens", json=note).status_code == 201


def test_site_can_take_more(machine, hub):
    from directory import settings

    with settings(machine, hub, 'c.JupyterHub.tornado_settings = {"body_max": 3_000_000}'):
        alice = hub.login("alice", PASSWORD)
        assert alice.hub_api("POST", "/users/alice/tokens", json={"more": "x" * 2_900_000}).status_code == 201
        assert requests.post(f"{BASE}/hub/login", data=b"x" * 3_100_000, timeout=30).status_code == 413


@pytest.mark.slow("waits for a minute")
def test_body_that_does_not_come_is_not_waited_for(machine, hub):
    """Nor does one that comes drop by drop hold its connection for longer than a minute."""
    with socket.create_connection(("127.0.0.1", 8081)) as connection:
        connection.sendall(b"POST /hub/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        begun = time.monotonic()
        connection.settimeout(1)
        while time.monotonic() - begun < 75:
            try:
                connection.sendall(b"x")
                if connection.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 55 < time.monotonic() - begun < 70
