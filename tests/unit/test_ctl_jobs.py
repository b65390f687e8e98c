"""What jupyterhub-ctl makes of jobs: squeue's and sinfo's words, the hub's, the starters'. Some of it users write."""

import json

import pytest

from debianized_jupyterhub import job_gate, profiles
from debianized_jupyterhub.ctl import jobs, logs, sessions, status
from debianized_jupyterhub.ctl.verify import slurm

TAG, MARK = "0123456789abcdef", "feed"
STATE = {"job": {"tag": TAG, "key": "ab" * 32, "profile": "small", "number": 7, "node": "n1", "address": "192.0.2.1", "control": 999, "port": 5, "up": True}}
SERVER = {"started": None, "last_activity": None, "pending": None, "ready": True, "url": "/user/alice/", "state": STATE}


def printed(*rows):
    """Return rows as squeue prints them: fields of a width, each with the mark behind it."""
    return "".join("".join(f"{field:<20}|{MARK}|" for field in row) + "\n" for row in rows)


def row(number="7", user="alice", state="RUNNING", reason="None", node="n1", end="1800000000", resources="cpu=2,mem=400M", comment=f"jupyterhub:{TAG}:999"):
    return number, user, state, reason, node, "1700000000", end, resources, "N/A", comment


def test_rows_of_squeue():
    wild = row("8", comment=f"jupyterhub:{TAG}:1\n9|{MARK[:-1]}|\x1b[31m")
    waits = row("9", state="PENDING", reason="Res\x1b[31mources", node="n/a", end="N/A", comment="mine")
    found = jobs.rows(printed(row(), wild, waits), MARK)
    assert set(found) == {7, 8, 9}
    assert (found[7]["tag"], found[7]["memory"], found[7]["cpus"], found[7]["gpus"], found[7]["end"]) == (TAG, 400 << 20, 2, None, 1800000000)
    assert found[8]["tag"] == ""
    assert (found[9]["reason"], found[9]["node"], found[9]["end"], found[9]["tag"]) == ("Res [31mources", "", None, "")


@pytest.mark.parametrize(
    "text, found",
    [
        ("cpu=2,mem=1500M,node=1,billing=2,gres/gpu=3", (2, 1500 << 20, 3)),
        ("cpu=2,mem=1.5G,gres/gpu:a100=1,gres/gpu=1", (2, 3 << 29, 1)),
        ("N/A", (None, None, None)),
        ("mem=lots,cpu=-1", (None, None, None)),
    ],
)
def test_amounts(text, found):
    assert tuple(jobs.amounts(text)[key] for key in ("cpus", "memory", "gpus")) == found


@pytest.mark.parametrize(
    "devices, gpus", [("gres/gpu:a100:2", 2), ("gres/gpu:1", 1), ("gres/gpu=3", 3), ("gres/gpu:1,gres/shard:7", 1), ("N/A", None), ("gres/gpu:x", None)]
)
def test_gpus_that_are_not_counted(devices, gpus):
    assert jobs.amounts("cpu=1", devices)["gpus"] == gpus


def test_job_of_the_hub_and_slurms_word():
    job = jobs.of_state(STATE["job"])
    seen = jobs.rows(printed(row(end="99999999999")), MARK)  # too long for a time
    assert jobs.about(job, "alice", seen) | {"start": 0} == {
        "id": 7, "profile": "small", "node": "n1", "state": "RUNNING", "reason": None, "start": 0, "left": None, "cpus": 2, "memory": 400 << 20, "gpus": None
    }  # fmt: skip
    assert jobs.about(job, "alice", jobs.rows(printed(row()), MARK))["left"] >= 0
    assert jobs.about(job, "alice", None)["state"] is None
    for another in (row(user="bob"), row(comment="jupyterhub:ffffffffffffffff:1"), row("8")):
        about = jobs.about(job, "alice", jobs.rows(printed(another), MARK))
        assert about["state"] is None and about["memory"] is None and about["reason"]


@pytest.mark.parametrize("kept", [None, 7, [], "x"])
def test_no_job(kept):
    assert jobs.of_state(kept) is None


def test_hub_that_writes_anything():
    job = jobs.of_state({"tag": "../x", "key": 5, "profile": "[red]", "number": "7; rm", "node": "n1\x1b[2J", "address": "evil.example", "control": True})
    assert job == jobs.Known(None, "", "", "", "", "", 0) and str(job) == "job without a number yet"


def test_row_has_no_key():
    (line,) = sessions.rows_of({"name": "alice", "servers": {"": SERVER}})
    del line["known"]
    assert "ab" * 32 not in json.dumps(line) and line["job"]["id"] == 7


def test_servers_that_were_left():
    """Beside a new one of the same user, and without one."""
    lost = STATE["job"] | {"number": 3, "node": "n9", "since": 1700000000}
    both = SERVER | {"state": STATE | {"left": [lost, "x"]}}
    alone = SERVER | {"state": {"left": [lost]}, "ready": False, "stopped": True}
    rows = list(sessions.rows_of({"name": "alice", "servers": {"": both, "b": alone, "c": SERVER | {"state": {}, "stopped": True}}}))
    assert [(row["server"], row["state"], row["job"]["id"]) for row in rows] == [(None, "ready", 7), (None, "left", 3), ("b", "left", 3)]
    rows[1]["job"]["state"] = "RUNNING"
    shown = sessions.in_words(rows[1])
    assert (shown["job"], shown["node"], shown["since"]) == ("3 left RUNNING", "n9", None)


def test_words_of_a_row():
    (line,) = sessions.rows_of({"name": "alice", "servers": {"": SERVER}})
    line["job"] |= {"state": "PENDING", "reason": "Priority", "memory": 400 << 20, "left": 7260}
    shown = sessions.in_words(line)
    assert (shown["job"], shown["node"], shown["left"], shown["memory"]) == ("7 PENDING (Priority)", "n1", "2 h", "- of 400 MiB")
    shown = sessions.in_words(line | {"memory": 1 << 20})
    assert shown["memory"] == "1 MiB of 400 MiB"


def test_what_a_starter_says():
    before = {"memory": 5, "cpu": 1.0, "version": "6.1"}
    assert jobs._checked(before, {"memory": 7, "cpu": 1.5, "version": "6.1"}, 0.5) == {"memory": 7, "cpu": 100.0, "version": "6.1"}
    assert jobs._checked({}, {}, 1) == {}
    wild = {"memory": "9", "cpu": float("nan"), "version": "\x1b[31m"}
    assert jobs._checked(wild, wild, 1) == {}
    assert jobs._checked({"cpu": True}, {"memory": True, "cpu": 1e300}, 1) == {}


def test_nobody_answers():
    job = jobs.of_state(STATE["job"] | {"address": "127.0.0.1", "control": 1})
    assert jobs.usage([job, job._replace(address="")], 0) == [{}, {}]
    assert jobs.is_here(job) and not jobs.is_here(job._replace(address="192.0.2.77")) and not jobs.is_here(job._replace(address="localhost"))


def test_status_counts(monkeypatch):
    monkeypatch.setattr(jobs, "wanted", lambda: False)
    assert status.of_jobs([{"job": None, "state": "ready"}], "") is None
    mine = [{"state": "ready", "job": {"state": state, "node": node}} for state, node in (("RUNNING", "n1"), ("PENDING", None), (None, "n1"), (None, None))]
    found = status.of_jobs([*mine, mine[0] | {"state": "left"}], "gone")
    assert found == {"running": 2, "waiting": 2, "left": 1, "problem": "gone"}
    assert status.in_words(found) == "2 run, 2 wait, 1 left on nodes that do not answer: gone"


def test_logs_are_elsewhere(monkeypatch):
    away = SERVER | {"state": {"job": STATE["job"]}}
    waits = SERVER | {"state": {"job": STATE["job"] | {"node": "", "address": "", "control": 0}}}
    known = [{"name": "alice2", "servers": {"": SERVER}}, {"name": "alice", "servers": {"": away, "b": waits}}]  # by a part of the name
    monkeypatch.setattr(logs, "Hub", lambda: type("Hub", (), {"users": lambda _self, name_filter: known})())
    monkeypatch.setattr(jobs, "wanted", lambda: False)
    assert list(logs._elsewhere("alice", 1001)) == []
    monkeypatch.setattr(jobs, "wanted", lambda: True)
    first, second = logs._elsewhere("alice", 1001)
    assert first == "the server of alice is job 7 on n1; its log is in the journal there: `journalctl -t jupyterhub-singleuser _UID=1001`"
    assert second == "the server 'b' of alice is job 7, which has not begun: `squeue --job=7` says why"


# -- verify ------------------------------------------------------------------------------------------------------------------------

PARTITIONS = "main*|up|1-00:00:00\ngpu|up|infinite\noff|down|8:00:00\nempty|up|30:00\n"
NODES = (
    "main|8|16000|idle|(null)\nmain|4|64000|mixed|(null)\noff|8|16000|idle|(null)\ngpu|8|16000|down*|gpu:a100:2(S:0-1),gpu:t4:1\nempty|2|100|drained|(null)\n"
)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(job_gate, "run", lambda *command, **_: NODES if "--Node" in command else PARTITIONS)
    return slurm.there()


def test_what_slurm_has(cluster):
    assert {name: (each.default, each.up, each.minutes, len(each.nodes)) for name, each in cluster.items()} == {
        "main": (True, True, 1440, 2),
        "gpu": (False, True, None, 1),
        "off": (False, False, 480, 1),
        "empty": (False, True, 30, 1),
    }
    assert cluster["gpu"].nodes[0].gpus == {"a100": 2, "t4": 1} and not cluster["gpu"].nodes[0].up and cluster["main"].nodes[1].up


@pytest.mark.parametrize(
    "text, words, failed",
    [
        ("cpus = 1-4\nmemory = 1G-15G\ntime = 1h-24h", None, False),
        ("partition = none", "Slurm has no partition none", True),
        ("memory = 900G", "memory = 900G, but the largest node of partition main is 64000 MB", True),
        ("memory = 1G-900G", "memory = 900G, but the largest node of partition main is 64000 MB", False),
        ("cpus = 8\nmemory = 20G", "no node of partition main has all of it together", True),
        ("cpus = 9", "cpus = 9, but the largest node of partition main is 8", True),
        ("time = 1h-2d", "time = 2d, but the limit of partition main is 1440 min", False),
        ("gpus = 1", "gpus = 1, but the largest node of partition main is 0", True),
        ("partition = gpu\ngpus = 3\ngpu-type = a100", "gpus = 3, but the largest node of partition gpu is 2", True),
        ("partition = gpu\ngpus = 3", "no node of partition gpu is up", False),
        ("partition = off", "partition off is down", False),
    ],
)
def test_profile_and_partition(cluster, text, words, failed):
    (profile,) = profiles.parse(f"[p]\n{text}\n")[0].values()
    found = list(slurm.of_partition(profile, cluster))
    assert [finding.what for finding in found if words and words not in finding.what and "is up" not in finding.what] == []
    assert any(words in finding.what for finding in found) if words else not found
    assert any(finding.status == "failed" for finding in found) == failed


@pytest.mark.parametrize("answer, words", [((0, "normal\nhigh"), "Slurm has no QOS low"), ((1, "no slurmdbd"), "it cannot be seen"), ((0, "low"), None)])
def test_accounting(monkeypatch, answer, words):
    monkeypatch.setattr(slurm, "output", lambda *_command, **_: answer)
    found = list(slurm.of_accounting("qos", profiles.parse("[a]\ncpus = 1\n[b]\nqos = low\n")[0].values()))
    assert [words in finding.what and "profile b" in finding.what for finding in found] == ([True] if words else [])


def test_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(profiles, "NEEDED", (99, 0))
    monkeypatch.setattr(profiles.platform, "freedesktop_os_release", lambda: {"PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"})
    ((file, _, what, mend),) = profiles.mistakes()
    assert file == "/etc/default/jupyterhub" and "jobs need Python 99.0, and Debian GNU/Linux 12 (bookworm) has 3." in what and "Debian 13" in mend
