"""Checks: who may read what, who may log in, and for whom sudo lets the hub start servers."""

import functools
import grp
import itertools
import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ... import files, units
from ...accounts import HUB as ACCOUNT
from ...accounts import HUB_GROUPS, LOGIN, LOGIN_GROUPS, PORTS, PROXY, group_exists, group_name, user_name
from ...database_url import FILE as DATABASE_URL
from ...defaults import COOKIE_SECRET
from ...lines import joined
from ...paths import (
    CONFIG,
    CTL_FILE,
    JOBS_CA,
    LIBEXEC,
    LOGIN_SERVICE,
    PROXY_ENV,
    SERVERS,
    SESSION_SERVICE,
    STATE,
    SUDOERS,
    TREES,
    VENV,
)
from ..command import output, properties
from ..sudoers import MEDIATOR
from ..sudoers import ask as ask_sudo
from .check import Failed, Findings, Warned, check, once

TMPFILES = "systemd-tmpfiles --create jupyterhub.conf"
HASHES = "who takes over the hub reads the password hashes of all local accounts"
CONFMISS = "apt-get install --reinstall -o Dpkg::Options::=--force-confmiss jupyterhub"

# In the hub's folder its account may put a link in the file's place at any time: root must not follow one.
IN_HUBS = "chown jupyterhub: --no-dereference {path}; runuser -u jupyterhub -- chmod"
# Path: owner, group, the most that its mode may be, how to mend it.
MODES = {
    CONFIG: ("root", ACCOUNT, 0o750, TMPFILES),
    f"{CONFIG}/jupyterhub_config.d": ("root", ACCOUNT, 0o750, TMPFILES),
    f"{CONFIG}/jupyterhub_config.py": ("root", ACCOUNT, 0o640, TMPFILES),
    PROXY_ENV: ("root", "root", 0o600, "chown root: {path}; chmod 600 {path}"),
    f"{CONFIG}/{DATABASE_URL}": ("root", ACCOUNT, 0o640, TMPFILES),
    f"{CONFIG}/metrics.token": ("root", ACCOUNT, 0o640, TMPFILES),
    CTL_FILE: (ACCOUNT, ACCOUNT, 0o600, "systemctl restart jupyterhub"),
    STATE: (ACCOUNT, ACCOUNT, 0o750, TMPFILES),
    COOKIE_SECRET: (ACCOUNT, ACCOUNT, 0o600, f"{IN_HUBS} 600 {{path}}"),
    JOBS_CA: (ACCOUNT, ACCOUNT, 0o600, f"{IN_HUBS} 600 {{path}}"),
    f"{STATE}/jupyterhub.sqlite": (ACCOUNT, ACCOUNT, 0o640, f"{IN_HUBS} 640 {{path}}"),
    SUDOERS: ("root", "root", 0o640, "chown root: {path}; chmod 440 {path}"),
}
OF_SERVICES = [path for path, (owner, *_) in MODES.items() if owner == ACCOUNT and path != STATE]


@check("accounts")
def accounts() -> Findings:
    """The package's accounts exist and are no root in disguise."""
    for name in (ACCOUNT, PROXY, PORTS, LOGIN):
        try:
            account = pwd.getpwnam(name)
            grp.getgrnam(name)
        except KeyError:
            yield Failed(f"account or group {name} is missing", "its service cannot start", "systemd-sysusers jupyterhub.conf")
            continue
        if account.pw_uid == 0:
            yield Failed(f"account {name} has uid 0", "its service has all rights", f"give {name} a uid of its own in /etc/passwd")


# What accounts without rights have to get through, and what follows where they cannot.
WAYS = {
    VENV: "hub, proxy and notebook servers cannot read their software",
    TREES: "hub and notebook servers cannot read their software",
    LIBEXEC: "hub and notebook servers cannot start their programs",
    "/var/opt": "the hub cannot reach its database",
    "/run/user": "no notebook server starts",
}
FOR_ALL = ("/tmp", "/var/tmp", "/dev/shm")


@check("folders", needs=["accounts"])
def folders() -> Findings:
    """Folders on the way to software and database let the services and users through; temporary ones take everybody's files."""
    told: set[Path] = set()
    for way, consequence in WAYS.items():
        yield from _closed(way, ACCOUNT, consequence, told)
    if not os.path.isdir(SERVERS):
        yield Failed(f"{SERVERS} is missing", "no notebook server starts", TMPFILES)
    for path in FOR_ALL:
        if os.path.isdir(path) and (mode := stat.S_IMODE(os.stat(path).st_mode)) & 0o1777 != 0o1777:
            yield Failed(f"{path} has mode {mode:04o}, 1777 is right", "programs of users fail, kernels too", f"chmod 1777 {path}")


@check("homes", needs=["accounts"])
def homes() -> Findings:
    """People get through the folders on the way to their homes. A check of its own, since a file server may hang."""
    told: set[Path] = set()
    people = {str(Path(pwd.getpwnam(name).pw_dir).parent): name for name in reversed(list(_candidates())[:20])}
    for way, name in people.items():
        yield from _closed(way, name, "no notebook server of these users starts", told)
    yield ", ".join(people)


def _closed(way: str, name: str, consequence: str, told: set[Path]) -> Iterator[Failed]:
    """Yield a Failed for each folder on the `way` that the account `name` cannot get through, but those that were `told`."""
    for folder in [*reversed(Path(way).parents), Path(way)]:
        if folder not in told and folder.is_dir() and not _lets_through(folder, name):
            told.add(folder)
            what = f"{folder} has mode {stat.S_IMODE(folder.stat().st_mode):04o}: {name} cannot get through it"
            yield Failed(what, consequence, f"chmod a+rx {folder}" if str(folder).startswith("/opt") else f"chmod a+x {folder}")


def _lets_through(folder: Path, name: str) -> bool:
    """Return whether the account `name` can search `folder` (Path); it is tried where the mode does not say so, since there may be more than a mode."""
    if folder.stat().st_mode & stat.S_IXOTH:
        return True
    return output("setpriv", f"--reuid={name}", f"--regid={pwd.getpwnam(name).pw_gid}", "--init-groups", "--", "test", "-x", str(folder))[0] == 0


@check("secrets", needs=["accounts"])
def secrets() -> Findings:
    """Owners and modes of what holds secrets; the hub must be able to read its configuration."""
    for path, (owner, group, mode, mend) in MODES.items():
        try:
            status = os.lstat(path) if path in OF_SERVICES else os.stat(path)
        except FileNotFoundError:
            continue  # configuration, database and services have checks of their own
        if stat.S_ISLNK(status.st_mode) and status.st_uid == 0:
            continue  # the administrator's; the hub's account cannot make one of root's
        mend = mend.format(path=path)
        if path in OF_SERVICES and (strange := _strange(path, status)):
            mend = "systemctl restart jupyterhub" if path == CTL_FILE else f"rm {path}; jupyterhub-ctl backups lists what jupyterhub-ctl restore can bring back"
            yield Failed(f"{path} {strange}", "the hub does not put such a thing there", mend)
        elif (actual := (user_name(status.st_uid), group_name(status.st_gid))) != (owner, group):
            yield Failed(f"{path} belongs to {':'.join(actual)}, not to {owner}:{group}", "the wrong account can or cannot use it", mend)
        elif extra := stat.S_IMODE(status.st_mode) & ~mode:
            worse = "others can change it" if extra & 0o022 else "others can read it"
            yield Failed(f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, at most {mode:04o} is right", worse, mend)
    gid = grp.getgrnam(ACCOUNT).gr_gid
    for file in sorted(Path(CONFIG).glob("jupyterhub_config.d/*.py")):
        status = file.stat()
        if status.st_mode & 0o022:
            yield Failed(f"{file} can be written to by others", "who can write to it is the hub", TMPFILES)
        elif not (status.st_mode & 0o004 or (status.st_mode & 0o040 and status.st_gid == gid)):
            yield Failed(f"{file} cannot be read by the hub", "the hub will not start again", TMPFILES)


def _strange(path: str, status: os.stat_result) -> str:
    """Return what is wrong with a file of the hub's by its `status`, as lstat has it; "" if nothing is."""
    if stat.S_ISLNK(status.st_mode):
        return "is a link"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    return f"has {status.st_size} bytes" if path in (COOKIE_SECRET, CTL_FILE) and status.st_size > files.SMALL else ""


@once
def unit_groups() -> list[str]:
    """Return the groups (list of str) that the hub's unit gives it."""
    return _groups_of(units.HUB, HUB_GROUPS)


def _groups_of(name: str, shipped: tuple[str, ...]) -> list[str]:
    unit = properties(name, "LoadState", "SupplementaryGroups")
    # A masked unit says nothing.
    return unit["SupplementaryGroups"].split() if unit.get("LoadState") == "loaded" else list(shipped)


@check("groups", needs=["accounts"])
def groups() -> Findings:
    """shadow for who checks passwords and not for the hub, jupyterhub-proxy for the proxy's socket; and somebody who may log in."""
    of_login = _groups_of(units.LOGIN_CHECK, LOGIN_GROUPS)
    for wrong, unit, why in (
        (PROXY not in unit_groups() and f"lacks {PROXY}", units.HUB, "the hub cannot reach its proxy"),
        ("shadow" in unit_groups() and "has shadow", units.HUB, HASHES),
        ("shadow" not in of_login and "lacks shadow", units.LOGIN_CHECK, "nobody with a local account can log in"),
    ):
        if wrong:
            mend = f"systemctl cat {unit} shows where it is set; then `systemctl restart {unit}`"
            yield Failed(f"SupplementaryGroups= of {unit} {wrong}", why, mend)
    if ACCOUNT in grp.getgrnam("shadow").gr_mem:
        yield Failed(f"account {ACCOUNT} is a member of group shadow", HASHES, f"gpasswd -d {ACCOUNT} shadow; systemctl restart {units.HUB}")
    try:
        users = grp.getgrnam("users")
    except KeyError:
        yield Warned("there is no group users", "the shipped rule in sudoers admits its members", "groupadd users, or edit JUPYTER_USERS with visudo")
    else:
        yield f"members of users: {len(users.gr_mem)}"


def as_login(*command: str) -> list[str]:
    """Return the command (list of str) as the account that checks passwords runs it, with the groups of its unit and without new privileges."""
    groups = ",".join([LOGIN, *_groups_of(units.LOGIN_CHECK, LOGIN_GROUPS)])
    return ["setpriv", f"--reuid={LOGIN}", f"--regid={LOGIN}", f"--groups={groups}", "--inh-caps=-all", "--no-new-privs", "--", *command]


def _candidates() -> Iterator[str]:
    """Yield local people (str), members of `users` first: for them sudo is asked."""
    try:
        members = grp.getgrnam("users").gr_mem
    except KeyError:
        members = []
    people = [account.pw_name for account in pwd.getpwall() if 1000 <= account.pw_uid < 60000]
    yield from dict.fromkeys([name for name in members if name in people] + people)


@functools.cache
def admitted(most: int) -> list[str]:
    """Return the first people (list of str) whom sudo lets the hub start a server for, not more than `most`; twenty are asked about."""
    asked = ((name, ask_sudo("-l", "-u", name, "--", MEDIATOR)[0]) for name in list(_candidates())[:20])
    return list(itertools.islice((name for name, code in asked if code == 0), most))


def _require_rule() -> None:
    """Raise Failed unless sudoers can be read and its rule for the hub is in force."""
    code, said = output("visudo", "-c")
    if code != 0:
        wrong = [line for line in said.splitlines() if not line.endswith("parsed OK")]
        raise Failed(
            f"visudo -c: {joined(chr(10).join(wrong))}",
            "sudo ignores what it cannot read: logins may fail",
            "visudo -f FILE, where FILE is the one it names",
        )
    if not Path(SUDOERS).exists():
        raise Failed(f"{SUDOERS} is missing", "nobody can log in", CONFMISS)
    code, said = output("sudo", "-n", "-l", "-U", ACCOUNT)
    if code == 124:
        raise Failed(f"sudo does not answer: {said}", "logging in is not possible", "time sudo -l -U jupyterhub; a directory service that hangs?")
    if MEDIATOR not in said:
        if re.search(r"^[@#]include(dir)?\s", Path("/etc/sudoers").read_text(), re.MULTILINE):
            mend = f"compare {SUDOERS} with the shipped one: the line `jupyterhub ALL = (JUPYTER_USERS) NOPASSWD: JUPYTER_CMD` must be there"
        else:
            mend = "visudo, and add the line `@includedir /etc/sudoers.d`"
        raise Failed(f"sudo lets {ACCOUNT} run nothing: the rule of {SUDOERS} is not in force", "nobody can log in", mend)
    if f"pam_service={SESSION_SERVICE}" not in said:
        raise Failed(
            f"sudo does not use the PAM service {SESSION_SERVICE}",
            "servers get no session and end with the hub",
            f"put the Defaults!JUPYTER_CMD line back into {SUDOERS}",
        )


def _require_no_more() -> None:
    """Raise Failed where sudo lets the hub do more than start notebook servers of users."""
    if ask_sudo("-l", "/bin/sh")[0] == 0:
        raise Failed(
            f"sudo lets {ACCOUNT} run other commands as root",
            "who takes over the hub takes over the machine",
            f"sudo -l -U {ACCOUNT} lists them; take the rule away with visudo",
        )
    if ask_sudo("-l", "-u", "root", "--", MEDIATOR)[0] == 0:
        raise Failed("JUPYTER_USERS admits root", "who takes over the hub takes over the machine", f"visudo {SUDOERS}: name users and groups, never ALL")


@check("sudoers", needs=["accounts", "folders", "package-files"])
def sudoers() -> Findings:
    """Is the policy well formed, and what does sudo make of it?"""
    _require_rule()
    _require_no_more()
    if names := admitted(1):
        yield f"admits {names[0]}"
        return
    what, mend = "JUPYTER_USERS admits none of the machine's accounts", "usermod -aG users NAME"
    if missing := _missing_groups():
        what, mend = f"{what}: there is no group {', '.join(missing)}", f"visudo {SUDOERS} corrects the name, groupadd makes a group"
    yield Warned(what, "nobody (but accounts of a directory) can log in", mend)


def _missing_groups() -> list[str]:
    """Return the groups that JUPYTER_USERS names and the system does not know."""
    alias = re.search(r"^Runas_Alias\s+JUPYTER_USERS\s*=(.*(?:\\\n.*)*)", Path(SUDOERS).read_text(errors="replace"), re.MULTILINE)
    named = re.findall(r"%([\w.-]+)", alias[1]) if alias else []
    return [name for name in named if not group_exists(name)]


# -- PAM ---------------------------------------------------------------------------------------------------------------------------

KINDS = ("auth", "account", "password", "session")
_LINE = re.compile(r"-?(?P<kind>\w+)\s+(?P<control>\[[^]]*\]|\S+)\s+(?P<module>\S+)(?P<rest>.*)")


def _stack(service: str) -> Iterator[tuple[str, int, str, str]]:
    """Yield (file, line number, kind, module) of a PAM service (file in /etc/pam.d), with what it includes.

    Raises Failed for what libpam would trip over.
    """
    path = Path("/etc/pam.d", service)
    try:
        lines = path.read_text(errors="replace").replace("\\\n", " ").splitlines()
    except OSError:
        raise Failed(
            f"{path} is missing", "PAM refuses or takes its service `other`", CONFMISS if service.startswith("jupyterhub") else "pam-auth-update"
        ) from None
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("@include"):
            yield from _stack(line.split()[1])
            continue
        found = _LINE.fullmatch(line)
        if not found or found["kind"] not in KINDS:
            raise Failed(
                f"{path}:{number}: PAM does not understand {line!r}",
                "PAM refuses whoever comes past it",
                f"correct line {number} of {path}, see pam.d(5)",
            )
        if found["control"] in ("include", "substack"):
            yield from _stack(found["module"])
        else:
            yield str(path), number, found["kind"], found["module"]


def modules_of(service: str, kind: str) -> list[str]:
    """Return the modules (list of str, names of files) of a service of PAM for `kind` ("account", "auth", ...). Raises Failed, see _stack."""
    return list(dict.fromkeys(Path(module).name for _, _, found, module in _stack(service) if found == kind))


def _module_exists(name: str) -> bool:
    return Path(name).exists() or any(Path("/usr/lib").glob(f"*/security/{name}")) or Path("/usr/lib/security", name).exists()


@check("pam-files")
def pam_files() -> Findings:
    """Both services can be read, and their modules are there."""
    for service in (LOGIN_SERVICE, SESSION_SERVICE):
        modules = list(_stack(service))
        for file, number, _, module in modules:
            if not _module_exists(module):
                raise Failed(
                    f"{file}:{number}: there is no module {module}",
                    "PAM refuses whoever comes past it",
                    f"install its package (apt-file search {module}), or take the line out",
                )
        if service == SESSION_SERVICE and not any("pam_systemd.so" in module for _, _, kind, module in modules if kind == "session"):
            raise Failed(
                f"/etc/pam.d/{service} has no session line with pam_systemd.so",
                "no server starts: it would have no session",
                f"add to it: session required pam_systemd.so class=background; or {CONFMISS}",
            )
        for kind in ("auth", "account") if service == LOGIN_SERVICE else ():
            if not any(found == kind for _, _, found, _ in modules):
                raise Failed(f"/etc/pam.d/{service} has no {kind} line", "PAM refuses everybody", CONFMISS)
    yield "both services"


@check("logins")
def logins() -> None:
    """pam_nologin is the machine's own switch."""
    for path in ("/etc/nologin", "/run/nologin"):
        if os.path.exists(path):
            raise Failed(f"{path} is there: PAM refuses all logins but root's", "nobody can log in", f"rm {path}, when the maintenance it announces is over")


@check("pam", needs=["pam-files", "groups", "accounts", "folders"])
def pam() -> None:
    """A PAM transaction as who checks passwords: the account part for root, which needs /etc/shadow; a wrong password must be called wrong."""
    code, said = output(*as_login(f"{VENV}/bin/python", "-I", "-m", "debianized_jupyterhub.ctl.verify.pam_probe", LOGIN_SERVICE))
    if code != 0:
        raise Failed(
            f"PAM as {LOGIN}: {joined(said)}",
            "nobody can log in",
            f"journalctl -t python -g PAM -n 5 has the module's words; then /etc/pam.d/{LOGIN_SERVICE} and what it includes",
        )


@check("logind", needs=["pam-files"])
def logind() -> None:
    """A notebook server is a session of systemd-logind."""
    mend = "systemctl unmask systemd-logind dbus; systemctl start systemd-logind"
    for unit in ("dbus.service", "systemd-logind.service"):
        state = output("systemctl", "is-active", unit)[1]
        if state != "active":
            raise Failed(f"{unit} is {state}", "no session can be opened, so no server starts", mend)
    code, said = output("loginctl", "list-sessions", "--no-legend", timeout=5)
    if code != 0:
        raise Failed(f"systemd-logind does not answer: {joined(said)}", "no session can be opened, so no server starts", "systemctl restart systemd-logind")
