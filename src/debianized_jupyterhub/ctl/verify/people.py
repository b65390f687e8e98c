"""Checks: may those whom sudoers admits use their accounts, as far as the system is concerned?"""

import asyncio
import re
import time
from pathlib import Path

from ... import login_check, units
from ...pam import PAM_ACCT_EXPIRED, PAM_CHANGE, PAM_SUCCESS
from ...paths import LOGIN_SERVICE
from ...standing import Standings
from ..command import output
from .check import Failed, Finding, Findings, Warned, check
from .rights import admitted, modules_of
from .services import setting

ASKED = 3  # accounts that are looked at; more would take a while where a directory is slow
TIMEOUT = 8  # seconds for each, at the login page it is less
# Modules of PAM's account phase that refuse by what an administrator has written, and where.
RULES = {
    "pam_access.so": "/etc/security/access.conf and access.d",
    "pam_listfile.so": "the file that its line names",
    "pam_succeed_if.so": "the condition of its line",
    "pam_time.so": "/etc/security/time.conf",
}


def why_not(name: str) -> Finding | None:
    """Return what keeps the account `name` (str) out though its password may be right, None if nothing does. Raises login_check.LoginCheckError."""
    service = setting("account_service") or LOGIN_SERVICE
    since = time.time()
    answer = asyncio.run(login_check.ask({"action": "standing", "service": service, "user": name}, TIMEOUT))
    if answer["closed"] is not None:
        return None  # the check `logins` says so
    aged = _aged(name) if answer.get("status") not in (None, PAM_SUCCESS) else None  # pam_unix has one status for several reasons
    if aged:
        return aged
    standing = Standings(service, setting("refused_shells"), 0, TIMEOUT).told(name, answer)
    follows = f"{name} can neither log in nor start a server"
    if answer.get("status") in (None, PAM_SUCCESS, PAM_ACCT_EXPIRED, *PAM_CHANGE) or answer["locked"]:
        return Warned(f"{name}: {standing.reason}", follows, _mend(name, answer)) if standing.reason else None
    refused = _who_refused(service, since) or [module for module in modules_of(service, "account") if module in RULES]
    by = f" by {' or '.join(refused)}" if refused else ""
    mend = "; ".join(f"{module}: {RULES[module].format(name=name)}" for module in refused if module in RULES)
    lines = f"the account lines of /etc/pam.d/{service} and of what it includes"
    return Failed(f"PAM's account phase refuses {name}{by}: {answer['reason']}. {answer['said']}".rstrip(" ."), follows, f"look at {mend or lines}")


def _aged(name: str) -> Finding | None:
    """Return what is the case where a local account or its password has expired, by /etc/shadow (shadow(5))."""
    lines = (line.split(":") for line in Path("/etc/shadow").read_text(errors="replace").splitlines())
    fields = next((line for line in lines if line[0] == name and len(line) == 9), None)
    if fields is None:
        return None
    changed, longest, ends = (int(fields[number]) if fields[number].isdecimal() else None for number in (2, 4, 7))
    today, follows = int(time.time() // 86400), f"{name} can neither log in nor start a server"
    if ends is not None and today >= ends:
        when = time.strftime("%Y-%m-%d", time.gmtime(ends * 86400))
        return Warned(f"{name}: the account has expired on {when}", follows, f"chage -E -1 {name} takes the day away, chage -E YYYY-MM-DD {name} sets another")
    if changed == 0 or (changed is not None and longest is not None and today > changed + longest):
        what = "has to be changed before the account can be used" if changed == 0 else "has expired"
        return Warned(f"{name}: the password {what}", follows, f"passwd {name} sets a new one; chage -l {name} shows when it ends")
    return None


def _mend(name: str, answer: dict) -> str:
    """Return what lets an account in again, which login-check says is locked, expired or the like."""
    if not answer["known"]:
        return f"getent passwd {name}"
    if answer["locked"]:
        return f"passwd --unlock {name}, or usermod -p with a password if it has none"
    if answer.get("status") == PAM_ACCT_EXPIRED:
        return f"chage -l {name} shows the day, chage -E -1 {name} takes it away (or the directory's own tool)"
    if answer.get("status") in PAM_CHANGE:
        return f"passwd {name} sets a new one; chage -l {name} shows when it has to be changed"
    return f"usermod -s /bin/bash {name}; c.SudoersPolicy.refused_shells says which programs are no shells"


def _who_refused(service: str, since: float) -> list[str]:
    """Return the modules (list of str) that have told the journal that they refuse somebody, `since` (seconds of the epoch)."""
    code, said = output("journalctl", "-q", "-o", "cat", f"--since=@{since:.0f}", "-u", units.LOGIN_CHECK, timeout=4)
    found = re.findall(rf"\b(pam_\w+)\({re.escape(service)}:account\)", said) if code == 0 else []
    return [f"{module}.so" for module in dict.fromkeys(found) if module != "pam_unix"]


@check("people", needs=["sudoers", "pam", "logins", "login-socket"], limit=25)
def people() -> Findings:
    """The first of the accounts that sudo admits: one that can be used is enough, the others may have been locked with reason."""
    found = []
    for name in admitted(ASKED):
        finding = why_not(name)
        if finding is None:
            yield f"{name} may come in"
            return
        found.append(finding)
    yield from found
