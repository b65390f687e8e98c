"""Accounts that exist in an LDAP directory only, with SSSD, as docs/directory.md has it."""

import re
import threading
import time

import pytest
from browser import SLOW, log_in
from directory import (  # noqa: F401 (pytest collects the tests among them)
    CROWD,
    EXAMPLES,
    PASSWORD,
    STRANGE_PASSWORDS,
    Directory,
    crowd_logs_in,
    settings,
    test_groups_in_the_hubs_configuration,
    test_home_is_made_at_the_first_start,
    test_nobody_else_is_admitted,
    test_primary_secondary_and_nested_groups_admit,
    test_strange_passwords,
)
from directory import PACKAGES as SLAPD
from harness import wait_for
from hubclient import HubError, HubUser, Prober, conversation
from playwright.sync_api import expect

PACKAGES = (
    *SLAPD,
    "sssd-ldap",
    "sssd-tools",
    "libnss-sss",
    "libpam-sss",
    "sssd-krb5",
    "sssd-kcm",
    "krb5-kdc",
    "krb5-admin-server",
    "krb5-user",
    "libpam-oath",
    "oathtool",
)
NEW = "Ldap-Sesame-48!"
SECRET = "3132333435363738393031323334353637383930"
TICKET = "Kerberos-Sesame-11!"  # not the password that LDAP knows


def is_online(machine):
    return "Online" in machine.sh("sssctl domain-status --online example.org || true")


def restart_sssd(machine):
    """SSSD forgets what it thinks of the directory, but no account."""
    # reset-failed: systemd counts the starts, and the tests want more of them than a person would.
    machine.sh("systemctl reset-failed sssd; systemctl restart sssd")
    wait_for(lambda: is_online(machine), "SSSD has reached the directory", timeout=30, every=0.2)


@pytest.fixture(scope="module")
def directory(machine, hub):
    directory = Directory(machine)
    machine.write("/etc/sssd/sssd.conf", (EXAMPLES / "sssd.conf").read_text(), mode=0o600)
    machine.write("/etc/pam.d/jupyterhub", (EXAMPLES / "pam-sssd").read_text())
    restart_sssd(machine)
    return directory


def test_wrong_password(hub, directory):
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("alice", "wrong")


@pytest.mark.parametrize("spelling", ["ALICE", "alice@example.org", "Alice@Example.ORG"])
def test_other_spellings_are_the_same_user(hub, directory, spelling):
    """Their server is the one that runs."""
    alice = hub.login(spelling, PASSWORD)
    assert alice.hub_api("GET", "/user").json()["name"] == "alice"
    alice.name = "alice"
    assert alice.server_ready
    assert alice.get("/user/alice/lab").status_code == 200


def test_administrators_add_accounts_of_the_directory_only(machine, hub, directory):
    with settings(machine, hub, "c.Authenticator.admin_users = {'alice'}"):
        alice = hub.login("alice", PASSWORD)
        assert alice.hub_api("POST", "/users", json={"usernames": ["dave"]}).status_code == 201
        with pytest.raises(HubError, match="spells it bob"):
            alice.hub_api("POST", "/users", json={"usernames": ["BOB"]})
        with pytest.raises(HubError, match="no account nobody-here"):
            alice.hub_api("POST", "/users", json={"usernames": ["nobody-here"]})


# Where the directory's policy (slapo-ppolicy) refuses even the right password, SSSD's log alone has the difference.
@pytest.mark.parametrize(
    "name, words",
    [
        ("reset", "Change your password now.*ssh"),
        ("disabled", "account has expired or is disabled"),
        ("locked", "Invalid username or password"),
        ("expired", "Invalid username or password"),
    ],
)
def test_state_of_the_account_is_said(hub, directory, suite, name, words):
    if name == "expired" and suite[0] == "debian:bookworm":  # its SSSD tells
        words = "Password expired.*ssh"
    with pytest.raises(HubError, match=words) as refused:
        hub.login(name, PASSWORD)
    assert refused.value.status == 403


def test_expired_password_is_changed_on_the_login_page(browser, hub, directory):
    """One page for each of SSSD's questions."""
    page = browser.page()
    page.goto("hub/login?next=%2Fhub%2Fhome")
    log_in(page, "novice", PASSWORD)
    expect(page.get_by_text("Change your password now")).to_be_visible(timeout=SLOW)
    expect(page.get_by_text("Not here? Change it first, for example with `ssh")).to_be_visible()
    for question in ("New Password:", "Reenter new Password:"):
        expect(page.get_by_label(question)).to_be_focused(timeout=SLOW)
        page.get_by_label(question).fill(NEW)
        browser.screenshot(page, f"login-{question.split()[0].lower()}-password")
        page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("button", name="Start My Server")).to_be_visible(timeout=SLOW)
    hub.login("novice", NEW)
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("novice", PASSWORD)


def test_new_passwords_that_differ(hub, directory):
    """SSSD's words, and where else to change it; the old one is in force."""
    with pytest.raises(HubError, match=r"Your password was not changed: Passwords do not match\. Change it first, for example with `ssh") as refused:
        hub.login("reset", PASSWORD, NEW, "another")
    assert refused.value.status == 403
    with pytest.raises(HubError, match=r"Change your password now.*New Password:"):
        hub.login("reset", PASSWORD)


def test_account_that_is_not_admitted_is_asked_for_no_new_password(machine, hub, directory):
    """That would tell that the old one is right."""
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("outsider", PASSWORD)
    assert re.search("'outsider' at 127.0.0.1 may not log in, and is not asked for more than the password: .", machine.journal("-u", "jupyterhub"))


@pytest.fixture
def slow_directory(machine, directory):
    machine.run("id", *CROWD)  # they have been here before: what the machine knows of them is not asked again
    directory.answers_after(2)
    restart_sssd(machine)
    yield
    directory.answers_after(0)
    restart_sssd(machine)


@pytest.mark.parametrize(
    "last, page",
    [
        pytest.param(20, 2, id="half as long as one after the other"),
        pytest.param(6, 0.5, id="quiet machine", marks=[pytest.mark.slow("seconds that a busy machine does not keep"), pytest.mark.alone]),
    ],
)
def test_slow_directory_delays_nobody_else(hub, slow_directory, last, page):
    """20 log in at once, and each question to the directory takes 2 s: each is in within `last` seconds, and the hub's pages take `page` at most."""
    alice = hub.login("alice", PASSWORD)
    for attempt in (1, 2, 3):
        seconds, slowest_page = crowd_logs_in(hub, Prober(alice, "/hub/home"))
        print(f"{attempt}: logins {min(seconds):.1f} to {max(seconds):.1f} s, slowest page {slowest_page:.2f} s")
        assert min(seconds) > 2, "the directory was not slow"
        if max(seconds) < last and slowest_page < page:
            break
    else:
        pytest.fail(f"slowest login {max(seconds):.1f} s, slowest page {slowest_page:.2f} s")


@pytest.fixture
def directory_down(machine, hub, directory):
    machine.run("id", "erin")  # known, but has never logged in
    alice = hub.login("alice", PASSWORD)
    directory.down()
    yield alice
    directory.up()
    restart_sssd(machine)


def test_directory_down(hub, directory_down):
    """Who has logged in before gets in, and who is in can start a server; others are told why not."""
    directory_down.stop()
    directory_down.spawn()
    alice = hub.login("alice", PASSWORD)
    assert alice.server_ready
    with pytest.raises(HubError, match="the directory that knows your password is out of reach"):
        hub.login("erin", PASSWORD)
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("alice", "wrong")


def test_directory_hangs(machine, hub, directory):
    """It accepts connections and never answers: the hub goes on meanwhile, and SSSD's cache lets alice in in the end."""
    alice = hub.login("alice", PASSWORD)
    machine.sh("systemctl kill --signal=STOP slapd")
    login = threading.Thread(target=hub.login, args=("alice", PASSWORD))
    try:
        with Prober(alice, "/hub/home") as probe:
            login.start()
            login.join(60)
        assert not login.is_alive()
        assert not probe.failures
        assert probe.longest_gap < 2
    finally:
        machine.sh("systemctl kill --signal=CONT slapd")


def test_hub_starts_without_the_directory(machine, hub, directory_down):
    started = time.time()
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    print(f"after {time.time() - started:.1f} s")
    assert "Traceback" not in machine.journal("-u", "jupyterhub", f"--since=@{int(started)}")


def test_account_removed_under_a_running_server(machine, hub, directory):
    """Gone is one of a directory when it is missing for a while; then its server ends, though sudo knows no such account, and so do cookie and token."""
    name = CROWD[-1]
    with settings(machine, hub, "c.SudoersPolicy.account_interval = 1; c.SudoersPolicy.account_memory = 4; c.Authenticator.auth_refresh_age = 1"):
        user = hub.login(name, PASSWORD)
        token = user.hub_api("POST", f"/users/{name}/tokens", json={}).json()["token"]
        user.spawn()
        uid = machine.sh(f"id -u {name}")
        directory.down()
        machine.sh("sleep 5")  # a directory that is away ends nobody, however long
        assert user.api("GET", "/status").ok
        directory.up()
        restart_sssd(machine)
        directory.remove(name)
        machine.sh(f"sss_cache --user={name}; ! id {name}")
        wait_for(lambda: not machine.sh(f"pgrep --uid {uid} || true"), "no process of the account is left", timeout=30)
        assert f"What {name} had at the hub ends" in machine.sh(f"journalctl -q -o cat JUPYTERHUB_EVENT=account-ended JUPYTERHUB_USER={name}")
        assert "/hub/login" in user.session.get(f"{hub.base}/hub/home", timeout=60).url
        program = HubUser(hub.base, name)
        assert program.session.get(f"{hub.base}/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=60).status_code == 403


@pytest.fixture(scope="module")
def kerberos(machine, hub, directory):
    """A KDC, and SSSD as docs/directory.md has it: accounts from LDAP, passwords from Kerberos."""
    machine.sh("echo '127.0.0.1 kdc.example.org' >>/etc/hosts")
    machine.write("/etc/krb5.conf", (EXAMPLES / "krb5.conf").read_text())
    machine.write("/etc/sssd/conf.d/kerberos.conf", (EXAMPLES / "sssd-kerberos.conf").read_text(), mode=0o600)
    machine.sh("kdb5_util create -s -r EXAMPLE.ORG -P master")
    # Not as arguments: journald notes those of everybody who logs something.
    commands = [f"addprinc -pw {TICKET} {name}" for name in ("alice", "bob", "carol")]
    machine.run("kadmin.local", input="\n".join([*commands, "modprinc -pwexpire 2020-01-01 bob", "modprinc -allow_tix carol", ""]))
    machine.sh("systemctl restart krb5-kdc")
    restart_sssd(machine)


def test_notebook_has_the_ticket(machine, hub, kerberos):
    """Of the login at the hub, which itself sees no ticket."""
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("alice", PASSWORD)
    alice = hub.login("alice", TICKET)
    alice.spawn()
    kernel = alice.kernel()
    assert "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG" in kernel.execute("!klist")
    assert "Ticket cache: KCM:" in kernel.execute("!klist")
    kernel.close()
    assert machine.run("klist", user="bob", check=False).returncode != 0
    assert machine.run("runuser", "-u", "jupyterhub", "--", "klist", check=False).returncode != 0


@pytest.mark.parametrize("name, words", [("bob", "Password expired.*ssh"), ("carol", "account is locked")])
def test_kerberos_says_what_is_in_the_way(hub, kerberos, name, words):
    with pytest.raises(HubError, match=words) as refused:
        hub.login(name, TICKET)
    assert refused.value.status == 403


@pytest.fixture(scope="module")
def second_factor(machine, hub, directory):
    """olga, who may use notebooks, and paul, who may not, have one; docs/examples/pam-oath. Returns what gives a code for a time from now (int, s)."""
    machine.sh("cp -p /etc/pam.d/jupyterhub /root/pam")
    machine.write("/etc/pam.d/jupyterhub", (EXAMPLES / "pam-oath").read_text())
    machine.add_user("olga", PASSWORD)
    machine.add_user("paul", PASSWORD, groups=())
    users = "".join(f"HOTP/T30/6 {name} - {SECRET}\n" for name in ("olga", "paul"))
    machine.run("runuser", "-u", "jupyterhub-login", "--", "sh", "-c", "umask 077; cat >>/var/lib/jupyterhub-login/users.oath", input=users)
    yield lambda seconds: machine.run("oathtool", "--totp", f"--now=now + {seconds} seconds", SECRET).stdout.strip()
    machine.sh("mv /root/pam /etc/pam.d/jupyterhub")


def test_second_factor(browser, machine, hub, second_factor):
    """pam_oath asks for it after the right password, and takes each code once."""
    page = browser.page()
    page.goto("hub/login?next=%2Fhub%2Fhome")
    log_in(page, "olga", PASSWORD)
    code = second_factor(0)
    page.get_by_label("One-time password (OATH) for `olga':").fill(code, timeout=SLOW)
    browser.screenshot(page, "login-code")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("button", name="Start My Server")).to_be_visible(timeout=SLOW)
    hub.login("olga", PASSWORD, second_factor(30))
    for wrong in ("000000", code, ""):
        with pytest.raises(HubError, match="Invalid username or password"):
            hub.login("olga", PASSWORD, wrong)
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("olga", "wrong", second_factor(60))
    assert machine.written(PASSWORD) == ""


def test_second_factor_is_asked_of_nobody_who_is_not_admitted(hub, second_factor):
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("paul", PASSWORD, second_factor(0))


def test_question_is_for_the_browser_that_was_asked_and_once(hub, second_factor):
    browsers = [HubUser(hub.base, "olga") for _ in range(2)]
    for visitor, agent in zip(browsers, ("one", "another"), strict=True):
        visitor.session.headers["User-Agent"] = agent
        visitor.get("/hub/login")
    asked, other = browsers
    form = asked.send_login({"username": "olga", "password": PASSWORD, "_xsrf": asked.xsrf("/hub/")})
    data = {"username": "olga", "conversation": conversation(form), "answer": second_factor(90)}
    for visitor, name in ((other, "olga"), (asked, "alice")):
        with pytest.raises(HubError, match="That took too long, or was answered before") as refused:
            visitor.send_login({**data, "username": name, "_xsrf": visitor.xsrf("/hub/")})
        assert refused.value.status == 403
    assert asked.send_login({**data, "_xsrf": asked.xsrf("/hub/")}).url.endswith("/hub/home")
    with pytest.raises(HubError, match="That took too long, or was answered before"):
        other.send_login({**data, "_xsrf": other.xsrf("/hub/")})


def test_many_questions_hold_up_nobody(machine, hub, second_factor):
    """Who knows one password can open many: four of an account are kept, none of them takes a turn of others."""
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    for _ in range(40):
        with pytest.raises(HubError, match="One-time password"):
            hub.login("olga", PASSWORD)
    processes = machine.sh("cat /sys/fs/cgroup$(systemctl show --value -p ControlGroup jupyterhub-login)/cgroup.procs").split()
    assert len(processes) == 1 + 4
    hub.login("olga", PASSWORD, second_factor(120))


@pytest.mark.parametrize("password", [PASSWORD, NEW, TICKET, *STRANGE_PASSWORDS])
def test_password_is_nowhere_in_the_logs(machine, kerberos, password):
    assert machine.written(password) == ""
