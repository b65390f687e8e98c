"""The index of packages that users may install: a folder of wheels, which an administrator fills (ctl/index.py). docs/index-of-packages.md says what they see.

    INDEX/3                a state of it: wheels/, lock.txt and, written last, index.json; it never changes
    INDEX/current          a link to one of them, in place of which another is renamed: the one step that changes the index
    LIST                   the packages that were asked for, as it is in backups

A state shares its files with the one before (hard links), which stays for those who read it while it changes. All of it is root's, for everybody to read.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from . import files
from .paths import CONFIG, INDEX

ROOT = Path(INDEX)
CURRENT = ROOT / "current"
WHEELS = CURRENT / "wheels"  # what pip and uv are pointed to
LIST = Path(CONFIG) / "index.txt"
RECORD, LOCK = "index.json", "lock.txt"
WORK = ".work."  # prefix of folders with what is being made
PIP, UV = Path("/etc/pip.conf"), Path("/etc/uv/uv.toml")


class Wheel(NamedTuple):
    """A file of the index."""

    name: str  # of the package, as it is compared
    version: str
    file: str
    sha256: str
    size: int  # bytes


class State(NamedTuple):
    """What the index was made of, and has."""

    asked_for: list[str]  # requirements, as pip understands them
    wheels: list[Wheel]
    about: dict[str, Any]  # python ("3.13"), architecture, suite, made, by


def exists() -> bool:
    """Is there an index?"""
    return CURRENT.is_symlink()


def current() -> State:
    """Return what it is. Raises OSError, ValueError where it is damaged."""
    about = json.loads((CURRENT / RECORD).read_text())
    try:
        return State(about.pop("asked_for"), [Wheel(**each) for each in about.pop("wheels")], about)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{CURRENT / RECORD}: {error}") from None


def listed() -> list[str]:
    """Return the packages that LIST names (list of str), none where it is not there."""
    try:
        lines = LIST.read_text().splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def users() -> list[Path]:
    """Return the settings of pip and uv that name it (list of Path)."""
    found = []
    for path in (PIP, UV):
        try:
            if str(WHEELS) in path.read_text():
                found.append(path)
        except (OSError, ValueError):
            continue
    return found


def switch(state: Path) -> None:
    """Make a state the current one, which users have from now on."""
    files.point(CURRENT, state.name)


def numbers() -> list[int]:
    """Return the numbers of the states that are there (list of int)."""
    return sorted(int(folder.name) for folder in ROOT.glob("*") if folder.name.isdecimal())


def sweep() -> None:
    """Remove what a command has left that was interrupted, and states that nobody can be reading any more. Called by root, one at a time."""
    for folder in ROOT.glob(f"{WORK}*"):
        shutil.rmtree(folder)
    now = int(CURRENT.readlink().name) if exists() else 0
    before = max((number for number in numbers() if number < now), default=0)
    for number in numbers():
        if number not in (now, before):
            shutil.rmtree(ROOT / str(number))
