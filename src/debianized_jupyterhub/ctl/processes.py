"""Which processes belong to a notebook server: those of its session."""

from pathlib import Path

from ..usage import family


def session_of(pid: int) -> str | None:
    """Return the control group of the session that process `pid` (int) is in, as a path below /, None if there is none (any more)."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        path = line.split(":", 2)[2]
        if path.endswith(".scope") and "/session-" in path:
            return path
    return None


def processes(pid: int) -> list[int]:
    """Return the pids (list of int) of the session of process `pid`; of `pid` and what it started where systemd does not run."""
    if session := session_of(pid):
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
            try:
                return [int(line) for line in Path(f"{root}{session}/cgroup.procs").read_text().split()]
            except OSError:
                continue
    return family(pid)
