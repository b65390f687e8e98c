"""uv, which resolves, locks and installs environments. It would not fit into the package: the bundled pip fetches it once, checked by hash."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ..environments import ROOT, WORK, Revision, disk_used, existing
from ..package_index import UV as CONFIG
from ..paths import UV_LOCK
from .common import FULL, Busy, Failure, NoSpace, default_setting, require_root

CACHE = ROOT / ".cache"  # on the file system of the environments, for files to be shared by hard links
LARGEST = 2 << 30  # bytes of the cache that no environment shares
FETCHED = ROOT / ".uv"
SETTING = "JUPYTERHUB_UV"


class UvFailed(Failure):
    """uv has refused, or something that it needs has; the message is what it said, in one line."""


@contextlib.contextmanager
def at_work(sweep: Callable[[], object], place: Path = ROOT) -> Iterator[None]:
    """Have uv to oneself; `sweep` removes first what interrupted commands have left in `place`. Raises NotRoot, Busy, NoSpace, Failure."""
    require_root()
    os.umask(0o022)  # users are to read it
    try:
        ROOT.mkdir(parents=True, exist_ok=True)
        # Who can open it can hold it, also for reading.
        with open(os.open(ROOT / ".lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy("another jupyterhub-ctl environment or index is at work: wait for it") from None
            sweep()
            yield
    except OSError as error:
        raise (NoSpace if error.errno in FULL else Failure)(f"{error.filename or place}: {error.strerror or error}") from None


def program(wheels: Path | None = None) -> str:
    """Return the path of uv, which is fetched if it is not there, from the folder `wheels` if one is given. Raises Failure."""
    if own := default_setting(SETTING):
        if not shutil.which(own):
            raise Failure(f"{SETTING}={own} in /etc/default/jupyterhub is not a program")
        return own
    version = hashlib.sha256(Path(UV_LOCK).read_bytes()).hexdigest()[:12]  # another file, another uv
    folder = FETCHED / version
    if not folder.exists():
        _fetch(folder, ["--no-index", f"--find-links={wheels}"] if wheels else [])
    return f"{folder}/bin/uv"


def _fetch(folder: Path, source: list[str]) -> None:
    click.echo("fetching uv", err=True)
    with tempfile.TemporaryDirectory(prefix=WORK, dir=ROOT, ignore_cleanup_errors=True) as work:
        try:
            pip(
                *("install", *source, "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-compile"),
                "--target",
                f"{work}/uv",
                "--requirement",
                UV_LOCK,
            )
        except UvFailed as error:
            raise UvFailed(
                f"uv, which makes environments, cannot be fetched: {error.message} ({SETTING} in /etc/default/jupyterhub names one of yours)"
            ) from None
        shutil.rmtree(FETCHED, ignore_errors=True)  # of an earlier version
        FETCHED.mkdir()
        os.rename(f"{work}/uv", folder)


def pip(*arguments: str) -> None:
    """Run the bundled pip. Raises UvFailed, NoSpace."""
    command = [sys.executable, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=_variables(), cwd="/")
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = next(reversed(errors), f"pip's exit code is {done.returncode}")
        raise _failure(f"{reason} (pip's index is that of /etc/pip.conf)")


def _variables() -> dict[str, str]:
    """Return the environment of uv and pip: the caller's, which may name an index or a proxy, without what is meant for another Python."""
    foreign = ("PYTHON", "VIRTUAL_ENV", "CONDA", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "UV_CONFIG_FILE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {"UV_CACHE_DIR": str(CACHE), "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "hardlink", "UV_NO_BUILD": "1", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    return {"UV_SYSTEM_CERTS": "1", **kept, **own}


def run(*arguments: str, given: str = "", folder: Path = ROOT) -> str:
    """Run uv in `folder`, with `given` on its standard input, and return its output; what it says besides is shown. Raises UvFailed, NoSpace.

    Only CONFIG counts: a uv.toml in the folder or above it may be a user's, and could name another index, or another place to install into.
    """
    CACHE.mkdir(mode=0o700, exist_ok=True)
    command = [program(), *arguments]
    config = {"UV_CONFIG_FILE": str(CONFIG)} if CONFIG.exists() and "--no-config" not in arguments else {"UV_NO_CONFIG": "1"}
    env = {**_variables(), **config}
    with (
        # A file, not a pipe: uv may end before it has read all of it.
        tempfile.TemporaryFile("w+", errors="replace") as asked,
        tempfile.TemporaryFile("w+", errors="replace") as answer,
    ):
        asked.write(given)
        asked.seek(0)
        with subprocess.Popen(command, stdin=asked, stdout=answer, stderr=subprocess.PIPE, text=True, errors="replace", env=env, cwd=folder) as uv:
            assert uv.stderr
            said = list(_shown(uv.stderr))
        answer.seek(0)
        printed = answer.read()
    if uv.returncode:
        raise _failure(complaint(said) or f"uv ended with exit code {uv.returncode}")
    for line in said:
        if line.startswith("warning: ") and " is yanked" in line:
            raise UvFailed(f"{line.removeprefix('warning: ')}, withdrawn by its authors: choose another version")
    return printed


def outdated(revision: Revision, python: str) -> list[dict[str, Any]]:
    """Return the packages of a revision of which the index has newer versions for an interpreter (name, version, latest_version).

    Raises UvFailed where no index answers.
    """
    # As a folder of that interpreter's: of the revision's own, uv would run what is installed there (.pth files), as root.
    where = ["--python", python, "--target", str(revision.site)]
    return list(json.loads(run("pip", "list", "--outdated", "--format=json", *where)))


def _shown(lines: Iterable[str]) -> Iterator[str]:
    """Yield uv's lines; those that tell how far it is go to the terminal."""
    for line in lines:
        if not line.startswith(("error:", "warning:", "hint:", "Using", "Creating", "Activate", " ")):
            click.echo(line.rstrip(), err=True)
        yield line.rstrip()


def complaint(lines: Iterable[str]) -> str:
    """Return uv's error, with its causes, in one line; "" where there is none."""
    found: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith(("error: ", "cause: ")):
            found.append(text.partition(": ")[2])
        elif found and text and not text.startswith(("hint:", "^")):
            found[-1] += f" {text}"
    return ": ".join(found)


def _failure(message: str) -> Failure:
    full = "No space left" in message or "Disk quota exceeded" in message
    return (NoSpace if full else UvFailed)(message)


def bound_cache() -> None:
    """Empty uv's cache where it has grown large, apart from files that environments have anyway; uv fetches again what it then lacks."""
    environments: set[int] = set()
    for it in existing():
        disk_used(it.folder, environments)
    if disk_used(CACHE, environments) > LARGEST:
        run("cache", "clean", "--quiet")
