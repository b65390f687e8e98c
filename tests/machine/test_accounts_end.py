"""Cookies and tokens of accounts that may not be used any more: they start nothing, and end; who is in is left alone where nothing is certain."""

import json
import re
import time

import pytest
from harness import wait_for
from hubclient import BASE, HubError, HubUser

CONFIG = "/etc/jupyterhub/jupyterhub_config.py"
LOGIN_CHECK = "jupyterhub-login.socket jupyterhub-login.service"

# What was done to the account `ends`: (command, the way back, what the page says, what the journal says)
ENDS = {
    "password locked": ("passwd -q --lock ends", "passwd -q --unlock ends", "Your account is locked", "its password is locked"),
    "expired": ("chage --expiredate 1970-01-02 ends", "chage --expiredate -1 ends", "account has expired", "PAM's account phase says"),
    "password expired": ("chage --lastday 0 ends", "chage --lastday 20000 ends", "[Pp]assword", "PAM's account phase says"),
    "nologin": ("usermod --shell /usr/sbin/nologin ends", "usermod --shell /bin/bash ends", "not for logins", "its shell is none"),
    "false": ("usermod --shell /bin/false ends", "usermod --shell /bin/bash ends", "not for logins", "its shell is none"),
    "shell missing": ("usermod --shell /opt/no/shell ends 2>&1", "usermod --shell /bin/bash ends", "not for logins", "it is missing"),
    "pam_access": (
        "cp -p /etc/pam.d/jupyterhub /root/; sed -i '1i account required pam_access.so' /etc/pam.d/jupyterhub; echo '-:ends:ALL' >>/etc/security/access.conf",
        "mv /root/jupyterhub /etc/pam.d/; sed -i '/^-:ends/d' /etc/security/access.conf",
        "may not (be used|log in) here",
        "PAM's account phase says",
    ),
}


@pytest.fixture(scope="module")
def short_memory(machine, hub):
    """Who is logged in is looked at anew every second."""
    machine.sh(f"echo 'c.Authenticator.auth_refresh_age = 1' >>{CONFIG}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)


@pytest.fixture(scope="module")
def ends(machine, hub, short_memory):
    """A user with a token."""
    machine.add_user("ends")
    user = hub.login("ends", "secret")
    user.token = user.hub_api("POST", "/users/ends/tokens", json={}).json()["token"]
    return user


def by_token(user, method, path):
    """Call the hub's REST API with the user's token, as a program does; return the answer, also a refusal."""
    program = HubUser(BASE, user.name)
    return program.session.request(method, f"{BASE}/hub/api{path}", headers={"Authorization": f"token {user.token}"}, timeout=60)


def servers(machine):
    return machine.sh("pgrep --uid ends --full jupyterhub-singleuser || true")


def refused(ask):
    with pytest.raises(HubError) as error:
        ask()
    return error.value.text


@pytest.mark.parametrize("name", ENDS)
def test_account_that_may_not_be_used(machine, hub, ends, name):
    make, back, words, reason = ENDS[name]
    machine.sh(f"date +@%s.%N >/tmp/begun; {make}")
    try:
        time.sleep(1.1)  # the refresh's age
        assert by_token(ends, "POST", "/users/ends/server").status_code == 403
        time.sleep(1.1)
        assert "/hub/login" in ends.session.get(f"{BASE}/hub/home", timeout=60).url  # the cookie
        said = refused(lambda: hub.login("ends", "secret"))
        pattern = "Invalid username" if name == "password locked" else words  # PAM knows it as no password at all
        assert re.search(pattern, said), said
        assert servers(machine) == ""
        assert reason in machine.journal("-u", "jupyterhub", f"--since={machine.sh('cat /tmp/begun')}")
    finally:
        machine.sh(back)
    assert by_token(ends, "GET", "/user").json()["name"] == "ends"


def test_start_says_why(machine, hub, ends):
    """The page of a start, and the answer to a program: where the account was looked at shortly before."""
    ends = again(hub, ends)
    machine.sh(f"sed -i 's/^c.Authenticator.auth_refresh_age.*/c.Authenticator.auth_refresh_age = 300/' {CONFIG}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    ends.get("/hub/home")
    assert by_token(ends, "GET", "/user").ok
    machine.sh("chage --expiredate 1970-01-02 ends")
    try:
        answer = by_token(ends, "POST", "/users/ends/server")
        assert answer.status_code in (400, 403) and "account has expired" in answer.text
        assert "Your account has expired; please contact your system administrator" in refused(ends.spawn)
        assert servers(machine) == ""
    finally:
        machine.sh("chage --expiredate -1 ends")


def again(hub, user):
    """Return the user, logged in anew, with the token."""
    found = hub.login(user.name, "secret")
    found.token = user.token
    return found


def test_closed_logins_leave_alone_who_is_in(machine, hub, ends):
    ends = again(hub, ends)
    ends.spawn()
    machine.add_user("late")
    late = hub.login("late", "secret")
    machine.sh("echo 'New disks until noon.' >/etc/nologin")
    try:
        assert "New disks until noon." in refused(late.spawn)
        assert "/hub/home" in late.get("/hub/home").url
        assert "New disks" in refused(lambda: hub.login("late", "secret"))
        assert ends.api("GET", "/status").ok
        machine.sh("chmod 600 /etc/nologin")  # as root's umask may have it
        assert "Logins are closed at the moment." in refused(late.spawn)
    finally:
        machine.sh("rm /etc/nologin")
    late.spawn()
    late.stop()
    ends.stop()


@pytest.mark.parametrize("how", ["stop", "kill --signal=STOP"])
def test_nobody_is_ended_where_nothing_is_certain(machine, hub, ends, how):
    """A directory that is down, or slow: the last answer counts, and the hub's pages do not wait."""
    good = again(hub, ends)
    good.get("/hub/home")
    machine.sh("systemctl start jupyterhub-login")
    machine.sh(f"systemctl {how} {LOGIN_CHECK if how == 'stop' else 'jupyterhub-login.service'}")
    try:
        good.spawn()
        good.stop()
    finally:
        machine.sh(f"systemctl kill --signal=CONT jupyterhub-login.service || true; systemctl restart {LOGIN_CHECK}")


def test_account_that_is_gone(machine, hub, ends):
    """Local files are certain: at once."""
    machine.sh(f"sed -i 's/^c.Authenticator.auth_refresh_age.*/c.Authenticator.auth_refresh_age = 1/' {CONFIG}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    gone = again(hub, ends)
    time.sleep(1.1)
    machine.sh("loginctl terminate-user ends; sleep 1; userdel ends")
    assert "/hub/login" in gone.session.get(f"{BASE}/hub/home", timeout=60).url
    assert by_token(gone, "GET", "/user").status_code == 403


# -- An account made anew -------------------------------------------------------------------------------------------------------------

ANEW = "userdel --force --remove {name} 2>/dev/null; useradd --create-home {more} --shell /bin/bash --groups users {name}; echo {name}:secret | chpasswd"


@pytest.fixture(scope="module")
def looks(machine, hub, short_memory):
    """Accounts are looked at every second, also those of nobody who comes."""
    look_every(machine, hub, 1)


def look_every(machine, hub, seconds):
    machine.sh(f"sed -i '/account_interval/d; s/^c.Authenticator.auth_refresh_age.*/c.Authenticator.auth_refresh_age = {seconds}/' {CONFIG}")
    machine.sh(f"echo 'c.SudoersPolicy.account_interval = {seconds}' >>{CONFIG}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)


def somebody(machine, hub, name, spawn=True):
    """Return a new user with a token and, if so, a running server."""
    machine.add_user(name)
    user = hub.login(name, "secret")
    user.token = user.hub_api("POST", f"/users/{name}/tokens", json={}).json()["token"]
    if spawn:
        user.spawn()
    return user


def is_out(user):
    return by_token(user, "GET", "/user").status_code == 403 and "/hub/login" in user.session.get(f"{BASE}/hub/home", timeout=60).url


def ended(machine, name):
    """Return what the record says of accounts that have ended."""
    fields = "_SYSTEMD_UNIT=jupyterhub.service", "JUPYTERHUB_EVENT=account-ended", f"JUPYTERHUB_USER={name}"
    return machine.sh(f"journalctl -q -o cat {' '.join(fields)}").splitlines()


def processes(machine, uid):
    return machine.sh(f"pgrep --uid {uid} --full jupyterhub-singleuser || true")


def test_account_made_anew_with_the_same_uid(machine, hub, looks):
    """Cookie, token and server of the one before end; the new one begins with nothing."""
    old = somebody(machine, hub, "anew")
    uid = machine.sh("id -u anew")
    assert processes(machine, uid)
    machine.sh(ANEW.format(name="anew", more=f"--uid {uid}"))
    assert not by_token(old, "POST", "/users/anew/server").ok  # whoever is first: this, or the look
    wait_for(lambda: is_out(old), "cookie and token have ended", timeout=15)
    wait_for(lambda: not processes(machine, uid), "the server has ended", timeout=30)
    assert ["another one" in line or "no such account" in line for line in ended(machine, "anew")] == [True]
    new = hub.login("anew", "secret")
    assert not new.hub_api("GET", "/users/anew/tokens").json()["api_tokens"]
    new.spawn()
    wait_for(lambda: is_out(old), "still", timeout=5)
    time.sleep(2.1)  # two looks
    assert new.api("GET", "/status").ok and len(ended(machine, "anew")) == 1
    new.stop()


def test_login_ends_what_the_one_before_had(machine, hub, looks):
    """Where nobody has looked in between: the home is gone, and to be made by the login."""
    look_every(machine, hub, 300)
    try:
        old = somebody(machine, hub, "again", spawn=False)
        machine.sh(ANEW.format(name="again", more=f"--uid {machine.sh('id -u again')}").replace("--create-home", "--no-create-home"))
        assert "home folder is gone" in refused(old.spawn)
        new = hub.login("again", "secret")
        assert is_out(old)
        new.spawn()
        new.stop()
        assert len(ended(machine, "again")) == 1
    finally:
        look_every(machine, hub, 1)


@pytest.mark.slow("the other half of test_account_made_anew_with_the_same_uid")
def test_home_that_is_moved_is_no_other_account(machine, hub, looks):
    """With its times, as mv, rsync -a and usermod do it; in use or not. So is one that is not there for a while, as that of a disk that is away."""
    user = somebody(machine, hub, "mover")
    machine.sh("mv /home/mover /home/elsewhere; sleep 2.1")
    assert not is_out(user)
    machine.sh("cp -a /home/elsewhere /home/mover; rm -r /home/elsewhere; sleep 2.1")
    assert not is_out(user) and user.api("GET", "/status").ok and ended(machine, "mover") == []
    user.stop()
    user.spawn()
    user.stop()


@pytest.mark.slow("uids, which a rename keeps")
def test_renamed_account_has_its_files(machine, hub, looks):
    """As in a directory, while its server runs: what the name before had at the hub ends, the new one begins, in the same home."""
    old = somebody(machine, hub, "maiden")
    uid = machine.sh("id -u maiden")
    old.run_cell("open('kept', 'w').write('of maiden')")
    machine.sh(r"sed -i 's/\bmaiden\b/married/; s,/home/married,/home/maiden,' /etc/passwd /etc/shadow /etc/group /etc/gshadow")
    new = hub.login("married", "secret")
    new.spawn()  # at once, and not only when the old server has ended
    assert new.run_cell("open('kept').read()") == "'of maiden'"
    wait_for(lambda: is_out(old), "cookie and token have ended", timeout=15)
    wait_for(lambda: len(processes(machine, uid).split()) == 1, "the old server has ended", timeout=30)
    assert new.api("GET", "/status").ok and new.get("/hub/home").ok
    assert ["no such account" in line for line in ended(machine, "maiden")] == [True]
    new.stop()


# -- Servers without an account -------------------------------------------------------------------------------------------------------


def test_server_of_an_account_that_is_gone_ends(machine, hub, looks):
    """Also with nobody's help, by its session, for sudo knows no such account any more; with what else is in the session."""
    user = somebody(machine, hub, "left")
    uid = machine.sh("id -u left")
    user.kernel().execute("import subprocess; subprocess.Popen(['setsid', 'sleep', '7171'])")
    machine.sh("userdel --force left 2>/dev/null || true")
    wait_for(lambda: not machine.sh(f"pgrep --uid {uid} --full 'jupyterhub-singleuser|sleep 7171' || true"), "server and kernels have ended", timeout=30)
    assert "no such account" in ended(machine, "left")[0]
    assert "is not one" not in machine.journal("-u", "jupyterhub", "-p", "err")
    machine.sh("rm -r /home/left")


def test_server_of_the_uid_before_ends(machine, hub, looks):
    old = somebody(machine, hub, "renumber")
    uid = machine.sh("id -u renumber")
    machine.sh(ANEW.format(name="renumber", more="--uid 4711"))
    wait_for(lambda: not processes(machine, uid), "the server has ended", timeout=30)
    assert is_out(old) and processes(machine, 4711) == ""
    assert ["its uid is 4711" in line or "no such account" in line for line in ended(machine, "renumber")] == [True]


def test_stop_fails_where_it_cannot(machine, hub, looks):
    """The page and jupyterhub-ctl say so; verify names the process, and how to end it."""
    look_every(machine, hub, 300)
    user = somebody(machine, hub, "stays")
    uid = machine.sh("id -u stays")
    pid = processes(machine, uid)
    machine.sh("systemctl stop jupyterhub-sessions.socket; userdel --force stays 2>/dev/null || true")
    try:
        stopped = machine.run("jupyterhub-ctl", "stop", "stays", check=False)
        assert stopped.returncode != 0 and f"could not be stopped, process {pid} still runs" in stopped.stderr
        assert "jupyterhub-sessions.sock does not answer" in stopped.stderr
        assert processes(machine, uid) == pid
        assert "was to be stopped by service jupyterhub-ctl" in machine.sh("journalctl -q -o cat _SYSTEMD_UNIT=jupyterhub.service JUPYTERHUB_EVENT=stop-failed")
        said = machine.run("jupyterhub-ctl", "verify", "servers", "--json", check=False).stdout
        assert f"a notebook server of {uid} runs that the hub does not know: process {pid}" in said
        (command,) = re.findall(r"systemctl stop session-\w+\.scope", said)
        machine.sh(command)
        wait_for(lambda: not processes(machine, uid), "the server has ended", timeout=15)
        assert '"passed"' in machine.run("jupyterhub-ctl", "verify", "servers", "--json", check=False).stdout
    finally:
        machine.sh("systemctl start jupyterhub-sessions.socket")
    assert user


def test_helper_ends_sessions_of_notebook_servers_alone(machine, hub, looks):
    """Neither other sessions of an account nor what is not in one, whoever asks."""
    machine.add_user("busy")
    machine.sh("systemd-run --quiet --unit=of-busy --uid=busy --property=PAMName=login sleep 7272; systemd-run --quiet --unit=of-root sleep 7273")
    try:
        for what in ("7272", "7273"):
            pid = int(wait_for(lambda what=what: machine.sh(f"pgrep --newest --full '^[^ ]*sleep {what}$' || true"), "it runs"))
            started = machine.sh(f"echo $(cat /proc/sys/kernel/random/boot_id)/$(cut -d' ' -f22 /proc/{pid}/stat)")
            request = json.dumps({"pid": pid, "started": started, "seconds": 1})
            answer = machine.run("/usr/libexec/jupyterhub/session-helper", input=request + "\n").stdout
            assert not json.loads(answer)["ok"], answer
            assert machine.sh(f"cat /proc/{pid}/comm") == "sleep"
        assert machine.sh("stat --format='%U %a' /run/jupyterhub-sessions.sock") == "jupyterhub 600"
    finally:
        machine.sh("systemctl stop of-busy of-root")
