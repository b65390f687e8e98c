"""Other ways to log in than PAM, by the examples as they are installed; and local accounts made for those who have none."""

import json
import re

import directory
import oauth_provider
import pytest
from harness import wait_for
from hubclient import BASE, HubError, HubUser, page_text

pytestmark = pytest.mark.slow("examples that a site installs; their programs and the helper seldom change")

PACKAGES = directory.PACKAGES
EXAMPLES = "/usr/share/doc/jupyterhub/examples/authenticators"
CONFIG = "/etc/jupyterhub/jupyterhub_config.d/20-authenticator.py"
ACCOUNTS = "/etc/jupyterhub/accounts.conf"
PASSWORD, OTHER = "Apples-and-pears", "Plums-and-quinces"
DATABASES = "sha256sum /etc/passwd /etc/shadow /etc/group /etc/gshadow"


@pytest.fixture(scope="module", autouse=True)
def notebooks(machine):
    """Members of `notebooks` may have servers: hubadmin and ada. alice has an account of this machine, which is nobody else's business."""
    machine.sh("groupadd notebooks; sed -i 's/^Runas_Alias JUPYTER_USERS = .*/Runas_Alias JUPYTER_USERS = %notebooks/' /etc/sudoers.d/jupyterhub")
    for name, groups in {"hubadmin": ("notebooks",), "ada": ("notebooks",), "alice": ("users",)}.items():
        machine.add_user(name, "not-used-here", groups)


def use(machine, hub, example, *replacements):
    """Install an example as its head says, with pairs of texts to replace; restart the hub."""
    text = machine.sh(f"cat {EXAMPLES}/{example}.py")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    machine.write(CONFIG, text, 0o640)
    machine.sh(f"chgrp jupyterhub {CONFIG}; jupyterhub-ctl check-config; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


MAKE_ACCOUNTS = ("# c.SudoersPolicy.create_accounts", "c.SudoersPolicy.create_accounts")


def post(user, path, **fields):
    """Fill in a form of the hub; return the words of the page that follows."""
    user.get(path)
    return page_text(user.request("POST", path, data={**fields, "_xsrf": user.xsrf("/hub/")}))


def runs_as(user):
    """Start the server, ask a kernel for its account, stop the server."""
    name = user.run_cell("import getpass; print(getpass.getuser())")
    user.stop()
    return name


def has_account(machine, name):
    return machine.run("getent", "passwd", name, check=False).returncode == 0


# -- The door to new accounts ------------------------------------------------------------------------------------------------------


ASK = """
import socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect("/run/jupyterhub-accounts.sock")
door.sendall(sys.stdin.buffer.read() + b"\\n")
print(door.makefile().readline())
"""


def ask(machine, request, user="jupyterhub"):
    """Put a request to the helper, as a hub would that has been taken over; return its answer."""
    line = request if isinstance(request, str) else json.dumps(request)
    return json.loads(machine.run("/opt/venvs/jupyterhub/bin/python", "-c", ASK, user=user, input=line).stdout)


def test_door_is_shut_until_somebody_opens_it(machine):
    assert machine.property("jupyterhub-accounts.socket", "ActiveState") == "inactive"
    assert machine.property("jupyterhub-accounts.socket", "UnitFileState") == "disabled"
    machine.sh("systemctl enable --now jupyterhub-accounts.socket")


def test_door_is_for_the_hub_alone(machine):
    with pytest.raises(AssertionError, match="PermissionError"):
        ask(machine, {"user": "eve"}, user="alice")
    assert not has_account(machine, "eve")


def test_account_is_made(machine):
    assert ask(machine, {"user": "kepler"}) == {"ok": True}
    _, _, uid, gid, _, home, shell = machine.sh("getent passwd kepler").split(":")
    assert 50000 <= int(uid) <= 59999 and 50000 <= int(gid) <= 59999
    assert (home, shell) == ("/home/kepler", "/bin/bash")
    assert machine.sh("id -nG kepler").split() == ["kepler", "notebooks"]
    assert machine.sh("getent shadow kepler").split(":")[1] == "!"  # no password opens it
    assert "made the account kepler" in machine.journal("-t", "jupyterhub-accounts")


@pytest.mark.parametrize(
    "name, why",
    [
        ("alice", "alice is there already (an account)"),
        ("kepler", "kepler is there already"),
        ("root", "reserved"),
        ("daemon", "reserved"),
        ("postgres", "reserved"),
        ("systemd-oom", "reserved"),
        ("jupyterhub-proxy", "reserved"),
        ("shadow", "reserved"),
        ("crew", "crew is there already (a group)"),
        ("left", "left is there already (the folder /home/left)"),
        ("Newton", "cannot be an account"),
        ("new ton", "cannot be an account"),
        ("../newton", "cannot be an account"),
        ("--uid=0", "cannot be an account"),
        ("newton:0", "cannot be an account"),
        ("newton\n", "cannot be an account"),
        ("newton\0", "cannot be an account"),
        ("1642", "cannot be an account"),
        ("n" * 32, "cannot be an account"),
        ("néwton", "cannot be an account"),
        ("", "cannot be an account"),
        (["newton"], "cannot be an account"),
    ],
)
def test_name_is_refused(machine, name, why):
    machine.sh("getent group crew >/dev/null || groupadd crew; mkdir -p /home/left")
    before = machine.sh(DATABASES)
    answer = ask(machine, {"user": name})
    assert not answer["ok"] and why in answer["error"] and "\n" not in answer["error"]
    assert machine.sh(DATABASES) == before


@pytest.mark.parametrize("line", ["", "newton", "[]", '{"name": "newton"}', '{"user": "newton"'])
def test_what_is_no_request_is_refused(machine, line):
    assert "not a request" in ask(machine, line)["error"]


@pytest.mark.parametrize(
    "change, why",
    [
        (f"s/^GROUP=.*/GROUP=nowhere/ {ACCOUNTS}", "there is no group nowhere: `groupadd nowhere` makes it"),
        (f"s/^GROUP=.*/GROUP=/ {ACCOUNTS}", "GROUP is empty"),
        (f"s/^GROUP=.*/GROUP=sudo/ {ACCOUNTS}", "sudo is a group of the system's"),
        (f"s/^UID_MIN=.*/UID_MIN=0/ {ACCOUNTS}", "must be a range from 1000 on"),
        (f"s/^UID_MIN=.*/UID_MIN=many/ {ACCOUNTS}", "must be whole numbers"),
        (f"s/^UID_MAX=.*/UID_MAX=50000/ {ACCOUNTS}", "useradd made no account newton"),
        (f"s/^RESERVED=.*/RESERVED=newton/ {ACCOUNTS}", "newton is a reserved name"),
        ("/^passwd:/s/$/ sss/ /etc/nsswitch.conf", "takes accounts from sss"),
    ],
)
def test_configuration_that_forbids_it(machine, change, why):
    expression, _, file = change.rpartition(" ")
    machine.sh(f"cp -p {file} /root/before")
    machine.run("sed", "-i", expression, file)
    before = machine.sh(DATABASES)
    answer = ask(machine, {"user": "newton"})
    machine.sh(f"cp -p /root/before {file}")
    assert not answer["ok"] and why in answer["error"]
    assert machine.sh(DATABASES) == before


def test_helper_is_confined(machine):
    """root in name: what it cannot do is systemd's, not its own, to enforce."""
    exposure = machine.sh("systemd-analyze security --no-pager jupyterhub-accounts@.service | tail -1")
    assert float(re.search(r"(\d+\.\d)", exposure)[1]) <= 3.0, exposure


# -- NativeAuthenticator -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hubadmin(machine, hub):
    """The administrator of a hub with NativeAuthenticator, signed up first of all."""
    use(machine, hub, "native", MAKE_ACCOUNTS)
    sign_up(hub, "hubadmin")
    return hub.login("hubadmin", PASSWORD)


def sign_up(hub, name, password=PASSWORD):
    return post(HubUser(hub.base, name), "/hub/signup", username=name, signup_password=password, signup_password_confirmation=password)


def refused(hub, name, password, words, status=403):
    with pytest.raises(HubError, match=words) as refusal:
        hub.login(name, password)
    assert refusal.value.status == status


def test_native_weak_password_is_no_good(hub, hubadmin):
    assert "at least 10 characters" in sign_up(hub, "galilei", "short")


def test_native_waits_for_the_administrator(machine, hub, hubadmin):
    assert "has been sent to the admin" in sign_up(hub, "galilei")
    refused(hub, "galilei", PASSWORD, "galilei has not been authorized by an administrator yet", 200)
    assert not has_account(machine, "galilei")


def test_native_authorized_gets_account_and_server(machine, hub, hubadmin):
    assert "galilei" in page_text(hubadmin.get("/hub/authorize"))
    hubadmin.get("/hub/authorize/galilei")
    galilei = hub.login("galilei", PASSWORD)
    assert "notebooks" in machine.sh("id -nG galilei").split()
    assert runs_as(galilei) == "galilei"
    assert machine.sh("stat -c %U:%a /home/galilei").startswith("galilei:7")


def test_native_password_is_changed(hub, hubadmin):
    galilei = hub.login("galilei", PASSWORD)
    said = post(galilei, "/hub/change-password", old_password=PASSWORD, new_password=OTHER, new_password_confirmation=OTHER)
    assert "successful" in said
    refused(hub, "galilei", PASSWORD, "Invalid username or password", 200)
    hub.login("galilei", OTHER)


@pytest.mark.parametrize("name", ["alice", "postgres", "root"])
def test_native_nobody_signs_up_for_somebody_elses_account(machine, hub, hubadmin, name):
    """Not even if the administrator lets them."""
    before = machine.sh(DATABASES)
    sign_up(hub, name)
    hubadmin.get(f"/hub/authorize/{name}")
    refused(hub, name, PASSWORD, "Invalid username or password", 200)
    assert f"{name} may not log in: " in machine.journal("-u", "jupyterhub")
    assert machine.sh(DATABASES) == before


# -- FirstUseAuthenticator ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_use(machine, hub):
    use(machine, hub, "firstuse")


def test_first_password_counts(hub, first_use):
    assert "The first password that you use here becomes yours." in page_text(HubUser(BASE, "ada").get("/hub/login"))
    assert runs_as(hub.login("ada", PASSWORD)) == "ada"
    refused(hub, "ada", OTHER, "Invalid username or password")


def test_first_password_is_changed(hub, first_use):
    assert "changed successfully" in post(hub.login("ada", PASSWORD), "/hub/auth/change-password", password=OTHER)
    refused(hub, "ada", PASSWORD, "Invalid username or password")
    hub.login("ada", OTHER)


def test_first_use_is_for_those_who_are_named(hub, first_use):
    refused(hub, "hubble", PASSWORD, "Invalid username or password")


def test_first_use_makes_no_account_unless_told_to(machine, hub, first_use):
    refused(hub, "grace", PASSWORD, "Invalid username or password")
    assert "grace may not log in: " in machine.journal("-u", "jupyterhub")
    assert not has_account(machine, "grace")


# -- GenericOAuthenticator ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider(machine, hub):
    with oauth_provider.Provider() as provider:
        use(
            machine,
            hub,
            "oauth",
            MAKE_ACCOUNTS,
            ("https://login.example.org", provider.url),
            ("https://jhub.example.org", BASE),
            ('"SECRET"', f'"{oauth_provider.SECRET}"'),
        )
        yield provider


def log_in_at(provider, name):
    """Follow the button of the login page to the provider, say there who one is, and come back."""
    user = HubUser(BASE, name)
    assert "Sign in with Example" in user.get("/hub/login").text
    form = user.get("/hub/oauth_login?next=/hub/home")
    assert form.url.startswith(f"{provider.url}/authorize?")
    home = user.session.post(form.url, data={"user": name}, timeout=60)
    if home.url != f"{BASE}/hub/home":
        raise HubError(home)
    return user


def test_oauth(machine, provider):
    assert runs_as(log_in_at(provider, "euler")) == "euler"
    assert "notebooks" in machine.sh("id -nG euler").split()


def test_oauth_name_of_a_local_account(provider):
    with pytest.raises(HubError, match="The account alice may not use notebooks"):
        log_in_at(provider, "alice")


def test_oauth_user_says_no(provider):
    with pytest.raises(HubError, match="You said no"):
        log_in_at(provider, "")


def test_oauth_forged_return(provider):
    """A link with somebody else's code, which no login of this browser has asked for."""
    with pytest.raises(HubError) as refusal:
        HubUser(BASE, "eve").get("/hub/oauth_callback?code=stolen&state=stolen")
    assert refusal.value.status in (400, 403)


# -- LDAPAuthenticator -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ldap(machine, hub):
    """slapd has people in it that the machine knows nothing of."""
    ldap = directory.Directory(machine)
    use(machine, hub, "ldap", MAKE_ACCOUNTS)
    return ldap


def test_ldap(machine, hub, ldap):
    assert not has_account(machine, "bob")
    assert runs_as(hub.login("bob", directory.PASSWORD)) == "bob"


def test_ldap_wrong_password(hub, ldap):
    refused(hub, "bob", PASSWORD, "Invalid username or password")


def test_ldap_member_of_no_group(machine, hub, ldap):
    refused(hub, "dave", directory.PASSWORD, "Invalid username or password")
    assert "dave may not log in: " in machine.journal("-u", "jupyterhub")
    assert not has_account(machine, "dave")


def test_ldap_injection(machine, hub, ldap):
    for name in ("*", "bob)(uid=*", "bob,ou=people"):
        refused(hub, name, directory.PASSWORD, "Invalid username or password")


def test_ldap_certificate_of_somebody_else(machine, hub, ldap):
    """No password goes to a directory that cannot prove its name."""
    use(machine, hub, "ldap", ("ldap.example.org", "127.0.0.1"))
    refused(hub, "bob", directory.PASSWORD, "the directory is out of reach. Try again later", 503)
    assert "certificate" in machine.journal("-u", "jupyterhub", "-g", "cannot be asked")
    assert directory.PASSWORD not in machine.journal()


@pytest.mark.parametrize("password", [PASSWORD, OTHER, directory.PASSWORD, oauth_provider.SECRET])
def test_password_is_nowhere_in_the_logs(machine, password):
    assert password not in machine.journal("--output=export")
