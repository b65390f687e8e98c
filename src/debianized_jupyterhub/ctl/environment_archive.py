"""An environment's revision in one file: its lock, the wheels, its SBOM, and of which Python, Debian and machine it is.

Everything in it has a checksum in its manifest, and the wheels have those of the lock, which uv compares when it installs them.
"""

import contextlib
import datetime
import hashlib
import io
import json
import os
import platform
import re
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from .. import files
from ..environments import ROOT, WORK, Revision
from ..paths import UV_LOCK
from . import uv
from .common import FULL, BadArchive, Failure, NoSpace
from .environment_build import PYTHON, minor, version_of

FORMAT = 1
MANIFEST, LOCK, SBOM, WHEELS = "manifest.json", "lock.txt", "sbom.cdx.json", "wheels"
MEMBER = re.compile(rf"{LOCK}|{re.escape(SBOM)}|{WHEELS}/[A-Za-z0-9][\w.+!-]*\.whl")
SOURCE = ("host", "environment", "revision", "made", "by", "archived")  # what is noted of where an imported revision comes from
ANOTHER = "archive the environment again, or fetch the file again"


def this_machine() -> dict[str, str]:
    """Return what has to be the same for wheels and numbers to be."""
    return {"suite": platform.freedesktop_os_release().get("VERSION_CODENAME", ""), "architecture": platform.machine()}


def write(revision: Revision, file: Path) -> str:
    """Write the archive of a revision; return its checksum (SHA-256). Raises Failure; nothing of it is left then."""
    record = revision.record
    with tempfile.TemporaryDirectory(prefix=WORK, dir=ROOT) as work:
        _download(revision, record.get("interpreter") or PYTHON, Path(work))
        held = {LOCK: revision.folder / LOCK, **{f"{WHEELS}/{wheel.name}": wheel for wheel in sorted(Path(work).glob("*.whl"))}}
        texts = {SBOM: json.dumps(sbom(revision), indent=1).encode()}
        sums = {name: _sum(path) for name, path in held.items()} | {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {"format": FORMAT, **record, **this_machine(), "host": socket.gethostname(), "archived": now, "files": sums}
        texts[MANIFEST] = json.dumps(about, indent=1).encode()
        new = file.with_name(f".{file.name}.new")
        new.unlink(missing_ok=True)  # of one that was killed
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
                for name in (MANIFEST, SBOM):
                    _put(archive, name, len(texts[name]), io.BytesIO(texts[name]))
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
    return _sum(file)


def _put(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    archive.addfile(entry, content)


def _download(revision: Revision, python: str, work: Path) -> None:
    """Fetch the wheels of a revision and uv's, which pip compares with their hashes. uv keeps no wheels."""
    for lock in (str(revision.folder / LOCK), UV_LOCK):
        uv.pip("--python", python, "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(work), "--requirement", lock)


def sbom(revision: Revision) -> dict[str, Any]:
    """Return what is in a revision, as CycloneDX; read from its files alone."""
    found = metadata.distributions(path=[str(revision.site)])
    names = sorted((re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower(), package.version) for package in found)
    purls = {f"pkg:pypi/{name}@{version}": (name, version) for name, version in names}
    components = [{"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl} for purl, (name, version) in purls.items()]
    subject = {"type": "application", "name": revision.folder.parent.name, "version": str(revision.number)}
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": subject}, "components": components}


def unpack(file: Path, work: Path) -> dict[str, Any]:
    """Check an archive, unpack it into the empty folder `work`, and return its manifest. Raises BadArchive."""
    try:
        with files.opened(file.resolve()) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            about = json.loads(_content(archive, archive.next(), MANIFEST).read())
            if about["format"] != FORMAT:
                raise BadArchive(f"{file} comes from a newer version: upgrade the package first")
            sums = dict(about["files"])
            if missing := {*SOURCE, "python", "suite", "architecture"} - set(about) or {LOCK} - set(sums):
                raise ValueError(f"{min(missing)} is missing in its manifest")
            (work / WHEELS).mkdir()
            while member := archive.next():
                name = member.name
                if not MEMBER.fullmatch(name) or name not in sums:
                    raise BadArchive(f"{file}: {name} does not belong into it: {ANOTHER}")
                _copy(_content(archive, member, name), work / name, sums.pop(name))
    except FileNotFoundError:
        raise Failure(f"{file} is not there") from None
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BadArchive(f"{file} is damaged, or no archive of an environment ({error}): {ANOTHER}") from None
    if sums:
        raise BadArchive(f"{file}: {next(iter(sums))} is missing in it: {ANOTHER}")
    return dict(about)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> IO[bytes]:
    content = archive.extractfile(member) if member and member.name == name and member.isfile() else None
    if not content:
        raise ValueError(f"{name} is not where it should be")
    return content


def _copy(content: IO[bytes], path: Path, wanted: str) -> None:
    digest = hashlib.sha256()
    with open(path, "xb") as copy:
        while block := content.read(1 << 20):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != wanted:
        raise ValueError(f"{path.name} is not what it was")


def interpreter_for(file: Path, about: dict[str, Any], given: str | None) -> str | None:
    """Return the interpreter for an archive's revision, None for the package's. Raises BadArchive, which names the one that is needed."""
    needed, here = minor(str(about["python"])), this_machine()
    if about["architecture"] != here["architecture"]:
        raise BadArchive(f"{file} is for machines of the architecture {about['architecture']}, and this one is {here['architecture']}")
    if given:
        if minor(version_of(given)) == needed:
            return given
        raise BadArchive(f"{file} needs Python {needed}, and {given} is {version_of(given)}")
    if about["suite"] != here["suite"] or minor(version_of(PYTHON)) != needed:
        raise BadArchive(
            f"{file} needs Python {needed} of {about['suite']}, and this machine has {minor(version_of(PYTHON))} of {here['suite']}: "
            f"name an interpreter with --python /PATH/python{needed}"
        )
    return None


@contextlib.contextmanager
def unpacked(file: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a folder with what an archive holds, and its manifest. Raises BadArchive."""
    with tempfile.TemporaryDirectory(prefix=WORK, dir=ROOT) as work:
        yield Path(work), unpack(file, Path(work))


def _sum(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
