"""Is the account of this name still the one that it was? By its uid, and by the home folder, whose time of birth a new account cannot have.

docs/configuration.md, "An account made anew", says what counts as another account and what does not.
"""

import contextlib
import hashlib
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

from .paths import STATE


class Home(NamedTuple):
    """A home folder, as login-check sees it: times in nanoseconds since 1970, `birth` None where the file system keeps none."""

    inode: int
    birth: int | None
    changed: int  # its content: what copies that keep times take along

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Home":
        """Return the home of an answer of login-check's, or of what was kept."""
        return cls(answer["inode"], answer["birth"], answer["changed"])


class Identity(NamedTuple):
    """Who an account is. `home` is None where there is none, or it cannot be seen; `missing` says that it is certainly not there.

    `seen` is when the home was seen first, in nanoseconds since 1970.
    """

    uid: int
    home: Home | None = None
    missing: bool = False
    seen: int = 0

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Identity | None":
        """Return what an answer of login-check's says, None for no account; so for one of an earlier version, which does not say it."""
        if answer.get("uid") is None:
            return None
        home = answer.get("home")
        return cls(answer["uid"], Home.of(home) if home else None, home == {}, time.time_ns())

    def facts(self) -> dict[str, Any]:
        """Return it as JSON, for `kept`."""
        return {"uid": self.uid, "home": self.home._asdict() if self.home else None, "seen": self.seen}

    @classmethod
    def kept(cls, facts: dict[str, Any]) -> "Identity | None":
        """Return what `facts` had been given; None for {}, which stands for no account."""
        return cls(facts["uid"], Home.of(facts["home"]) if facts["home"] else None, seen=facts["seen"]) if facts else None

    def updated(self, now: "Identity") -> "Identity":
        """Return what to keep of the same account when it is seen as `now`: a home that cannot be seen at the moment is no other."""
        # Of the content's time nothing is needed but that of the first look: the database is not written to at each of them.
        return now if now.home and (self.home is None or not self._same_home(now.home)) else self

    def why_another(self, now: "Identity", logging_in: bool = False) -> str:
        """Return why `now` is another account than this one, "" if it is the same. Who is `logging_in` has shown whose account it is now."""
        if now.uid != self.uid:
            return f"its uid is {now.uid}, and was {self.uid}"
        if self.home is None:
            return ""
        if now.home is None:
            return "its home folder is gone" if now.missing and logging_in else ""
        return "" if self._same_home(now.home) or _moved(self.home, now.home) else "its home folder is another one"

    def _same_home(self, now: Home) -> bool:
        """Is it the folder that it was, or one that was there as well, as the place where a PAM module mounts the home?

        Numbers of inodes are given again; they count only where the file system keeps no birth.
        """
        if self.home is None or (self.home.birth is None) != (now.birth is None):
            return True
        return self.home.inode == now.inode if now.birth is None else now.birth == self.home.birth or now.birth < self.seen


def _moved(before: Home, now: Home) -> bool:
    """Is it a copy with its times, as mv, cp -a, rsync -a, tar and usermod --move-home make one?

    It was changed before it was born, and not before the original was. What useradd and pam_mkhomedir make is changed when it is born, or later;
    what was copied from /etc/skel is older than the original.
    """
    return before.birth is not None and now.birth is not None and before.birth <= now.changed < now.birth


def of_machine(folder: str = STATE) -> str:
    """Return what stands for this installation on this machine. What another one has found out about accounts says nothing here.

    The machine's id alone would not do: cloned machines have one. What is drawn in `folder` is in no backup.
    """
    path = Path(folder, "installation")
    id = b""
    with contextlib.suppress(OSError):
        if not path.exists():
            new = path.with_suffix(".new")
            new.write_text(secrets.token_hex(16))
            new.rename(path)
        id = path.read_bytes()
    with contextlib.suppress(OSError):
        id += Path("/etc/machine-id").read_bytes()
    return hashlib.sha256(b"jupyterhub " + id).hexdigest()  # not the id itself: machine-id(5)
