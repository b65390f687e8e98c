"""Who does not get in is told why, whatever was typed; nobody else notices, and no password is in a log."""

import concurrent.futures
import re
import time

import pytest
from directory import EXAMPLES, STRANGE_PASSWORDS
from harness import wait_for
from hubclient import HubError, HubUser, Prober, page_text

PASSWORD = "l0cal-Sesame!"
FAILLOCK = "/var/lib/jupyterhub-login/faillock"


@pytest.fixture(scope="module", autouse=True)
def alice(machine, hub):
    machine.add_user("alice", PASSWORD)
    return hub.login("alice", PASSWORD)


@pytest.fixture(autouse=True)
def no_stack_trace(machine, hub):
    """Nothing that is typed brings a part of the hub down."""
    pid = machine.pid_of("jupyterhub")
    machine.sh("date +@%s.%N >/tmp/started")
    yield
    assert "Traceback" not in machine.journal("-u", "jupyterhub", f"--since={machine.sh('cat /tmp/started')}")
    assert machine.pid_of("jupyterhub") == pid


@pytest.mark.parametrize("password", STRANGE_PASSWORDS)
def test_strange_passwords_work(machine, hub, password):
    machine.run("chpasswd", input=f"alice:{password}\n")
    hub.login("alice", password)
    machine.run("chpasswd", input=f"alice:{PASSWORD}\n")


@pytest.mark.parametrize("name", ["n" * 300, "../alice", "alice/../bob", "alice\0x", "alice\nroot", "alice\r\nX-Header: 1", "-alice", "--help", "", "ali ce"])
def test_strange_names_are_refused(hub, name):
    """Also with the right password: PAM would take what stands before a NUL for the name."""
    with pytest.raises(HubError, match="Invalid username or password") as refused:
        hub.login(name, PASSWORD)
    assert refused.value.status == 403


@pytest.mark.parametrize("password", ["", PASSWORD + "\0", "p" * 1_000_000])
def test_strange_passwords_are_refused(hub, password):
    with pytest.raises(HubError, match="Invalid username or password") as refused:
        hub.login("alice", password)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "form, status",
    [("", 400), ("username=alice", 400), ("password=x", 400), ("username=%ff%fe&password=x", 403), ("username=alice&password=%ff", 403)],
)
def test_forms_that_no_browser_sends(hub, form, status):
    visitor = HubUser(hub.base, "alice")
    visitor.get("/hub/login")
    body = f"{form}&_xsrf={visitor.xsrf('/hub/')}"
    answer = visitor.session.post(f"{hub.base}/hub/login", data=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == status
    assert ("has no user name or no password" if status == 400 else "Invalid username or password") in page_text(answer)


@pytest.mark.parametrize(
    "name, make, words",
    [
        ("must-change", "chage --lastday 0 must-change", "required to change your password.* Change it first, for example with `ssh"),
        ("too-old", "chage --lastday 2020-01-01 --maxdays 30 too-old", "required to change your password.* Change it first"),
        ("expired", "chage --expiredate 2020-01-01 expired", "account has expired"),
        ("locked", "usermod --lock locked", "Invalid username or password"),
    ],
)
def test_state_of_the_account_is_said(machine, hub, name, make, words):
    machine.add_user(name, PASSWORD)
    machine.sh(make)
    with pytest.raises(HubError, match=words) as refused:
        hub.login(name, PASSWORD)
    assert refused.value.status == 403


def test_state_of_the_account_is_said_to_its_owner_only(hub):
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("must-change", "wrong")


def test_nologin_is_said(machine, hub):
    machine.write("/etc/nologin", "Maintenance until noon.\n")
    try:
        with pytest.raises(HubError, match=r"Maintenance until noon\."):
            hub.login("alice", PASSWORD)
    finally:
        machine.run("rm", "/etc/nologin")


def threads_and_memory(machine):
    """Return the hub's number of threads and its memory (RSS) in MB."""
    status = machine.sh(f"cat /proc/{machine.pid_of('jupyterhub')}/status")
    return [int(re.search(rf"(?m)^{key}:\s+(\d+)", status)[1]) >> shift for key, shift in (("Threads", 0), ("VmRSS", 10))]


@pytest.mark.slow("a minute; test_flood has 150 at once each time")
def test_two_hundred_wrong_passwords(machine, hub, alice):
    """Within less than a minute. PAM lets each wait for 2 s; others log in meanwhile, and pages are there."""

    def guess(number):
        with pytest.raises(HubError, match="Invalid username or password"):
            hub.login("alice", f"guess-{number}")

    machine.add_user("bob", PASSWORD)
    threads, memory = threads_and_memory(machine)
    with concurrent.futures.ThreadPoolExecutor(20) as guessers, Prober(alice, "/hub/home") as probe:
        started = time.monotonic()
        guesses = [guessers.submit(guess, number) for number in range(200)]
        wait_for(lambda: sum(guess.done() for guess in guesses) > 20, "they are guessing", timeout=60)
        hub.login("bob", PASSWORD)
        assert not all(guess.done() for guess in guesses)
        for future in guesses:
            future.result()
        print(f"200 in {time.monotonic() - started:.0f} s, longest time without a page {probe.longest_gap:.2f} s")
    assert not probe.failures
    threads_after, memory_after = threads_and_memory(machine)
    assert threads_after <= threads + 5
    assert memory_after <= memory + 50
    # The one that listens is left.
    assert machine.sh("pgrep --full libexec/jupyterhub/[l]ogin-check").split() == [str(machine.pid_of("jupyterhub-login"))]
    # Most of them were not looked at: alice has to wait now, or be let in (test_flood.py).
    machine.run("jupyterhub-ctl", "logins", "--lift", "alice")


def test_faillock(machine, hub):
    """docs/examples/pam-faillock: locked after five wrong passwords, others not; the administrator unlocks."""
    machine.sh("cp -a /etc/pam.d/jupyterhub /root")
    machine.write("/etc/pam.d/jupyterhub", (EXAMPLES / "pam-faillock").read_text())
    machine.add_user("carl", PASSWORD)
    hub.login("carl", PASSWORD)
    for _ in range(5):
        with pytest.raises(HubError, match="Invalid username or password"):
            hub.login("carl", "wrong")
    with pytest.raises(HubError, match="account is locked due to 5 failed logins") as refused:
        hub.login("carl", PASSWORD)
    assert refused.value.status == 403
    hub.login("alice", PASSWORD)
    machine.run("faillock", "--dir", FAILLOCK, "--user", "carl", "--reset")
    hub.login("carl", PASSWORD)


def test_faillock_as_6_1_1_1_had_it(machine, hub):
    """Its folder was the hub's: a site's file that names it still locks."""
    machine.sh(f"sed -i 's,{FAILLOCK},/var/opt/jupyterhub/faillock,; s,deny=5,deny=1,' /etc/pam.d/jupyterhub")
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("carl", "wrong")
    with pytest.raises(HubError, match="account is locked due to 1 failed login"):
        hub.login("carl", PASSWORD)
    machine.run("faillock", "--dir", FAILLOCK, "--user", "carl", "--reset")
    hub.login("carl", PASSWORD)
    machine.sh("mv /root/jupyterhub /etc/pam.d/jupyterhub")


@pytest.mark.parametrize("password", [PASSWORD, *STRANGE_PASSWORDS, "guess-199"])
def test_password_is_nowhere_in_the_logs(machine, password):
    assert machine.written(password) == ""
