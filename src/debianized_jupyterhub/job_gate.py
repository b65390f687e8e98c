"""What the spawner gate does about Slurm jobs, and nobody else decides: which profile is whose, and what Slurm says of a job.

It runs in src/libexec/spawner-gate, whose head has the protocol. Slurm's programs are asked as the hub's account where that is enough, else by the
mediator as the user.
"""

import errno
import os
import pwd
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import job_words, profiles
from .accounts import exists, group_names
from .paths import PROFILES

PATIENCE = 25  # seconds for a program of Slurm's, which waits for slurmctld
# Of squeue(1). The comment is what the job's owner writes, newlines too: it is the last one, and a row ends with a mark that he cannot know. The mark
# goes to squeue in its environment: everybody can read command lines.
FIELDS = "%i|%u|%T|%r|%B|%S|%e|%k"
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
COMMENT = re.compile(r"jupyterhub:([0-9a-f]{16})(?::(?:([1-9][0-9]{0,4})|no:(.{0,300})))?", re.DOTALL)
ADMINISTRATOR = "Ask your administrator."
Mediate = Callable[..., dict]


class Refused(Exception):
    """What is wrong, in one line for the user; `hint` is for the administrator, in the journal alone."""

    def __init__(self, words: str, hint: str = "") -> None:
        super().__init__(words)
        self.hint = hint


class Complaint(NamedTuple):
    """What Slurm says, and what that means; {} stands for the profile."""

    says: str
    words: str
    hint: str


NOT_THERE = "Slurm does not answer at the moment. Try again later."
COMPLAINTS = (
    Complaint("is not installed", "Slurm is not installed on this server.", "`apt install slurm-client munge`, with the cluster's slurm.conf and munge.key"),
    Complaint("Unable to contact slurm controller", NOT_THERE, "`scontrol ping` and `systemctl status slurmctld` say more"),
    Complaint("timed out", NOT_THERE, "`scontrol ping` and `systemctl status slurmctld` say more"),
    Complaint("did not answer", NOT_THERE, "`scontrol ping` and `systemctl status slurmctld` say more"),
    Complaint("unge", NOT_THERE, "`systemctl status munge`; all machines need the same /etc/munge/munge.key, and the same time"),
    Complaint("rotocol authentication error", NOT_THERE, "all machines need the same /etc/munge/munge.key, and the same time"),
    Complaint("onfiguration file", NOT_THERE, "Slurm finds no slurm.conf on the hub's machine"),
    Complaint("nvalid partition", "Slurm has no partition of the name that the profile {} asks for.", "see `sinfo`"),
    Complaint("nvalid account", "Slurm does not let you use the account or partition of the profile {}.", "see `sacctmgr show associations`"),
    Complaint("nvalid qos", "Slurm does not let you use the QOS of the profile {}.", "see `sacctmgr show qos`"),
    Complaint("node configuration is not available", "No node has as much as the profile {} asks for.", "see `sinfo -o '%P %c %m %G %f'`"),
    Complaint("emory specification can not be satisfied", "No node has as much memory as the profile {} asks for.", "see `sinfo -o '%P %m'`"),
    Complaint("nvalid generic resource", "Slurm has no GPUs as the profile {} asks for.", "see GresTypes= in slurm.conf"),
    Complaint("nvalid feature", "No node has what `constraint` of the profile {} asks for.", "see `sinfo -o '%P %f'`"),
    Complaint("ime limit", "The partition allows less time than the profile {} asks for.", "see `sinfo -o '%P %l'`"),
)


def complaint_in(said: str) -> Complaint | None:
    """Return what Slurm complains of in what it `said`, None for what is not known."""
    return next((complaint for complaint in COMPLAINTS if complaint.says in said), None)


def explained(said: str, profile: str = "") -> Refused:
    """Return the refusal for what Slurm `said`, in words for its user."""
    last = job_words.line(next((part for part in reversed(said.splitlines()) if part.strip()), ""))  # what came of it; tries that failed are before it
    if complaint := complaint_in(said):
        place = f" (profile {profile} in {PROFILES})" if profile and "{}" in complaint.words else ""
        return Refused(
            complaint.words.format(profile) if complaint.words == NOT_THERE else f"{complaint.words.format(profile)} {ADMINISTRATOR}",
            f"Slurm says: {last}{place}: {complaint.hint}",
        )
    return Refused(f"Slurm refused: {last}. {ADMINISTRATOR}", f"Slurm says: {last}")


def run(*command: str, patience: float = PATIENCE, **variables: str) -> str:
    """Run a program of Slurm's as this account, for `patience` seconds, with `variables` in its environment; return what it prints. Raises Refused."""
    environment = {"PATH": "/usr/bin:/bin", "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8", **variables}
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=patience, env=environment
        )
    except OSError as error:
        raise explained(f"{command[0]} is not installed" if error.errno == errno.ENOENT else f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise explained(f"{command[0]} did not answer within {patience:g} s") from None
    if done.returncode != 0:
        raise explained(done.stderr or done.stdout or f"exit status {done.returncode}")
    return done.stdout


# -- Profiles ----------------------------------------------------------------------------------------------------------------------


def site_profiles() -> dict[str, profiles.Profile]:
    """Return the profiles of the site's file. Raises Refused if it cannot be used; what is wrong in a part of it is said in the journal."""
    try:
        with open(PROFILES, encoding="utf-8") as file:
            found, _ = profiles.parse(file.read())
    except (OSError, UnicodeDecodeError):
        found = {}
    if not found:
        wrong = "; ".join(f"{file}:{line or 1}: {what}" for file, line, what, _ in profiles.mistakes())
        raise Refused(f"There is nothing to choose from at the moment. {ADMINISTRATOR}", f"{wrong} (`jupyterhub-ctl check-config` shows all)")
    return found


def groups_of(user: str) -> set[str]:
    """Return the names of the Unix groups of an account; none where there is no such account."""
    try:
        numbers = os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except (KeyError, OSError):
        return set()
    return group_names(numbers)


def profiles_of(request: dict[str, Any], _mediate: Mediate) -> dict[str, Any]:
    """Answer with the profiles that a user may have."""
    groups = groups_of(request["user"])
    found = [{"name": profile.name, "title": profile.title, "choices": profile.choices()} for profile in site_profiles().values() if profile.is_for(groups)]
    return {"profiles": found}


def options(request: dict[str, Any]) -> list[str]:
    """Return the options of sbatch that the request's user may have. Raises Refused."""
    name, wanted = request["profile"], request["chosen"]
    profile = site_profiles().get(name) if isinstance(name, str) else None
    if profile is None or not profile.is_for(groups_of(request["user"])):
        shown = name if isinstance(name, str) and profiles.NAME.fullmatch(name) else "of that name"
        hint = f"{request['user']} is in none of its groups: {' '.join(profile.groups)}" if profile else f"it is not in {PROFILES}"
        raise Refused(f"There is no profile {shown} for you. Choose another one.", hint)
    if not isinstance(wanted, dict):
        raise Refused("What is to be chosen in a profile is a list of names and values.")
    try:
        return profile.options(wanted)
    except profiles.NotGranted as refusal:
        raise Refused(str(refusal)) from None


# -- Jobs --------------------------------------------------------------------------------------------------------------------------


FORMS = {"tag": r"[0-9a-f]{16}", "key": r"[0-9a-f]{64}"}


def require_form(request: dict[str, Any], *keys: str) -> None:
    """Refuse what is not of its form: a tag becomes the name of a file of the user's."""
    for key in keys:
        if not re.fullmatch(FORMS[key], request[key]):
            raise Refused(f"not a {key} of a job")


def submit(request: dict[str, Any], mediate: Mediate) -> dict[str, Any]:
    """Have the mediator submit a job, on other nodes than those `without` names; answer with its number."""
    require_form(request, "tag", "key")
    title = f"jupyterhub-{request['server']}" if request["server"] else "jupyterhub"
    if not re.fullmatch(r"[\w.@-]{1,128}", title):
        title = "jupyterhub"
    asked = options(request)
    if without := [node for node in request.get("without", ()) if NODE.fullmatch(node)]:
        asked.append(f"--exclude={','.join(without)}")
    order = {"action": "submit", "user": request["user"], "tag": request["tag"], "key": request["key"], "title": title, "options": asked}
    answer = mediate(order)
    if not answer["ok"]:
        raise explained(answer["error"], request["profile"]) if answer.get("slurm") else Refused(answer["error"])
    number = answer["job"]  # the user's word, as all that the mediator says; and the hub asks about all its jobs at once
    if type(number) is not int or not 0 < number < 1 << 32:
        raise Refused("Slurm told no number of a job.")
    return {"job": number}


def cancel(request: dict[str, Any], mediate: Mediate) -> dict[str, Any]:
    """Have the mediator cancel a job; it is cancelled, or over."""
    require_form(request, "tag")
    answer = mediate({"action": "cancel", "user": request["user"], "tag": request["tag"], "job": int(request["job"])})
    if not answer["ok"] and not re.search(r"nvalid job id|already compl", answer["error"]):  # that is over
        raise explained(answer["error"])
    return {}


def known_to_squeue(users: Iterable[str]) -> list[str]:
    """Return those of the users that have an account: squeue would refuse all for one that it does not know."""
    return sorted(filter(exists, users))


def state(request: dict[str, Any], mediate: Mediate) -> dict[str, Any]:
    """Answer with what Slurm knows of `jobs`, and of those of `users` alone; see `rows`. With `own`, the user is asked and not we."""
    mark = secrets.token_hex(8)
    layout = f"{mark}|{FIELDS}|{mark}"
    if "own" in request:
        answer = mediate({"action": "jobs", "user": request["own"], "format": layout})
        if not answer["ok"]:
            raise explained(answer["error"])
        return {"jobs": placed(rows(answer["text"], mark, [request["own"]]), request)}
    jobs = [int(number) for number in request["jobs"]]
    # Of all jobs: asked for one that it does not know, it would say nothing of the others.
    users = known_to_squeue(request["users"])
    text = run("squeue", "--noheader", "--states=all", f"--user={','.join(users)}", SQUEUE_FORMAT=layout) if users else ""
    found = {number: row for number, row in rows(text, mark, request["users"]).items() if number in jobs}
    return {"jobs": placed(found, request)}


def placed(found: dict[int, dict[str, Any]], request: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return `found` with the ``address`` of each job that runs and has told its port, if the request asks for addresses; without one the job ``says`` so."""
    nodes = {row["node"] for row in found.values() if row["state"] == "RUNNING" and row["port"] and row["node"]}
    where = addresses(nodes) if nodes and request.get("addresses") else {}
    for row in found.values():
        row["address"] = where.get(row["node"], "")
        if row["node"] in where and not row["address"]:
            row["says"] = f"Node {row['node']} has no address that this server knows. {ADMINISTRATOR}"
    return found


def rows(text: str, mark: str, users: Iterable[str]) -> dict[int, dict[str, Any]]:
    """Return what squeue has printed, of jobs of `users`: by job, the state in Slurm's words, and what the job says of itself.

    ``reason`` why it waits; ``node``; ``start`` and ``end`` in seconds since 1970, None where they are not known; ``tag``, ``port`` (int or None) and ``says``,
    why it does not start, by its comment.
    """
    found = {}
    for row in text.split(f"{mark}|")[1:]:
        fields = row.partition(f"|{mark}")[0].split("|", 7)
        if len(fields) == 8 and re.fullmatch(r"[0-9]{1,10}", fields[0]) and fields[1] in users:
            number, user, status, reason, node, start, end, comment = fields
            told = COMMENT.fullmatch(comment)
            tag, port, says = told.groups() if told else ("", None, None)
            found[int(number)] = {
                "user": user,
                "state": job_words.line(status),
                "reason": job_words.line(reason),
                "node": node if NODE.fullmatch(node) else "",
                "start": moment(start),
                "end": moment(end),
                "tag": tag,
                "port": int(port) if port and int(port) < 1 << 16 else None,
                "says": job_words.line(says or ""),
            }
    return found


def moment(text: str) -> int | None:
    """Return a time of squeue's in seconds since 1970, None where it is not known."""
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else None


def addresses(nodes: Iterable[str]) -> dict[str, str]:
    """Return the IP address of each node, as slurmctld has it: no job has a say in that. It is "" where the name is not known here: others' jobs go on."""
    text = run("scontrol", "show", "node", "--oneliner", ",".join(sorted(nodes)))
    found = {}
    for line in text.splitlines():
        name, address = re.search(r"\bNodeName=(\S+)", line), re.search(r"\bNodeAddr=(\S+)", line)
        if name and address:
            try:
                found[name[1]] = str(socket.getaddrinfo(address[1], None, type=socket.SOCK_STREAM)[0][4][0])
            except (OSError, UnicodeError):
                print(f"the name {address[1]} (NodeAddr of the node {name[1]}) is not known on this machine", file=sys.stderr)
                found[name[1]] = ""
    return found


ACTIONS: dict[str, Callable[[dict[str, Any], Mediate], dict[str, Any]]] = {"profiles": profiles_of, "submit": submit, "cancel": cancel, "state": state}
