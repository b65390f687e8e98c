"""Which limits a user's notebook servers have, and who has set them: systemd for all that the account runs, PAM, and the hub's settings for idle servers."""

import grp
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import accounts, culling
from ..durations import NEVER, login_idle
from ..paths import DEFAULTS
from .command import stdout_of
from .common import Failure, default_setting
from .sessions import size, span

# Of systemd.resource-control(5): the limit, and the property that has what is used of it.
OF_SLICE = {"MemoryMax": "MemoryCurrent", "MemoryHigh": "", "MemorySwapMax": "", "TasksMax": "TasksCurrent", "CPUQuotaPerSecUSec": "", "AllowedCPUs": ""}
NONE = ("", "infinity", "[not set]", str(2**64 - 1))
LOGIN = "JUPYTERHUB_LOGIN_IDLE"
PAM = [Path("/etc/security/limits.conf"), Path("/etc/security/limits.d")]


def limits_of(account: pwd.struct_passwd) -> list[dict[str, Any]]:
    """Return the limits (list of dict of limit, value, used, where) that an account has; those that are set nowhere are left out."""
    return [*_of_slice(account), *_of_pam(account), *_of_hub(account)]


def _row(limit: str, value: str, where: str, used: str | None = None) -> dict[str, Any]:
    return {"limit": limit, "value": value, "used": used, "where": where}


def _of_slice(account: pwd.struct_passwd) -> Iterator[dict[str, Any]]:
    unit = f"user-{account.pw_uid}.slice"
    wanted = [*OF_SLICE, *filter(None, OF_SLICE.values()), "FragmentPath", "DropInPaths"]
    said = stdout_of("systemctl", "show", f"--property={','.join(wanted)}", unit)
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    files = [file for file in [found.get("FragmentPath", ""), *found.get("DropInPaths", "").split()] if file]
    for limit, current in OF_SLICE.items():
        if found.get(limit, "") in NONE:
            continue
        key = "CPUQuota" if limit.startswith("CPUQuota") else limit
        setting = re.compile(rf"^\s*{key}\s*=", re.MULTILINE)
        where = [file for file in files if setting.search(Path(file).read_text(errors="replace"))]
        used = found.get(current, "")
        yield _row(key, _shown(limit, found[limit]), where[-1] if where else f"systemd's own, for {unit}", None if used in NONE else _shown(limit, used))


def _shown(limit: str, value: str) -> str:
    """Return a value as a person says it: bytes with their unit, others as systemd does."""
    return size(int(value)) if limit.startswith("Memory") and value.isdecimal() else value


def _of_pam(account: pwd.struct_passwd) -> Iterator[dict[str, Any]]:
    """Yield the lines of limits.conf(5) for the account, its groups or all, in the order in which pam_limits reads them."""
    gids = set(os.getgrouplist(account.pw_name, account.pw_gid))
    for file in [file for top in PAM for file in (sorted(top.glob("*.conf")) if top.is_dir() else [top])]:
        if not file.exists():
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            words = line.partition("#")[0].split()
            if len(words) == 4 and _is_for(words[0], account, gids):
                kind = "" if words[1] == "-" else f", {words[1]}"
                yield _row(f"{words[2]}{kind}", words[3], f"{file}:{number} for {words[0]}")


def _is_for(domain: str, account: pwd.struct_passwd, gids: set[int]) -> bool:
    """Return whether a line's first word means the account. Source: limits.conf(5)."""
    if domain in ("*", account.pw_name):
        return True
    numbers = gids if domain[0] == "@" else {account.pw_uid}
    if found := re.fullmatch(r"@?(\d*):(\d*)", domain):  # FIRST:LAST, FIRST: and further, :LAST alone
        first, last = found.groups()
        low, high = int(first or last or 0), int(last) if last else 2**32
        return any(low <= number <= high for number in numbers)
    if domain[0] != "@":
        return False
    try:
        return grp.getgrnam(domain[1:]).gr_gid in gids
    except KeyError:
        return False


def _of_hub(account: pwd.struct_passwd) -> Iterator[dict[str, Any]]:
    """Yield what the hub's settings end. Raises Failure for settings that it would not start with."""
    for name in (culling.IDLE, culling.GROUPS, culling.AGE, LOGIN):
        os.environ[name] = default_setting(name)  # as the hub has it
    try:
        limits, login = culling.limits(), login_idle()
    except SystemExit as error:
        raise Failure(str(error)) from None
    names = accounts.group_names(os.getgrouplist(account.pw_name, account.pw_gid))
    if idle := limits.idle_in(names):
        where = culling.GROUPS if any(limits.groups.get(name) == idle for name in names) else culling.IDLE
        yield _row("idle server", span(idle), f"{where} in {DEFAULTS}")
    if limits.age != NEVER:
        yield _row("age of a server", span(limits.age), f"{culling.AGE} in {DEFAULTS}")
    if login != NEVER:
        yield _row("idle login", span(login), f"{LOGIN} in {DEFAULTS}")
