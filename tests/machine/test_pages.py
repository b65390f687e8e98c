"""What the hub's pages say, and who is an administrator, by the settings of /etc/default/jupyterhub."""

import pytest
from harness import wait_for
from hubclient import HubError, HubUser, page_text

DEFAULTS = "/etc/default/jupyterhub"
PASSWORD = "Sesame-0pen!"
TEXT = """<b>Friday</b> & "Saturday": it's off, 100 % für alle"""


@pytest.fixture(scope="module", autouse=True)
def accounts(machine):
    """alice is a user, carol is in group sudo, dave is somebody whom a setting will name."""
    for name, groups in {"alice": ("users",), "carol": ("users", "sudo"), "dave": ("users",)}.items():
        machine.add_user(name, PASSWORD, groups)
    machine.sh(f"cp -p {DEFAULTS} /root/")


def configure(machine, hub, *lines):
    """Restart the hub with these lines in the file of settings, and no others of a test."""
    machine.run("sh", "-euc", f"cp -p /root/jupyterhub {DEFAULTS}; cat >>{DEFAULTS}", input="".join(f"{line}\n" for line in lines))
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def login_page(hub):
    return HubUser(hub.base, "anybody").get("/hub/login")


def is_admin(hub, name):
    try:
        return hub.login(name, PASSWORD).get("/hub/admin").status_code == 200
    except HubError as error:
        if error.status != 403:
            raise
        return False


def test_login_page_says_which_account_is_meant(machine, hub):
    assert f"Log in with your account of {machine.sh('hostname')}." in page_text(login_page(hub))


def test_nobody_is_an_administrator(hub):
    assert not any(is_admin(hub, name) for name in ("alice", "carol", "dave"))


def test_hint_of_ones_own(machine, hub):
    configure(machine, hub, f"JUPYTERHUB_LOGIN_HINT={shell_quoted(TEXT)}")
    page = login_page(hub)
    assert TEXT in page_text(page) and "<b>Friday" not in page.text
    assert "Log in with your account of" not in page.text


def test_announcement_is_text_on_all_pages(machine, hub):
    configure(machine, hub, f"JUPYTERHUB_ANNOUNCEMENT={shell_quoted(TEXT)}")
    alice = hub.login("alice", PASSWORD)
    for page in (login_page(hub), alice.get("/hub/home"), alice.get("/hub/token")):
        assert TEXT in page_text(page) and "<b>Friday" not in page.text


def test_administrators_by_name_and_by_group(machine, hub):
    """A group that nobody knows has no members, and is in nobody's way."""
    configure(machine, hub, "JUPYTERHUB_ADMIN_USERS='dave, erin'", "JUPYTERHUB_ADMIN_GROUPS='sudo no-such-group'")
    assert is_admin(hub, "carol")
    assert is_admin(hub, "dave")
    assert not is_admin(hub, "alice")


def test_shutdown_on_the_admin_page_is_a_restart(machine, hub):
    """Its button ends the hub with exit status 0, which leaves notebooks alone; so does `kill`."""
    configure(machine, hub, "JUPYTERHUB_ADMIN_USERS=dave")
    alice, dave = (hub.login(name, PASSWORD) for name in ("alice", "dave"))
    alice.spawn()
    started = alice.api("GET", "/status").json()["started"]
    for end in (lambda: dave.hub_api("POST", "/shutdown"), lambda: machine.sh("kill $(systemctl show --value -p MainPID jupyterhub)")):
        before = machine.pid_of("jupyterhub")
        end()
        wait_for(lambda before=before: machine.pid_of("jupyterhub") not in (0, before), "the hub is started again", timeout=20)
        wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    assert alice.api("GET", "/status").json()["started"] == started
    alice.stop()


DELETING = "/etc/jupyterhub/jupyterhub_config.d/50-deleting.py"
LOGIN_CHECK = "jupyterhub-login.socket jupyterhub-login.service"


def test_users_are_deleted_only_where_their_accounts_are_certainly_gone(machine, hub):
    """c.Authenticator.delete_invalid_users: nobody while the accounts cannot be looked up."""
    configure(machine, hub, "JUPYTERHUB_ADMIN_USERS=dave")
    dave = hub.login("dave", PASSWORD)

    def users_after_a_start():
        machine.sh("systemctl restart jupyterhub")
        wait_for(hub.answers, "the hub answers", timeout=40)
        return {user["name"] for user in dave.hub_api("GET", "/users").json()}

    machine.write(DELETING, "c = get_config()\nc.Authenticator.delete_invalid_users = True\n")
    machine.sh("cp -p /etc/passwd /root/; sed -i /^carol:/d /etc/passwd")
    machine.sh(f"systemctl mask --quiet --runtime --now {LOGIN_CHECK}")
    assert {"alice", "carol", "dave"} <= users_after_a_start()
    machine.sh(f"systemctl unmask --quiet --runtime {LOGIN_CHECK}; systemctl start jupyterhub-login.socket")
    after = users_after_a_start()
    assert {"alice", "dave"} <= after and "carol" not in after
    machine.sh(f"cp -p /root/passwd /etc/; rm {DELETING}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=40)


@pytest.mark.parametrize(
    "line, said",
    [
        ("JUPYTERHUB_ADMIN_USERS=%sudo", "JUPYTERHUB_ADMIN_USERS in /etc/default/jupyterhub:LINE: %sudo is not a valid name of an account"),
        ("JUPYTERHUB_ADMIN_GROUPS='sudo;reboot'", "JUPYTERHUB_ADMIN_GROUPS in /etc/default/jupyterhub:LINE: sudo;reboot is not a valid name of a group"),
        ("JUPYTERHUB_ANNOUNCEMENT=$(printf 'f\\374r')", "JUPYTERHUB_ANNOUNCEMENT in /etc/default/jupyterhub:LINE is not in UTF-8"),
        ("JUPYTERHUB_ANNOUNCEMENT=Maintenance on Friday", "on: command not found (a value with spaces needs quotes)"),
        ("JUPYTERHUB_LOGIN_HINT='open", "unexpected EOF while looking for matching"),
    ],
)
def test_bad_value_is_named(machine, hub, line, said):
    machine.run("sh", "-euc", f"cp -p /root/jupyterhub {DEFAULTS}; cat >>{DEFAULTS}", input=f"{line}\n")
    machine.sh("systemctl stop jupyterhub")
    cursor = machine.sh("journalctl --show-cursor -n0 | sed -n 's/^-- cursor: //p'")
    machine.run("systemctl", "start", "jupyterhub", check=False)
    of_the_hub = ("--after-cursor", cursor, "-o", "cat", "-t", "jupyterhub-launcher", "_SYSTEMD_UNIT=jupyterhub.service")
    lines = wait_for(lambda: machine.journal(*of_the_hub), "the hub says something", timeout=20).splitlines()
    assert said.replace("LINE", machine.sh(f"wc -l <{DEFAULTS}")) in lines[0]
    assert set(lines) == {lines[0]}  # each attempt to start says it again
    configure(machine, hub)


def shell_quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"
