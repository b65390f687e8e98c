"""Environments that an administrator has made for notebooks: where they lie, which revision new kernels start from, and who uses one.

    ENVIRONMENTS/NAME             0755 root:root or 0750 root:GROUP. Only this folder is restricted: revisions share files with each other (hard links)
    ENVIRONMENTS/NAME/3           a revision: a venv, with kernel/, input/, lock.txt and, written last, revision.json
    ENVIRONMENTS/NAME/current     a link to one of them, in place of which another is renamed: the one step that makes a revision the current one
    KERNELS/NAME                  a link to ENVIRONMENTS/NAME/current/kernel

ENVIRONMENTS is root's: the hub's account can write nothing there. docs/environments.md says what administrators see.
"""

import contextlib
import errno
import grp
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from . import files, kernelspecs, leftovers
from .layers import VERSION
from .paths import CONFIG, ENVIRONMENTS

ROOT = Path(ENVIRONMENTS)
KERNELS = Path(kernelspecs.SYSTEM[0])
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RECORD = "revision.json"
GONE = ".gone."  # prefix of what is being removed
WORK = ".work."  # prefix of folders with what is being made


class Revision:
    """A state of an environment: it never changes, and is there until it is pruned."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, int(folder.name)

    @property
    def record(self) -> dict[str, Any]:
        """What was noted of it when it was made. Raises OSError, ValueError."""
        return dict(json.loads((self.folder / RECORD).read_text()))

    @property
    def site(self) -> Path:
        """The folder of its packages. Raises FileNotFoundError."""
        for found in self.folder.glob("lib/python3.*/site-packages"):
            return found
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.folder}/lib")

    def processes(self) -> list[int]:
        """Return the pids of those who use it."""
        return _users_of(self.folder)

    def remove(self) -> None:
        """Remove it; without its record it is a torso that sweep removes."""
        (self.folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.folder)


class Environment:
    """An environment by its name; it need not exist."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, ROOT / name
        self.current_link, self.kernel_link = self.folder / "current", KERNELS / name

    @property
    def exists(self) -> bool:
        """Has it had a revision that worked?"""
        return self.current_link.is_symlink()

    @property
    def current(self) -> Revision:
        """The revision that new kernels start from; its folder need not be there. Raises OSError, ValueError."""
        return Revision(self.folder / os.readlink(self.current_link))

    def processes(self) -> list[int]:
        """Return the pids of those who use one of its revisions."""
        return _users_of(self.folder)

    @property
    def group(self) -> str | None:
        """The only group whose members see it, None for all users."""
        status = self.folder.stat()
        if status.st_mode & 0o005:
            return None
        try:
            return grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            return str(status.st_gid)

    @property
    def note(self) -> Path:
        """The file of the configuration, and so of backups, that keeps its current lock."""
        return Path(CONFIG) / "environments" / f"{self.name}.txt"

    def lock(self) -> str:
        """Return the lock of the current revision. Raises OSError, ValueError."""
        return (self.current.folder / "lock.txt").read_text()

    def write_note(self) -> None:
        """Keep the current lock for backups."""
        self.note.parent.mkdir(exist_ok=True)
        record = self.current.record
        options = [f"--{key} {shlex.quote(value)}" for key, value in (("group", self.group), ("python", record.get("interpreter"))) if value]
        command = " ".join(["jupyterhub-ctl environment add", self.name, str(self.note), *options])
        # Others than its group need not know what is in one.
        files.put(self.note, f"# {command}\n# Python {record['python']}\n{self.lock()}", 0o600)

    def revisions(self) -> list[Revision]:
        """Return those that are whole (list of Revision), the newest last."""
        found = [Revision(record.parent) for record in self.folder.glob(f"*/{RECORD}") if record.parent.name.isdecimal()]
        return sorted(found, key=lambda revision: revision.number)

    def problem(self) -> tuple[str, str] | None:
        """Return why its kernel does not start and which subcommand helps (both str), None if nothing is known to be wrong."""
        try:
            folder = self.current.folder
            json.loads((folder / "kernel/kernel.json").read_text())
            self.current.record  # noqa: B018 # can it be read?
        except (OSError, ValueError) as error:
            return f"its current revision is damaged ({error})", f"rollback {self.name}"
        python = str(folder / "bin/python")
        if pythons := leftovers.pythons_of(python):
            return f"it is of Python {pythons[1]}, and this machine has {pythons[2]}", f"upgrade {self.name}"
        if not os.access(python, os.X_OK):
            return f"its Python, {os.path.realpath(python)}, is missing", f"upgrade {self.name}"
        if not is_ours(self.kernel_link):
            return f"{self.kernel_link} does not lead to it", "prune"
        return None

    def outlived(self) -> str | None:
        """Return the version ("3.11") of the package's Python that it was made with, if the package has another by now; None otherwise."""
        try:
            record = self.current.record
            version = str(record["python"]).rpartition(".")[0]
        except (OSError, ValueError, KeyError):
            return None
        return version if version != VERSION and not record.get("interpreter") else None

    def switch(self, revision: Revision) -> None:
        """Let new kernels start from a revision; those that run keep theirs."""
        files.point(self.current_link, revision.folder.name)

    def offer(self) -> None:
        """Show its kernel to users."""
        KERNELS.mkdir(parents=True, exist_ok=True)
        files.point(self.kernel_link, f"{self.current_link}/kernel")

    def remove(self) -> None:
        """Remove all of it. From the first step on, users see nothing of it."""
        gone = self.folder.with_name(f"{GONE}{self.name}")
        self.folder.rename(gone)
        self.kernel_link.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        shutil.rmtree(gone)

    def prune(self, keep: int, before: Revision | None = None) -> list[Revision]:
        """Remove revisions that nobody uses, but not the current one, the one `before` it and the last `keep`; return what has gone."""
        spared = {self.current.number, before.number if before and keep > 1 else 0}
        old = [revision for revision in self.revisions()[:-keep] if revision.number not in spared and not revision.processes()]
        for revision in old:
            revision.remove()
        return old


def existing() -> list[Environment]:
    """Return the environments (list of Environment) by their names."""
    found = [Environment(folder.name) for folder in sorted(ROOT.glob("*")) if NAME.fullmatch(folder.name)]
    return [environment for environment in found if environment.exists]


def missing() -> list[tuple[str, str]]:
    """Return the environments that a restored configuration has and the machine has not (name, the command that makes it)."""
    found = []
    for file in sorted((Path(CONFIG) / "environments").glob("*.txt")):
        with contextlib.suppress(OSError, ValueError), open(file) as note:
            if not Environment(file.stem).exists:
                found.append((file.stem, note.readline().lstrip("# ").strip()))
    return found


def sweep() -> None:
    """Remove what a command has left that was killed, or whose power was cut; complete what a switch has begun. Called by root, one at a time."""
    for folder in ROOT.glob(".*"):
        if folder.name.startswith((GONE, WORK)):
            shutil.rmtree(folder)
    for folder in ROOT.glob("*"):
        if NAME.fullmatch(folder.name):
            _sweep(Environment(folder.name))
    for link in KERNELS.glob("*"):
        if is_ours(link) and not Environment(link.name).exists:
            link.unlink()


def _sweep(environment: Environment) -> None:
    files.unplaced(environment.current_link).unlink(missing_ok=True)
    children = [child for child in environment.folder.iterdir() if child.name.isdecimal()]
    if not environment.exists:
        if len(children) == len(list(environment.folder.iterdir())):  # else it is not of our making
            shutil.rmtree(environment.folder)
        return
    for child in children:
        if not (child / RECORD).exists() and child != environment.current.folder:
            shutil.rmtree(child)
    if not is_ours(environment.kernel_link):
        environment.offer()


def is_ours(link: Path) -> bool:
    """Does a link in KERNELS lead to an environment?"""
    return link.is_symlink() and os.readlink(link).startswith(f"{ENVIRONMENTS}/")


def disk_used(folder: Path, seen: set[int]) -> int:
    """Return the room (bytes) that a folder takes, without files whose inodes are in `seen`, which then has those of the folder as well."""
    used = 0
    for _, status in files.walk(folder):
        if status.st_ino not in seen:
            seen.add(status.st_ino)
            used += status.st_blocks * 512
    return used


def _users_of(folder: Path) -> list[int]:
    """Return the pids of those who have the folder as program, library or in their environment, as kernels and what they start do."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _mentions(pid, f"{folder}/".encode())]


def _mentions(pid: int, text: bytes) -> bool:
    for file in ("cmdline", "environ", "maps"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/{file}", "rb") as stream:
            if text in stream.read():
                return True
    return False
