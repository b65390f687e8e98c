"""Files that another account may have laid where root reads: no link is followed, nothing is waited for, and little is read.

Who owns a folder can put a link, a FIFO or a file without an end in the place of any file there. Below such a folder root reads with these functions, or
not at all: see as_hub.py.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SMALL = 1 << 16  # bytes; more than any secret, notice or list of checksums has


def opened(path: str | Path, below: str | Path | None = None) -> BinaryIO:
    """Open the regular file `path` for reading.

    It is no link then, and neither is a folder from `below`, the topmost that others may write to, down to it. Raises OSError, with a
    strerror for humans.
    """
    top = Path(below or path).parent
    *folders, name = Path(path).relative_to(top).parts
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
    except OSError as error:
        said = {errno.ELOOP: "it is a link, which is not followed", errno.ENXIO: NO_FILE}.get(error.errno or 0, error.strerror)
        raise OSError(error.errno, said, str(path)) from None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    return open(fd, "rb")


NO_FILE = "it is no regular file"


def read(path: str | Path, below: str | Path | None = None, limit: int = SMALL) -> bytes:
    """Return what a regular file of at most `limit` bytes holds; for errors and `below` see opened."""
    with opened(path, below) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def walk(place: str | Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what there is at `place` and below it (path, status of lstat), sorted; no link is followed."""
    place = Path(place)
    try:
        status = place.lstat()
    except FileNotFoundError:
        return
    yield place, status
    if not stat.S_ISDIR(status.st_mode):
        return
    found = []
    for folder, folders, names, fd in os.fwalk(place):
        for name in [*folders, *names]:
            try:
                found.append((Path(folder, name), os.stat(name, dir_fd=fd, follow_symlinks=False)))
            except FileNotFoundError:
                continue  # it has gone meanwhile
    yield from sorted(found, key=lambda pair: pair[0])


def is_roots_alone(path: str | Path) -> bool:
    """Return whether no other account than root can change what the folder or program `path` is, links on the way to it included."""
    rest, current = list(reversed(Path(os.path.abspath(path)).parts[1:])), Path("/")
    for _ in range(1000):  # links may go round in circles
        try:
            status = current.lstat()
        except FileNotFoundError:
            return True  # nobody but root can make it
        if status.st_uid != 0:
            return False
        if stat.S_ISLNK(status.st_mode):
            target = Path(os.readlink(current))
            rest += reversed([part for part in target.parts if part != "/"])
            current = Path("/") if target.is_absolute() else current.parent
        elif status.st_mode & (stat.S_IWOTH if status.st_gid in _ROOTS_GROUPS else stat.S_IWOTH | stat.S_IWGRP):
            return False
        elif not rest:
            return True
        else:
            part = rest.pop()
            current = current.parent if part == ".." else current / part
    return False


def sync_folder(folder: str | Path) -> None:
    """Put a folder's names on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unplaced(link: Path) -> Path:
    """Return the name that a link has until `point` puts it in its place."""
    return link.with_name(f".{link.name}.new")


def put(path: Path, content: str, mode: int = 0o644, gid: int = 0) -> None:
    """Make `content` that of a file of ours (and of the group `gid`, as root), in one step; it is there after a power cut, too. Raises OSError."""
    new = path.with_name(f"{path.name}.jupyterhub-ctl~")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(content)
        if gid:
            os.fchown(stream.fileno(), 0, gid)
        os.fchmod(stream.fileno(), mode)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    sync_folder(path.parent)


def point(link: Path, target: str) -> None:
    """Make the link `link` lead to `target`, in one step."""
    new = unplaced(link)
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)
    sync_folder(link.parent)


_ROOTS_GROUPS = (0, 50)  # root; staff, to which Debian gives /usr/local, and with it root's PATH
