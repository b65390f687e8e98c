"""The format of a backup: a compressed tar whose first member is a manifest of all others.

====================  =====================================================================================
member                holds
====================  =====================================================================================
``manifest.json``     see Manifest
``files/PATH``        a file of the machine; folders and links are in the manifest alone
``database``          a SQLite database, or what ``pg_dump --format=custom`` has written
====================  =====================================================================================
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import stat
import tarfile
import tempfile
import typing
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import IO

from . import files
from .accounts import group_name, user_name
from .lines import one_line

FORMAT = 1
PACKAGE = "jupyterhub"


class ArchiveError(Exception):
    """The file is no whole backup of ours; the text is one line for humans."""


class Stranger(ArchiveError):
    """The file is none of ours."""


class NewerFormat(ArchiveError):
    """The backup is of a format that only a later version knows."""


@dataclasses.dataclass
class Entry:
    """What there is at `path` (absolute)."""

    path: str
    kind: str  # file, folder, link
    mode: int
    owner: str
    group: str
    sha256: str = ""  # of files
    target: str = ""  # of links
    pristine: bool = False  # a configuration file as the package has shipped it


@dataclasses.dataclass
class Manifest:
    """What a backup holds and where it comes from."""

    version: str  # of the package
    created: str  # ISO 8601, UTC
    label: str  # what it was made for: manual, timer, upgrade, restore
    host: str
    places: list[str]  # files and folders that were saved; what is not among `entries` was not there
    entries: list[Entry]
    database: str = "none"  # sqlite, postgresql; damaged: as it was found, of no use to a hub
    database_path: str = ""  # of SQLite
    database_mode: int = 0o640
    database_sha256: str = ""
    format: int = FORMAT
    package: str = PACKAGE


def digest(stream: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """Return the SHA-256 of what a binary stream still holds; write all of that to `copy`, too, if given."""
    sha256 = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        sha256.update(chunk)
        if copy:
            copy.write(chunk)
    return sha256.hexdigest()


def entry(path: str, status: os.stat_result) -> Entry:
    """Return what lstat has said about `path`; `kind` is "" for what no backup holds: a socket or pipe is made by who listens at it."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "")
    return Entry(path, kind, stat.S_IMODE(status.st_mode), user_name(status.st_uid), group_name(status.st_gid))


def entries(places: list[str], pristine: Callable[[str], bool]) -> list[Entry]:
    """Return what there is at `places` (paths, some may be missing) and below; `pristine(path)` tells what the package has shipped."""
    found = []
    for place in places:
        for path, status in files.walk(place):
            each = entry(str(path), status)
            try:
                if each.kind == "link":
                    each.target = os.readlink(path)
                elif each.kind == "file":
                    with files.opened(path, below=place) as stream:
                        each.sha256 = digest(stream)
                    each.pristine = pristine(str(path))
            except FileNotFoundError:
                continue  # it has gone meanwhile
            if each.kind:
                found.append(each)
    return found


def write(file: Path, manifest: Manifest, database: Path | None, held: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Write the archive `file` and read it back. `held` is the content of some files, by path.

    Raises OSError, ArchiveError (a file has changed meanwhile).
    """
    with open(file, "xb") as stream:
        with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as tar:
            with tempfile.TemporaryFile(dir=file.parent) as text:
                text.write(json.dumps(dataclasses.asdict(manifest), indent=1).encode())
                _add(tar, "manifest.json", text)
            for each in manifest.entries:
                if each.kind == "file":
                    with _content(each.path, manifest.places, held, file.parent) as content:
                        _add(tar, f"files{each.path}", content)
            if database:
                with open(database, "rb") as content:
                    _add(tar, "database", content)
        stream.flush()
        os.fsync(stream.fileno())
    read(file)


@contextlib.contextmanager
def _content(path: str, places: list[str], held: Mapping[str, bytes], folder: Path) -> Iterator[IO[bytes]]:
    """Yield the content of a file as a binary file; what is held goes through one in `folder`."""
    if path in held:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(held[path])
            yield stream
    else:
        with files.opened(path, below=next(place for place in places if PurePosixPath(path).is_relative_to(place))) as stream:
            yield stream


def _add(tar: tarfile.TarFile, name: str, stream: IO[bytes]) -> None:
    stream.seek(0)
    info = tar.gettarinfo(arcname=name, fileobj=stream)
    tar.addfile(info, stream)


def manifest_of(file: Path) -> Manifest:
    """Return the manifest of an archive, without a look at the rest. Raises ArchiveError, OSError."""
    with _opened(file) as tar:
        return _manifest(tar, file)


def read(file: Path, into: Path | None = None) -> Manifest:
    """Check each byte of an archive against its manifest, and unpack it into the empty folder `into`, if given.

    Everything is on the disk (fsync) then. Raises ArchiveError, OSError.
    """
    with _opened(file) as tar:
        manifest = _manifest(tar, file)
        wanted = {f"files{entry.path}": entry.sha256 for entry in manifest.entries if entry.kind == "file"}
        if manifest.database_sha256:
            wanted["database"] = manifest.database_sha256
        while member := tar.next():
            sha256 = wanted.pop(member.name, None)
            content = tar.extractfile(member) if member.isreg() else None
            if sha256 is None or content is None:
                raise ArchiveError(f"{file} is damaged: {member.name} is not in its manifest")
            if into:
                target = into / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as copy:
                    found = digest(content, copy)
                    copy.flush()
                    os.fsync(copy.fileno())
            else:
                found = digest(content)
            if found != sha256:
                raise ArchiveError(f"{file} is damaged: {member.name} is not what was saved")
        if wanted:
            raise ArchiveError(f"{file} is damaged: {min(wanted)} is missing")
    if into:
        with open(into / "manifest.json", "x") as stream:
            json.dump(dataclasses.asdict(manifest), stream)
            stream.flush()
            os.fsync(stream.fileno())
        for folder, _, _ in os.walk(into):
            files.sync_folder(Path(folder))
    return manifest


def unpacked(folder: Path) -> Manifest:
    """Return the manifest of what `read` has unpacked into `folder`."""
    with open(folder / "manifest.json") as stream:
        return _parsed(json.load(stream), folder)


class _opened:
    """A context with the opened archive, in which all that a damaged one can do is an ArchiveError."""

    def __init__(self, file: Path):
        self.file = file

    def __enter__(self) -> tarfile.TarFile:
        # Whoever has named it may have named a FIFO.
        fd = os.open(self.file, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ArchiveError(f"{self.file} is no backup of jupyterhub-ctl")
        self.stream = open(fd, "rb")
        try:
            return tarfile.open(fileobj=self.stream, mode="r|gz")
        except (tarfile.TarError, EOFError, OSError):
            self.stream.close()
            raise self._stranger() from None

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        self.stream.close()
        if isinstance(error, Stranger):
            raise self._stranger() from None
        # What gzip and tarfile raise for input they cannot read: zlib.error, EOFError, BadGzipFile (an OSError without errno).
        if isinstance(error, tarfile.TarError | EOFError | zlib.error) or (isinstance(error, OSError) and not error.errno):
            raise ArchiveError(f"{self.file} is damaged: {one_line(error)}") from None

    def _stranger(self) -> ArchiveError:
        """Return what to say of a file that does not begin as a backup does: that may be because it is damaged, which gzip's checksum tells."""
        try:
            with gzip.open(self.file) as stream:
                while stream.read(1 << 20):
                    pass
        except gzip.BadGzipFile as error:
            damaged = "CRC" in str(error) or "length" in str(error)
        except (zlib.error, EOFError):
            damaged = True
        else:
            damaged = False
        return ArchiveError(f"{self.file} is damaged: its beginning cannot be read") if damaged else Stranger(f"{self.file} is no backup of jupyterhub-ctl")


def _manifest(tar: tarfile.TarFile, file: Path) -> Manifest:
    first = tar.next()
    content = tar.extractfile(first) if first and first.name == "manifest.json" and first.isreg() else None
    if content is None:
        raise Stranger(f"{file} is no backup of jupyterhub-ctl")
    try:
        fields = json.load(content)
    except ValueError:
        raise Stranger(f"{file} is no backup of jupyterhub-ctl") from None
    return _parsed(fields, file)


def _parsed(fields: dict, file: Path) -> Manifest:
    if not isinstance(fields, dict) or fields.get("package") != PACKAGE or not isinstance(fields.get("format"), int):
        raise Stranger(f"{file} is no backup of jupyterhub-ctl")
    if fields["format"] > FORMAT:
        raise NewerFormat(f"{file} is of format {fields['format']}, from version {fields.get('version')}")
    try:
        manifest = Manifest(**{**fields, "entries": [Entry(**each) for each in fields["entries"]]})
        said = _wrong(manifest)
    except (KeyError, TypeError):
        raise ArchiveError(f"{file} is damaged: its manifest is not one of format {fields['format']}") from None
    if said:
        raise ArchiveError(f"{file} is damaged: {said}")
    return manifest


def _wrong(manifest: Manifest) -> str:
    """Return what keeps a manifest from being one that `write` has written, "" if nothing does; raise TypeError for a field of another type."""
    parts: list[Manifest | Entry] = [manifest, *manifest.entries]
    for part in parts:
        for name, kind in typing.get_type_hints(type(part)).items():
            if not isinstance(getattr(part, name), typing.get_origin(kind) or kind):
                raise TypeError(name)
    folders = {each.path for each in manifest.entries if each.kind == "folder"}
    for name in [*manifest.places, *(each.path for each in manifest.entries)]:
        path = PurePosixPath(name)
        if str(path) != name or ".." in path.parts or not path.is_absolute() or not is_below(name, manifest.places):
            return f"{name} is outside of what a backup holds"
    for each in manifest.entries:
        if each.kind not in ("file", "folder", "link"):
            return f"{each.path} is of kind {each.kind!r}"
        # Below a link it would be anywhere.
        if each.path not in manifest.places and os.path.dirname(each.path) not in folders:
            return f"{each.path} is in no folder of the backup"
    return ""


def check_places(file: Path, manifest: Manifest, own: Collection[str]) -> list[str]:
    """Return the places of a manifest that are not among `own` (absolute paths), the only ones where a restore works as root.

    Each is that of one file, which is the hub's account's to put in place. Raises ArchiveError for another.
    """
    others = [place for place in manifest.places if not is_below(place, own)]
    for each in manifest.entries:
        if not is_below(each.path, own) and (each.kind != "file" or each.path not in others):
            raise ArchiveError(f"{file} holds {each.path}, {NO_PLACE}")
    return others


def is_below(path: str, places: Collection[str]) -> bool:
    """Return whether `path` is one of `places` or below one (all absolute, without ..)."""
    return any(PurePosixPath(path).is_relative_to(place) for place in places)


NO_PLACE = "which is no place of this machine's hub: nothing is changed. A JUPYTERHUB_CONFDIR of the archive must be that of /etc/default/jupyterhub first"
