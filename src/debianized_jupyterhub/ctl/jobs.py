"""Jobs of Slurm's in which notebook servers run, as root sees them: what the hub knows, what Slurm says, and what their starters on the nodes say."""

import asyncio
import contextlib
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .. import job_gate, job_link, job_words, profiles
from .common import default_setting

PATIENCE = 8  # seconds for a program of Slurm's, which would wait up to 18 for a slurmctld that is away
NODE = 3  # seconds for a starter on its node
# What squeue(1) is asked for (-O), and how many characters of it. Root sees the jobs of all, also with PrivateData=jobs.
FIELDS = {
    "jobid": 20,
    "username": 80,
    "state": 20,
    "reason": 200,
    "batchhost": 260,
    "starttime": 20,
    "endtime": 20,
    "tres-alloc": 400,
    "tres-per-node": 200,  # GPUs, which are in the former only where AccountingStorageTRES has them
    "comment": 400,
}
UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


# Of what the hub's database keeps: its account could write anything there.
FORMS: dict[str, str | re.Pattern[str]] = {
    "tag": r"[0-9a-f]{16}",
    "key": r"[0-9a-f]{64}",
    "profile": profiles.NAME,
    "node": job_gate.NODE,
    "address": r"[0-9A-Fa-f.:]+",
}


class Known(NamedTuple):
    """What the hub knows of a job: `number` is None as long as sbatch has not answered, `node` "" before it runs."""

    number: int | None
    tag: str
    key: str
    profile: str
    node: str
    address: str
    control: int

    def __str__(self) -> str:
        return f"job {self.number or 'without a number yet'}{f' on {self.node}' if self.node else ''}"


def known(server: Mapping[str, Any]) -> Known | None:
    """Return the job of a server as the hub's API has it, None for a server on this machine."""
    return of_state((server.get("state") or {}).get("job"))


def left(server: Mapping[str, Any]) -> list[Known]:
    """Return the jobs that a user has left on nodes which do not answer, where they may still run, as the hub's API has them beside a server."""
    kept = (server.get("state") or {}).get("left")
    return list(filter(None, map(of_state, kept))) if isinstance(kept, list) else []


def of_state(kept: Any) -> Known | None:
    """Return a job as the hub's database keeps it, None for what is none."""
    if not isinstance(kept, dict):
        return None
    text = {key: _text(kept.get(key), form) for key, form in FORMS.items()}
    number, control = (kept[key] if type(kept.get(key)) is int and kept[key] > 0 else None for key in ("number", "control"))
    return Known(number=number, control=control or 0, **text)


def _text(value: Any, form: str | re.Pattern[str]) -> str:
    return value if isinstance(value, str) and re.fullmatch(form, value) else ""


def wanted() -> bool:
    """Return whether the site wants jobs."""
    return bool(default_setting(profiles.SETTING))


# -- What Slurm says ---------------------------------------------------------------------------------------------------------------


def ask(users: Iterable[str]) -> dict[int, dict[str, Any]]:
    """Return what Slurm says of the jobs of `users`, by number: see `rows`. Raises job_gate.Refused, within PATIENCE seconds."""
    there = job_gate.known_to_squeue(users)
    if not there:
        return {}
    mark = secrets.token_hex(8)  # jobs' owners write comments, which may have anything else in them
    layout = ",".join(f"{name}:{width}|{mark}|" for name, width in FIELDS.items())
    command = ["squeue", "--noheader", "--all", "--states=all", f"--user={','.join(there)}"]
    return rows(job_gate.run(*command, patience=PATIENCE, SQUEUE_FORMAT2=layout), mark)


def problem() -> str | None:
    """Return why Slurm does not answer, None if it does; within PATIENCE seconds."""
    try:
        job_gate.run("sinfo", "--noheader", "--format=%R", patience=PATIENCE)
    except job_gate.Refused as refused:
        return refused.hint or str(refused)
    return None


def rows(text: str, mark: str) -> dict[int, dict[str, Any]]:
    """Return what squeue has printed, by job: ``user``, ``state`` and ``reason`` in Slurm's words, ``node``, ``start`` and ``end``
    (seconds since 1970, or None), ``cpus``, ``memory`` (bytes) and ``gpus`` that it has or waits for (or None), and its ``tag``.
    """
    parts = [part.strip() for part in text.split(f"|{mark}|")]
    found = {}
    for first in range(0, len(parts) - len(FIELDS) + 1, len(FIELDS)):
        number, user, state, reason, node, start, end, resources, devices, comment = parts[first : first + len(FIELDS)]
        if re.fullmatch(r"[0-9]{1,10}", number):
            told = job_gate.COMMENT.fullmatch(comment)
            found[int(number)] = {
                "user": user,
                "state": job_words.line(state),
                "reason": job_words.line(reason),
                "node": node if job_gate.NODE.fullmatch(node) and node != "n/a" else "",
                "start": job_gate.moment(start),
                "end": job_gate.moment(end),
                "tag": told[1] if told else "",
                **amounts(resources, devices),
            }
    return found


def amounts(resources: str, devices: str = "") -> dict[str, int | None]:
    """Return what is in resources as Slurm writes them (cpu=2,mem=1500M,gres/gpu=1), and in `devices` (gres/gpu:a100:1): cpus, memory in bytes, gpus."""
    found = dict(part.split("=", 1) for part in resources.split(",") if "=" in part)
    memory = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGTP]?)", found.get("mem", ""))
    counts = {key: int(found[name]) if found.get(name, "").isdecimal() else None for key, name in (("cpus", "cpu"), ("gpus", "gres/gpu"))}
    gpus = [int(count) for count in re.findall(r"\bgres/gpu(?::[^:,=]+)?[:=]([0-9]{1,6})(?=,|$)", devices)]
    counts["gpus"] = counts["gpus"] or sum(gpus) or None
    return {**counts, "memory": int(float(memory[1]) * UNITS[memory[2]]) if memory else None}


def about(job: Known, user: str, seen: Mapping[int, dict[str, Any]] | None) -> dict[str, Any]:
    """Return the job as `sessions` has it: what the hub knows and what Slurm says, None where it says nothing; `seen` is None where it does not answer."""
    shown: dict[str, Any] = {"id": job.number, "profile": job.profile or None, "node": job.node or None}
    shown |= dict.fromkeys(("state", "reason", "start", "left", "cpus", "memory", "gpus"))
    if seen is None or job.number is None:
        return shown
    found = seen.get(job.number)
    if found is None or found["user"] != user:
        shown["reason"] = "Slurm does not know the job"
    elif found["tag"] != job.tag:  # Slurm counts anew after the last number, and the comment is the owner's to change
        shown["reason"] = "the job of that number has not the hub's comment"
    else:
        shown |= {key: found[key] for key in ("state", "start", "cpus", "memory", "gpus")}
        shown["reason"] = found["reason"] if found["reason"] != "None" else None
        shown["node"] = job.node or found["node"] or None
        if found["state"] == "RUNNING" and found["end"]:
            shown["left"] = max(0, found["end"] - int(time.time()))
    return shown


def delivered(job: Known, user: str) -> bool:
    """Cancel a job as root, whose owner sudo does not admit any more, say; return whether that went well, or it is over. Raises job_gate.Refused."""
    if job.number is None:
        return False
    found = ask([user]).get(job.number)
    if found and found["user"] == user and found["tag"] == job.tag and found["state"] not in job_words.OVER:
        job_gate.run("scancel", str(job.number), patience=PATIENCE)
    return True


# -- What a starter says of its node -----------------------------------------------------------------------------------------------


def usage(jobs: Iterable[Known], pause: float) -> list[dict[str, Any]]:
    """Return what each job uses: ``memory`` in bytes, ``cpu`` (100 is one processor) over `pause` seconds, ``version`` of the package; {} of one that
    does not say it. Starters are their users': what they say is only shown."""

    async def all_of_them() -> list[dict[str, Any]]:
        return await asyncio.gather(*(_usage(job, pause) for job in jobs))

    return asyncio.run(all_of_them())


async def _usage(job: Known, pause: float) -> dict[str, Any]:
    try:
        ipaddress.ip_address(job.address)  # a name could keep us waiting
        async with asyncio.timeout(NODE + pause):
            reader, writer = await job_link.connect(job.address, job.control, job.key, NODE)
            with contextlib.closing(writer):
                before = await job_link.ask(reader, writer, {"action": "usage"}, NODE)
                begun = time.monotonic()
                await asyncio.sleep(pause)
                now = await job_link.ask(reader, writer, {"action": "usage"}, NODE) if pause else before
                elapsed = time.monotonic() - begun
    except (OSError, ValueError):  # TimeoutError is an OSError
        return {}
    return _checked(before, now, elapsed)


def _checked(before: Mapping[str, Any], now: Mapping[str, Any], elapsed: float) -> dict[str, Any]:
    """Return what a starter has said twice, `elapsed` seconds apart, as far as it can be true."""
    found: dict[str, Any] = {}
    if type(memory := now.get("memory")) is int and 0 <= memory < 1 << 60:
        found["memory"] = memory
    first, last = (said["cpu"] if type(said.get("cpu")) in (int, float) and 0 <= said["cpu"] < 1e12 else -1 for said in (before, now))
    if 0 <= first < last and elapsed > 0:
        found["cpu"] = round(100 * (last - first) / elapsed, 1)
    if isinstance(version := now.get("version"), str) and re.fullmatch(r"[0-9A-Za-z.+~:-]{1,100}", version):
        found["version"] = version
    return found


def is_here(job: Known) -> bool:
    """Return whether a job's node is this machine."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_INET6 if ":" in job.address else socket.AF_INET) as probe:
        ipaddress.ip_address(job.address)
        probe.bind((job.address, 0))
        return True
    return False
