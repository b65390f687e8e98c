"""What a notebook server uses, with its kernels and terminals: of memory, of processors, and the version of its files."""

import os
from collections.abc import Iterable
from pathlib import Path

from .paths import TREES

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return `pid`, if there is such a process, and what it has started, and that has started (list of int)."""
    found = [pid] if os.path.exists(f"/proc/{pid}") else []
    for parent in found:
        try:
            found += [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        except OSError:
            continue
    return found


def memory(pids: Iterable[int]) -> int:
    """Return the memory of the processes together in bytes; what they share counts once in all (PSS, proc_pid_smaps_rollup(5))."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that the processes and their ended children have used, in seconds (proc_pid_stat(5))."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def version(pids: Iterable[int]) -> str | None:
    """Return the package's version (str) whose files the server runs from, None if it cannot be seen."""
    for pid in pids:
        for name in ("cmdline", "maps"):
            try:
                text = Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"{TREES}/" in text:
                return text.partition(f"{TREES}/")[2].partition("/")[0]
    return None
