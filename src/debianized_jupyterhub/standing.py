"""What the system says of accounts that are not about to show a password: may they still be used?

A cookie or a token outlives the password it was given for. PAM's account phase, the account's shell and /etc/nologin are asked before
every start of a server, and now and then for those who are logged in, through login_check.py. What cannot be found out now, since a
directory is slow or down, ends nobody and blocks nobody: the last answer counts, for a while.
"""

import logging
import time
from collections.abc import Collection
from pathlib import PurePath
from typing import NamedTuple

from .identity import Identity
from .login_check import LoginCheckError, ask
from .pam import PAM_ACCT_EXPIRED, PAM_CHANGE, PAM_DEFINITE, PAM_SUCCESS, PAM_USER_UNKNOWN

log = logging.getLogger("jupyterhub.standing")
ASK_ADMINISTRATOR = "Ask your administrator."


class Standing(NamedTuple):
    """Why an account may not be used, for the log, and in words for its user; both empty where it may.

    `gone`: there certainly is none of that name; `identity`: who it is, None where that is not known.
    """

    reason: str = ""
    words: str = ""
    gone: bool = False
    identity: Identity | None = None


GOOD = Standing()
GONE = Standing("there is no such account any more", f"There is no account of yours any more. {ASK_ADMINISTRATOR}")


class Standings:
    """Knows how accounts stand with the system, by PAM's service `service`.

    `refused_shells` are names (without folders) of programs that are no shells. An answer counts for `memory` seconds where there is no newer one; so
    long, too, must an account be missing that a directory may have. `patience` is how many seconds an answer is waited for.
    """

    def __init__(self, service: str, refused_shells: Collection[str], memory: float, patience: float) -> None:
        self._service, self._refused_shells, self._memory, self._patience = service, set(refused_shells), memory, patience
        self._known: dict[str, tuple[float, Standing]] = {}  # the last definite answers: time.monotonic(), what
        self._missing_since: dict[str, float] = {}

    async def of(self, name: str, *, starts: bool = False) -> Standing:
        """Return how the account `name` stands; where it `starts` something, closed logins count, too."""
        try:
            answer = await ask({"action": "standing", "service": self._service, "user": name}, self._patience)
        except LoginCheckError as error:
            log.warning("How the account %s stands cannot be found out, the last answer counts: %s", name, error)
            return self._last(name, time.monotonic())
        return self.told(name, answer, starts=starts)

    def told(self, name: str, answer: dict, *, starts: bool = False) -> Standing:
        """Return how the account stands by login-check's `answer`, whose head describes it."""
        now, identity = time.monotonic(), Identity.of(answer)
        if starts and answer["closed"] is not None:
            return Standing("logins are closed: /etc/nologin or /run/nologin", f"Logins are closed at the moment. {answer['closed']}".rstrip())
        found = self._judged(name, answer, now)
        if found is None:
            return self._last(name, now)._replace(identity=identity)
        self._known[name] = now, found
        return found._replace(identity=identity)

    def seen(self, name: str, answer: dict) -> Standing:
        """Return what an answer that has `known`, `certain`, `uid` and `home` alone says of the account: whether it is gone, and who it is."""
        if answer["known"]:
            self._missing_since.pop(name, None)
            return Standing(identity=Identity.of(answer))
        return GONE._replace(gone=True) if self._is_gone(name, answer, time.monotonic()) else GOOD

    def _is_gone(self, name: str, answer: dict, now: float) -> bool:
        """Return whether an account that is missing is so for good: a directory that does not answer has none at all."""
        since = self._missing_since.setdefault(name, now)
        return answer["certain"] or now - since >= self._memory

    def _last(self, name: str, now: float) -> Standing:
        """Return the last definite answer, as long as it counts. Without one sudo decides, which asks for the account itself."""
        when, found = self._known.get(name, (now, GOOD))
        return found if now - when < self._memory else GOOD

    def _judged(self, name: str, answer: dict, now: float) -> Standing | None:
        """Return what an answer of login-check's means, None where it is not definite."""
        if not answer["known"] or answer.get("status") == PAM_USER_UNKNOWN:
            # One that NSS knows and PAM does not is there.
            return GONE._replace(gone=not answer["known"]) if self._is_gone(name, answer, now) else None
        self._missing_since.pop(name, None)
        if answer["locked"]:
            return Standing("its password is locked: `passwd --status`", f"Your account is locked. {ASK_ADMINISTRATOR}")
        if answer["shell"] is None or PurePath(answer["shell"]).name in self._refused_shells:
            shell = answer["shell"] or "it is missing, or cannot be run"
            return Standing(f"its shell is none that it could use: {shell}", f"Your account is not for logins. {ASK_ADMINISTRATOR}")
        if answer["closed"] is not None:
            return None  # PAM would say nothing else
        return self._judged_by_pam(answer["status"], answer["reason"], answer["said"])

    def _judged_by_pam(self, status: int, reason: str, said: str) -> Standing | None:
        if status == PAM_SUCCESS:
            return GOOD
        if status not in PAM_DEFINITE:
            return None
        words = "Your account may not be used here."
        if status == PAM_ACCT_EXPIRED:
            words = "Your account has expired or is disabled."
        elif status in PAM_CHANGE:
            words = "Your password has expired: log in to change it."
        return Standing(f"PAM's account phase says: {reason}. {said}".rstrip(" ."), said or f"{words} {ASK_ADMINISTRATOR}")
