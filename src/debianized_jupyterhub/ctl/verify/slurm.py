"""Checks: does Slurm answer, and has it what the profiles of its jobs ask for? Only where JUPYTERHUB_JOBS is set."""

import contextlib
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ... import job_gate, ports, profiles
from ...lines import joined
from ...paths import DEFAULTS, PROFILES
from ..check_config import BECOME_HUB
from ..command import output
from ..common import default_setting
from ..jobs import PATIENCE, wanted
from .check import Failed, Finding, Findings, Warned, check, within
from .services import RESTART, stands_by

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
ANSWERS = 6  # seconds; less than half of check.LIMIT, since there are two questions
DOWN = ("down", "drain", "fail", "maint", "power", "unk", "future")  # beginnings of states of nodes that take no job
OTHERS = {"qos": ("QOS", "qos"), "account": ("account", "account")}  # keys of profiles: what it is, what sacctmgr calls it
SEE = f"correct {PROFILES}; `sinfo -Nl` shows what there is"


@check("slurm", needs=["configuration"])
def slurm() -> Findings:
    """Are its programs there, and does slurmctld answer the hub's account?"""
    if not wanted():
        yield "notebook servers are no jobs here"
        return
    if missing := [program for program in PROGRAMS if not shutil.which(program, path="/usr/bin:/bin")]:
        mend = "apt install slurm-client munge, with the cluster's slurm.conf and munge.key; or leave JUPYTERHUB_JOBS empty"
        raise Failed(f"Slurm is not installed: there is no {missing[0]}", "nobody can start a job", mend)
    code, said = output(*BECOME_HUB, "sinfo", "--noheader", "--format=%R", timeout=PATIENCE)
    if code == 124:
        said = f"sinfo did not answer within {PATIENCE} s"
    if code:
        known = job_gate.complaint_in(said)
        mend = known.hint if known else "`scontrol ping` and `systemctl status slurmctld munge` say more"
        raise Failed(f"Slurm does not answer: {joined(said)[-300:]}", "nobody can start a job; servers that run as jobs keep running", mend)
    yield "slurmctld answers"


@check("jobs-address", needs=["configuration", "hub"])
def jobs_address() -> Findings:
    """Do nodes that are other machines find the hub by the name that they are given?"""
    follows = "no server of a job starts, and those that run cannot tell who their user is"
    try:
        place = profiles.address(default_setting(profiles.ADDRESS)) if wanted() else None
    except SystemExit as wrong:
        raise Failed(str(wrong), follows, f"correct it there, then {RESTART}") from None
    if place is None:
        yield "no notebook servers on other machines"
        return
    try:
        found, *others = within(ANSWERS, lambda: ports.for_nodes(*place, profiles.ADDRESS))
    except (ports.Refused, TimeoutError) as error:
        what = f"{place[0]} in {profiles.ADDRESS} was not found within {ANSWERS} s" if isinstance(error, TimeoutError) else str(error)
        raise Failed(what, follows, f"correct that name in DNS or /etc/hosts, or the setting in {DEFAULTS}, then {RESTART}") from None
    if stands_by():
        yield f"{place[0]} is {found[0]}, where the hub listens when it serves"
        return
    mend = f"the name must be that of this machine, for itself, too: correct it in DNS or /etc/hosts, then {RESTART}"
    try:
        with socket.create_connection(found, timeout=ANSWERS) as connection:
            own = connection.getsockname()[0]
    except OSError as error:
        what = f"nobody answers at {found[0]}:{found[1]}, where {profiles.ADDRESS} leads: {error}"
        raise Failed(what, follows, f"{mend}; `journalctl -u jupyterhub -u jupyterhub-ports -n 30` says more") from None
    if own != found[0]:  # who asks himself does so from the address that he asks
        raise Failed(f"{place[0]} in {profiles.ADDRESS} leads to {found[0]}, which is another machine", follows, mend)
    if others:
        what = f"{place[0]} in {profiles.ADDRESS} has {len(others) + 1} addresses, and the hub listens at {found[0]} alone"
        yield Warned(what, "a node that has no way there does not reach the hub", "give the name one address, in DNS or in /etc/hosts of the hub")
    yield f"the hub listens at {place[0]}:{place[1]}"


class Node(NamedTuple):
    """What a node has: CPUs, memory in MB, GPUs by type ("" for one without)."""

    cpus: int
    memory: int
    gpus: dict[str, int]
    up: bool

    def amount(self, key: str, gpu_type: str) -> int:
        """Return how much it has of a key of profiles'."""
        gpus = self.gpus.get(gpu_type, 0) if gpu_type else sum(self.gpus.values())
        return {"cpus": self.cpus, "memory": self.memory, "gpus": gpus}[key]


@dataclass
class Partition:
    """A partition of Slurm's: is it the default one, does it start jobs, for how many minutes (None: without a limit)?"""

    name: str
    default: bool
    up: bool
    minutes: int | None
    nodes: list[Node] = field(default_factory=list)


@check("profiles", needs=["slurm"])
def profiles_() -> Findings:
    """Has Slurm what the profiles ask for?"""
    if not wanted():
        yield "notebook servers are no jobs here"
        return
    found = job_gate.site_profiles()
    partitions = there()
    for profile in found.values():
        yield from of_partition(profile, partitions)
    for key in OTHERS:
        yield from of_accounting(key, found.values())
    yield ", ".join(found)


def there() -> dict[str, Partition]:
    """Return Slurm's partitions by name. Raises job_gate.Refused."""
    found = {}
    for line in job_gate.run("sinfo", "--noheader", "--all", "--format=%P|%a|%l", patience=ANSWERS).splitlines():
        with contextlib.suppress(ValueError):
            name, state, limit = line.strip().split("|")
            found[name.rstrip("*")] = Partition(name.rstrip("*"), name.endswith("*"), state == "up", minutes(limit))
    for line in job_gate.run("sinfo", "--noheader", "--all", "--Node", "--format=%R|%c|%m|%T|%G", patience=ANSWERS).splitlines():
        with contextlib.suppress(ValueError, KeyError):
            name, cpus, memory, state, resources = line.strip().split("|", 4)
            found[name].nodes.append(Node(int(cpus), int(memory), gpus(resources), not state.startswith(DOWN)))
    return found


def minutes(limit: str) -> int | None:
    """Return a time limit of sinfo's (D-HH:MM:SS, HH:MM:SS, MM:SS) in minutes, None for none."""
    parts = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    return int(parts[1] or 0) * 1440 + int(parts[2] or 0) * 60 + int(parts[3]) if parts else None


def gpus(resources: str) -> dict[str, int]:
    """Return the GPUs in generic resources as sinfo writes them (gpu:a100:2(S:0-1),gpu:1), by type."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([^:,()]+))?:(\d+)", resources):
        found[kind] = found.get(kind, 0) + int(count)
    return found


def of_partition(profile: profiles.Profile, partitions: dict[str, Partition]) -> Iterator[Finding]:
    """Yield what a profile asks for that its partition has not."""
    name = profile.words.get("partition")
    partition = partitions.get(name) if name else next((each for each in partitions.values() if each.default), None)
    me = f"profile {profile.name} in {PROFILES}"
    if partition is None:
        what = f"Slurm has no partition {name}" if name else "it names no partition, and Slurm has no default one"
        yield Failed(f"{me}: {what}", "its jobs are refused", SEE)
        return
    if not partition.up:
        yield Warned(f"{me}: partition {partition.name} is down", "its jobs wait", f"scontrol update PartitionName={partition.name} State=UP")
    elif not any(node.up for node in partition.nodes):
        yield Warned(f"{me}: no node of partition {partition.name} is up", "its jobs wait", "`sinfo -R` says why; scontrol update NodeName=... State=RESUME")
    fits = True
    for key, most in largest(profile, partition).items():
        amount = profile.amounts[key]
        if most is not None and amount.most > most:
            fits = fits and amount.least <= most
            asked = amount.most_text if amount.least <= most else amount.least_text
            what = f"{me}: {key} = {asked}, but {'the limit' if key == 'time' else 'the largest node'} of partition {partition.name} is {shown(key, most)}"
            yield Warned(what, "who chooses that is refused, or waits for ever", SEE) if amount.least <= most else Failed(what, "its jobs never start", SEE)
    least = {key: value.least for key, value in profile.amounts.items() if key != "time"}
    if fits and not any(all(node.amount(key, gpu_type(profile)) >= number for key, number in least.items()) for node in partition.nodes):
        yield Failed(f"{me}: no node of partition {partition.name} has all of it together", "its jobs are refused", SEE)


def gpu_type(profile: profiles.Profile) -> str:
    return profile.words.get("gpu-type", "")


def largest(profile: profiles.Profile, partition: Partition) -> dict[str, int | None]:
    """Return the most that a job can have of each amount of a profile, None for no limit."""
    found: dict[str, int | None] = {}
    for key in profile.amounts:
        found[key] = partition.minutes if key == "time" else max((node.amount(key, gpu_type(profile)) for node in partition.nodes), default=0)
    return found


def shown(key: str, number: int) -> str:
    return f"{number} min" if key == "time" else f"{number} MB" if key == "memory" else str(number)


def of_accounting(key: str, found: Iterable[profiles.Profile]) -> Iterator[Finding]:
    """Yield which QOS or accounts of the profiles Slurm's accounting does not have."""
    mine = {profile.name: profile.words[key] for profile in found if key in profile.words}
    if not mine:
        return
    what, entity = OTHERS[key]
    code, said = output("sacctmgr", "--noheader", "--parsable2", "show", entity, f"format={entity}" if key == "account" else "format=name", timeout=ANSWERS / 2)
    for profile, name in mine.items():
        if code:
            why = joined(said)[:200] or f"exit code {code}"
            what_is = f"profile {profile} in {PROFILES}: it cannot be seen whether Slurm has the {what} {name}: {why}"
            yield Warned(what_is, "its jobs may be refused", "have accounting by slurmdbd, or leave that key out")
        elif name.lower() not in said.lower().split():
            mend = f"correct that key; `sacctmgr show {entity}` lists them"
            yield Failed(f"profile {profile} in {PROFILES}: Slurm has no {what} {name}", "its jobs are refused", mend)
