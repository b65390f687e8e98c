"""What users may ask Slurm for: /etc/jupyterhub/profiles.conf, which root writes (docs/slurm.md).

The spawner gate reads it at each request, and nobody else decides by it. The hub looks at it at its start, to name what is wrong there.
"""

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import durations
from .paths import PROFILES
from .settings import place_of

SETTING = "JUPYTERHUB_JOBS"
ADDRESS = "JUPYTERHUB_JOBS_ADDRESS"
NEEDED = (3, 13)  # of Python, for pre-shared keys (job_link.py)
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")
WORD = re.compile(r"[A-Za-z0-9_.@+-]+")  # of Slurm's: partitions, accounts
CONSTRAINT = re.compile(r"[A-Za-z0-9_.&|,()\[\]*!=:+-]+")
UNITS = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
KEY_VALUE = re.compile(r"\s*([^\s=]+)\s*=\s*(.*?)\s*")


def setting() -> str:
    """Return what the site wants: "" for no jobs, "beside" servers on the hub's machine, "only" in place of them. Raises SystemExit with one line."""
    text = os.environ.get(SETTING, "").strip()
    if text not in ("", "beside", "only"):
        raise SystemExit(f"{SETTING}={text} in {place_of(SETTING)}: write beside or only, or leave it empty")
    if text:
        address()  # a mistake there belongs to it
    return text


def address(text: str | None = None) -> tuple[str, int] | None:
    """Return host and port where servers on other machines reach the hub, None if jobs run on the hub's machine alone.

    `text` is the setting, by default the environment's. Raises SystemExit with one line.
    """
    text = (os.environ.get(ADDRESS, "") if text is None else text).strip()
    if not text:
        return None
    found = re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", text)
    if not found or not 1024 <= int(found[2]) < 1 << 16:
        raise SystemExit(f"{ADDRESS}={text} in {place_of(ADDRESS)}: write HOST:PORT, a port from 1024 to 65535, or leave it empty")
    return found[1].strip("[]").lower(), int(found[2])


class Mistake(NamedTuple):
    """What is wrong in a line of the file, and how to fix it."""

    line: int
    what: str
    mend: str


class NotGranted(ValueError):
    """A request for what the profile does not have; the text is one line for its user."""


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise ValueError("is not a whole number")
    return int(text)


def _megabytes(text: str) -> int:
    if not (found := re.fullmatch(r"([1-9][0-9]{0,6})([KMGT])B?", text, re.IGNORECASE)):
        raise ValueError("is not an amount of memory; use a whole number with M, G or T (16G)")
    return max(1, int(int(found[1]) * UNITS[found[2].upper()]))


def _minutes(text: str) -> int:
    if not re.search(r"[mhd]$", text):
        raise ValueError("is not a valid duration; use a whole number with m, h or d (8h)")
    return max(1, durations.seconds(text) // 60)


AMOUNTS = {"cpus": _number, "memory": _megabytes, "gpus": _number, "time": _minutes}
WORDS = {"partition": WORD, "qos": WORD, "account": WORD, "gpu-type": WORD, "constraint": CONSTRAINT}
KEYS = ("title", "group", *WORDS, *AMOUNTS)


class Range(NamedTuple):
    """What a user may choose: as in the file, and as numbers (CPUs, MB, GPUs, minutes)."""

    least_text: str
    most_text: str
    least: int
    most: int


def _shown(text: str) -> str:
    """Return what somebody has asked for as a word of one line of the journal's, which he does not write."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


@dataclass
class Profile:
    """A section of the file."""

    name: str
    title: str = ""
    groups: tuple[str, ...] = ()
    words: dict[str, str] = field(default_factory=dict)
    amounts: dict[str, Range] = field(default_factory=dict)

    def is_for(self, groups: Iterable[str]) -> bool:
        """Return whether a member of the Unix `groups` may use it."""
        return not self.groups or bool(set(self.groups) & set(groups))

    def choices(self) -> dict[str, tuple[str, str]]:
        """Return what the user may choose: from, to."""
        return {key: (value.least_text, value.most_text) for key, value in self.amounts.items() if value.least < value.most}

    def options(self, wanted: Mapping[str, Any]) -> list[str]:
        """Return the options of sbatch (list of str) for what a user wants, str by the keys of `choices`. Raises NotGranted."""
        if strange := sorted(set(wanted) - set(self.amounts)):
            what = strange[0] if NAME.fullmatch(strange[0]) else _shown(strange[0])
            raise NotGranted(f"The profile {self.name} has no {what} to choose.")
        found = {key: value.least if key not in wanted else self._chosen(key, str(wanted[key])) for key, value in self.amounts.items()}
        gpu = f"gpu:{self.words['gpu-type']}" if "gpu-type" in self.words else "gpu"
        own = {
            "cpus-per-task": found.get("cpus", 1),
            "mem": f"{found['memory']}M" if "memory" in found else None,
            "time": found.get("time"),
            "gres": f"{gpu}:{found['gpus']}" if "gpus" in found else None,
            **{key: self.words.get(key) for key in ("partition", "qos", "account", "constraint")},
        }
        return [f"--{key}={value}" for key, value in own.items() if value is not None]

    def _chosen(self, key: str, text: str) -> int:
        allowed = self.amounts[key]
        try:
            number = AMOUNTS[key](text)
        except ValueError as error:
            raise NotGranted(f"{key} {_shown(text)} {error}.") from None
        if not allowed.least <= number <= allowed.most:
            span = allowed.least_text if allowed.least == allowed.most else f"{allowed.least_text} to {allowed.most_text}"
            raise NotGranted(f"The profile {self.name} has {key} {span}, not {text}.")
        return number


def parse(text: str) -> tuple[dict[str, Profile], list[Mistake]]:
    """Return the profiles by name, in their order, and what is wrong. A profile with a mistake is left out."""
    found: dict[str, Profile] = {}
    mistakes: list[Mistake] = []
    profile, seen = None, set[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        try:
            if section := re.fullmatch(r"\s*\[(.*)\]\s*", line):
                profile, seen = Profile(""), set()  # of a name that is refused, what follows is nobody's
                profile = _section(section[1].strip(), found)
                found[profile.name] = profile
            elif profile is None:
                raise _Wrong("there is no [PROFILE] above this line", "begin with the name of a profile in brackets: [small]")
            else:
                _set(profile, line, seen)
        except _Wrong as error:
            mistakes.append(Mistake(number, *error.args))
            if profile:
                found.pop(profile.name, None)
    return found, mistakes


class _Wrong(Exception):
    """What is wrong with a line, and how to fix it."""


def _section(name: str, known: Mapping[str, Profile]) -> Profile:
    if not NAME.fullmatch(name):
        raise _Wrong(f"{name!r} is not a valid name of a profile", "use small letters, digits, - and _, at most 31 of them")
    if name in known:
        raise _Wrong(f"there are two profiles {name}", "rename one of them")
    return Profile(name, title=name)


def _set(profile: Profile, line: str, seen: set[str]) -> None:
    """Take over a line `KEY = VALUE` of a profile that has the keys `seen`."""
    parts = KEY_VALUE.fullmatch(line)
    if not parts or not parts[2]:
        raise _Wrong(f"{line.strip()!r} is neither [PROFILE] nor KEY = VALUE", "correct that line")
    key, value = parts[1].lower(), parts[2]
    if key not in KEYS:
        raise _Wrong(f"there is no key {key}", f"use one of {', '.join(KEYS)}")
    if key in seen:
        raise _Wrong(f"{key} is set twice in [{profile.name}]", "remove one of them")
    seen.add(key)
    if key == "title":
        profile.title = value
    elif key == "group":
        profile.groups = tuple(value.replace(",", " ").split())
        if not profile.groups or any(group.startswith("#") for group in profile.groups):  # else it were everybody's, or that of the words after the #
            raise _Wrong(f"{value!r} is not a list of groups", "write their names, and comments on lines of their own")
    elif key in WORDS:
        if not WORDS[key].fullmatch(value):
            raise _Wrong(f"{value!r} is not a valid {key}", "write it as sbatch takes it")
        profile.words[key] = value
    else:
        profile.amounts[key] = _range(key, value)


def _range(key: str, value: str) -> Range:
    least, _, most = value.replace(" ", "").partition("-")
    texts = least, most or least
    try:
        low, high = (AMOUNTS[key](text) for text in texts)
    except ValueError as error:
        raise _Wrong(f"{key} = {value} {error}", "write one amount, or LEAST-MOST") from None
    if low > high:
        raise _Wrong(f"{key} = {value}: {least} is more than {most}", "write LEAST-MOST")
    return Range(*texts, low, high)


def mistakes() -> list[tuple[str, int | None, str, str]]:
    """Return what is wrong with the site's file: (file, line, what, how to fix it); what jobs lack on this system comes first."""
    if sys.version_info < NEEDED:
        return [_too_old()]
    try:
        with open(PROFILES, encoding="utf-8") as file:
            found, wrong = parse(file.read())
    except FileNotFoundError:
        return [(PROFILES, None, "there is no such file", "copy /usr/share/doc/jupyterhub/examples/profiles.conf there, and edit it")]
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        return [(PROFILES, None, str(what), f"`chown root:jupyterhub {PROFILES}; chmod 640 {PROFILES}`, in UTF-8")]
    if not found and not wrong:
        return [(PROFILES, None, "it has no profile", "write one, such as [small]")]
    return [(PROFILES, *mistake) for mistake in wrong]


def _too_old() -> tuple[str, int | None, str, str]:
    place = place_of(SETTING).partition(":")
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = "this system"
    what = f"{SETTING}: jobs need Python {'.'.join(map(str, NEEDED))}, and {system} has {platform.python_version()}"
    return place[0], int(place[2]) if place[2] else None, what, "leave it empty; Debian 13 has what they need"
