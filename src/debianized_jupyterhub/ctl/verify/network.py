"""Checks: is the network closed to whom it should be, and is the index of packages whole?"""

import itertools
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator

from ... import egress as rules
from ... import files, package_index
from ...layers import VERSION
from ...settings import place_of
from ..command import properties
from ..common import default_setting
from .check import Failed, Finding, Findings, Warned, check

UNIT = "jupyterhub-egress.service"
RELOAD = f"systemctl reload-or-restart {UNIT.removesuffix('.service')}; it says why it cannot"
TIMEOUT = 3  # seconds for a connection that is tried
CONNECT = f"import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), {TIMEOUT})"
OPEN = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
# Programs that look up names for whoever asks at a socket, with the rights of another account.
RESOLVERS = {
    "/run/systemd/resolve/io.systemd.Resolve": "systemd-resolved",
    "/run/nscd/socket": "nscd",
}


def environment() -> dict[str, str]:
    """Return the settings of egress.py."""
    return {name: default_setting(name) for name in (rules.CLOSED, rules.GROUPS, rules.ALLOWED, rules.TRIED)}


@check("egress", limit=25)
def egress() -> Findings:
    """Whom the network is closed to: are the rules in force, and do they bite?"""
    try:
        wanted = rules.settings(environment())
        if not wanted.closed:
            yield "the network is open to users"
            return
        free = rules.exempt(wanted.groups)
        in_force = rules.comment_of(rules.loaded())
    except rules.Refused as error:
        raise Failed(
            str(error), "the network is open to users, or rules from before are in force", "fix what it names; then systemctl reload jupyterhub-egress"
        ) from None
    for name in free.missing:
        yield Warned(f"there is no group {name}, which {rules.GROUPS} names", "its members cannot reach the network", f"correct {place_of(rules.GROUPS)}")
    yield from _in_force(in_force, rules.comment_of(rules.rules(wanted, free)))
    uid, gid = somebody(wanted, free)
    yield from _proof(wanted, uid, gid)
    yield from _resolvers(uid, gid)
    yield f"closed to uids {default_setting(rules.CLOSED)}: {', '.join(default_setting(rules.TRIED).split())} refuses a user"


def _in_force(found: str, expected: str) -> Iterator[Finding]:
    if not found:
        yield Failed("the rules that close the network to users are not in force", "users reach the network", RELOAD)
    elif found != expected:
        yield Failed("the rules in force are not those that the settings ask for", "the network is closed to others than it should be", RELOAD)
    if (state := properties(UNIT, "UnitFileState").get("UnitFileState")) != "enabled":
        yield Failed(f"{UNIT} is {state or 'unknown'}", "the network is open to users after the next boot", f"systemctl enable --now {UNIT}")


def somebody(wanted: rules.Settings, free: rules.Exempt) -> tuple[int, int]:
    """Return uid and gid (int) of an account that the network is closed to; where there is none, a uid that nobody has."""
    for account in pwd.getpwall():
        if rules.is_closed(account, wanted, free):
            return account.pw_uid, account.pw_gid
    uid = next(uid for first, last in wanted.closed for uid in range(last, first - 1, -1) if uid not in free.uids)
    return uid, next(gid for gid in itertools.chain([uid], range(65534, 0, -1)) if gid not in free.gids)


def succeeds_as(code: str, *arguments: str, uid: int = 0, gid: int = 0, timeout: float = 2 * TIMEOUT) -> bool:
    """Return whether a line of Python ends well as an account, with no further groups, and nothing of root's: its terminal, its environment."""
    command = [sys.executable, "-I", "-S", "-c", code, *arguments]
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        cwd="/",
        env={"LC_ALL": "C.UTF-8"},
        user=uid,
        group=gid,
        extra_groups=[],
        start_new_session=True,
    )
    return done.returncode == 0


def connects(target: rules.Target, uid: int = 0, gid: int = 0) -> bool:
    """Return whether an account reaches an address."""
    assert target.ports
    return succeeds_as(CONNECT, str(target.network.network_address), str(target.ports[0]), uid=uid, gid=gid)


def _proof(wanted: rules.Settings, uid: int, gid: int) -> Iterator[Finding]:
    place = place_of(rules.TRIED)
    if not wanted.tried:
        mend = f"{place}: {rules.TRIED}=ADDRESS:PORT, of a server that root reaches from here"
        yield Warned("that the network is closed to users was not proven: no address to try is set", "the rules are looked at, not tried", mend)
    for target in wanted.tried:
        name = f"{target.network.network_address} port {target.ports[0] if target.ports else ''}"
        if any(each.has(target) for each in wanted.allowed):
            yield Failed(f"{name}, which {rules.TRIED} names, is among those in {rules.ALLOWED}", "nothing is proven by it", f"name another: {place}")
        elif connects(target, uid, gid):
            yield Failed(f"the account with uid {uid} reaches {name}", "the network is not closed", "nft list ruleset; docs/egress.md")
        elif not connects(target):
            yield Warned(f"that the network is closed to users was not proven: root does not reach {name} either", "", f"name another: {place}")


def _resolvers(uid: int, gid: int) -> Iterator[Finding]:
    for path, program in RESOLVERS.items():
        if os.path.exists(path) and succeeds_as(OPEN, path, uid=uid, gid=gid, timeout=TIMEOUT):
            what = f"users have names of the network looked up by {program} ({path}), whose own network is open"
            yield Warned(what, "data can leave in the names that are asked for (a DNS tunnel)", "/usr/share/doc/jupyterhub/egress.md, What stays open")


# -- Index -------------------------------------------------------------------------------------------------------------------------

FILL = f"jupyterhub-ctl index fill {package_index.LIST}, or import an export of it"


@check("index")
def index() -> Findings:
    """The folder of packages that users may install: is it what it was made, and do they have to use it?"""
    listed = package_index.listed()
    if not package_index.exists():
        if listed:
            yield Warned("the index of packages that the configuration names is not there", "users and environments lack these packages", FILL)
        yield "none"
        return
    try:
        state = package_index.current()
    except (OSError, ValueError) as error:
        raise Failed(f"the index of packages is damaged: {error}", "packages cannot be installed", FILL) from None
    yield from _wheels(state)
    if listed != state.asked_for:
        yield Warned(f"{package_index.LIST} is not the list that the index was made of", "users have other packages than it says", FILL)
    users = " and ".join(map(str, package_index.users()))
    policy = "users can name another, for the network is open to them" if not default_setting(rules.CLOSED) else "the network is closed to users"
    yield f"{len(state.wheels)} packages, {f'used by {users}; {policy}' if users else 'not used: neither /etc/pip.conf nor /etc/uv/uv.toml names it'}"


def _wheels(state: package_index.State) -> Iterator[Finding]:
    """Yield what is wrong with the files, by their sizes: their hashes are compared by who installs, and when they are copied."""
    if not files.is_roots_alone(package_index.WHEELS):
        mend = f"namei -om {package_index.WHEELS} shows who; chown root: it, chmod go-w it"
        yield Failed(f"others than root can change {package_index.WHEELS}", "who can do that runs code as each user who installs a package", mend)
    if (version := state.about.get("python")) != VERSION:
        yield Failed(f"the index of packages is for Python {version}, and notebooks have {VERSION}", "some packages cannot be installed", FILL)
    for wheel in state.wheels:
        path = package_index.WHEELS / wheel.file
        if not path.is_file() or path.stat().st_size != wheel.size:
            raise Failed(f"{path} is missing, or not as it was", f"{wheel.name} cannot be installed", FILL)
