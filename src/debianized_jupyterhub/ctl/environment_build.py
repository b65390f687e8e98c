"""Making a revision of an environment beside those that are in use: resolved, locked by hash and installed by uv, tried by an account without rights.

Nothing of what is installed runs as root: only wheels are taken, which bring no code that would run while they are installed.
"""

import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from .. import files
from ..environments import RECORD, ROOT, WORK, Environment, Revision
from ..journal import plain
from ..layers import VERSION
from ..lines import joined
from ..paths import LIBEXEC, TREES
from . import uv
from .command import output
from .common import FULL, Failure, NoSpace

PYTHON = f"{sys.base_prefix}/bin/python{VERSION}"
WHEELS = ("--only-binary", ":all:")
TRIAL = 600  # seconds for a kernel that imports what was asked for
# Own file systems, no network, nothing that outlives it.
SANDBOX = ("DynamicUser=yes", "PrivateNetwork=yes", "ProtectHome=yes", "PrivateDevices=yes", "NoNewPrivileges=yes", f"RuntimeMaxSec={TRIAL}")
SANDBOX_ENV = ("HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1")


class Source(NamedTuple):
    """What was asked for: a requirements.txt, a pyproject.toml or a lock."""

    path: Path
    text: str
    wheels: Path | None = None  # a folder that has all of it: then no network is needed
    about: dict[str, Any] | None = None  # what else is noted of it

    @property
    def is_lock(self) -> bool:
        """Does it say which files are meant, by their hashes?"""
        return "--hash=" in self.text


def source(path: Path) -> Source:
    """Read a file of an administrator's. Raises Failure."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    if path.suffix in (".lock", ".toml") and not re.search(r"^\s*\[project\]", text, re.MULTILINE):
        raise Failure(f"{path} is neither a requirements.txt nor a pyproject.toml: `uv export --format requirements.txt` makes one of a uv.lock")
    return Source(path.absolute(), text)


def version_of(python: str) -> str:
    """Return the version ("3.13.5") of an interpreter that all users can start and only root can change. Raises Failure."""
    if not os.path.isabs(python) or not os.access(python, os.X_OK):
        raise Failure(f"{python} is not the path of an interpreter that is installed here, such as {PYTHON}")
    if not files.is_roots_alone(python):
        raise Failure(f"others than root can change {python}: `namei -om {python}` shows who; choose another interpreter")
    code, said = output(python, "-I", "-S", "-c", "import platform; print(platform.python_version())")
    if code or not re.fullmatch(r"3\.\d+\.\S+", said):
        raise Failure(f"{python} is not a Python 3: {joined(said) or f'exit code {code}'}")
    return said


def locked(wanted: Source, python: str, work: Path) -> tuple[list[Path], list[str]]:
    """Return files that say what is to be installed, with hashes, and the packages that were asked for by name (none: those of a lock). Raises Failure."""
    more, names = work / "lock.txt", work / "names.txt"
    how = ["--no-header", "--generate-hashes", "--emit-index-url", "--emit-find-links", "--python", python, *WHEELS]
    folder = wanted.path.parent
    if wanted.is_lock:
        if re.search(r"^ipykernel\s*==", wanted.text, re.MULTILINE):
            return [wanted.path], []
        uv.run("pip", "compile", *how, "--constraint", str(wanted.path), "--output-file", str(more), "-", given="ipykernel\n", folder=folder)
        return [wanted.path, more], []
    file = f"./{wanted.path.name}"
    uv.run("pip", "compile", *how, "--output-file", str(more), file, "-", given="ipykernel\n", folder=folder)
    uv.run("pip", "compile", "--quiet", *how, "--no-deps", "--output-file", str(names), file, folder=folder)
    return [more], re.findall(r"^([A-Za-z0-9][\w.-]*)\s*==", names.read_text(), re.MULTILINE)


def lock_text(locks: list[Path]) -> str:
    """Return the lock that is kept: without comments, options and passwords in addresses, since users can read it."""
    lines = [line for lock in locks for line in re.split(r"(?<!\\)\n", lock.read_text()) if line.strip() and line.lstrip()[0] not in "#-"]
    text = re.sub(r"(?<=://)[^/\s]*@", "", "".join(f"{line}\n" for line in lines))
    packages = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    return "".join({package.partition("\n")[0]: package for package in packages}.values())  # two locks may have the same


def count(lock: str) -> int:
    """Return how many packages a lock has."""
    return len(re.findall(r"^[A-Za-z0-9][^;\s]*\s*==", lock, re.MULTILINE))


def _digest(lock: str) -> str:
    return f"sha256:{hashlib.sha256(lock.encode()).hexdigest()}"


def minor(version: str) -> str:
    """Return the "3.13" of "3.13.5"."""
    return version.rpartition(".")[0]


def build(environment: Environment, wanted: Source, interpreter: str | None, is_new: Callable[[str], bool] = bool) -> Revision | None:
    """Make a revision and return it, None where its lock is not one that `is_new`. Without an interpreter it gets the package's.

    Raises Failure; nothing of it is left then.
    """
    python = interpreter or PYTHON
    version = version_of(python)
    number = 1 + max((int(child.name) for child in environment.folder.iterdir() if child.name.isdecimal()), default=0)
    folder = environment.folder / str(number)
    work = Path(tempfile.mkdtemp(prefix=WORK, dir=ROOT))
    try:
        locks, names = locked(wanted, python, work)
        lock = lock_text(locks)
        if not is_new(lock):
            return None
        click.echo(f"installing {count(lock)} packages for Python {version}", err=True)
        _install(folder, locks, python, wanted)
        _add_kernel(environment.name, folder, version, lock)
        click.echo("trying the kernel", err=True)
        _try(environment, folder, names)
        _keep(folder, wanted, lock, {"environment": environment.name, "revision": number, "python": version, "interpreter": interpreter, "asked_for": names})
        return Revision(folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise (NoSpace if error.errno in FULL else Failure)(f"{error.filename or ROOT}: {error.strerror}") from None
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(folder: Path, locks: list[Path], python: str, wanted: Source) -> None:
    uv.run("venv", "--quiet", "--no-project", "--python", python, str(folder))
    offline = ["--no-config", "--offline", "--no-index", "--find-links", str(wanted.wheels)] if wanted.wheels else []
    uv.run("pip", "sync", "--python", f"{folder}/bin/python", "--require-hashes", *WHEELS, *offline, *map(str, locks), folder=wanted.path.parent)
    for name in (".lock", ".gitignore", "CACHEDIR.TAG"):  # uv's: everybody can write to the first, the last would keep it out of backups
        (folder / name).unlink(missing_ok=True)
    # %pip in the kernel is the bundled one: it installs into layers of users' packages, and says what is in the way where there is none (layers.py).
    pip = folder / "lib/pip"
    pip.mkdir()
    (pip / "pip").symlink_to(f"{TREES}/current/lib/python{VERSION}/site-packages/pip")
    next(folder.glob("lib/python3.*/site-packages")).joinpath("jupyterhub_pip.pth").write_text(f"{pip}\n")
    # By an interpreter that knows nothing of what was installed. What is no Python 3 in it stays as it is.
    subprocess.run([python, "-I", "-S", "-m", "compileall", "-q", "-j", "0", f"{folder}/lib"], check=False, stdout=subprocess.DEVNULL, cwd="/")


def _add_kernel(name: str, folder: Path, version: str, lock: str) -> None:
    """Write the kernelspec, which names the revision: a kernel that runs keeps it, and notebooks note it."""
    kernel = folder / "kernel"
    kernel.mkdir()
    for logo in folder.glob("share/jupyter/kernels/python3/logo-*"):
        os.link(logo, kernel / logo.name)
    spec = {
        "argv": [f"{folder}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"{name} (Python {minor(version)})",
        "language": "python",
        "env": {"JUPYTERHUB_ENVIRONMENT": str(folder), "VIRTUAL_ENV": str(folder), "PATH": f"{folder}/bin:${{PATH}}"},
        "metadata": {"debugger": True, "environment": name, "revision": int(folder.name), "python": minor(version), "lock": _digest(lock)},
    }
    (kernel / "kernel.json").write_text(json.dumps(spec, indent=1))


def _try(environment: Environment, folder: Path, names: list[str]) -> None:
    """Start the kernel and import what was asked for, by an account that lives for this alone. Raises Failure."""
    group = [f"SupplementaryGroups={environment.group}"] if environment.group else []
    properties = [f"--property={each}" for each in (*SANDBOX, *group)]
    options = [*properties, *(f"--setenv={each}" for each in SANDBOX_ENV), "--working-directory=/tmp"]
    command = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *options]
    code, said = output(*command, f"{folder}/bin/python", f"{LIBEXEC}/try-environment", str(folder), *names, timeout=TRIAL + 30)
    if code:
        raise Failure(plain(said.splitlines()[-1].strip()) if said else f"the kernel could not be tried (exit code {code}): see `journalctl -n 50`")


def _keep(folder: Path, wanted: Source, lock: str, record: dict[str, object]) -> None:
    """Keep what the revision was made of and put it on the disk; the record, which makes it whole, is last."""
    (folder / "lock.txt").write_text(lock)
    (folder / "input").mkdir(mode=0o700)  # it may hold an index's password
    (folder / "input" / wanted.path.name).write_text(wanted.text)
    record |= {
        **(wanted.about or {}),
        "packages": count(lock),
        "input": wanted.path.name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "by": os.environ.get("SUDO_USER") or "root",
    }
    subprocess.run(["sync", "--file-system", str(folder)], check=True)
    new = folder / f"{RECORD}.new"
    new.write_text(json.dumps(record, indent=1))
    with open(new, "rb") as stream:
        os.fsync(stream.fileno())
    new.rename(folder / RECORD)
    files.sync_folder(folder)
