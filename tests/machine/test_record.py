"""Who logged in, was refused, started, stopped, made a token, entered a server: an entry of the journal each, which nobody forges; fail2ban reads it."""

import concurrent.futures
import json
import pathlib
import re

import pytest
from harness import wait_for
from hubclient import BASE, HubUser

PACKAGES = ("fail2ban",)
EXAMPLES = pathlib.Path(__file__).parents[2] / "docs/examples"
PASSWORD = "r1ght-Sesame!"
WRONG = "wr0ng-Sesame!"
HERE, THERE, ELSEWHERE = "127.0.0.1", "192.0.2.7", "2001:db8::7"  # RFC 5737's and 3849's, as a web server on this machine would name them
MATCH = ("_SYSTEMD_UNIT=jupyterhub.service", "SYSLOG_IDENTIFIER=jupyterhub")


@pytest.fixture(scope="module", autouse=True)
def accounts(machine, hub):
    """carol is an administrator, mallory may not use the hub."""
    for name in ("alice", "carol"):
        machine.add_user(name, PASSWORD)
    machine.add_user("mallory", PASSWORD, groups=())
    machine.sh("echo JUPYTERHUB_ADMIN_USERS=carol >>/etc/default/jupyterhub; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub is back", timeout=20)


@pytest.fixture
def new(machine):
    """A function that returns what was recorded since the test began: {field without JUPYTERHUB_: text} for each entry."""
    seen = machine.sh("journalctl -n 0 --show-cursor --no-pager | sed -n 's/^-- cursor: //p'")

    def new(*match):
        machine.sh("journalctl --sync")
        lines = machine.journal(f"--after-cursor={seen}", "--output=json", *(match or MATCH)).splitlines()
        return [{key.removeprefix("JUPYTERHUB_"): text for key, text in json.loads(line).items() if key.startswith("JUPYTERHUB_")} for line in lines]

    return new


def log_in(name, password, address=None):
    visitor = HubUser(BASE, name)
    if address:
        visitor.session.headers["X-Forwarded-For"] = address
    visitor.session.get(f"{BASE}/hub/login", timeout=60)
    data = {"username": name, "password": password, "_xsrf": visitor.xsrf("/hub/")}
    return visitor.session.post(f"{BASE}/hub/login?next=/hub/home", data=data, timeout=60)


def test_login(new):
    log_in("alice", PASSWORD, THERE)
    log_in("alice", PASSWORD, ELSEWHERE)
    assert new() == [{"EVENT": "login", "USER": "alice", "ADDRESS": address} for address in (THERE, ELSEWHERE)]


@pytest.mark.parametrize(
    "name, password, reason",
    [("alice", WRONG, "Authentication failure"), ("nobody-here", WRONG, "."), ("mallory", PASSWORD, "mallory|not allowed|sudo"), ("", "", ".")],
)
def test_refusal_has_its_reason(new, name, password, reason):
    log_in(name, password, THERE)
    (entry,) = new()
    assert re.search(reason, entry.pop("REASON")), entry
    assert entry == {"EVENT": "login-refused", "ADDRESS": THERE} | ({"USER": name} if name else {})


def test_too_many_wrong_ones_are_refused(machine, new):
    with concurrent.futures.ThreadPoolExecutor(25) as pool:
        list(pool.map(lambda _: log_in("stranger", WRONG, ELSEWHERE), range(25)))
    found = new()
    assert {entry["EVENT"] for entry in found} == {"login-refused"} and len(found) == 25
    assert len([entry for entry in found if "too many wrong ones" in entry["REASON"]]) == 5


def test_login_that_cannot_be_checked_is_no_refusal(machine, new):
    machine.sh("systemctl stop jupyterhub-spawner.socket")
    log_in("alice", PASSWORD, THERE)
    machine.sh("systemctl start jupyterhub-spawner.socket")
    (entry,) = new()
    assert (entry["EVENT"], entry["USER"]) == ("login-failed", "alice")


def test_start_and_stop_and_by_whom(machine, hub, new):
    alice, carol = hub.login("alice", PASSWORD), hub.login("carol", PASSWORD)
    alice.spawn()
    carol.hub_api("DELETE", "/users/alice/server")
    wait_for(lambda: not alice.server_ready, "her server has stopped", timeout=30)
    carol.hub_api("POST", "/users/alice/server")
    wait_for(lambda: alice.server_ready, "her server is there", timeout=30)
    machine.run("jupyterhub-ctl", "stop", "alice")
    wait_for(lambda: not alice.server_ready, "her server has stopped", timeout=30)
    alice.spawn()
    machine.sh("pkill -KILL -u alice -f jupyterhub-singleuser")
    wait_for(lambda: len(new()) == 8, "all is recorded", timeout=30)
    by_ctl = {"BY_SERVICE": "jupyterhub-ctl", "ADDRESS": HERE}
    assert new()[2:] == [
        {"EVENT": "start", "USER": "alice", "BY": "alice", "ADDRESS": HERE},
        {"EVENT": "stop", "USER": "alice", "BY": "carol", "ADDRESS": HERE},
        {"EVENT": "start", "USER": "alice", "BY": "carol", "ADDRESS": HERE},
        {"EVENT": "stop", "USER": "alice", **by_ctl},
        {"EVENT": "start", "USER": "alice", "BY": "alice", "ADDRESS": HERE},
        {"EVENT": "stop", "USER": "alice"},
    ]


def test_start_that_fails(machine, hub, new):
    alice = hub.login("alice", PASSWORD)
    machine.sh("chmod -x /usr/libexec/jupyterhub/sudospawner")
    try:
        with pytest.raises(AssertionError):
            alice.spawn()
    finally:
        machine.sh("chmod +x /usr/libexec/jupyterhub/sudospawner")
    _, entry = new()
    assert (entry["EVENT"], entry["USER"], entry["BY"]) == ("start-failed", "alice", "alice") and entry["REASON"]


def test_token(machine, hub, new):
    alice, carol = hub.login("alice", PASSWORD), hub.login("carol", PASSWORD)
    made = [alice.hub_api("POST", "/users/alice/tokens", json={"note": "n0te-of-hers"}).json()]
    made += [carol.hub_api("POST", "/users/alice/tokens", json={"expires_in": 3600}).json()]
    own, others = new()[2:]
    assert own == {"EVENT": "token", "USER": "alice", "BY": "alice", "ADDRESS": HERE, "TOKEN": made[0]["id"]}
    assert others == {"EVENT": "token", "USER": "alice", "BY": "carol", "ADDRESS": HERE, "TOKEN": made[1]["id"], "EXPIRES": made[1]["expires_at"]}
    for secret in (made[0]["token"], made[1]["token"], PASSWORD, WRONG):
        assert machine.written(secret) == ""


def test_administrator_enters_a_server(hub, new):
    alice, carol = hub.login("alice", PASSWORD), hub.login("carol", PASSWORD)
    alice.spawn()
    alice.get("/user/alice/lab")
    page = carol.get("/user/alice/lab")
    fields = re.findall(r'<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"', page.text)
    assert not [entry for entry in new() if entry["EVENT"] == "enter"]
    answer = carol.session.post(page.url, data=fields, headers={"Referer": page.url}, timeout=60)
    assert answer.url.startswith(f"{BASE}/user/alice/lab"), answer.text
    assert [entry for entry in new() if entry["EVENT"] == "enter"] == [{"EVENT": "enter", "USER": "alice", "BY": "carol", "ADDRESS": HERE}]


# -- Forgeries ---------------------------------------------------------------------------------------------------------------------

FORGED = "198.51.100.66"
# As they are typed, and recorded. Tornado makes blanks of some, and JupyterHub takes those around a name away.
NAMES = {
    "x\nJUPYTERHUB_EVENT=login": r"x\nJUPYTERHUB_EVENT=login",
    f"x\r\nLogin refused at {FORGED}:": r"x\r\nLogin refused...(34 characters)",
    f"at {FORGED}: 'x": f"at {FORGED}: 'x",
    "x\x1b[2K\x9b1Aalice": r"x [2K\x9b1Aalice",
    "x\u202eecila\u2028x": r"x\u202eecila\u2028x",
    "größe": "größe",
    "n" * 5000: "n" * 16 + "...(5000 characters)",
}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_stay_in_their_field_and_line(machine, new, name):
    log_in(name, WRONG, THERE)
    (entry,) = new()
    assert entry.pop("REASON") and entry == {"EVENT": "login-refused", "USER": NAMES[name], "ADDRESS": THERE}
    lines = machine.journal("--output=cat", "-n", "1", *MATCH).splitlines()
    assert len(lines) == 1 and lines[0].isprintable() and lines[0].startswith(f"Login refused at {THERE}: ")


def test_other_accounts_write_none_of_the_units(machine, new):
    """Where one asks as the documentation says."""
    fields = ["MESSAGE=Login refused at 203.0.113.9: 'x'", "JUPYTERHUB_EVENT=login-refused", "SYSLOG_IDENTIFIER=jupyterhub", *MATCH[:1]]
    machine.run("logger", "--journald", input="\n".join(fields) + "\n", user="mallory")
    assert new("JUPYTERHUB_EVENT=login-refused") == [{"EVENT": "login-refused"}]
    assert new() == []


# -- fail2ban ----------------------------------------------------------------------------------------------------------------------


def test_fail2ban_finds_addresses(machine):
    """Of refusals, those above; not of logins, starts or what names look like."""
    machine.write("/etc/fail2ban/filter.d/jupyterhub.conf", (EXAMPLES / "fail2ban-filter.conf").read_text())
    found = machine.sh("fail2ban-regex -o ip systemd-journal /etc/fail2ban/filter.d/jupyterhub.conf", timeout=120).split()
    entries = machine.journal("--output=json", MATCH[0], "JUPYTERHUB_EVENT=login-refused").splitlines()
    assert sorted(found) == sorted(json.loads(line)["JUPYTERHUB_ADDRESS"] for line in entries)
    assert set(found) == {THERE, ELSEWHERE}


def test_fail2ban_bans(machine):
    machine.write("/etc/fail2ban/jail.d/jupyterhub.conf", (EXAMPLES / "fail2ban-jail.conf").read_text())
    machine.write("/etc/fail2ban/jail.d/test.local", "[jupyterhub]\naction = dummy\n")  # a machine without a packet filter
    machine.sh("systemctl restart fail2ban")
    wait_for(lambda: ELSEWHERE in machine.sh("fail2ban-client status jupyterhub || true"), "the address is banned", timeout=30, every=0.5)
    assert FORGED not in machine.sh("fail2ban-client status jupyterhub")
