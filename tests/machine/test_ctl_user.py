"""jupyterhub-ctl user, logs: who is let in, what the hub has of somebody, and how that ends; the page about it, followed word for word."""

import json
import pathlib
import re
import sys

import pytest
from harness import wait_for
from hubclient import BASE, HubError, HubUser, page_text, with_server

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import blocks

CTL = "jupyterhub-ctl"
RULES = "/etc/sudoers.d/zzz-jupyterhub-users"
PACKAGES = ("bash-completion", "cron")


def ctl(machine, *arguments, check=True, **options):
    return machine.run(CTL, *arguments, check=check, **options)


def refused(machine, code, *arguments):
    """Return the one line on stderr of a command that must fail with exit code `code`, and leave the rules as they are."""
    before = machine.sh(f"cat {RULES} 2>/dev/null || true")
    result = ctl(machine, *arguments, check=False)
    assert (result.returncode, result.stdout) == (code, ""), result.stdout + result.stderr
    assert result.stderr.startswith(f"{CTL}: ") and result.stderr.count("\n") == 1, result.stderr
    assert machine.sh(f"cat {RULES} 2>/dev/null || true") == before
    assert machine.sh("ls -A /etc/sudoers.d").split() in (["README", "jupyterhub"], ["README", "jupyterhub", "zzz-jupyterhub-users"])
    return result.stderr


def admits(machine, name):
    """Does sudo let the hub start a server for this account?"""
    become = "setpriv", "--reuid=jupyterhub", "--regid=jupyterhub", "--init-groups"
    return machine.run(*become, "sudo", "-nlu", name, "/usr/libexec/jupyterhub/sudospawner", check=False).returncode == 0


def shown(machine, name):
    return json.loads(ctl(machine, "user", "show", name, "--json").stdout)


def with_token(hub, name):
    """Return the user, logged in, with a token."""
    user = hub.login(name, "secret")
    user.token = user.hub_api("POST", f"/users/{name}/tokens", json={"note": "of a program"}).json()["token"]
    return user


def by_token(user, method, path):
    program = HubUser(BASE, user.name)
    return program.session.request(method, f"{BASE}/hub/api{path}", headers={"Authorization": f"token {user.token}"}, timeout=60)


def is_in(user):
    return "/hub/login" not in user.session.get(f"{BASE}/hub/home", timeout=60).url


# -- allow, deny -------------------------------------------------------------------------------------------------------------------


def test_deny_holds_against_a_group_and_allow_takes_it_back(machine, hub):
    machine.add_user("alice")
    hub.login("alice", "secret")
    assert ctl(machine, "user", "deny", "alice").stdout.startswith("alice may not log in or start servers")
    assert not admits(machine, "alice")
    assert machine.sh(f"stat -c '%a %U:%G' {RULES}") == "440 root:root"
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("alice", "secret")
    ctl(machine, "user", "allow", "alice")
    hub.login("alice", "secret")
    assert "visudo" not in machine.run("visudo", "-c").stderr


def test_allow_lets_in_who_is_in_no_group(machine, hub):
    machine.add_user("carol", groups=())
    with pytest.raises(HubError):
        hub.login("carol", "secret")
    ctl(machine, "user", "allow", "carol")
    carol = hub.login("carol", "secret")
    assert carol.run_cell("5 * 4") == "20"
    ctl(machine, "user", "deny", "carol")
    assert carol.server_ready  # what runs keeps running
    carol.stop()
    with pytest.raises(HubError):
        carol.spawn()


@pytest.mark.parametrize("site", ["zz-site", "site", "jupyterhub-more"])
def test_rules_of_the_site_do_not_come_after(machine, site):
    """Also in a file of its own, with the same right for everybody."""
    machine.write(f"/etc/sudoers.d/{site}", 'jupyterhub ALL = (%users) NOPASSWD: /usr/libexec/jupyterhub/sudospawner ""\n', 0o440)
    try:
        ctl(machine, "user", "deny", "alice")
        assert not admits(machine, "alice")
        ctl(machine, "user", "allow", "alice")
        assert admits(machine, "alice")
    finally:
        machine.sh(f"rm /etc/sudoers.d/{site}")


def test_what_does_not_hold_is_not_said_to(machine):
    """A rule that comes later all the same: behind the @includedir, or in a file that is named so."""
    rule = 'jupyterhub ALL = (alice) NOPASSWD: /usr/libexec/jupyterhub/sudospawner ""'
    machine.sh(f"cp -p /etc/sudoers /root/; echo '{rule}' >>/etc/sudoers")
    try:
        assert f"sudo admits alice by a rule that comes after {RULES}: it is in /etc/sudoers" in refused(machine, 1, "user", "deny", "alice")
        assert admits(machine, "alice")
    finally:
        machine.sh("mv /root/sudoers /etc/sudoers")
    machine.sh(f"echo '{rule}' >/etc/sudoers.d/zzzz; chmod 440 /etc/sudoers.d/zzzz")
    try:
        said = ctl(machine, "user", "deny", "alice", check=False)
        assert said.returncode == 1 and "it is in zzzz there" in said.stderr and admits(machine, "alice")
    finally:
        machine.sh("rm /etc/sudoers.d/zzzz")


# As /etc/passwd and a directory may have them: what sudoers would take for something else.
STRANGE = ["ALL", "JUPYTER_USERS", "1234", r"DOM\user", "user@dom.example", "john doe", 'a,b=c!d(e"f#g', "müller"]


def test_strange_names_are_names_of_one_account(machine):
    lines = [f"{name}:x:{4000 + number}:100::/nonexistent:/bin/bash" for number, name in enumerate(STRANGE)]
    machine.sh("cp -p /etc/passwd /root/passwd")
    machine.run("sh", "-c", "cat >>/etc/passwd", input="\n".join(lines) + "\n")
    try:
        for name in STRANGE:
            ctl(machine, "user", "deny", name)
            assert not admits(machine, name) and admits(machine, "alice"), name
        denied = json.loads(ctl(machine, "user", "list", "--json").stdout)
        assert {row["name"] for row in denied if row["rule"] == "denied"} >= set(STRANGE)
        for name in STRANGE:
            if name == "1234":
                assert "systemd opens no sessions for names of digits" in refused(machine, 1, "user", "allow", name)
            else:
                ctl(machine, "user", "allow", name)
                assert admits(machine, name), name
        assert machine.run("visudo", "-c").stdout.count("parsed OK") >= 3
        assert not admits(machine, "root")
    finally:
        machine.sh("mv /root/passwd /etc/passwd")
        ctl(machine, "user", "remove", STRANGE[0])  # whose account is gone
    assert r"(\x41\x4c\x4c)" not in machine.sh(f"cat {RULES}")


@pytest.mark.parametrize(
    "name, words",
    [
        ("%users", "groups belong into JUPYTER_USERS"),
        ("+all", "groups belong into JUPYTER_USERS"),
        ("#1000", "not a valid name of an account"),
        ("!alice", "not a valid name of an account"),
        ("", "not a valid name of an account"),
        ("a\nroot ALL=(ALL) ALL", "not a valid name of an account"),
        ("a:b", "not a valid name of an account"),
    ],
)
def test_what_is_no_name_is_refused(machine, name, words):
    for verb in ("allow", "deny", "lock", "show"):
        assert words in refused(machine, 1, "user", verb, name)


def test_accounts_that_are_nobodys(machine):
    assert "is not a person" in refused(machine, 1, "user", "allow", "root")
    assert "is not a person" in refused(machine, 1, "user", "allow", "jupyterhub-login")
    assert "no such account" in refused(machine, 7, "user", "allow", "alcie")
    assert "neither the system nor the hub knows" in refused(machine, 7, "user", "deny", "alcie")


def test_accounts_that_sudo_takes_for_one_are_left_alone(machine):
    """A rule for one would be a rule for the other, who is not named."""
    machine.sh("cp -p /etc/passwd /root/passwd; printf '%s:x:4100:100::/nonexistent:/bin/bash\\n' twin TWIN >>/etc/passwd")
    try:
        for verb in ("allow", "deny", "lock"):
            assert "sudo does not tell twin from TWIN" in refused(machine, 1, "user", verb, "twin")
    finally:
        machine.sh("mv /root/passwd /etc/passwd")


def test_file_of_somebody_else_is_left_alone(machine):
    machine.sh(f"cp -p {RULES} /root/rules; echo 'root ALL=(ALL) ALL' >>{RULES}")
    try:
        assert re.search(rf"{RULES}:\d+ is not by jupyterhub-ctl", refused(machine, 1, "user", "deny", "alice"))
    finally:
        machine.sh(f"mv /root/rules {RULES}")


def test_no_room(machine):
    """What was there stays, and sudo works."""
    machine.sh("mkdir -p /mnt/s; mount -t tmpfs -o size=16k,mode=755 tmpfs /mnt/s; cp -p /etc/sudoers.d/* /mnt/s; mount --bind /mnt/s /etc/sudoers.d")
    machine.sh("head -c 1M /dev/zero >/mnt/s/fill.x || true")
    try:
        before = machine.sh(f"cat {RULES}")
        said = ctl(machine, "user", "deny", "alice", check=False)
        assert said.returncode == 10 and "No space left on device: nothing was changed" in said.stderr
        assert machine.sh(f"cat {RULES}") == before and admits(machine, "alice")
        assert machine.sh("ls -A /etc/sudoers.d").split() == ["README", "fill.x", "jupyterhub", "zzz-jupyterhub-users"]
    finally:
        machine.sh("umount /etc/sudoers.d /mnt/s")


def test_many_at_once(machine):
    names = [f"crowd{number}" for number in range(4)]
    for name in names:
        machine.sh(f"useradd --no-create-home --groups users {name}")
    machine.sh("".join(f"{CTL} user deny {name} & " for name in names) + "wait")
    assert not any(admits(machine, name) for name in names)
    machine.sh("".join(f"userdel {name}; {CTL} user remove {name}; " for name in names))
    assert "crowd" not in machine.sh(f"cat {RULES}")


@pytest.mark.slow("five kills around a rename that seldom changes")
def test_killed_at_any_moment(machine):
    """kill -9 while a rule is written: sudo still works, the next change too."""
    for delay in ("0.3", "0.35", "0.4", "0.45", "0.5"):
        machine.sh(f"timeout -s KILL {delay} {CTL} user deny alice || true; visudo -c >/dev/null; timeout -s KILL {delay} {CTL} user allow alice || true")
        machine.sh("visudo -c")
    ctl(machine, "user", "allow", "alice")
    assert machine.sh("ls -A /etc/sudoers.d").split() == ["README", "jupyterhub", "zzz-jupyterhub-users"]


# -- show, list, completion --------------------------------------------------------------------------------------------------------


def test_show_and_list(machine, hub):
    alice = with_token(hub, "alice")
    alice.spawn()
    about = shown(machine, "alice")
    assert (about["admitted"], about["rules"], about["account"]) == (True, ["allow"], None)
    assert [token["note"] for token in about["hub"]["tokens"]] == ["of a program"]
    assert about["hub"]["logins"][0]["address"] == "127.0.0.1" and "python-requests" in about["hub"]["logins"][0]["browser"]
    assert [server["name"] for server in about["servers"]] == [None]
    said = ctl(machine, "user", "show", "alice").stdout
    assert "servers:    may be started (allowed by jupyterhub-ctl)\n" in said and "token:      a" in said and alice.token not in said
    rows = {row["name"]: row for row in json.loads(ctl(machine, "user", "list", "--json").stdout)}
    assert (rows["alice"]["rule"], rows["alice"]["servers"], rows["carol"]["rule"]) == ("allowed", 1, "denied")
    machine.sh("chage --expiredate 1970-01-02 alice")
    try:
        assert "the account has expired" in shown(machine, "alice")["account"]
    finally:
        machine.sh("chage --expiredate -1 alice")


def test_completion(machine):
    script = """
        . /usr/share/bash-completion/bash_completion; . /usr/share/bash-completion/completions/jupyterhub-ctl
        COMP_WORDS=(jupyterhub-ctl $1) COMP_CWORD=$#; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _jupyterhub_ctl_completion jupyterhub-ctl; echo ${COMPREPLY[@]}
    """
    for begun in ("user show ali", "user lock ali", "stop ali", "logs ali"):
        assert machine.run("bash", "-c", script, "bash", begun).stdout.split() == ["alice"], begun
    assert "limits" in machine.run("bash", "-c", script, "bash", "user li").stdout.split()


# -- lock, unlock, remove ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bob(machine, hub):
    """Somebody with a login, a token, a server with a kernel, and things beside the hub."""
    machine.add_user("bob")
    bob = with_token(hub, "bob")
    bob.spawn()
    bob.kernel().execute("import atexit, pathlib; atexit.register(pathlib.Path('/home/bob/ended-in-order').touch)")
    beside(machine, "bob")
    return bob


def beside(machine, name):
    """Let an account have a session, a timer that runs without one, and a crontab."""
    machine.sh(f"loginctl enable-linger {name}; echo '@daily true' | crontab -u {name} -")
    machine.sh(f"systemd-run --quiet --unit=of-{name} --uid={name} --property=PAMName=login sleep 7171")
    uid = machine.sh(f"id -u {name}")
    wait_for(lambda: machine.run("test", "-S", f"/run/user/{uid}/systemd/private", check=False).returncode == 0, "the account's own systemd")
    machine.sh(
        f"setpriv --reuid={uid} --regid={uid} --init-groups env XDG_RUNTIME_DIR=/run/user/{uid} systemd-run --user --quiet --on-calendar=daily --unit=mine true"
    )


LEFT = ["session", "sleep", "lingering", "timer mine.timer", "crontab", "the account itself"]


def test_lock_with_the_hub_down_changes_nothing(machine, hub, bob):
    machine.sh("systemctl stop jupyterhub")
    try:
        assert "the hub does not run" in refused(machine, 3, "user", "lock", "bob")
        assert "the hub does not run" in refused(machine, 3, "user", "remove", "bob")
        ctl(machine, "user", "deny", "bob")  # these need none
        assert not admits(machine, "bob")
        assert shown(machine, "bob")["problem"].startswith("the hub does not run")
        ctl(machine, "user", "allow", "bob")
    finally:
        machine.sh("systemctl start jupyterhub")
        wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def test_lock_ends_all_at_the_hub_and_names_the_rest(machine, hub, bob):
    said = ctl(machine, "user", "lock", "bob").stdout
    assert not is_in(bob) and by_token(bob, "GET", "/user").status_code == 403
    assert machine.sh("pgrep --uid bob --full 'jupyterhub-singleuser|ipykernel' || true") == ""
    assert machine.sh("ls /home/bob") == "ended-in-order"
    assert "ended: logins (1), tokens (1)\nstopped the server of bob (process " in said
    left = [line for line in said.splitlines() if line.startswith("left alone: ")]
    assert all(any(words in line for line in left) for words in LEFT), said
    assert machine.sh("pgrep --uid bob --full 'sleep 7171'")
    assert "hub ends" in machine.sh("journalctl -q -o cat JUPYTERHUB_EVENT=account-ended JUPYTERHUB_USER=bob")
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("bob", "secret")
    assert "bob is locked" in refused(machine, 1, "user", "allow", "bob")
    ctl(machine, "user", "lock", "bob")  # once more does no harm


def test_others_are_left_alone(machine, hub, bob):
    alice = hub.login("alice", "secret")
    assert alice.server_ready


def test_unlock_brings_back_what_was_said_before(machine, hub, bob):
    assert ctl(machine, "user", "unlock", "bob").stdout == "bob is unlocked, and may log in and start servers\n"
    again = hub.login("bob", "secret")
    assert not again.hub_api("GET", "/users/bob/tokens").json()["api_tokens"]
    assert "bob is not locked" in refused(machine, 1, "user", "unlock", "bob")
    ctl(machine, "user", "lock", "carol")  # who was denied
    assert ctl(machine, "user", "unlock", "carol").stdout.startswith("carol is unlocked, and may still not log in")


def test_server_that_is_just_starting_is_ended(machine, hub, bob):
    machine.sh("install -d -o bob -g bob /home/bob/.jupyter; echo 'import time; time.sleep(3)' >/home/bob/.jupyter/jupyter_server_config.py")
    again = hub.login("bob", "secret")
    again.get("/hub/spawn")
    assert ctl(machine, "user", "lock", "bob").stdout.count("stopped the server of bob") == 1
    assert machine.sh("pgrep --uid bob --full jupyterhub-singleuser || true") == ""
    machine.sh("rm -r /home/bob/.jupyter")


def test_remove_forgets_the_user_and_keeps_the_lock(machine, hub, bob):
    said = ctl(machine, "user", "remove", "bob").stdout
    assert said.startswith("the hub has forgotten bob\nbob stays locked")
    assert not admits(machine, "bob") and machine.sh("ls /home/bob")
    assert "bob" not in [row["name"] for row in json.loads(ctl(machine, "user", "list", "--json").stdout) if row["rule"] is None]
    assert shown(machine, "bob")["hub"] is None


@pytest.mark.parametrize("verb", ["deny", "lock"])
def test_rule_of_an_account_of_a_directory_can_be_forgotten(machine, hub, verb):
    """That it is not found says nothing there: root has to."""
    machine.sh(f"useradd --no-create-home gone; {CTL} user {verb} gone; cp -p /etc/nsswitch.conf /root/; sed -i '/^passwd:/s/$/ sss/' /etc/nsswitch.conf")
    try:
        assert "the account gone is there" in refused(machine, 1, "user", "remove", "--gone", "gone")
        machine.sh("userdel gone")
        assert "with --gone if no directory" in ctl(machine, "user", "remove", "gone").stdout and "gone" in machine.sh(f"cat {RULES}")
        ctl(machine, "user", "remove", "--gone", "gone")
        assert "gone" not in machine.sh(f"cat {RULES}")
    finally:
        machine.sh("mv /root/nsswitch.conf /etc/nsswitch.conf")


def test_backup_carries_the_rules(machine, hub):
    made = ctl(machine, "backup").stdout.strip()
    assert machine.sh(f"tar -xzOf {made} files{RULES}") == machine.sh(f"cat {RULES}")


@pytest.mark.slow("test_backup restores each time, this is one file more")
def test_restore_brings_the_rules_back(machine, hub):
    made = ctl(machine, "backup").stdout.strip()
    before = machine.sh(f"cat {RULES}; stat -c '%a %U' {RULES}")
    machine.sh(f"rm {RULES}")
    ctl(machine, "restore", made)
    assert machine.sh(f"cat {RULES}; stat -c '%a %U' {RULES}") == before and not admits(machine, "bob")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def test_only_root(machine, hub, bob):
    """Nor does the hub tell others."""
    for command in (["list"], ["show", "alice"], ["deny", "alice"], ["lock", "alice"]):
        result = machine.run("/usr/sbin/jupyterhub-ctl", "user", *command, user="alice", check=False)
        assert (result.returncode, result.stdout) == (4, "") and "needs root" in result.stderr
    alice = with_token(hub, "alice")
    for method in ("GET", "DELETE"):
        assert by_token(alice, method, "/accounts?of=carol").status_code == 403
        assert by_token(alice, method, "/accounts?of=alice").status_code == 403
    assert is_in(alice)


# -- limits, logs ------------------------------------------------------------------------------------------------------------------


def test_limits_are_those_that_are_set(machine):
    uid = machine.sh("id -u alice")
    machine.sh(f"systemctl set-property user-{uid}.slice MemoryMax=16G; echo '@users - nofile 4096' >/etc/security/limits.d/site.conf")
    machine.sh("echo '@nobody hard nproc 9' >>/etc/security/limits.d/site.conf; echo JUPYTERHUB_CULL_IDLE=8h >>/etc/default/jupyterhub")
    try:
        rows = {row["limit"]: row for row in json.loads(ctl(machine, "user", "limits", "alice", "--json").stdout)}
    finally:
        machine.sh(f"systemctl revert user-{uid}.slice; rm /etc/security/limits.d/site.conf; sed -i /CULL_IDLE=8h/d /etc/default/jupyterhub")
    assert rows["MemoryMax"]["value"] == "16.0 GiB" and f"user-{uid}.slice.d/" in rows["MemoryMax"]["where"]
    assert (rows["nofile"]["value"], rows["nofile"]["where"]) == ("4096", "/etc/security/limits.d/site.conf:1 for @users")
    assert rows["idle server"]["value"] == "8 h" and "nproc, hard" not in rows and "TasksMax" in rows


def test_logs_are_of_one_user(machine, hub):
    alice = hub.login("alice", "secret")
    alice.spawn()
    alice.stop()
    said = ctl(machine, "logs", "alice").stdout
    assert re.search(r" hub\[\d+\]: Login at 127.0.0.1: alice", said) and re.search(r" hub\[\d+\]: The server of alice was stopped by alice", said)
    assert re.search(r" server\[\d+\]: ", said) and not [line for line in said.splitlines() if "bob" in line and "alice" not in line]
    machine.sh("runuser -u alice -- systemd-cat -t jupyterhub-singleuser printf 'a \\033[31mred line'")
    wait_for(lambda: "red line" in ctl(machine, "logs", "alice").stdout, "the journal has the line", timeout=10)
    (line,) = [line for line in ctl(machine, "logs", "alice").stdout.splitlines() if "red line" in line]
    assert " server[" in line and line.endswith(": a \\x1b[31mred line")
    assert "no such account" in refused(machine, 7, "logs", "nobody-at-all")


# -- The hub's own page ------------------------------------------------------------------------------------------------------------


def test_own_logins_are_listed_and_ended_everywhere(machine, hub):
    alice = hub.login("alice", "secret")
    other = hub.login("alice", "secret")
    other.spawn()  # in another browser
    page = alice.get("/hub/token")
    table = page.text.partition('id="logins-table"')[2].partition("</table>")[0]
    assert table.count("127.0.0.1") >= 2 and table.count("(this one)") == 1 and "python-requests" in table
    assert "carol" not in page_text(page)
    kept = with_token(hub, "alice")
    alice.get("/hub/home")
    with pytest.raises(HubError) as missing:  # as another site's form would
        alice.request("POST", "/hub/logout-everywhere")
    assert missing.value.status == 403 and is_in(alice)
    answer = alice.request("POST", "/hub/logout-everywhere", data={"_xsrf": alice.xsrf("/hub/")})
    assert "/hub/login" in answer.url
    assert not is_in(alice) and not is_in(other)
    assert by_token(kept, "GET", "/user").json()["name"] == "alice"  # programs go on
    again = hub.login("alice", "secret")
    assert again.server_ready
    assert again.get("/hub/token").text.partition('id="logins-table"')[2].partition("</table>")[0].count("127.0.0.1") == 1


# -- docs/leaving.md ---------------------------------------------------------------------------------------------------------------


def test_somebody_leaves_word_for_word(machine, hub):
    leaver = with_server(machine, hub, "leaver")
    uid = machine.sh("id -u leaver")
    beside(machine, "leaver")
    commands = [block.text for block in blocks.ALL if block.page == "leaving.md"]
    assert len(commands) > 4
    said = ""
    for text in commands:
        script = re.sub(r"\bNAME\b", "leaver", text)
        said = machine.run("bash", "-euo", "pipefail", "-c", f"cd /root\n{script}", timeout=120).stdout
        if "user show" in script:
            left = [line for line in said.splitlines() if line.startswith("beside:")]
            assert len(left) == 1 and "the account itself" in left[0], said
            assert machine.sh(f"pgrep --uid {uid} || true") == ""
    assert not is_in(leaver)
    assert machine.sh("ls /root/leaver*").split() == ["/root/leaver.crontab", "/root/leaver.log", "/root/leaver.tar.gz"]
    assert "leaver" not in machine.sh(f"cat {RULES}; getent passwd; ls /home") + ctl(machine, "user", "list").stdout
    machine.add_user("leaver")  # the next of that name
    new = hub.login("leaver", "secret")
    assert not new.hub_api("GET", "/users/leaver/tokens").json()["api_tokens"]
