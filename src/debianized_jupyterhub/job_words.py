"""What users read of their Slurm jobs: where one stands and why, why it has ended, and the form to ask for one."""

import html
import time
from typing import Any

from .lines import one_line

# States of squeue(1) that a job does not leave, and what they mean.
OVER = {
    "BOOT_FAIL": "its node could not be started",
    "CANCELLED": "the job was cancelled",
    "COMPLETED": "the job is over",
    "DEADLINE": "its deadline is over",
    "FAILED": "the job failed",
    "NODE_FAIL": "its node has failed",
    "OUT_OF_MEMORY": "it needed more memory than the job had",
    "PREEMPTED": "another job took its place",
    "REVOKED": "the job was taken over by another cluster",
    "TIMEOUT": "the job's time is over",
}
# What a starter says of an end that Slurm brings about.
CANCELLED, TIME_OVER = "Its Slurm job was cancelled.", "The time of its Slurm job is over."
# Reasons why one waits: the beginning of Slurm's word.
WAITS = {
    "None": "Slurm has not looked at it yet",
    "Priority": "other jobs come first",
    "Resources": "there is not enough room yet",
    "PartitionDown": "the partition is off",
    "PartitionInactive": "the partition is off",
    "PartitionTimeLimit": "it asks for more time than the partition allows",
    "PartitionNodeLimit": "it asks for more than the partition allows",
    "ReqNodeNotAvail": "the nodes that it needs are not available",
    "Nodes_required": "the nodes that it needs are down or taken out of service",
    "NodeDown": "its node is down",
    "JobHeld": "it is held",
    "BeginTime": "its time has not come yet",
    "Licenses": "no licence is free",
    "Reservation": "the reservation has not begun",
    "QOS": "a limit of the cluster is reached",
    "Assoc": "a limit of the cluster is reached",
}
NO_ANSWER = "Slurm does not answer at the moment. Your job keeps its place."


def standing(number: int, seen: dict[str, Any]) -> str:
    """Return where a job stands by what job_gate.rows says of it."""
    match seen["state"]:
        case "PENDING":
            reason = seen["reason"]
            why = next((words for begin, words in WAITS.items() if reason.startswith(begin)), reason)
            when = f" It is expected to start {_moment(seen['start'])}." if seen["start"] else ""
            return f"Job {number} waits: {why}.{when}"
        case "RUNNING":
            return f"Job {number} runs on {seen['node']}; the server is starting."
        case "CONFIGURING":
            return f"Job {number} has a place; its node is being prepared."
        case state:
            return f"Job {number}: {state.lower()}."


def _moment(when: int) -> str:
    """Return a time of today as the server's clock has it, of other days with the date."""
    then, now = time.localtime(when), time.localtime()
    return time.strftime("at %H:%M" if then[:3] == now[:3] else "on %Y-%m-%d at %H:%M", then)


def line(text: Any) -> str:
    """Return what the user's process has said as one line that can be shown: it may be anything, of any length."""
    return one_line(str(text)[:400], 300)


def why_over(seen: dict[str, Any] | None) -> str:
    """Return why a job is over, as the rest of a sentence; None stands for one that Slurm does not know."""
    if seen is None:
        return "Slurm does not know the job any more"
    return OVER.get(seen["state"], f"Slurm says {seen['state'].lower()}")


def running(number: int, node: str, end: int | None) -> str:
    """Return what the hub's page says of a job whose server is there; `end` is when Slurm ends it (seconds since 1970)."""
    until = f" Its time is over {_moment(end)}." if end else ""
    return f"Your server is job {number} on {node}.{until}"


def silent(node: str, since: float) -> str:
    """Return what the page of a user says whose server cannot be reached `since` a time (seconds since 1970)."""
    how = "If you do not want to wait for that, stop it and start another one."
    return f"Node {node} stopped answering {_moment(int(since))}. Your server may still run there, and can be used again when the node is back. {how}"


def left(number: int | None, node: str) -> str:
    """Return what the page of a user says who has a server, perhaps, that is not the current one any more."""
    return f"An earlier server of yours, job {number}, may still run on node {node}, which does not answer. It is ended when the node is back."


LABELS = {"cpus": "CPUs", "memory": "Memory", "gpus": "GPUs", "time": "Time"}
FIELD = "profile"  # of the form and of user_options; the fields of what can be chosen begin with the profile's name
# What belongs to a profile that is not chosen is not shown, where the browser can tell.
STYLE = "<style>.job-profile:not(:has(> input:checked)) > .job-amounts { display: none; }</style>"


def form(profiles: list[dict[str, Any]], chosen: dict[str, Any], *, local: bool, complaint: str = "") -> str:
    """Return the form (HTML) for the `profiles` that the gate lists; `local`: a server on the hub's machine may be had, too. `chosen` was it last time."""
    rows = [STYLE]
    if complaint:
        rows.append(f'<p class="alert alert-warning" role="alert">{html.escape(complaint)}</p>')
    names = [*([""] if local else []), *(profile["name"] for profile in profiles)]
    first = chosen.get(FIELD) if chosen.get(FIELD) in names else next(iter(names), "")
    choices = [_choice("", "On this server", "", first == "")] if local else []
    for profile in profiles:
        name = profile["name"]
        last = chosen if name == first else {}
        fields = "".join(_field(name, key, least, most, last.get(key)) for key, (least, most) in profile["choices"].items())
        choices.append(_choice(name, profile["title"], fields, name == first))
    if names:
        rows += ['<fieldset><legend class="fs-5">Where should your notebooks run?</legend>', *choices, "</fieldset>"]
    else:
        rows.append('<p class="alert alert-warning" role="alert">There is nothing that you may choose. Ask your administrator.</p>')
    return "\n".join(rows)


def _choice(name: str, title: str, fields: str, checked: bool) -> str:
    mark = " checked" if checked else ""
    button = f'<input class="form-check-input" type="radio" name="{FIELD}" value="{name}" id="profile-{name}" required{mark}>'
    label = f'<label class="form-check-label" for="profile-{name}">{html.escape(title)}</label>'
    amounts = f'<div class="job-amounts row g-3 mt-0 mb-2">{fields}</div>' if fields else ""
    return f'<div class="job-profile form-check mb-2">{button} {label}{amounts}</div>'


def _field(name: str, key: str, least: str, most: str, last: Any) -> str:
    """Return the field for an amount that the user may choose; `last` is what it was."""
    own = f"{name}-{key}"
    value = html.escape(last if isinstance(last, str) else least)
    return (
        f'<div class="col-auto"><label class="form-label mb-0" for="{own}">{LABELS[key]}</label>'
        f'<input class="form-control" id="{own}" name="{name}.{key}" value="{value}" aria-describedby="{own}-span" size="8" autocomplete="off">'
        f'<div class="form-text mt-0" id="{own}-span">{html.escape(least)} to {html.escape(most)}</div></div>'
    )


def of_form(data: dict[str, list[Any]]) -> dict[str, str]:
    """Return the options (user_options of JupyterHub) that a sent form asks for."""
    name = str(data[FIELD][0])
    chosen = {key.partition(".")[2]: str(values[0]).strip() for key, values in data.items() if key.startswith(f"{name}.") and values}
    return {FIELD: name, **{key: value for key, value in chosen.items() if value}}
