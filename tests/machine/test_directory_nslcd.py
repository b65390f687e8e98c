"""Accounts that exist in an LDAP directory only, with nslcd (libnss-ldapd, libpam-ldapd), as docs/directory.md has it."""

import pytest
from directory import (  # noqa: F401 (pytest collects the tests among them)
    EXAMPLES,
    PASSWORD,
    STRANGE_PASSWORDS,
    Directory,
    test_groups_in_the_hubs_configuration,
    test_home_is_made_at_the_first_start,
    test_nobody_else_is_admitted,
    test_primary_secondary_and_nested_groups_admit,
)
from directory import PACKAGES as SLAPD
from directory import test_strange_passwords as logs_in_with_it
from harness import wait_for
from hubclient import HubError, Prober

pytestmark = pytest.mark.slow("the same as with SSSD, which most sites have")
PACKAGES = (*SLAPD, "nslcd", "libnss-ldapd", "libpam-ldapd")


@pytest.fixture(scope="module")
def directory(machine, hub):
    directory = Directory(machine)
    machine.write("/etc/nslcd.conf", (EXAMPLES / "nslcd.conf").read_text(), mode=0o640)
    machine.write("/etc/pam.d/jupyterhub", (EXAMPLES / "pam-nslcd").read_text())
    machine.sh("""
        chgrp nslcd /etc/nslcd.conf
        echo 'libnss-ldapd libnss-ldapd/nsswitch multiselect passwd, group, shadow' | debconf-set-selections
        dpkg-reconfigure --frontend=noninteractive libnss-ldapd
        systemctl restart nslcd nscd
    """)
    wait_for(lambda: machine.run("getent", "passwd", "alice", check=False).stdout, "the system knows alice", timeout=30, every=0.2)
    return directory


@pytest.mark.parametrize("password", STRANGE_PASSWORDS)
def test_strange_passwords(hub, directory, suite, password):
    if suite[0] == "debian:bookworm" and len(password.encode()) > 127:  # more than its nslcd takes
        with pytest.raises(HubError, match="Your password cannot be checked now"):
            logs_in_with_it(hub, directory, password)
    else:
        logs_in_with_it(hub, directory, password)


def test_other_spellings_are_the_same_user(hub, directory):
    alice = hub.login("ALICE", PASSWORD)
    assert alice.hub_api("GET", "/user").json()["name"] == "alice"
    alice.name = "alice"
    assert alice.server_ready
    assert alice.get("/user/alice/lab").status_code == 200


# pam_ldap, too, tells these from a wrong password only where the directory accepts the password.
@pytest.mark.parametrize(
    "name, words", [("reset", "Password must be changed.*ssh"), ("locked", "Invalid username or password"), ("expired", "Invalid username or password")]
)
def test_state_of_the_account_is_said(hub, directory, name, words):
    with pytest.raises(HubError, match=words) as refused:
        hub.login(name, PASSWORD)
    assert refused.value.status == 403


def test_directory_down(hub, directory):
    alice = hub.login("alice", PASSWORD)
    directory.down()
    with Prober(alice, "/hub/home") as probe, pytest.raises(HubError, match="Your password cannot be checked now") as refused:
        hub.login("alice", PASSWORD)
    assert refused.value.status == 503
    assert not probe.failures
    directory.up()


@pytest.mark.parametrize("password", [PASSWORD, *STRANGE_PASSWORDS])
def test_password_is_nowhere_in_the_logs(machine, directory, password):
    assert machine.written(password) == ""
