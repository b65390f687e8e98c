"""Files of jupyterhub-ctl that are carried to another machine: a tar archive with a manifest first, in which everything has a checksum."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from re import Pattern
from typing import IO, Any

from .. import files
from ..archive import digest
from .common import FULL, BadArchive, Failure, NoSpace

FORMAT = 1
MANIFEST, LOCK = "manifest.json", "lock.txt"


def write(file: Path, about: dict[str, Any], texts: Mapping[str, bytes], held: Mapping[str, Path]) -> str:
    """Write an archive of `texts` and the files `held`, by their names in it; return its checksum (SHA-256). Raises Failure; nothing is left then."""
    sums = {name: file_sum(path) for name, path in held.items()} | {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    manifest = json.dumps({"format": FORMAT, **about, "files": sums}, indent=1).encode()
    new = file.with_name(f".{file.name}.new")
    try:
        new.unlink(missing_ok=True)  # of a command that was interrupted
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            for name, text in {MANIFEST: manifest, **texts}.items():
                _put(archive, name, len(text), io.BytesIO(text))
            for name, path in held.items():
                with open(path, "rb") as content:
                    _put(archive, name, path.stat().st_size, content)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(file)
        files.sync_folder(file.parent)
    except OSError as error:
        raise (NoSpace if error.errno in FULL else Failure)(f"cannot write {file}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
    return file_sum(file)


def _put(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    archive.addfile(entry, content)


def unpack(file: Path, work: Path, members: Pattern[str], needed: Collection[str], what: str, again: str) -> dict[str, Any]:
    """Check an archive, unpack it into the folder `work`, and return its manifest. Raises BadArchive.

    Only `members` may be in it, whose folders are there; its manifest has to have `needed`, and it the file LOCK. `what` it is, and how to get it `again`,
    are for messages.
    """
    try:
        with files.opened(file.resolve()) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            about = json.loads(_content(archive, archive.next(), MANIFEST).read())
            if about["format"] != FORMAT:
                raise BadArchive(f"{file} comes from a newer version: upgrade the package first")
            sums = dict(about["files"])
            if missing := set(needed) - set(about) or {LOCK} - set(sums):
                raise ValueError(f"{min(missing)} is missing in its manifest")
            while member := archive.next():
                name = member.name
                if not members.fullmatch(name) or name not in sums:
                    raise BadArchive(f"{file}: {name} does not belong into it: {again}")
                _copy(_content(archive, member, name), work / name, sums.pop(name))
    except FileNotFoundError:
        raise Failure(f"{file} is not there") from None
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BadArchive(f"{file} is damaged, or no {what} ({error}): {again}") from None
    if sums:
        raise BadArchive(f"{file}: {next(iter(sums))} is missing in it: {again}")
    return dict(about)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> IO[bytes]:
    content = archive.extractfile(member) if member and member.name == name and member.isfile() else None
    if not content:
        raise ValueError(f"{name} is not where it should be")
    return content


def _copy(content: IO[bytes], path: Path, wanted: str) -> None:
    with open(path, "xb") as copy:
        found = digest(content, copy)
    if found != wanted:
        raise ValueError(f"{path.name} is not what it was")


def file_sum(path: Path) -> str:
    """Return the checksum (SHA-256, hexadecimal) of a file."""
    with open(path, "rb") as stream:
        return digest(stream)
