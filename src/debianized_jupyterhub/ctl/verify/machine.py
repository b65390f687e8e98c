"""Checks: has the machine room for what runs on it?"""

import os
from collections.abc import Iterator
from pathlib import Path

from ...paths import STATE
from .check import Failed, Findings, Warned, check

MB = 1 << 20
# Folder: what needs it.
FOLDERS = {
    STATE: "the hub cannot write its database",
    "/home": "users cannot save their notebooks",
    "/run": "no session can be opened",
    "/tmp": "programs of all users fail",
    "/var/log": "the journal stops",
}


def _file_systems() -> Iterator[tuple[str, str]]:
    """Yield (folder, consequence) for each file system below FOLDERS once."""
    seen = set()
    for folder, consequence in FOLDERS.items():
        if os.path.isdir(folder) and os.stat(folder).st_dev not in seen:
            seen.add(os.stat(folder).st_dev)
            yield folder, consequence


@check("disk")
def disk() -> Findings:
    """Room, inodes, and whether it can be written to."""
    for folder, consequence in _file_systems():
        fs = os.statvfs(folder)
        free = fs.f_bavail * fs.f_frsize
        size = fs.f_blocks * fs.f_frsize
        mend = f"free some: df -h {folder}; du -xh --max-depth=2 {folder} | sort -h"
        if fs.f_flag & os.ST_RDONLY:
            yield Failed(f"{folder} is mounted read-only", consequence, f"findmnt -T {folder}; mount -o remount,rw; look for errors: journalctl -k")
        elif size and free < min(20 * MB, size / 10):
            yield Failed(f"the file system of {folder} is full ({free // MB} MB free)", consequence, mend)
        elif size and free < min(500 * MB, size / 20):
            yield Warned(f"the file system of {folder} is almost full ({free // MB} MB free)", consequence, mend)
        # Some file systems (btrfs) have no number of inodes.
        if fs.f_files and fs.f_favail < min(500, fs.f_files / 20):
            mend = f"remove files: df -i {folder}; du -x --inodes --max-depth=2 {folder} | sort -n"
            yield Failed(f"the file system of {folder} has no inodes left ({fs.f_favail} free)", consequence, mend)


@check("memory")
def memory() -> Findings:
    """What the kernel thinks can be had without swapping."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    values = {line[0].rstrip(":"): int(line[1]) << 10 for line in lines}
    free, total = values["MemAvailable"], values["MemTotal"]
    if free < max(100 * MB, total / 50):
        what = f"only {free // MB} of {total // MB} MB of memory are available"
        yield Warned(what, "the kernel may end kernels and servers", "jupyterhub-ctl sessions; limits: docs/examples/user-limits.conf")
