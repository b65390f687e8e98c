"""jupyterhub-ctl backup, backups, restore: configuration, secrets and database in one file.

A restore that has begun is completed, whatever happens: once everything is checked and unpacked in PENDING, each step that puts it in
place can be done again. systemd does so before the next start of the hub (jupyterhub-restore.service).
"""

import contextlib
import datetime
import fcntl
import grp
import io
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from .. import accounts, as_hub, files, units
from ..archive import (
    NO_PLACE,
    ArchiveError,
    Entry,
    Manifest,
    NewerFormat,
    check_places,
    digest,
    entries,
    is_below,
    manifest_of,
    read,
    unpacked,
    write,
)
from ..database import DatabaseError, dump_postgresql, is_postgresql, require_no_other_hub, restore_postgresql, sqlite_file
from ..defaults import COOKIE_SECRET
from ..paths import (
    BACKUPS,
    CONFIG,
    DEFAULTS,
    JOBS_CA,
    LOGIN_SERVICE,
    PROXY_ENV,
    SCRATCH,
    SESSION_SERVICE,
    STATE,
    SUDOERS,
    USER_RULES,
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
    own_database_url,
    pristine,
    require_no_service,
    require_root,
    show,
)

FOLDER = Path(BACKUPS)
PENDING = FOLDER / ".restore"  # what a restore that has begun puts in place
OWN = "own.json"  # beside what is unpacked: the places where root puts it
WORK = ".jupyterhub-ctl."  # prefix of folders with what is being made
SUFFIX = ".tar.gz"
STREAM = Path("-")  # standard input or output
# What is saved besides the database, the cookie secret and JOBS_CA.
PLACES = [CONFIG, DEFAULTS, SUDOERS, USER_RULES, f"/etc/pam.d/{LOGIN_SERVICE}", f"/etc/pam.d/{SESSION_SERVICE}"]
OF_THE_PROXY = [PROXY_ENV, DEFAULTS]  # what it is started with
SYSTEMD = os.path.isdir("/run/systemd/system")


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--label", default="manual", help="What it is made for: a part of its name.", metavar="WORD")
@click.option("--without-database", is_flag=True, help="What a second hub of the same database needs: `restore` leaves the database alone then.")
def backup(file: Path | None, label: str, without_database: bool) -> None:
    """Save configuration, secrets and database in one archive.

    Without FILE it goes to /var/backups/jupyterhub, where the newest JUPYTERHUB_BACKUPS (/etc/default/jupyterhub) of each label are kept; with -, to
    standard output.
    """
    require_root()
    if not re.fullmatch(r"[a-z0-9]+", label):
        raise click.BadParameter("letters a to z and digits", param_hint="--label")
    if label != "manual" and _keep() == 0:
        return
    if without_database and not file:
        raise click.UsageError("--without-database needs a FILE, or -: what it makes is no backup of this hub")
    if file == STREAM:
        _to_stdout(label, without_database)
        return
    if file:
        require_no_service(file)
    with alone():
        made = _save(label, file.absolute() if file else None, without_database=without_database)
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
    """Put back what the backup FILE holds: a path, a name that `backups` lists, or - for standard input.

    The state that it replaces is saved first, with the label "restore". The hub is away meanwhile, notebooks keep running.
    """
    require_root()
    if go_on:
        with alone(wait=True):
            _put_in_place()
        return
    if not file:
        raise click.MissingParameter(param_type="argument", param_hint="FILE")
    if file != STREAM and not file.exists() and (FOLDER / file).exists():
        file = FOLDER / file
    asked = "standard input" if file == STREAM else file
    with alone(), explained(FOLDER), tempfile.TemporaryDirectory(prefix=WORK, dir=FOLDER) as work:
        _put_in_place()  # of one that was interrupted
        if file == STREAM:
            file = Path(work, "standard input")
            with open(file, "xb") as archive:
                shutil.copyfileobj(sys.stdin.buffer, archive)
        try:
            before, manifest = _replace(file)
        except Failure as failure:
            raise type(failure)(failure.message.replace(str(file), str(asked))) from None
    click.echo(f"restored {asked}; the state before it is {before}")
    if manifest.host != socket.gethostname() and manifest.database != "none":
        click.echo(f"it is from {manifest.host}: logins and tokens in it are now those of this machine's accounts of the same names", err=True)


# -- Saving ------------------------------------------------------------------------------------------------------------------------


def _save(label: str, file: Path | None, damaged_too: bool = False, without_database: bool = False) -> Path:
    """Write a backup, read it back, and give it its name; return that. With `damaged_too`, a corrupt database is taken as it is.

    Raises Failure; nothing of it is left then.
    """
    now = datetime.datetime.now(datetime.UTC)
    target = file or FOLDER / f"jupyterhub-{now:%Y%m%dT%H%M%SZ}-{label}{SUFFIX}"
    if target.exists():
        raise Failure(f"{target} exists: choose another name, or remove it")
    with explained(target.parent), tempfile.TemporaryDirectory(prefix=WORK, dir=target.parent) as work:
        settings = _settings()
        own = _own_places()
        hubs = [path for path in (settings["cookie_secret_file"], JOBS_CA) if not is_below(path, own)]
        manifest = Manifest(
            version=_installed_version(),
            created=now.isoformat(timespec="seconds"),
            label=label,
            host=socket.gethostname(),
            places=[*own, *hubs],
            entries=entries(own, pristine()),
        )
        held = {path: content for each in hubs for path, content in _hubs_file(each, manifest).items()}
        database = Path(work) / "database"
        if not without_database:
            _save_database(settings["db_url"], manifest, database, damaged_too)
        archive = Path(work) / "archive"
        write(archive, manifest, database if manifest.database != "none" else None, held)
        os.rename(archive, target)
        files.sync_folder(target.parent)
    if not file:
        _forget_old(label)
    return target


def _to_stdout(label: str, without_database: bool) -> None:
    """Write a backup to standard output. Raises Failure."""
    if sys.stdout.isatty():
        raise Failure("standard output is a terminal: name a file, or what reads it: `jupyterhub-ctl backup - | ...`")
    with alone(), explained(FOLDER), tempfile.TemporaryDirectory(prefix=WORK, dir=FOLDER) as work:
        with open(_save(label, Path(work, "archive"), without_database=without_database), "rb") as archive:
            shutil.copyfileobj(archive, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _own_places() -> list[str]:
    """Return what is saved, and put in place again, by root: absolute paths. Raises Failure where others than root could change what they are."""
    folder = os.path.normpath(default_setting("JUPYTERHUB_CONFDIR", CONFIG))
    if folder in PLACES:
        return PLACES
    if not files.is_roots_alone(os.path.dirname(folder)):
        raise Failure(f"JUPYTERHUB_CONFDIR={folder} in {DEFAULTS}: others than root can write to a folder above it: `namei -om {folder}` shows which")
    return [*PLACES, folder]


def _hubs_file(path: str, manifest: Manifest) -> dict[str, bytes]:
    """Note the file `path` of the hub's in `manifest`, and return its content by its path. What is no small file is not saved: a line says so."""
    try:
        found = as_hub.file(path)
    except (OSError, DatabaseError) as error:
        click.echo(f"jupyterhub-ctl: {path} is not saved: {error.strerror if isinstance(error, OSError) else error}", err=True)
        return {}
    if found is None:
        return {}
    mode, content = found
    manifest.entries.append(Entry(path, "file", mode, accounts.HUB, accounts.HUB, sha256=digest(io.BytesIO(content))))
    return {path: content}


def _save_database(url: str, manifest: Manifest, copy: Path, damaged_too: bool) -> None:
    """Copy the hub's database at `url` (SQLAlchemy's form), if there is one, to `copy`, and note in `manifest` what it is.

    With `damaged_too`, a corrupt one is taken as it is, and nothing of what is none. Raises DatabaseError, BadDatabase (of a kind that
    cannot be saved), OSError.
    """
    if path := sqlite_file(url):
        manifest.database_path = path
        try:
            if not _save_sqlite(manifest, copy, "copy"):
                return
        except DatabaseError as error:
            if not damaged_too:
                raise
            try:
                _save_sqlite(manifest, copy, "bytes")
                manifest.database = "damaged"
            except (DatabaseError, PermissionError):  # a link of the hub's to what is not its own
                click.echo(f"jupyterhub-ctl: the state before has no database: {error}", err=True)
                manifest.database = "none"
                return
    elif is_postgresql(url):
        manifest.database = "postgresql"
        with open(copy, "xb") as stream:
            dump_postgresql(url, stream)
    else:
        raise BadDatabase(f"a database {url.split(':')[0]} is not among those that can be saved: sqlite, postgresql")
    with open(copy, "rb") as stream:
        manifest.database_sha256 = digest(stream)


def _save_sqlite(manifest: Manifest, copy: Path, action: str) -> bool:
    """Write the database of `manifest` to `copy`, as the hub's account does it by `action` of as_hub.py; return whether there is one."""
    try:
        manifest.database_mode = int(as_hub.run("mode", manifest.database_path)) & 0o777
        with open(copy, "wb") as stream:
            as_hub.run(action, manifest.database_path, stdout=stream, timeout=as_hub.TIMEOUT)
    except FileNotFoundError:
        return False
    manifest.database = "sqlite"
    return True


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


def _settings() -> dict[str, str]:
    """Return what of the hub's configuration matters here: db_url, cookie_secret_file (absolute).

    Where the configuration cannot be read, it is worth a backup no less: those of the package, and a warning.
    """
    problems, settings = check_config.read(as_the_hub_sees_it=False)
    if not settings:
        click.echo(f"jupyterhub-ctl: the configuration cannot be read, so the database is taken for the package's own: {problems[0]}", err=True)
        settings = {"db_url": own_database_url(), "cookie_secret_file": COOKIE_SECRET}
    return {"db_url": str(settings["db_url"]), "cookie_secret_file": os.path.normpath(Path(STATE, str(settings["cookie_secret_file"])))}


def _installed_version() -> str:
    query = ["dpkg-query", "--show", "--showformat=${Version}", "jupyterhub"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout


# -- Restoring ---------------------------------------------------------------------------------------------------------------------


def _replace(file: Path) -> tuple[Path, Manifest]:
    """Check an archive, save what there is, put the archive's content in place; return the path of what was saved, and the archive's manifest."""
    with explained(FOLDER):
        work = Path(tempfile.mkdtemp(prefix=WORK, dir=FOLDER))
        try:
            manifest = _unpack(file, work)
            if manifest.database == "postgresql" and is_postgresql(url := _settings()["db_url"]):
                require_no_other_hub(url)
            with stopped(*_to_stop(manifest)) as running:
                before = _save("restore", None, damaged_too=True, without_database=manifest.database == "none")
                os.rename(work, PENDING)
                files.sync_folder(FOLDER)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        _put_in_place()
        _start(running)
    return before, manifest


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
    own = _own_places()
    for place in check_places(file, manifest, own):
        _require_the_hubs(file, place)
    with open(work / OWN, "x") as stream:
        json.dump(own, stream)
        stream.flush()
        os.fsync(stream.fileno())
    if manifest.database == "sqlite":
        _require_the_hubs(file, manifest.database_path)
        try:
            with open(work / "database", "rb") as stream:
                as_hub.run("check", stdin=stream, timeout=as_hub.TIMEOUT)
        except DatabaseError:
            raise BadArchive(f"{file}: the database in it is not sound: choose another backup") from None
    return manifest


def _require_the_hubs(file: Path, path: str) -> None:
    """Raise BadArchive unless the hub's account may put a file at `path`."""
    try:
        as_hub.run("may-write", os.path.dirname(path))
    except OSError as error:
        raise BadArchive(f"{file} holds {path}, {NO_PLACE} ({error.filename}: {error.strerror})") from None


def _put_in_place() -> None:
    """Do what is pending, or do it once more: each step leads to the same state from wherever the last attempt has ended."""
    if PENDING.exists():
        manifest = unpacked(PENDING)
        with explained(Path("/etc")):
            _place_files(manifest)
        if manifest.database == "sqlite":
            with explained(Path(manifest.database_path).parent):
                _place_sqlite(manifest)
        elif manifest.database == "postgresql":
            with explained(Path("/var")), open(PENDING / "database", "rb") as dump:
                restore_postgresql(_settings()["db_url"], dump)
        done = Path(tempfile.mkdtemp(prefix=WORK, dir=FOLDER))
        os.rename(PENDING, done / "done")
        files.sync_folder(FOLDER)
        shutil.rmtree(done)


def _place_files(manifest: Manifest) -> None:
    """Make the places that were saved what they were: content, owners, modes, and nothing besides.

    The content of a file that was as the package ships it, and still is, stays: the package may have a newer one by now.
    """
    # As it was when the archive was checked: the places are those of the settings that are replaced now.
    own = json.loads((PENDING / OWN).read_text()) if (PENDING / OWN).exists() else _own_places()
    saved = {entry.path: entry for entry in manifest.entries}
    shipped = pristine()
    places = [place for place in manifest.places if is_below(place, own)]
    for place in places:
        _take(Path(place))
    for there in sorted(entries(places, shipped), key=lambda entry: entry.path, reverse=True):
        kept = saved.get(there.path)
        if kept is None or kept.kind != there.kind:
            if there.kind == "folder":
                os.rmdir(there.path)
            else:
                os.unlink(there.path)
    hubs = check_places(PENDING, manifest, own)
    for entry in manifest.entries:
        if entry.path not in hubs:
            _place(entry, shipped)
    for entry in manifest.entries:
        if entry.kind == "folder":
            _own(Path(entry.path), entry)
            files.sync_folder(Path(entry.path))
    for path in hubs:
        if path in saved:
            with open(PENDING / f"files{path}", "rb") as stream:
                as_hub.run("put", path, f"{saved[path].mode & 0o777:o}", stdin=stream)
        else:
            with contextlib.suppress(FileNotFoundError):
                as_hub.run("remove", path)


def _take(place: Path) -> None:
    """Let nobody but root write to a folder and those below, until each gets its owner and mode: no other account can lay a link there meanwhile."""
    if place.is_symlink() or not place.is_dir():
        return
    os.chown(place, 0, -1)
    place.chmod(place.stat().st_mode & 0o755)
    for inner in place.iterdir():
        _take(inner)


def _place(entry: Entry, shipped: Callable[[str], bool]) -> None:
    """Put what `entry` names in its place, whole or not at all; a folder gets its owner and mode later."""
    path = Path(entry.path)
    if entry.kind == "folder":
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif entry.pristine and shipped(entry.path):
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
    files.sync_folder(path.parent)


def _place_sqlite(manifest: Manifest) -> None:
    """Have the hub's account put its database in place. What is beside the one that goes, SQLite would apply to the one that comes."""
    with open(PENDING / "database", "rb") as stream:
        beside = ("-journal", "-wal", "-shm")
        as_hub.run("put", manifest.database_path, f"{manifest.database_mode & 0o777:o}", *beside, stdin=stream, timeout=as_hub.TIMEOUT)


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


def _to_stop(manifest: Manifest) -> list[str]:
    """Return the units to stop: the hub, and the proxy if a restore changes what it is started with. Notebook servers keep running."""
    if not SYSTEMD:
        return []
    changed = any(entry not in manifest.entries for entry in entries(OF_THE_PROXY, pristine()))
    return [units.HUB, units.PROXY] if changed else [units.HUB]


@contextlib.contextmanager
def stopped(*names: str) -> Iterator[list[str]]:
    """Stop units, and yield those that ran or tried to. They are started again where what is done meanwhile fails; else that is left to the caller."""
    running = [unit for unit in names if stdout_of("systemctl", "is-active", unit) in ("active", "activating", "reloading", "failed")]
    try:
        if names:
            subprocess.run(["systemctl", "stop", *names], check=True)
        yield running
    except BaseException:
        _start(running)
        raise


def start(names: list[str]) -> bool:
    """Start units again, and return whether they have."""
    return not names or subprocess.run(["systemctl", "start", *names], check=False, capture_output=True).returncode == 0


def _start(names: list[str]) -> None:
    """Start units again. One that does not start, for the configuration that was put in place, say, is told and no failure of what was done."""
    if not start(names):
        click.echo("jupyterhub-ctl: the hub does not start: `systemctl status jupyterhub` says why", err=True)


@contextlib.contextmanager
def alone(wait: bool = False) -> Iterator[None]:
    """Hold the lock that keeps a second backup, restore or move of the database away. Raises Busy, if not to `wait` for it.

    A closed terminal, or SIGTERM, then ends what is done as Ctrl-C does: what was stopped is started again.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    os.umask(0o077)
    with explained(FOLDER.parent):
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(FOLDER / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy("another backup, restore or move of the database is running: wait until it is done") from None
        for leftover in FOLDER.glob(f"{WORK}*"):  # of one that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
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
        if str(error.filename or "").startswith(SCRATCH):
            folder = Path(SCRATCH)
        if error.errno in FULL:
            raise NoSpace(f"no space is left in {folder}: free some (`df -h {folder}`)") from None
        raise Failure(f"{error.filename or folder}: {error.strerror or error}") from None
