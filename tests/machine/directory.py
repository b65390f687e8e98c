"""A directory for tests: Debian's slapd on the machine's loopback, with StartTLS and a certificate authority of its own.

People and groups exist in it alone. Their passwords are PASSWORD unless a test says otherwise.
"""

import base64
import contextlib
import pathlib
import threading
import time

import pytest
from harness import wait_for
from hubclient import HubError

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs/examples"
PACKAGES = ("slapd", "ldap-utils", "openssl")
BASE = "dc=example,dc=org"
HOST = "ldap.example.org"
PASSWORD = "Ldap-Sesame-47!"
STRANGE_PASSWORDS = ['it\'s "quoted" `$HOME`', "  spaces, also around  ", "Größe-Ωmega-密码", "x1Y-" * 32]
CROWD = [f"crowd{number:02}" for number in range(1, 21)]  # who log in all at once

# RFC 2307bis, the schema in which groups can be members of groups, as far as it is needed here. Debian's slapd has only its elder.
SCHEMA = """
attributetype ( 1.3.6.1.1.1.1.3 NAME 'homeDirectory' EQUALITY caseExactIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 SINGLE-VALUE )
attributetype ( 1.3.6.1.1.1.1.4 NAME 'loginShell' EQUALITY caseExactIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 SINGLE-VALUE )
attributetype ( 1.3.6.1.1.1.1.10 NAME 'shadowExpire' EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.1.1.2.0 NAME 'posixAccount' SUP top AUXILIARY
    MUST ( cn $ uid $ uidNumber $ gidNumber $ homeDirectory ) MAY ( userPassword $ loginShell $ description ) )
objectclass ( 1.3.6.1.1.1.2.1 NAME 'shadowAccount' SUP top AUXILIARY MUST uid MAY shadowExpire )
objectclass ( 1.3.6.1.1.1.2.2 NAME 'posixGroup' SUP top AUXILIARY MUST gidNumber MAY description )
"""

# Passwords only over TLS; a thread for each login that waits.
SLAPD = f"""
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/rfc2307bis.schema
pidfile /run/slapd/slapd.pid
threads 64
moduleload back_mdb
moduleload ppolicy
moduleload retcode
TLSCertificateFile /etc/ldap/server.crt
TLSCertificateKeyFile /etc/ldap/server.key
security simple_bind=128
database mdb
suffix {BASE}
rootdn cn=admin,{BASE}
rootpw admin
directory /var/lib/ldap
index uid,cn,uidNumber,gidNumber,member,objectClass eq
access to attrs=userPassword by self write by anonymous auth by * none
access to * by * read
overlay ppolicy
ppolicy_default cn=policy,{BASE}
ppolicy_use_lockout
include /etc/ldap/delay.conf
"""

# How the directory is made slow: slapo-retcode(5) sleeps before it hands an operation to the database.
DELAY = "overlay retcode\nretcode-parent ou=retcodes,{base}\nretcode-sleep {seconds}\n"

# Name: gid, then the members, people or groups. Primary group, secondary group, group in a group in a group.
GROUPS = {
    "lab": (20000, []),
    "everybody": (20001, []),
    "notebooks": (20002, ["bob", "expired", "reset", "disabled", "locked", "novice", "science", *CROWD]),
    "science": (20003, ["chemistry"]),
    "chemistry": (20004, ["carol"]),
}
# Name: (primary group, further attributes as LDIF)
PEOPLE = {
    "alice": ("lab", ""),
    "bob": ("everybody", ""),
    "carol": ("everybody", ""),
    "erin": ("lab", ""),
    "dave": ("everybody", ""),
    "expired": ("everybody", f"pwdPolicySubentry: cn=short,{BASE}\n"),
    "reset": ("everybody", "pwdReset: TRUE\n"),
    "disabled": ("everybody", "objectClass: shadowAccount\nshadowExpire: 1\n"),
    "locked": ("everybody", "pwdAccountLockedTime: 000001010000Z\n"),
    **{name: ("everybody", "") for name in CROWD},
    "novice": ("everybody", "pwdReset: TRUE\n"),
    "outsider": ("everybody", "pwdReset: TRUE\n"),
}


def _ldif():
    policy = "objectClass: pwdPolicy\nobjectClass: device\npwdAttribute: userPassword\n"
    entries = [
        f"dn: {BASE}\nobjectClass: domain\ndc: example",
        f"dn: cn=policy,{BASE}\n{policy}cn: policy\npwdMustChange: TRUE\npwdLockout: TRUE",
        f"dn: cn=short,{BASE}\n{policy}cn: short\npwdMaxAge: 1",
        *(f"dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}" for unit in ("people", "groups")),
    ]
    for number, (name, (primary, more)) in enumerate(PEOPLE.items()):
        entries.append(
            f"dn: uid={name},ou=people,{BASE}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\nuid: {name}\ncn: {name}\nsn: {name}\n"
            f"uidNumber: {30000 + number}\ngidNumber: {GROUPS[primary][0]}\nhomeDirectory: /home/ldap/{name}\nloginShell: /bin/bash\n"
            f"userPassword: {PASSWORD}\npwdChangedTime: 20200101000000Z\n{more}"
        )
    for name, (gid, members) in GROUPS.items():
        kind = "groupOfNames" if members else "organizationalRole"  # the former must have a member
        listed = "".join(f"member: cn={member},ou=groups,{BASE}\n" if member in GROUPS else f"member: uid={member},ou=people,{BASE}\n" for member in members)
        entries.append(f"dn: cn={name},ou=groups,{BASE}\nobjectClass: {kind}\nobjectClass: posixGroup\ncn: {name}\ngidNumber: {gid}\n{listed}")
    return "\n\n".join(entry.rstrip("\n") for entry in entries) + "\n"


class Directory:
    """The directory of a machine. Making it starts slapd and lets the machine trust its CA, and admits two of its groups to notebooks if it is a hub."""

    def __init__(self, machine, *, is_hub=True):
        self.machine = machine
        machine.sh(f"echo '127.0.0.1 {HOST}' >>/etc/hosts")
        machine.sh(f"""
            cd /etc/ldap
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj '/CN=Example CA' \\
                -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN={HOST}' -addext 'subjectAltName=DNS:{HOST}' \\
                -keyout server.key -out server.csr
            openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -days 30 -copy_extensions copy -out server.crt 2>/dev/null
            chgrp openldap server.key; chmod 640 server.key
            cp ca.crt /usr/local/share/ca-certificates/example.crt; update-ca-certificates >/dev/null
        """)
        machine.write("/etc/ldap/rfc2307bis.schema", SCHEMA)
        machine.write("/etc/ldap/slapd.conf", SLAPD)
        machine.write("/etc/ldap/delay.conf", "")
        machine.write("/etc/ldap/people.ldif", _ldif())
        machine.sh("""
            systemctl stop slapd
            sed -i 's,^SLAPD_CONF=.*,SLAPD_CONF=/etc/ldap/slapd.conf,' /etc/default/slapd
            rm -f /var/lib/ldap/*
            runuser -u openldap -- slapadd -f /etc/ldap/slapd.conf -l /etc/ldap/people.ldif
            systemctl start slapd
        """)
        if is_hub:
            machine.sh("sed -i 's/^Runas_Alias.*/Runas_Alias JUPYTER_USERS = %users, %lab, %notebooks/' /etc/sudoers.d/jupyterhub")

    def answers_after(self, seconds):
        """Let every search and every check of a password take this many seconds (int) more."""
        self.machine.write("/etc/ldap/delay.conf", DELAY.format(base=BASE, seconds=seconds) if seconds else "")
        self.machine.sh("systemctl restart slapd")

    def down(self):
        self.machine.sh("systemctl stop slapd")

    def up(self):
        self.machine.sh("systemctl start slapd")

    def remove(self, name):
        """Remove somebody."""
        self.machine.run("ldapdelete", "-x", "-ZZ", "-H", f"ldap://{HOST}", "-D", f"cn=admin,{BASE}", "-w", "admin", f"uid={name},ou=people,{BASE}")

    def change_password(self, name, old, new):
        """Change somebody's password as they would themselves; the administrator's way would make them change it again."""
        encoded = base64.b64encode(new.encode()).decode()
        self.machine.run(
            *("ldapmodify", "-x", "-ZZ", "-H", f"ldap://{HOST}", "-D", f"uid={name},ou=people,{BASE}", "-w", old),
            input=f"dn: uid={name},ou=people,{BASE}\nchangetype: modify\nreplace: userPassword\nuserPassword:: {encoded}\n",
        )


@contextlib.contextmanager
def settings(machine, hub, lines):
    """Let the hub run with these lines of configuration (str)."""
    path = "/etc/jupyterhub/jupyterhub_config.d/50-test.py"
    machine.write(path, f"c = get_config()\n{lines}\n")
    try:
        _restart(machine, hub)
        yield
    finally:
        machine.run("rm", path)
        _restart(machine, hub)


def _restart(machine, hub):
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)


def crowd_logs_in(hub, prober):
    """Log CROWD in, all at once; return what each login took (list of float, seconds) and the longest time without an answer to `prober`."""
    seconds, failures = [], []

    def log_in(name):
        started = time.monotonic()
        try:
            hub.login(name, PASSWORD)
        except AssertionError as error:
            failures.append(error)
        seconds.append(time.monotonic() - started)

    threads = [threading.Thread(target=log_in, args=(name,)) for name in CROWD]
    with prober:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, [str(failure) for failure in failures]
    assert not prober.failures, prober.failures
    return seconds, prober.longest_gap


# What holds with every client; test_directory_*.py import it and have the fixture `directory`.


@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_primary_secondary_and_nested_groups_admit(machine, hub, directory, name):
    """sudoers has %lab, alice's primary group, and %notebooks: bob is in it, and so are carol's group's groups."""
    hub.login(name, PASSWORD)


def test_nobody_else_is_admitted(machine, hub, directory):
    with pytest.raises(HubError, match="Invalid username or password"):
        hub.login("dave", PASSWORD)
    assert "dave may not log in: " in machine.journal("-u", "jupyterhub")


def test_home_is_made_at_the_first_start(machine, hub, directory):
    assert machine.sh("ls /home/ldap 2>&1 || true").endswith("No such file or directory")
    alice = hub.login("alice", PASSWORD)
    alice.spawn()
    kernel = alice.kernel()
    assert kernel.execute("import getpass, os; print(getpass.getuser(), os.getcwd())") == "alice /home/ldap/alice"
    kernel.close()
    assert machine.sh("stat --format=%U:%G /home/ldap/alice") == "alice:lab"


@pytest.mark.parametrize("group, name", [("lab", "alice"), ("chemistry", "carol"), ("notebooks", "carol")])
def test_groups_in_the_hubs_configuration(machine, hub, directory, group, name):
    """allowed_groups and admin_groups, with a primary, a secondary and a nested group; a group that is missing harms nobody."""
    allowed, admins = f"{{'lab', '{group}'}}", f"{{'{group}', 'no-such-group'}}"
    with settings(machine, hub, f"c.PAMAuthenticator.allowed_groups = {allowed}; c.PAMAuthenticator.admin_groups = {admins}"):
        admin = hub.login(name, PASSWORD)
        assert admin.hub_api("GET", "/user").json()["admin"]
        assert [user["name"].lower() for user in admin.hub_api("GET", "/users").json()].count("alice") == 1
        # Who is in the group no more is no administrator from the next login on.
        assert hub.login("alice", PASSWORD).hub_api("GET", "/user").json()["admin"] == (group == "lab")
        if group != "notebooks":
            with pytest.raises(HubError, match="Invalid username or password"):
                hub.login("bob", PASSWORD)
            assert "bob may not log in: allowed_users and the like" in machine.journal("-u", "jupyterhub")


@pytest.mark.parametrize("password", STRANGE_PASSWORDS)
def test_strange_passwords(hub, directory, password):
    directory.change_password("bob", PASSWORD, password)
    try:
        hub.login("bob", password)
    finally:
        directory.change_password("bob", password, PASSWORD)
