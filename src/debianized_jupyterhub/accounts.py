"""Accounts and groups: the package's own (debian/jupyterhub.sysusers), and what the system knows of others. NSS may take its time."""

import grp
import pwd
from collections.abc import Iterable

HUB = "jupyterhub"
PROXY = "jupyterhub-proxy"
PORTS = "jupyterhub-ports"  # whose the listening sockets of the two are
LOGIN = "jupyterhub-login"  # who checks passwords
HUB_GROUPS = (PROXY,)  # SupplementaryGroups= of the hub's unit
LOGIN_GROUPS = ("shadow",)  # of jupyterhub-login.service
# What users read whom sudoers does not admit, at the login and at the start of a server; the log names the rule.
NOT_ADMITTED = "The account {} may not use notebooks on this server. Ask your administrator to admit it."


def exists(name: str) -> bool:
    """Return whether the system knows the account `name`; blocks for as long as NSS does."""
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL byte
        return False
    return True


def group_exists(name: str) -> bool:
    """Return whether the system knows the group `name`; blocks for as long as NSS does."""
    try:
        grp.getgrnam(name)
    except (KeyError, ValueError):
        return False
    return True


def user_name(uid: int) -> str:
    """Return an account's name; its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name; its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def group_names(gids: Iterable[int]) -> set[str]:
    """Return the names of groups, as os.getgrouplist has their numbers; those without a name are left out."""
    names = set()
    for gid in gids:
        try:
            names.add(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return names
