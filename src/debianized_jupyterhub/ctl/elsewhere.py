"""What of an account goes on beside the hub: `jupyterhub-ctl user lock` leaves it alone, and names it."""

import contextlib
import os
import pwd
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .. import job_gate, job_words
from ..journal import plain
from ..paths import SESSION_SERVICE
from . import jobs
from .command import output, stdout_of

CRON = Path("/var/spool/cron")
TABLES = [Path("/etc/crontab"), Path("/etc/cron.d")]  # their lines name an account
LINGER = Path("/var/lib/systemd/linger")
UNITS = Path("/etc/systemd/system")
TIMERS = 5  # seconds for the account's own systemd to answer


class Left(NamedTuple):
    """What there is, and the command that ends it."""

    what: str
    how: str


def of(account: pwd.struct_passwd) -> list[Left]:
    """Return what an account has beside the hub."""
    return [*_processes(account), *_timers(account), *_plans(account), *_jobs(account), *_units(account), _itself(account)]


def _processes(account: pwd.struct_passwd) -> Iterator[Left]:
    """Yield the units with processes of the account."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                status = (folder / "status").read_text(errors="replace")
                if re.search(rf"^Uid:\t(\d+\t)*{account.pw_uid}\b", status, re.MULTILINE) and "\nState:\tZ" not in status:
                    found[_unit((folder / "cgroup").read_text())].append((int(folder.name), plain(status.partition("\n")[0].partition("\t")[2])))
    for unit, processes in sorted(found.items()):
        names = ", ".join(sorted({name for _, name in processes}))
        what = f"{len(processes)} process(es) ({names})"
        if session := re.fullmatch(r"session-(\w+)\.scope", unit):
            yield _session(session[1], what)
        elif unit == f"user@{account.pw_uid}.service":
            yield Left(f"the account's own systemd, {unit}: {what}", f"systemctl stop {unit}")
        else:
            yield Left(f"{what} of {unit or 'no unit'}", f"kill {' '.join(str(pid) for pid, _ in processes)}")


def _unit(cgroups: str) -> str:
    """Return the unit of systemd that a process is in, by its /proc/PID/cgroup, "" for none."""
    for line in cgroups.splitlines():
        parts = line.split(":", 2)[2].split("/")
        own = [part for part in parts if part.startswith("user@") and part.endswith(".service")]
        units = own or [part for part in parts if part.endswith((".scope", ".service"))]
        if units:
            return units[-1]
    return ""


def _session(number: str, what: str) -> Left:
    text = stdout_of("loginctl", "show-session", "--property=Service", "--property=RemoteHost", "--property=TTY", number)
    about = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if about.get("Service") == SESSION_SERVICE:
        return Left(f"session {number} of a notebook server: {what}", f"systemctl stop session-{number}.scope")
    where = f" from {plain(about['RemoteHost'])}" if about.get("RemoteHost") else f" on {about['TTY']}" if about.get("TTY") else ""
    return Left(f"session {number} ({about.get('Service') or 'of no service'}{where}): {what}", f"loginctl terminate-session {number}")


def _timers(account: pwd.struct_passwd) -> Iterator[Left]:
    """Yield the timers that the account's own systemd has, where it runs, and whether that runs without a session."""
    if (LINGER / account.pw_name).exists():
        yield Left("its own systemd runs without a session, also after a boot (lingering)", f"loginctl disable-linger {shlex.quote(account.pw_name)}")
    runtime = f"/run/user/{account.pw_uid}"
    if not os.path.exists(f"{runtime}/systemd/private"):
        return
    # As the account: what it has put there is not for root to talk to.
    become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--inh-caps=-all", "--no-new-privs", "--"]
    ask = ["env", f"XDG_RUNTIME_DIR={runtime}", "systemctl", "--user", "list-units", "--type=timer", "--plain", "--no-legend", "--no-pager"]
    code, said = output(*become, *ask, timeout=TIMERS)
    if code != 0:
        yield Left("timers of its own systemd, which does not say which", f"systemctl stop user@{account.pw_uid}.service")
    for timer in re.findall(r"^[\w.:@\\-]+\.timer\b", said, re.MULTILINE) if code == 0 else []:
        yield Left(f"timer {timer} of its own systemd", f"systemctl --user --machine={shlex.quote(account.pw_name)}@ disable --now {shlex.quote(timer)}")


def _plans(account: pwd.struct_passwd) -> Iterator[Left]:
    """Yield what cron and at have of the account."""
    if (CRON / "crontabs" / account.pw_name).exists():
        yield Left("its crontab", f"crontab -u {shlex.quote(account.pw_name)} -r")
    with contextlib.suppress(OSError):
        jobs = [
            job.name for job in sorted((CRON / "atjobs").iterdir()) if job.lstat().st_uid == account.pw_uid and job.name[:1] in "abcdefghijklmnopqrstuvwxyz="
        ]
        if jobs:
            yield Left(f"{len(jobs)} job(s) of at", "atrm, with the numbers that atq lists")
    for table in [file for top in TABLES for file in (sorted(top.glob("*")) if top.is_dir() else [top])]:
        with contextlib.suppress(OSError):
            fields = [line.split(None, 6) for line in table.read_text(errors="replace").splitlines()]
            if any(len(words) > 5 and account.pw_name in (words[5], words[1] if words[0].startswith("@") else "") for words in fields):
                yield Left(f"lines in {table} that run as it", f"editor {table}")


def _jobs(account: pwd.struct_passwd) -> Iterator[Left]:
    """Yield the jobs of Slurm's that the account has, with those of the hub's that it could not end."""
    if not jobs.wanted():
        return
    how = f"scancel --user={shlex.quote(account.pw_name)}"
    try:
        seen = [job for job in jobs.ask([account.pw_name]).values() if job["state"] not in job_words.OVER]
    except job_gate.Refused:
        yield Left("jobs of Slurm's, which does not answer", how)
        return
    if seen:
        servers = sum(bool(job["tag"]) for job in seen)
        yield Left(f"{len(seen)} job(s) of Slurm's{f', {servers} of notebook servers' if servers else ''}", how)


def _units(account: pwd.struct_passwd) -> Iterator[Left]:
    """Yield the administrator's own units that run as the account."""
    mine = re.compile(rf"^User=({re.escape(account.pw_name)}|{account.pw_uid})\s*$", re.MULTILINE)
    for file in sorted([*UNITS.glob("*.service"), *UNITS.glob("*.service.d/*.conf")]):
        with contextlib.suppress(OSError):
            if file.is_file() and mine.search(file.read_text(errors="replace")):
                unit = file.parent.name.removesuffix(".d") if file.suffix == ".conf" else file.name
                yield Left(f"unit {unit} runs as it", f"systemctl disable --now {unit}")


def _itself(account: pwd.struct_passwd) -> Left:
    return Left("the account itself: ssh, su, its files", f"usermod --lock --expiredate 1 {shlex.quote(account.pw_name)}")
