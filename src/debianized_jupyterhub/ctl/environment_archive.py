"""An environment's revision in one file: its lock, the wheels, its SBOM, and of which Python, Debian and machine it is.

Everything in it has a checksum in its manifest, and the wheels have those of the lock, which uv compares when it installs them.
"""

import contextlib
import datetime
import json
import platform
import re
import socket
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ..environments import ROOT, WORK, Revision
from ..paths import UV_LOCK
from . import checked_tar, uv
from .checked_tar import LOCK
from .common import BadArchive
from .environment_build import PYTHON, minor, version_of

SBOM, WHEELS = "sbom.cdx.json", "wheels"
MEMBER = re.compile(rf"{LOCK}|{re.escape(SBOM)}|{WHEELS}/[A-Za-z0-9][\w.+!-]*\.whl")
SOURCE = ("host", "environment", "revision", "made", "by", "archived")  # what is noted of where an imported revision comes from


def this_machine() -> dict[str, str]:
    """Return what has to be the same for wheels and numbers to be."""
    return {"suite": platform.freedesktop_os_release().get("VERSION_CODENAME", ""), "architecture": platform.machine()}


def write(revision: Revision, file: Path) -> str:
    """Write the archive of a revision; return its checksum (SHA-256). Raises Failure; nothing of it is left then."""
    record = revision.record
    with tempfile.TemporaryDirectory(prefix=WORK, dir=ROOT) as work:
        _download(revision, record.get("interpreter") or PYTHON, Path(work))
        held = {LOCK: revision.folder / LOCK, **{f"{WHEELS}/{wheel.name}": wheel for wheel in sorted(Path(work).glob("*.whl"))}}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {**record, **this_machine(), "host": socket.gethostname(), "archived": now}
        return checked_tar.write(file, about, {SBOM: json.dumps(sbom(revision), indent=1).encode()}, held)


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


def unpack(file: Path, work: Path) -> dict[str, Any]:
    """Check an archive, unpack it into the empty folder `work`, and return its manifest. Raises BadArchive."""
    (work / WHEELS).mkdir()
    again = "archive the environment again, or fetch the file again"
    return checked_tar.unpack(file, work, MEMBER, (*SOURCE, "python", "suite", "architecture"), "archive of an environment", again)


@contextlib.contextmanager
def unpacked(file: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a folder with what an archive holds, and its manifest. Raises BadArchive."""
    with tempfile.TemporaryDirectory(prefix=WORK, dir=ROOT) as work:
        yield Path(work), unpack(file, Path(work))
