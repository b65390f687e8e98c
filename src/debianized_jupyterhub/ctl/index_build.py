"""Making a state of the index of packages beside the one in use: uv resolves and locks by hash, pip fetches wheels and compares them with the lock."""

import datetime
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import click
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from .. import files, package_index
from ..package_index import LIST, LOCK, RECORD, ROOT, WORK, Wheel
from ..paths import UV_LOCK
from . import uv
from .checked_tar import file_sum
from .common import BadArchive, Failure
from .environment_archive import this_machine
from .environment_build import PYTHON, WHEELS, minor, version_of

ALWAYS = "ipykernel\n"  # with uv, for environments to be made of it
HEAD = f"# The index of packages (jupyterhub-ctl index), as it is in backups. Made anew by: jupyterhub-ctl index fill {LIST}\n"
LINE = re.compile(r"([A-Za-z0-9][\w.-]*)==([^\s;]+)[^-]*((?:--hash=\S+\s*)+)")

Key = tuple[str, str]  # name as it is compared, version
Hashes = dict[Key, set[str]]  # of the files that a lock allows, SHA-256


class NotAsLocked(Failure):
    """The wheels are not those of the lock."""


class Options(NamedTuple):
    """How uv is called."""

    where: tuple[str, ...] = ()
    upgrade: bool = False


def fetch(asked_for: list[str], source: str | None, upgrade: bool = False) -> None:
    """Make the index of what was asked for, from the network. With `upgrade` in the newest versions. Raises Failure: nothing is changed then."""
    _make(asked_for, Options(_where_from(source), upgrade))


def reduce(asked_for: list[str]) -> None:
    """Make the index of what was asked for, which it has, without a network. Raises Failure: nothing is changed then."""
    uv.program(package_index.WHEELS)  # where it has never been fetched, it comes from there
    _make(asked_for, Options(("--no-config", "--offline", "--no-index", "--find-links", str(package_index.WHEELS))))


def take(folder: Path, asked_for: list[str], file: Path) -> None:
    """Make the index of a folder's wheels and its lock, those of an archive. Raises BadArchive: nothing is changed then."""
    try:
        _use(folder, asked_for)
    except NotAsLocked as error:
        raise BadArchive(f"{file}: {error.message}: export the index again, or fetch the file again") from None


def _where_from(source: str | None) -> tuple[str, ...]:
    """Have pip take packages from `source`, and uv, with the options that are returned; never from the index itself, which the machine's settings may name."""
    if source:
        os.environ.update(UV_DEFAULT_INDEX=source, PIP_INDEX_URL=source)
    if source or package_index.PIP in package_index.users():
        os.environ["PIP_CONFIG_FILE"] = os.devnull
    return ("--no-config",) if source or package_index.UV in package_index.users() else ()


def _make(asked_for: list[str], options: Options) -> None:
    ROOT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=WORK, dir=ROOT, ignore_cleanup_errors=True) as work:
        folder = Path(work)
        (folder / "wheels").mkdir()
        lock = folder / LOCK
        if package_index.exists() and not options.upgrade:
            lock.write_bytes((package_index.CURRENT / LOCK).read_bytes())  # whose versions uv prefers
        how = ("--no-header", "--no-annotate", "--generate-hashes", "--python", PYTHON, *WHEELS, *options.where)
        text = ALWAYS + "".join(f"{each}\n" for each in asked_for)
        uv.run("pip", "compile", *how, "--output-file", str(lock), "-", given=text, folder=folder)
        with open(lock, "a") as stream:
            stream.write(Path(UV_LOCK).read_text())
        _collect(folder, locked(lock.read_text()))
        try:
            _use(folder, asked_for)
        except NotAsLocked as error:
            raise Failure(f"the index is damaged ({error.message}): `jupyterhub-ctl index fill {LIST}` makes it anew") from None


def locked(text: str) -> Hashes:
    """Return the files that a lock allows, of each package and version."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    found = (LINE.match(line) for line in lines)
    return {(canonicalize_name(each[1]), each[2]): set(re.findall(r"--hash=sha256:(\w+)", each[3])) for each in found if each}


def wheels_of(folder: Path) -> list[Wheel]:
    """Return the wheels of a folder, by name. Raises NotAsLocked."""
    found = []
    for path in sorted(folder.iterdir()):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            raise NotAsLocked(f"{path.name} is not a wheel") from None
        found.append(Wheel(str(name), str(version), path.name, file_sum(path), path.stat().st_size))
    return found


def _collect(folder: Path, wanted: Mapping[Key, set[str]]) -> None:
    """Have the wheels that a lock names in a folder: those of the index, and the rest by pip. Raises Failure."""
    have = set()
    for wheel in package_index.current().wheels if package_index.exists() else ():
        key, path = (wheel.name, wheel.version), package_index.WHEELS / wheel.file
        if wheel.sha256 in wanted.get(key, ()) and path.exists():
            os.link(path, folder / "wheels" / wheel.file)
            have.add(key)
    missing = sorted(wanted.keys() - have)
    if missing:
        click.echo(f"fetching {len(missing)} of {len(wanted)} packages", err=True)
        lines = (f"{name}=={version} {' '.join(f'--hash=sha256:{each}' for each in sorted(wanted[name, version]))}\n" for name, version in missing)
        (folder / "missing.txt").write_text("".join(lines))
        how = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir")
        uv.pip("download", *how, "--dest", str(folder / "wheels"), "--requirement", str(folder / "missing.txt"))
        (folder / "missing.txt").unlink()


def _require_locked(wheels: list[Wheel], allowed: Hashes) -> None:
    for wheel in wheels:
        if wheel.sha256 not in allowed.get((wheel.name, wheel.version), ()):
            raise NotAsLocked(f"{wheel.file} is not among the files of its lock")
    if missing := allowed.keys() - {(wheel.name, wheel.version) for wheel in wheels}:
        raise NotAsLocked(f"{' '.join(min(missing))} is missing in it")


def _use(folder: Path, asked_for: list[str]) -> None:
    """Make the folder the current state, for everybody to read; and keep the list. Raises NotAsLocked."""
    wheels = wheels_of(folder / "wheels")
    _require_locked(wheels, locked((folder / LOCK).read_text()))
    record = {
        "asked_for": asked_for,
        "wheels": [wheel._asdict() for wheel in wheels],
        "python": minor(version_of(PYTHON)),
        **this_machine(),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "by": os.environ.get("SUDO_USER") or "root",
    }
    for path in (folder / "wheels").iterdir():
        path.chmod(0o644)
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    folder.chmod(0o755)
    subprocess.run(["sync", "--file-system", str(folder)], check=True)
    state = ROOT / str(1 + max(package_index.numbers(), default=0))
    folder.rename(state)
    package_index.switch(state)
    _write_list(asked_for)
    package_index.sweep()


def _write_list(asked_for: Iterable[str]) -> None:
    """Keep the list for backups; the index is there without that, too."""
    try:
        files.put(LIST, HEAD + "".join(f"{each}\n" for each in asked_for))
    except OSError as error:
        click.echo(f"jupyterhub-ctl: {LIST} cannot be written, so backups lack the list: {error.strerror}", err=True)
