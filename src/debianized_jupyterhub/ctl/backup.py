"""jupyterhub-ctl backup, backups, restore: configuration, secrets and database in one file.

A restore that has begun is completed, whatever happens: once everything is checked and unpacked in PENDING, each step that puts it in
place can be done again. systemd does so before the next start of the hub (jupyterhub-restore.service).
"""

import contextlib
import datetime
import fcntl
import grp
import hashlib
import os
import pwd
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from .. import accounts, units
from ..archive import (
    ArchiveError,
    Entry,
    Manifest,
    NewerFormat,
    digest,
    entries,
    manifest_of,
    read,
    sync_folder,
    unpacked,
    write,
)
from ..database import DatabaseError, copy_sqlite, dump_postgresql, restore_postgresql
from ..defaults import COOKIE_SECRET, DATABASE_URL
from ..paths import (
    BACKUPS,
    CONFIG,
    DEFAULTS,
    LOGIN_SERVICE,
    PROXY_ENV,
    SESSION_SERVICE,
    STATE,
    SUDOERS,
)
from . import check_config
from .command import stdout_of
from .common import (
    FULL,
    BadArchive,
    BadDatabase,
    Busy,
    Failure,
    NoSpace,
    default_setting,
    require_root,
    show,
)

FOLDER = Path(BACKUPS)
PENDING = FOLDER / ".restore"  # what a restore that has begun puts in place
WORK = ".jupyterhub-ctl."  # prefix of folders with what is being made
SUFFIX = ".tar.gz"
# What is saved besides the database and the cookie secret.
PLACES = [CONFIG, DEFAULTS, SUDOERS, f"/etc/pam.d/{LOGIN_SERVICE}", f"/etc/pam.d/{SESSION_SERVICE}"]
OF_THE_PROXY = [PROXY_ENV, DEFAULTS]  # what it is started with
SYSTEMD = os.path.isdir("/run/systemd/system")


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--label", default="manual", help="What it is made for: a part of its name.", metavar="WORD")
def backup(file: Path | None, label: str) -> None:
    """Save configuration, secrets and database in one archive.

    Without FILE it goes to /var/backups/jupyterhub, where the newest JUPYTERHUB_BACKUPS (/etc/default/jupyterhub) of each label are kept.
    """
    require_root()
    if not re.fullmatch(r"[a-z0-9]+", label):
        raise click.BadParameter("letters a to z and digits", param_hint="--label")
    if label != "manual" and _keep() == 0:
        return
    with _alone():
        made = _save(label, file.absolute() if file else None)
    click.echo(made)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backups(as_json: bool) -> None:
    """List the backups in /var/backups/jupyterhub, the newest last."""
    require_root()
    rows = []
    for file in sorted(FOLDER.glob(f"*{SUFFIX}")):
        row: dict[str, Any] = {"name": file.name, "size": file.stat().st_size}
        try:
            manifest = manifest_of(file)
            row |= {"created": manifest.created, "label": manifest.label, "version": manifest.version, "database": manifest.database, "host": manifest.host}
        except (ArchiveError, OSError) as error:
            row |= {"created": None, "label": None, "version": None, "database": f"unusable: {error}", "host": None}
        rows.append(row)
    rows.sort(key=lambda row: row["created"] or "")
    show(rows, {"name": "NAME", "created": "CREATED", "label": "LABEL", "version": "VERSION", "database": "DATABASE", "size": "BYTES"}, as_json)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--continue", "go_on", is_flag=True, hidden=True)
def restore(file: Path | None, go_on: bool) -> None:
    """Put back what the backup FILE holds: a path, or a name that `backups` lists.

    The state that it replaces is saved first, with the label "restore". The hub is away meanwhile, notebooks keep running.
    """
    require_root()
    if go_on:
        with _alone(wait=True):
            _put_in_place()
        return
    if not file:
        raise click.MissingParameter(param_type="argument", param_hint="FILE")
    if not file.exists() and (FOLDER / file).exists():
        file = FOLDER / file
    with _alone():
        _put_in_place()  # of one that was interrupted
        before = _replace(file)
    click.echo(f"restored {file}; the state before it is {before}")


# -- Saving ------------------------------------------------------------------------------------------------------------------------


def _save(label: str, file: Path | None, damaged_too: bool = False) -> Path:
    """Write a backup, read it back, and give it its name; return that. With `damaged_too`, a corrupt database is taken as it is.

    Raises Failure; nothing of it is left then.
    """
    now = datetime.datetime.now(datetime.UTC)
    target = file or FOLDER / f"jupyterhub-{now:%Y%m%dT%H%M%SZ}-{label}{SUFFIX}"
    if target.exists():
        raise Failure(f"{target} exists: choose another name, or remove it")
    with _explained(target.parent), tempfile.TemporaryDirectory(prefix=WORK, dir=target.parent) as work:
        settings = _settings()
        manifest = Manifest(
            version=_installed_version(),
            created=now.isoformat(timespec="seconds"),
            label=label,
            host=socket.gethostname(),
            places=[*PLACES, *settings["places"]],
            entries=[],
        )
        manifest.entries = entries(manifest.places, _pristine())
        database = Path(work) / "database"
        _save_database(settings["db_url"], manifest, database, damaged_too)
        archive = Path(work) / "archive"
        write(archive, manifest, database if manifest.database != "none" else None)
        os.rename(archive, target)
        sync_folder(target.parent)
    if not file:
        _forget_old(label)
    return target


def _save_database(url: str, manifest: Manifest, copy: Path, damaged_too: bool) -> None:
    """Copy the hub's database at `url` (SQLAlchemy's form), if there is one, to `copy`, and note in `manifest` what it is.

    With `damaged_too`, a corrupt one is taken as it is. Raises DatabaseError, BadDatabase (of a kind that cannot be saved), OSError.
    """
    if url.startswith("sqlite"):
        manifest.database_path = url.removeprefix("sqlite:///")
        if not os.path.exists(manifest.database_path):
            return
        manifest.database = "sqlite"
        manifest.database_mode = os.stat(manifest.database_path).st_mode & 0o777
        try:
            copy_sqlite(manifest.database_path, copy)
        except DatabaseError:
            if not damaged_too:
                raise
            manifest.database = "damaged"
            shutil.copyfile(manifest.database_path, copy)
    elif url.startswith("postgresql"):
        manifest.database = "postgresql"
        with open(copy, "xb") as stream:
            dump_postgresql(url, stream)
    else:
        raise BadDatabase(f"a database {url.split(':')[0]} is not among those that can be saved: sqlite, postgresql")
    with open(copy, "rb") as stream:
        manifest.database_sha256 = digest(stream)


def _forget_old(label: str) -> None:
    """Remove all but the newest backups of a label. Their names sort by time."""
    keep = max(_keep(), 1)
    for old in sorted(FOLDER.glob(f"jupyterhub-*Z-{label}{SUFFIX}"))[:-keep]:
        old.unlink()


def _keep() -> int:
    """Return how many backups of each label are to be kept; 0 for none but those that somebody asks for."""
    value = default_setting("JUPYTERHUB_BACKUPS", "14")
    if not value.isdecimal():
        raise Failure(f"JUPYTERHUB_BACKUPS={value} in {DEFAULTS} is not a number")
    return int(value)


def _settings() -> dict:
    """Return what of the hub's configuration matters here: db_url (str), places (list of str, more to save).

    Where the configuration cannot be read, it is worth a backup no less: those of the package, and a warning.
    """
    problems, settings = check_config.read(as_the_hub_sees_it=False)
    if not settings:
        click.echo(f"jupyterhub-ctl: the configuration cannot be read, so the database is taken for the package's own: {problems[0]}", err=True)
        settings = {"db_url": DATABASE_URL, "cookie_secret_file": COOKIE_SECRET}
    if settings["db_url"].startswith("sqlite:///"):
        path = settings["db_url"].removeprefix("sqlite:///")
        settings["db_url"] = f"sqlite:///{Path(STATE, path)}"
    settings["places"] = [str(Path(STATE, settings["cookie_secret_file"]))]
    folder = default_setting("JUPYTERHUB_CONFDIR", CONFIG)
    if folder not in PLACES:
        settings["places"].append(folder)
    return settings


def _installed_version() -> str:
    query = ["dpkg-query", "--show", "--showformat=${Version}", "jupyterhub"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout


def _pristine() -> Callable[[str], bool]:
    """Return a function that tells whether a path (str) is a configuration file that nobody has changed since dpkg has brought it."""
    query = ["dpkg-query", "--show", "--showformat=${Conffiles}", "jupyterhub"]
    shipped = dict(line.split()[:2] for line in subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines() if line.strip())

    def pristine(path: str) -> bool:
        if path not in shipped or not os.path.isfile(path):
            return False
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest() == shipped[path]

    return pristine


# -- Restoring ---------------------------------------------------------------------------------------------------------------------


def _replace(file: Path) -> Path:
    """Check an archive, save what there is, put the archive's content in place; return the path of what was saved."""
    with _explained(FOLDER):
        work = Path(tempfile.mkdtemp(prefix=WORK, dir=FOLDER))
        try:
            running = _stop(_unpack(file, work))
            try:
                before = _save("restore", None, damaged_too=True)
                os.rename(work, PENDING)
                sync_folder(FOLDER)
            except BaseException:
                _start(running)
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        _put_in_place()
        _start(running)
    return before


def _unpack(file: Path, work: Path) -> Manifest:
    """Check an archive, unpack it into `work`, and return its manifest; raises BadArchive where it is not for this machine."""
    try:
        manifest = read(file, work)
    except NewerFormat as error:
        raise BadArchive(f"{error}, which is newer than this one: upgrade the package first") from None
    # The part after the + is the suite that the package was built for.
    ours, its = _installed_version().split("+")[0], manifest.version.split("+")[0]
    if subprocess.run(["dpkg", "--compare-versions", its, "gt", ours], check=False).returncode == 0:
        raise BadArchive(f"{file} is of version {manifest.version}, which is newer than this one: upgrade the package first")
    if manifest.database == "damaged":
        raise BadArchive(f"{file} holds a database that was corrupt already when it was saved: choose another backup")
    if manifest.database == "sqlite":
        try:
            copy_sqlite(work / "database", work / "sound")
        except DatabaseError as error:
            raise BadArchive(f"{file}: {error}") from None
        os.unlink(work / "sound")
    return manifest


def _put_in_place() -> None:
    """Do what is pending, or do it once more: each step leads to the same state from wherever the last attempt has ended."""
    if PENDING.exists():
        manifest = unpacked(PENDING)
        with _explained(Path("/etc")):
            _place_files(manifest)
        if manifest.database == "sqlite":
            with _explained(Path(manifest.database_path).parent):
                _place_sqlite(manifest)
        elif manifest.database == "postgresql":
            with _explained(Path("/var")), open(PENDING / "database", "rb") as dump:
                restore_postgresql(_settings()["db_url"], dump)
        done = Path(tempfile.mkdtemp(prefix=WORK, dir=FOLDER))
        os.rename(PENDING, done / "done")
        sync_folder(FOLDER)
        shutil.rmtree(done)


def _place_files(manifest: Manifest) -> None:
    """Make the places that were saved what they were: content, owners, modes, and nothing besides.

    The content of a file that was as the package ships it, and still is, stays: the package may have a newer one by now.
    """
    saved = {entry.path: entry for entry in manifest.entries}
    pristine = _pristine()
    for entry in sorted(entries(manifest.places, pristine), key=lambda entry: entry.path, reverse=True):
        kept = saved.get(entry.path)
        if kept is None or kept.kind != entry.kind:
            if entry.kind == "folder":
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
    for entry in manifest.entries:
        path = Path(entry.path)
        if entry.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
            _own(path, entry)
        elif entry.pristine and pristine(entry.path):
            _own(path, entry)
        else:
            new = path.with_name(f"{path.name}.jupyterhub-ctl~")  # sudo passes over names that end so
            path.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            if entry.kind == "link":
                os.symlink(entry.target, new)
            else:
                shutil.copyfile(PENDING / f"files{entry.path}", new)
                _own(new, entry)
                _sync(new)
            os.rename(new, path)
        sync_folder(path.parent)


def _place_sqlite(manifest: Manifest) -> None:
    path = Path(manifest.database_path)
    new = path.with_name(f"{path.name}.restored")
    shutil.copyfile(PENDING / "database", new)
    shutil.chown(new, accounts.HUB, accounts.HUB)
    new.chmod(manifest.database_mode)
    _sync(new)
    for rest in ("-journal", "-wal", "-shm"):  # of the database that goes; SQLite would apply them to the one that comes
        path.with_name(path.name + rest).unlink(missing_ok=True)
    sync_folder(path.parent)
    os.rename(new, path)
    sync_folder(path.parent)


def _own(path: Path, entry: Entry) -> None:
    """Give a file its owner, group and mode. Those that this machine does not know become root's."""
    os.chown(path, _number(pwd.getpwnam, entry.owner), _number(grp.getgrnam, entry.group))
    path.chmod(entry.mode)


def _number(lookup: Callable[[str], Any], name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return lookup(name)[2]
    except KeyError:
        return 0


def _sync(file: Path) -> None:
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


# -- The hub, the lock, the words --------------------------------------------------------------------------------------------------


def _stop(manifest: Manifest) -> list[str]:
    """Stop the hub, and the proxy if a restore changes what it is started with; return those that ran. Notebook servers go on."""
    if not SYSTEMD:
        return []
    stopped = [units.HUB]
    if any(entry not in manifest.entries for entry in entries(OF_THE_PROXY, _pristine())):
        stopped.append(units.PROXY)
    running = []
    for unit in stopped:
        state = stdout_of("systemctl", "is-active", unit)
        if state in ("active", "activating", "reloading", "failed"):
            running.append(unit)
    subprocess.run(["systemctl", "stop", *stopped], check=True)
    return running


def _start(stopped: list[str]) -> None:
    if stopped:
        subprocess.run(["systemctl", "start", *stopped], check=True)


@contextlib.contextmanager
def _alone(wait: bool = False) -> Iterator[None]:
    """Hold the lock that keeps a second backup or restore away. Raises Busy, if not to `wait` for it."""
    os.umask(0o077)
    with _explained(FOLDER.parent):
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(FOLDER / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy("another backup or restore is running: wait until it is done") from None
        for leftover in FOLDER.glob(f"{WORK}*"):  # of one that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what can go wrong with files in `folder` and with the database into a Failure of one line."""
    try:
        yield
    except DatabaseError as error:
        raise BadDatabase(str(error)) from None
    except ArchiveError as error:
        raise BadArchive(str(error)) from None
    except sqlite3.Error as error:
        if "full" in str(error):
            raise NoSpace(f"no space is left in {folder}: free some (`df -h {folder}`)") from None
        raise BadDatabase(f"{folder}: {error}") from None
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(f"no space is left in {folder}: free some (`df -h {folder}`)") from None
        raise Failure(f"{error.filename or folder}: {error.strerror or error}") from None
