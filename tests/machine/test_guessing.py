"""Who tries passwords learns nothing but that they are wrong, and holds up nobody.

bob and root are not admitted. Every right password of theirs, and every wrong one, is answered as a wrong one of alice's, who is.
"""

import statistics
import time

import pytest
import requests
from hubclient import HubUser, page_text

PASSWORD = "r1ght-Sesame!"
WRONG = "wr0ng-Sesame!"


@pytest.fixture(scope="module", autouse=True)
def accounts(machine, hub):
    machine.add_user("alice", PASSWORD)
    machine.add_user("bob", PASSWORD, groups=())
    machine.run("chpasswd", input=f"root:{PASSWORD}\n")
    for name, make in {"expired": "--expiredate 2020-01-01", "must-change": "--lastday 0"}.items():
        machine.add_user(name, PASSWORD, groups=())
        machine.sh(f"chage {make} {name}")
    hub.login("alice", PASSWORD).get("/hub/home")


def refusal(hub, name, password):
    """Return what a browser gets (status, headers, page), with the name that was typed taken out, and how long it took in seconds."""
    visitor = HubUser(hub.base, name)
    visitor.get("/hub/login")
    data = {"username": name, "password": password, "_xsrf": visitor.xsrf("/hub/")}
    begun = time.monotonic()
    answer = visitor.session.post(f"{hub.base}/hub/login", data=data, timeout=60)
    seconds = time.monotonic() - begun
    headers = sorted(name for name in answer.headers)
    return (answer.status_code, headers, page_text(answer).replace(name, "NAME")), seconds


@pytest.mark.parametrize("password", [PASSWORD, WRONG])
@pytest.mark.parametrize("name", ["bob", "root", "nobody-here", "expired", "must-change", "jupyterhub"])
def test_account_that_is_not_admitted_is_answered_as_a_wrong_password(hub, name, password):
    wrong, _ = refusal(hub, "alice", WRONG)
    said, _ = refusal(hub, name, password)
    assert wrong[0] == 403 and "Invalid username or password" in wrong[2]
    assert said == wrong


def test_account_that_the_configuration_keeps_out_is_answered_alike(machine, hub):
    from directory import settings

    with settings(machine, hub, 'c.Authenticator.allowed_users = {"alice"}'):
        machine.add_user("carl", PASSWORD)
        assert refusal(hub, "carl", PASSWORD)[0] == refusal(hub, "alice", WRONG)[0]
    assert "carl may not log in: allowed_users" in machine.journal("-u", "jupyterhub")


@pytest.mark.slow("some hundred logins, for their times")
def test_time_tells_nothing(hub):
    """The medians of right and wrong are closer than what checking takes."""
    seconds = {password: [refusal(hub, "bob", password)[1] for _ in range(5)] for password in (PASSWORD, WRONG)}
    assert abs(statistics.median(seconds[PASSWORD]) - statistics.median(seconds[WRONG])) < 0.05, seconds


def test_reason_is_in_the_journal(machine, hub):
    said = machine.journal("-u", "jupyterhub")
    for name in ("bob", "root"):
        assert f"{name} may not log in: " in said
    assert PASSWORD not in said and WRONG not in said


# -- The API -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, password", [("alice", PASSWORD), ("alice", WRONG), ("bob", PASSWORD), ("nobody-here", WRONG)])
@pytest.mark.parametrize("address", ["http://127.0.0.1:8000", "http://127.0.0.1:8081"])
def test_api_takes_no_passwords(machine, address, name, password):
    """It would be a way around what limits guesses at the form, also that of a reverse proxy. PAM is not asked."""
    machine.sh("date +@%s.%N >/tmp/began")
    answer = requests.post(f"{address}/hub/api/users/{name}/tokens", json={"auth": {"username": name, "password": password}}, timeout=10)
    assert (answer.status_code, answer.json()["message"]) == (403, "Passwords are taken by the login page only: log in there, or send a token, to get another.")
    assert "pam" not in machine.sh('journalctl --since="$(cat /tmp/began)" --no-pager').lower()


def test_api_makes_tokens_for_who_has_logged_in_or_has_one(hub):
    alice = hub.login("alice", PASSWORD)
    token = alice.hub_api("POST", "/users/alice/tokens", json={"note": "first"}).json()["token"]
    headers = {"Authorization": f"token {token}"}
    answer = requests.post(f"{hub.base}/hub/api/users/alice/tokens", json={"note": "second"}, headers=headers, timeout=10)
    assert answer.status_code == 201 and answer.json()["note"] == "second"


@pytest.mark.parametrize("note", ["n" * 1024, "n" * 500_000, ["n"], {"n": 1}, 7])
def test_note_of_a_token_is_a_short_text(hub, note):
    alice = hub.login("alice", PASSWORD)
    alice.get("/hub/home")
    headers = {"X-XSRFToken": alice.xsrf("/hub/"), "Referer": f"{hub.base}/hub/home"}
    answer = alice.session.post(f"{hub.base}/hub/api/users/alice/tokens", json={"note": note}, headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["message"]) == (400, "The note of a token is a text of at most 1023 characters.")
    assert alice.hub_api("POST", "/users/alice/tokens", json={"note": "n" * 1023}).json()["note"] == "n" * 1023
