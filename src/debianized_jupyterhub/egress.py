"""Whom the network is closed to: rules of nftables from the settings of /etc/default/jupyterhub. docs/egress.md says what administrators see.

The kernel knows the account that has opened a socket, and not its groups: members of exempt groups are looked up when the rules are made, and again every
few minutes. What an account answers to those who came to it is let through, whatever it is: whoever may come in is for other rules to say.

`jupyterhub-launcher egress load` and `open` run it, with the settings in the environment (jupyterhub-egress.service).
"""

import contextlib
import grp
import hashlib
import ipaddress
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from . import accounts, files, journal
from .settings import place_of

CLOSED, GROUPS = "JUPYTERHUB_EGRESS_CLOSED_FOR", "JUPYTERHUB_EGRESS_EXEMPT_GROUPS"
ALLOWED, TRIED = "JUPYTERHUB_EGRESS_ALLOW", "JUPYTERHUB_EGRESS_TEST"
TABLE = ("inet", "jupyterhub_egress")
NFT = "/usr/sbin/nft"
MISSING = "nftables is not installed: `apt-get install nftables`, then `systemctl restart jupyterhub-egress`"
KEPT = Path("/var/lib/jupyterhub-egress/rules.nft")  # the last that were good: loaded first at boot, when no directory answers yet
IN_FORCE = Path("/run/jupyterhub-egress/rules.nft")  # a link to it while they are to be loaded; nftables.service asks for it as well
SUBUIDS = Path("/etc/subuid")
LAST_ID = 2**32 - 2
DNS = "{ 53, 853 }"  # also of a resolver of this machine, which asks others

Range = tuple[int, int]  # the first and the last
T = TypeVar("T")


class Refused(Exception):
    """The rules cannot be made or loaded; the text says why and how to fix it, in one line."""


class Target(NamedTuple):
    """Where users may connect to, or verify tries to: a network, with ports unless it is all of them."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    ports: Range | None

    def has(self, other: "Target") -> bool:
        """Is another, of one address and port, part of it?"""
        same = self.network.version == other.network.version and other.network.network_address in self.network
        return same and (self.ports is None or (other.ports is not None and self.ports[0] <= other.ports[0] <= self.ports[1]))

    @property
    def rule(self) -> str:
        """Return the rule that lets packets to it through."""
        ports = f" meta l4proto {{ tcp, udp }} th dport {'-'.join(map(str, self.ports))}" if self.ports else ""
        return f"{'ip6' if self.network.version == 6 else 'ip'} daddr {self.network}{ports} accept"


class Settings(NamedTuple):
    """What /etc/default/jupyterhub says."""

    closed: list[Range]  # uids; empty: the network is open
    groups: list[str]
    allowed: list[Target]
    tried: list[Target]  # addresses with a port that verify connects to


class Exempt(NamedTuple):
    """Who is exempt now."""

    uids: set[int]
    gids: set[int]  # for those whose first group it is, whom no list of members names
    missing: list[str]  # groups that there are not


# -- Settings ----------------------------------------------------------------------------------------------------------------------


def settings(env: Mapping[str, str]) -> Settings:
    """Return the settings in an environment. Raises Refused with the place of what is wrong."""
    found = Settings(_each(env, CLOSED, _uids), _each(env, GROUPS, str), _each(env, ALLOWED, target), _each(env, TRIED, _one_port))
    ours = {
        account: pwd.getpwnam(account).pw_uid for account in ("root", accounts.HUB, accounts.PROXY, accounts.PORTS, accounts.LOGIN) if accounts.exists(account)
    }
    for account, uid in ours.items():
        if any(first <= uid <= last for first, last in found.closed):
            raise Refused(f"{CLOSED} in {place_of(CLOSED)} has the uid of {account} ({uid}), which needs the network: begin at 1000")
    return found


def _each(env: Mapping[str, str], name: str, parse: Callable[[str], T]) -> list[T]:
    values = []
    for word in env.get(name, "").split():
        try:
            values.append(parse(word))
        except ValueError as error:
            raise Refused(f"{name} in {place_of(name)}: {word} {error}") from None
    return values


def _uids(word: str) -> Range:
    found = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", word)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last <= LAST_ID:
        raise ValueError("is not a valid range of uids; use numbers such as 1000-59999, with spaces between ranges")
    return first, last


def target(word: str) -> Target:
    """Return what "10.1.2.3", "10.0.0.0/8:443", "[2001:db8::1]:5000-5010" mean. Raises ValueError with words for humans."""
    if word.startswith("["):
        address, _, ports = word[1:].partition("]")
        ports = ports.removeprefix(":") if not ports or ports.startswith(":") else "?"
    elif word.count(":") > 1:
        address, ports = word, ""
    else:
        address, _, ports = word.partition(":")
    first, _, last = ports.partition("-")
    try:
        network = ipaddress.ip_network(address)
        chosen = (int(first), int(last or first)) if ports or word.endswith(":") else None
    except ValueError:
        raise ValueError("is not a valid address; use 10.1.2.3, 10.1.2.3:443, 10.0.0.0/8:8000-8010 or [2001:db8::1]:443 (names are not looked up)") from None
    if chosen and not 0 < chosen[0] <= chosen[1] < 65536:
        raise ValueError("has no valid port; use 1 to 65535")
    return Target(network, chosen)


def _one_port(word: str) -> Target:
    found = target(word)
    if found.network.num_addresses != 1 or not found.ports or found.ports[0] != found.ports[1]:
        raise ValueError("is not one address with its port, such as 192.0.2.1:443")
    return found


# -- Who ---------------------------------------------------------------------------------------------------------------------------


def exempt(groups: Iterable[str]) -> Exempt:
    """Return who is in the groups now; waits as long as NSS does."""
    found = Exempt(set(), set(), [])
    for name in groups:
        try:
            group = grp.getgrnam(name)
        except KeyError:
            found.missing.append(name)
            continue
        found.gids.add(group.gr_gid)
        for member in group.gr_mem:
            with contextlib.suppress(KeyError):
                found.uids.add(pwd.getpwnam(member).pw_uid)
    return found


def is_closed(account: pwd.struct_passwd, wanted: Settings, free: Exempt) -> bool:
    """Is the network closed to an account?"""
    within = any(first <= account.pw_uid <= last for first, last in wanted.closed)
    return within and account.pw_uid not in free.uids and account.pw_gid not in free.gids


def subuids(wanted: Settings, free: Exempt) -> list[Range]:
    """Return the uids that those to whom the network is closed can take in containers of theirs (subuid(5))."""
    found = []
    with contextlib.suppress(OSError):
        for line in SUBUIDS.read_text(errors="replace").splitlines():
            owner, _, numbers = line.strip().partition(":")
            first, _, count = numbers.partition(":")
            if first.isdecimal() and count.isdecimal() and int(count) and _closed_by_name(owner, wanted, free):
                found.append((int(first), min(int(first) + int(count) - 1, LAST_ID)))
    return found


def _closed_by_name(owner: str, wanted: Settings, free: Exempt) -> bool:
    try:
        return is_closed(pwd.getpwuid(int(owner)) if owner.isdecimal() else pwd.getpwnam(owner), wanted, free)
    except KeyError:
        return True  # a directory that does not answer, or a number that somebody may get


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in their order, none of which has a part of another, as nftables wants them."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


# -- Rules -------------------------------------------------------------------------------------------------------------------------

RULES = """\
# By jupyterhub-egress.service, from /etc/default/jupyterhub: changes here are lost.
table {table}
delete table {table}
table {table} {{
	comment "{comment}"
	set closed {{ type uid; flags interval; {closed} }}
	set exempt_users {{ type uid; {users} }}
	set exempt_groups {{ type gid; {groups} }}
	chain output {{
		type filter hook output priority filter; policy accept;
		ct direction reply accept
		meta skuid @closed jump closed
	}}
	chain closed {{
		meta skuid @exempt_users accept
		meta skgid @exempt_groups accept
		{allowed}
		meta l4proto {{ tcp, udp }} th dport {dns} jump refused
		oif "lo" fib daddr type local accept
		jump refused
	}}
	chain refused {{
		meta l4proto tcp reject with tcp reset
		reject with icmpx admin-prohibited
	}}
}}
"""


def rules(wanted: Settings, free: Exempt) -> str:
    """Return the rules, as nft reads them. Their comment tells them from others.

    A packet of a connection that was opened from here is looked at each time, so that one from before the rules ends with them. An address must be this
    machine's, the interface lo alone would not do: whoever binds a socket to that can send to any address by it.
    """
    parts = {
        "table": " ".join(TABLE),
        "closed": _elements(f"{first}-{last}" for first, last in merged([*wanted.closed, *subuids(wanted, free)])),
        "users": _elements(map(str, sorted(free.uids))),
        "groups": _elements(map(str, sorted(free.gids))),
        "allowed": "\n\t\t".join(each.rule for each in wanted.allowed),
        "dns": DNS,
    }
    return RULES.format(comment=hashlib.sha256(json.dumps([RULES, parts]).encode()).hexdigest(), **parts)


def _elements(values: Iterable[str]) -> str:
    found = ", ".join(values)
    return f"elements = {{ {found} }}" if found else ""


def comment_of(text: str) -> str:
    """Return the line of rules, or of a listing of nft's, that tells them from others; "" where there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip().startswith('comment "')), "")


def loaded() -> str:
    """Return the table of the kernel, "" where there is none. Raises Refused where nft is missing."""
    return _nft("list", "table", *TABLE, check=False)


def _nft(*arguments: str, given: str = "", check: bool = True) -> str:
    try:
        done = subprocess.run([NFT, *arguments], check=False, input=given, capture_output=True, text=True)
    except FileNotFoundError:
        raise Refused(MISSING) from None
    if done.returncode and check:
        raise Refused(f"nft does not take the rules: {' / '.join(done.stderr.split(chr(10))[:2]).strip(' /')}")
    return done.stdout if done.returncode == 0 else ""


# -- In force ----------------------------------------------------------------------------------------------------------------------


def load(env: Mapping[str, str]) -> str:
    """Put the rules in force that the settings ask for, unless they are; or none. Return what was done, "" for nothing. Raises Refused, OSError."""
    wanted = settings(env)
    if not wanted.closed:
        was = IN_FORCE.is_symlink() or KEPT.exists()
        unload()
        KEPT.unlink(missing_ok=True)
        return "the network is open to all accounts" if was else ""
    free = exempt(wanted.groups)
    text = rules(wanted, free)
    if comment_of(loaded()) == comment_of(text) and IN_FORCE.exists():
        return ""
    _nft("-f", "-", given=text)
    _keep(text)
    missing = [f"; there is no group {name}, which {GROUPS} names" for name in free.missing]
    ranges = " ".join(f"{first}-{last}" for first, last in wanted.closed)
    return (
        f"the network is closed to the uids {ranges}, but for {len(free.uids)} members of exempt groups and {len(wanted.allowed)} exceptions{''.join(missing)}"
    )


def _keep(text: str) -> None:
    files.put(KEPT, text)
    if not IN_FORCE.is_symlink():
        IN_FORCE.symlink_to(KEPT)


def unload() -> None:
    """Take the rules out of force, if there are any."""
    IN_FORCE.unlink(missing_ok=True)
    with contextlib.suppress(Refused):
        if loaded():
            _nft("delete", "table", *TABLE)


def main(action: str) -> None:
    """Do what the unit asks for: load, or open."""
    try:
        if action == "open":
            unload()
        elif said := load(os.environ):
            print(said, flush=True)
    except (Refused, OSError) as error:
        raise SystemExit(journal.error(f"jupyterhub-egress: {error}")) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
