"""jupyterhub-ctl backup, backups and restore, and the timer: one file from which a hub comes back, here or on another machine."""

import json
import re
import shlex

import pytest
import requests
from database import DATABASE, PYTHON, STATE, sql
from harness import CommandFailed, wait_for
from hubclient import HubError, HubUser
from repack import add_migration, repack

FOLDER = "/var/backups/jupyterhub"
CONFIG_D = "/etc/jupyterhub/jupyterhub_config.d"
DEFAULTS = "/etc/default/jupyterhub"
# What a restore is about, with owners and modes; -wal and the like would be listed as well.
EVERYTHING = f"find /etc/jupyterhub {DEFAULTS} /etc/sudoers.d/jupyterhub /etc/pam.d/jupyterhub* {STATE} -printf '%p %u:%g %m %s %l\\n' | sort"


def ctl(machine, *arguments, **options):
    return machine.run("jupyterhub-ctl", *arguments, **options)


def refused(machine, code, *arguments):
    """Run a command that must fail with the documented exit code and change nothing; return its one line."""
    before = machine.sh(f"{EVERYTHING}; ls -A {FOLDER}")
    result = ctl(machine, *arguments, check=False)
    assert result.returncode == code, result
    (line,) = result.stderr.splitlines()
    assert line.startswith("jupyterhub-ctl: ") and result.stdout == ""
    assert machine.sh(f"{EVERYTHING}; ls -A {FOLDER}") == before
    return line


def listed(machine):
    """Return the backups, oldest first, as `backups --json` has them."""
    return json.loads(ctl(machine, "backups", "--json").stdout)


@pytest.fixture(scope="module")
def alice(machine, hub):
    """A user of the hub with a running notebook server, on a machine with settings of its own."""
    machine.add_user("alice")
    machine.write(f"{CONFIG_D}/10-mine.py", "c = get_config()\nc.JupyterHub.template_vars = {'announcement': 'from the backup'}\n", 0o640)
    machine.sh(f"chown root:jupyterhub {CONFIG_D}/10-mine.py; systemctl reload jupyterhub; sleep 1")
    wait_for(hub.answers, "the hub answers", timeout=20)
    user = hub.login("alice", "secret")
    user.spawn()
    return user


@pytest.fixture(scope="module")
def saved(machine, alice):
    """The path of a backup with alice in it, made while the hub runs."""
    return ctl(machine, "backup").stdout.strip()


def test_backup_is_for_root_alone(machine, saved):
    assert machine.sh(f"stat -c '%U:%G %a' {FOLDER} {saved}").splitlines() == ["root:root 700", "root:root 600"]
    assert re.fullmatch(rf"{FOLDER}/jupyterhub-\d{{8}}T\d{{6}}Z-manual\.tar\.gz", saved)
    assert "needs root" in machine.run("jupyterhub-ctl", "backup", user="alice", check=False).stderr


def test_backups_are_listed(machine, saved):
    (row,) = [row for row in listed(machine) if f"{FOLDER}/{row['name']}" == saved]
    assert (row["label"], row["database"], row["version"]) == ("manual", "sqlite", machine.sh("dpkg-query -W -f '${Version}' jupyterhub"))
    assert saved.rpartition("/")[2] in ctl(machine, "backups").stdout


def test_alias_of_earlier_packages(machine, alice):
    made = machine.run("jupyterhub-backup", "/root/by-alias.tar.gz").stdout.strip()
    assert made == "/root/by-alias.tar.gz"
    names = machine.sh(f"tar tzf {made}").split()
    assert names[0] == "manifest.json" and names[-1] == "database"
    assert {"files/etc/jupyterhub/proxy.env", f"files{STATE}/cookie_secret", f"files{CONFIG_D}/10-mine.py", "files/etc/sudoers.d/jupyterhub"} <= set(names)


def test_timer_is_on_and_its_service_works(machine, alice):
    assert machine.sh("systemctl is-enabled jupyterhub-backup.timer; systemctl is-active jupyterhub-backup.timer").split() == ["enabled", "active"]
    machine.run("systemctl", "start", "jupyterhub-backup.service")
    assert [row["label"] for row in listed(machine)].count("timer") == 1


def test_retention(machine, alice):
    """Of each label the newest are kept, and none is made by the timer where none is to be kept."""
    machine.sh(f"sed -i s/JUPYTERHUB_BACKUPS=.*/JUPYTERHUB_BACKUPS=2/ {DEFAULTS}")
    made = []
    for _ in range(3):
        made.append(ctl(machine, "backup", "--label", "often").stdout.strip())
        machine.sh("sleep 1")
    assert [f"{FOLDER}/{row['name']}" for row in listed(machine) if row["label"] == "often"] == made[1:]
    machine.sh(f"sed -i s/JUPYTERHUB_BACKUPS=.*/JUPYTERHUB_BACKUPS=0/ {DEFAULTS}")
    before = listed(machine)
    ctl(machine, "backup", "--label", "timer")
    assert listed(machine) == before
    machine.sh(f"sed -i s/JUPYTERHUB_BACKUPS=.*/JUPYTERHUB_BACKUPS=many/ {DEFAULTS}")
    assert f"JUPYTERHUB_BACKUPS=many in {DEFAULTS}" in refused(machine, 1, "backup", "--label", "timer")
    machine.sh(f"sed -i s/JUPYTERHUB_BACKUPS=.*/JUPYTERHUB_BACKUPS=14/ {DEFAULTS}")


def test_restore_brings_back_what_was(machine, hub, alice, saved):
    """Users, tokens, settings, owners and modes; and takes away what came later. Notebooks go on."""
    kernel = alice.kernel()
    kernel.execute("held = 42")
    token = alice.hub_api("POST", "/users/alice/tokens", json={"note": "of the backup"}).json()["token"]
    made = ctl(machine, "backup").stdout.strip()
    before = machine.sh(EVERYTHING.replace(" %s ", " ")).replace(f"{STATE}/cookie_secret", "")

    sql(machine, "DELETE FROM api_tokens")
    machine.write(f"{CONFIG_D}/20-later.py", "c = get_config()\n")
    machine.sh(f"rm {CONFIG_D}/10-mine.py; chmod 666 /etc/sudoers.d/jupyterhub; head -c 32 /dev/urandom | base64 >{STATE}/cookie_secret")
    said = ctl(machine, "restore", made.rpartition("/")[2]).stdout
    assert said.startswith(f"restored {made}; the state before it is {FOLDER}/")

    wait_for(hub.answers, "the hub answers", timeout=20)
    assert machine.sh(EVERYTHING.replace(" %s ", " ")).replace(f"{STATE}/cookie_secret", "") == before
    assert "from the backup" in hub.login("alice", "secret").get("/hub/home").text
    assert home(alice)  # her cookie is good: the secret is the old one
    assert requests.get(f"{hub.base}/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=10).ok
    assert kernel.execute("held") == "42"
    assert alice.server_ready


def test_state_before_a_restore_is_a_backup_too(machine, hub, alice):
    (row,) = [row for row in listed(machine) if row["label"] == "restore"]
    ctl(machine, "restore", row["name"])
    assert machine.run("test", "-e", f"{CONFIG_D}/20-later.py").returncode == 0
    assert sql(machine, "SELECT count(*) FROM api_tokens WHERE note = 'of the backup'") == "(0,)"


def test_packages_own_settings_stay_of_the_package(machine, hub, saved):
    """What nobody has changed is left to the installed version, which may be another than that of the backup."""
    machine.sh("stat -c %i /etc/jupyterhub/jupyterhub_config.py /etc/pam.d/jupyterhub >/root/inodes")
    ctl(machine, "restore", saved)
    machine.sh("stat -c %i /etc/jupyterhub/jupyterhub_config.py /etc/pam.d/jupyterhub | cmp - /root/inodes")


# -- Bad input ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, said",
    [
        ("echo hello >/root/bad.tar.gz", "is no backup of jupyterhub-ctl"),
        (": >/root/bad.tar.gz", "is no backup of jupyterhub-ctl"),
        ("tar czf /root/bad.tar.gz /etc/hostname", "is no backup of jupyterhub-ctl"),
        ("head -c $(($(stat -c %s {saved}) / 2)) {saved} >/root/bad.tar.gz", "is damaged"),
        ("cp {saved} /root/bad.tar.gz; printf XXXX | dd of=/root/bad.tar.gz bs=1 seek=3000 conv=notrunc", "is damaged"),
    ],
    ids=["text", "empty", "foreign", "cut", "flipped"],
)
def test_unusable_archive(machine, saved, make, said):
    machine.sh(make.replace("{saved}", saved))
    assert f"/root/bad.tar.gz {said}" in refused(machine, 9, "restore", "/root/bad.tar.gz")
    result = machine.run("sh", "-c", "jupyterhub-ctl restore - </root/bad.tar.gz", check=False)
    assert result.returncode == 9 and result.stderr.startswith(f"jupyterhub-ctl: standard input {said}")


REWRITE = """
import io, json, sys, tarfile
with tarfile.open(sys.argv[1]) as old, tarfile.open("/root/bad.tar.gz", "w:gz") as new:
    for member in old:
        content = old.extractfile(member).read()
        if member.name == "manifest.json":
            manifest = json.loads(content)
            exec(sys.argv[2])
            content = json.dumps(manifest).encode()
            member.size = len(content)
        new.addfile(member, io.BytesIO(content))
"""


@pytest.mark.parametrize(
    "change, said",
    [
        ("manifest['format'] = 99", "is of format 99"),
        ("manifest['version'] = '99.1+deb13'", "is of version 99.1+deb13, which is newer than this one: upgrade the package first"),
        ("manifest['entries'][0]['path'] = '/etc/passwd'", "/etc/passwd is outside of what a backup holds"),
        ("manifest['entries'].pop()", "is not in its manifest"),
    ],
    ids=["format", "version", "outside", "more"],
)
def test_archive_that_is_not_for_this_machine(machine, saved, change, said):
    machine.run(PYTHON, "-c", REWRITE, saved, change)
    assert said in refused(machine, 9, "restore", "/root/bad.tar.gz")


def test_missing_archive(machine, saved):
    assert "No such file" in refused(machine, 1, "restore", "/root/nowhere.tar.gz")


def test_nothing_is_overwritten(machine, saved):
    assert f"{saved} exists" in refused(machine, 1, "backup", saved)


def test_two_runs_at_once(machine, saved):
    machine.sh(f"systemd-run --quiet --unit=holder flock {FOLDER}/.lock sleep 60; sleep 0.5")
    for arguments in (["backup"], ["restore", saved]):
        assert "another backup, restore or move of the database is running" in refused(machine, 8, *arguments)
    machine.sh("systemctl stop holder")


def test_locked_database(machine, hub, saved):
    script = f"import sqlite3, time; c = sqlite3.connect('{DATABASE}', isolation_level=None); c.execute('BEGIN EXCLUSIVE'); time.sleep(120)"
    machine.sh(f"systemd-run --quiet --unit=locker {PYTHON} -c {shlex.quote(script)}; sleep 0.5")
    assert f"the database {DATABASE} is locked by another program" in refused(machine, 11, "backup")
    machine.sh("systemctl stop locker")
    wait_for(hub.answers, "the hub answers", timeout=20)


def test_full_disk_leaves_nothing(machine, saved):
    """A backup of more than the disk has room for; the file system is small and holds nothing else."""
    machine.sh("mkdir -p /mnt/small; mount -t tmpfs -o size=64k tmpfs /mnt/small")
    assert "no space is left in /mnt/small" in refused(machine, 10, "backup", "/mnt/small/it.tar.gz")
    assert machine.sh("ls -A /mnt/small") == ""
    machine.sh(f"mount -t tmpfs -o size=300k,mode=700 tmpfs {FOLDER}; cp /root/by-alias.tar.gz {FOLDER}/; touch {FOLDER}/.lock")
    machine.sh(f"head -c 1M /dev/zero >{FOLDER}/ballast || true")
    assert f"no space is left in {FOLDER}" in refused(machine, 10, "restore", "by-alias.tar.gz")
    machine.sh(f"umount {FOLDER} /mnt/small")


def test_corrupt_database(machine, hub, saved):
    """It cannot be saved, and a restore mends it; what it was is kept for whom it may concern."""
    machine.sh(f"systemctl stop jupyterhub; dd if=/dev/urandom of={DATABASE} bs=1024 seek=8 count=20 conv=notrunc status=none")
    assert f"the database {DATABASE} is corrupt" in refused(machine, 11, "backup")
    said = ctl(machine, "restore", saved).stdout
    machine.sh("systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    assert hub.login("alice", "secret")
    damaged = said.split()[-1]
    assert [row["database"] for row in listed(machine) if damaged.endswith(row["name"])] == ["damaged"]
    assert "corrupt already" in refused(machine, 9, "restore", damaged)


def test_broken_configuration_is_saved_all_the_same(machine, hub, saved):
    machine.write(f"{CONFIG_D}/30-broken.py", "c = (\n")
    result = ctl(machine, "backup")
    assert f"{CONFIG_D}/30-broken.py:1: SyntaxError" in result.stderr
    assert listed(machine)[-1]["database"] == "sqlite"
    machine.run("rm", f"{CONFIG_D}/30-broken.py")


# -- Elsewhere and later -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(site, installed, saved, machine, tmp_path_factory):
    """A fresh machine with the package, and the first one's backup in /root. It has a network of its own."""
    file = tmp_path_factory.mktemp("backup") / "moved.tar.gz"
    file.write_bytes((machine.root / saved.lstrip("/")).read_bytes())
    other = site.machine("other", *installed).boot()
    other.push(file)
    yield other
    site.discard(other)


def test_moves_to_a_fresh_machine(machine, other, alice):
    """With other numbers for the accounts: owners go by name."""
    other.add_user("first")
    other.add_user("alice")
    ctl(other, "restore", "/root/moved.tar.gz")
    with other.network():
        assert "from the backup" in wait_for(lambda: home(alice), "alice's cookie is good on the other machine", timeout=20)
    assert (
        other.sh(f"stat -c '%U:%G %a' {DATABASE} {STATE}/cookie_secret {CONFIG_D}/10-mine.py").splitlines()
        == machine.sh(f"stat -c '%U:%G %a' {DATABASE} {STATE}/cookie_secret {CONFIG_D}/10-mine.py").splitlines()
    )


def home(alice):
    """Return the home page that alice's browser gets here, None while there is no hub or it asks for her password."""
    browser = HubUser(alice.base, alice.name)  # whose connections are to this machine
    browser.session.cookies.update(alice.session.cookies)
    try:
        page = browser.get("/hub/home")
    except (HubError, OSError):
        return None
    return page.text if page.url.endswith("/hub/home") else None


@pytest.mark.slow("test_safe_upgrade migrates each time, test_restore_brings_back_what_was restores")
def test_restores_into_the_next_version(other, deb, alice, tmp_path_factory):
    """The hub migrates the database at its start; apt has made a backup before the upgrade."""
    package = other.push(repack(deb, tmp_path_factory.mktemp("next"), add_migration))
    other.run("apt-get", "-qq", "-y", "install", package, timeout=300)
    assert [row["label"] for row in listed(other)][-1] == "upgrade"
    ctl(other, "restore", "/root/moved.tar.gz")
    with other.network():
        wait_for(lambda: home(alice), "alice's cookie is good", timeout=30)
    assert sql(other, "SELECT count(*) FROM of_the_upgrade") == "(0,)"


@pytest.mark.slow("test_archive_that_is_not_for_this_machine has one of version 99")
def test_backup_of_the_next_version_is_refused_by_this_one(machine, other, tmp_path):
    made = ctl(other, "backup").stdout.strip()
    file = tmp_path / "newer.tar.gz"
    file.write_bytes((other.root / made.lstrip("/")).read_bytes())
    assert "newer than this one" in refused(machine, 9, "restore", machine.push(file))


@pytest.mark.slow("test_install purges each time")
def test_purge_keeps_the_backups(other):
    with pytest.raises(CommandFailed):
        other.run("test", "!", "-e", FOLDER)
    said = other.run("apt-get", "-qq", "-y", "purge", "jupyterhub", timeout=120)
    assert f"the backups in {FOLDER} are kept" in said.stdout + said.stderr
    assert other.sh(f"ls {FOLDER}")
