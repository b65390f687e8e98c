"""jupyterhub-ctl user: whom the hub admits, what it has of somebody, and how that ends."""

import contextlib
import json
import pwd
import shlex
import time
from collections.abc import Iterator
from typing import Any

import click

from .. import accounts
from ..journal import plain
from ..paths import USER_RULES
from . import elsewhere, sudoers
from .common import Failure, HubDown, NoServer, NoSuchUser, require_root, show
from .hub import Hub, HubRefused
from .names import complete
from .sessions import end as end_server
from .sessions import seconds_since, span
from .sudoers import ALLOW, DENY, LOCK
from .user_limits import limits_of
from .verify.people import why_not

# What each rule makes of somebody, and how that is taken back.
WORDS = {ALLOW: "allowed", DENY: "denied", LOCK: "locked"}
OWN = (accounts.HUB, accounts.PROXY, accounts.PORTS, accounts.LOGIN)

name_argument = click.argument("name", shell_complete=complete)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def user() -> None:
    """Look after one user: who may start servers, and what the hub has of him.

    `allow`, `deny` and `lock` are rules of sudo's, which decides: they hold against JUPYTER_USERS and are in force at once.
    """


def _account(name: str) -> pwd.struct_passwd | None:
    """Return the account of a name, None for none. Raises Failure for what is no name."""
    sudoers.require_name(name)
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _known(name: str) -> tuple[str, pwd.struct_passwd | None]:
    """Return a user's name as the system spells it, and the account if there is one. Raises NoSuchUser where neither system nor hub nor rules know it."""
    account = _account(name)
    if account:
        return account.pw_name, account
    hubs = None
    with contextlib.suppress(HubDown):
        hubs = Hub().account(name)
    if hubs is None and not sudoers.said_of(name, sudoers.read()):
        raise NoSuchUser(f"{name}: neither the system nor the hub knows such a user: `jupyterhub-ctl user list` lists those of the hub")
    return name, None


# -- Looking -----------------------------------------------------------------------------------------------------------------------


@user.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the users that the hub knows, and all for whom there is a rule."""
    require_root()
    rules = sudoers.read()
    rows = {row["name"]: row for row in Hub().accounts()}
    for name in sorted({name for names in rules.values() for name in names} - set(rows)):
        rows[name] = {"name": name, "admin": False, "last_activity": None, "servers": 0}
    for name, row in rows.items():
        row["rule"] = next((WORDS[kind] for kind in reversed(sudoers.said_of(name, rules))), None)
        row["idle"] = seconds_since(row["last_activity"])
        if not as_json:
            row["idle"] = span(row["idle"]) if row["idle"] is not None else None
            row["admin"] = "admin" if row["admin"] else None
    show(list(rows.values()), {"name": "user", "rule": "rule", "servers": "servers", "idle": "idle", "admin": "admin"}, as_json)


@user.command("show")
@name_argument
@json_option
def show_(name: str, as_json: bool) -> None:
    """Show whether NAME may start servers, what the hub has of NAME, and what else runs for the account."""
    require_root()
    name, account = _known(name)
    about = _about(name, account)
    if as_json:
        click.echo(json.dumps(about, indent=2, default=str))
        return
    for line in _lines(about):
        click.echo(line)


def _about(name: str, account: pwd.struct_passwd | None) -> dict[str, Any]:
    rules = sudoers.said_of(name, sudoers.read())
    about: dict[str, Any] = {"name": name, "uid": account.pw_uid if account else None, "rules": rules, "admitted": bool(account) and sudoers.admits(name)}
    finding = why_not(name) if account else None
    about["account"] = finding.what if finding else None
    try:
        hub = Hub()
        about["hub"] = hub.account(name)
        servers = (hub.user(name) or {}).get("servers", {}) if about["hub"] else {}
    except HubDown as down:
        about["hub"], servers, about["problem"] = None, {}, down.message
    about["servers"] = [{"name": key or None, "since": server["started"], "idle": seconds_since(server["last_activity"])} for key, server in servers.items()]
    about["elsewhere"] = [left._asdict() for left in elsewhere.of(account)] if account else []
    return about


def _lines(about: dict[str, Any]) -> Iterator[str]:
    """Yield what `show` says to people."""

    def line(key: str, value: object) -> str:
        return f"{key + ':':<12}{value}"

    yield line("user", f"{about['name']}, uid {about['uid']}" if about["uid"] is not None else f"{about['name']}, no account")
    by = f" ({', '.join(WORDS[kind] for kind in about['rules'])} by jupyterhub-ctl)" if about["rules"] else ""
    yield line("servers", f"{'may be started' if about['admitted'] else 'may not be started'}{by}")
    if about["account"]:
        yield line("account", about["account"])
    if about.get("problem"):
        yield line("hub", about["problem"])
    if hub := about["hub"]:
        used = f"active {span(seconds_since(hub['last_activity']) or 0)} ago" if hub["last_activity"] else "never active"
        yield line("hub", f"{'administrator, ' if hub['admin'] else ''}{used}")
        for login in hub["logins"]:
            yield line("login", plain(f"{login['at']} from {login['address']}, {login['browser']}"))
        for token in hub["tokens"]:
            yield line("token", plain(f"{token['id']}, made {token['created']}, used {token['used'] or 'never'}: {token['note'] or 'no note'}"))
    elif not about.get("problem"):
        yield line("hub", "does not know the user")
    for server in about["servers"]:
        yield line("runs", plain(f"server {server['name'] or ''} since {server['since']}".replace("  ", " ")))
    for left in about["elsewhere"]:
        yield line("beside", f"{left['what']} (`{left['how']}`)")


@user.command("limits")
@name_argument
@json_option
def limits(name: str, as_json: bool) -> None:
    """Show which limits NAME's notebook servers have, and where each is set.

    There are none of the hub's own: systemd and PAM set them for all that an account runs, the hub's settings end what is idle.
    """
    require_root()
    account = _account(name)
    if account is None:
        raise NoSuchUser(f"{name}: the system knows no such account: `getent passwd {shlex.quote(name)}` is empty")
    rows = limits_of(account)
    show(rows, {"limit": "limit", "value": "value", "used": "used", "where": "set in"}, as_json)


# -- Rules -------------------------------------------------------------------------------------------------------------------------


def _require_alone(account: pwd.struct_passwd) -> None:
    """Raise Failure where sudo would take a rule for another account as well: it does not tell large letters from small ones."""
    name = account.pw_name
    for other in {name.lower(), name.upper(), name.capitalize()} - {name}:
        with contextlib.suppress(KeyError):
            if pwd.getpwnam(other).pw_name == other:
                raise Failure(f"sudo does not tell {name} from {other}, and would take the rule for both: `usermod --login` gives one of them another name")


@user.command("allow")
@name_argument
def allow(name: str) -> None:
    """Let NAME log in and start servers, whatever JUPYTER_USERS says; takes a `deny` back.

    What the system says of the account (locked, expired) and what the hub's configuration says (allowed_users) counts no less.
    """
    require_root()
    account = _account(name)
    if account is None:
        raise NoSuchUser(f"{name}: the system knows no such account: `getent passwd {shlex.quote(name)}` is empty")
    name = account.pw_name
    if account.pw_uid == 0 or name in OWN:
        raise Failure(f"{name} is not a person: who takes over the hub would have that account")
    if name.isdecimal():
        raise Failure(f"systemd opens no sessions for names of digits alone: give the account {name} another (`usermod --login`)")
    _require_alone(account)
    with sudoers.changed(name, admitted=True) as rules:
        if name in rules[LOCK]:
            raise Failure(f"{name} is locked: `jupyterhub-ctl user unlock {shlex.quote(name)}` first")
        _set(rules, name, ALLOW)
    click.echo(f"{name} may log in and start servers ({USER_RULES})")


@user.command("deny")
@name_argument
def deny(name: str) -> None:
    """Keep NAME from logging in and from starting servers, whatever JUPYTER_USERS says.

    What runs keeps running, and who is logged in stays logged in: `lock` ends both.
    """
    require_root()
    name, account = _known(name)
    if account:
        _require_alone(account)
    with sudoers.changed(name, admitted=False) as rules:
        _set(rules, name, DENY)
    click.echo(f"{name} may not log in or start servers ({USER_RULES})")


def _set(rules: sudoers.Rules, name: str, kind: str) -> None:
    """Let `kind`, ALLOW or DENY, hold for a name in place of the other."""
    for each in (ALLOW, DENY):
        rules[each] = [other for other in rules[each] if other != name]
    rules[kind].append(name)


# -- Ends --------------------------------------------------------------------------------------------------------------------------


@user.command("lock")
@name_argument
@click.option("--timeout", default=30, show_default=True, help="Seconds to wait for the end of the servers.")
@json_option
def lock(name: str, timeout: int, as_json: bool) -> None:
    """Keep NAME out, and end what NAME has at the hub now: logins, tokens and servers with their kernels, as at every stop.

    The account itself and what it runs beside the hub is left alone, and named with the command that ends it. `unlock` takes the lock back;
    what has ended stays so.
    """
    require_root()
    name, account = _known(name)
    if account:
        _require_alone(account)
    hub = Hub()
    known = hub.account(name) is not None  # a hub that does not answer: nothing is changed then
    with sudoers.changed(name, admitted=False) as rules:
        if name not in rules[LOCK]:
            rules[LOCK].append(name)
    ended: dict[str, Any] = {"logins": 0, "tokens": 0, "entered": [], "servers": []}
    if known:
        ended = _end(hub, name, timeout)
    left = [*_entered(ended["entered"]), *(elsewhere.of(account) if account else [])]
    if as_json:
        click.echo(json.dumps({"name": name, **ended, "left": [each._asdict() for each in left]}, indent=2))
        return
    click.echo(f"{name} is locked: may not log in or start servers ({USER_RULES})")
    click.echo(f"ended: logins ({ended['logins']}), tokens ({ended['tokens']})")
    for line in ended["servers"]:
        click.echo(line)
    for each in left:
        click.echo(f"left alone: {each.what} (`{each.how}`)")


def _entered(owners: list[str]) -> list[elsewhere.Left]:
    """Return what is left of visits to the servers of others."""
    what = "open pages in the server of {}, for up to five minutes, and what they are connected to"
    return [elsewhere.Left(what.format(owner), f"jupyterhub-ctl stop {shlex.quote(owner)}") for owner in owners]


def _end(hub: Hub, name: str, timeout: int, **query: object) -> dict[str, Any]:
    """End logins, tokens and servers; return what has ended, with a line for each server. Raises Failure that says what has not."""
    lines: list[str] = []
    try:
        ended = hub.request("DELETE", "/accounts", of=name)[1]
        _end_servers(hub, name, timeout, lines)
        # What was begun before, and has come in meanwhile.
        again = hub.request("DELETE", "/accounts", of=name, **query)[1]
    except Failure as failure:
        kind = HubDown if isinstance(failure, HubDown) else Failure
        raise kind(f"not all that {name} has at the hub has ended: {failure.message}; then do it again") from None
    return {**{key: ended[key] + again[key] for key in ("logins", "tokens")}, "entered": ended["entered"], "servers": lines}


def _end_servers(hub: Hub, name: str, timeout: int, lines: list[str]) -> None:
    """Stop all servers of a user, also those that are just starting; add a line to `lines` for each. Raises Failure."""
    deadline = time.monotonic() + timeout
    while servers := (hub.user(name) or {}).get("servers", {}):
        for server in servers:
            try:
                lines.append(end_server(hub, name, server, timeout))
            except NoServer:
                continue
            except HubRefused as refusal:
                if refusal.status != 400 or time.monotonic() > deadline:  # 400: it is pending
                    raise
                time.sleep(0.2)


@user.command("unlock")
@name_argument
def unlock(name: str) -> None:
    """Take a `lock` back: what other rules say of NAME holds again."""
    require_root()
    name, account = _known(name)
    with sudoers.changed(name, admitted=None) as rules:
        if name not in rules[LOCK]:
            raise Failure(f"{name} is not locked: `jupyterhub-ctl user show {shlex.quote(name)}` says what holds")
        rules[LOCK].remove(name)
    may = account is not None and sudoers.admits(name)
    click.echo(f"{name} is unlocked, and may {'log in and start servers' if may else 'still not log in: neither JUPYTER_USERS nor `allow` admits the account'}")


@user.command("remove")
@name_argument
@click.option("--timeout", default=30, show_default=True, help="Seconds to wait for the end of the servers.")
@click.option("--gone", "is_gone", is_flag=True, help="The account is gone for good, though a directory could know it again: forget its deny or lock, too.")
def remove(name: str, timeout: int, is_gone: bool) -> None:
    """Have the hub forget NAME: logins, tokens, servers, roles and groups at the hub, an `allow`. Home and account are left alone.

    A `deny` or `lock` stays as long as the account may be there; a user without one can log in again, as a new one. Once the account is gone, remove it again.
    """
    require_root()
    name, account = _known(name)
    if is_gone and account:
        raise Failure(f"the account {name} is there, uid {account.pw_uid}: `jupyterhub-ctl user unlock {shlex.quote(name)}` lets it in again")
    hub = Hub()
    known = hub.account(name) is not None
    gone = is_gone or (account is None and _no_directory())
    if known:
        _end(hub, name, timeout, forget=1)
    with sudoers.changed(name, admitted=None) as rules:
        for kind in (ALLOW, DENY, LOCK) if gone else (ALLOW,):
            rules[kind] = [other for other in rules[kind] if other != name]
        kept = sudoers.said_of(name, rules)
    click.echo(f"the hub has forgotten {name}" if known else f"the hub does not know {name}")
    if kept:
        when = "once more when the account is gone" if account else "with --gone if no directory of /etc/nsswitch.conf will know it again"
        click.echo(f"{name} stays {WORDS[kept[-1]]}: `jupyterhub-ctl user remove {shlex.quote(name)}` {when}")
    elif account and sudoers.admits(name):
        click.echo(f"{name} can log in again: `jupyterhub-ctl user deny {shlex.quote(name)}` prevents it")


def _no_directory() -> bool:
    """Return whether a name that the system does not know is certainly none: no directory could know it. Source: nsswitch.conf(5)."""
    with open("/etc/nsswitch.conf", errors="replace") as lines:
        named = {word for line in lines if line.startswith("passwd:") for word in line.partition("#")[0].split()[1:]}
    return {word for word in named if word[0] != "[" and word[-1] != "]"} <= {"files", "compat", "systemd"}
