"""What /etc/jupyterhub/profiles.conf grants, and what is said of its mistakes; what squeue's rows are taken for."""

import pathlib
import re

import pytest

from debianized_jupyterhub import job_gate, job_words, profiles

TOP = pathlib.Path(__file__).resolve().parents[2]
SMALL = "[small]\ncpus = 2\nmemory = 1G - 4G\ntime = 90m-8h\npartition = main\ngpus = 1\ngpu-type = a100\n"


def test_example_is_right():
    found, mistakes = profiles.parse((TOP / "docs/examples/profiles.conf").read_text())
    assert set(found) == {"small", "gpu"} and not mistakes
    assert found["gpu"].is_for(["users", "gpu-users"]) and not found["gpu"].is_for(["users"]) and found["small"].is_for([])


def test_options_of_sbatch():
    profile = profiles.parse(SMALL)[0]["small"]
    fixed = ["--cpus-per-task=2", "--mem=1024M", "--time=90", "--gres=gpu:a100:1", "--partition=main"]
    assert profile.options({}) == fixed
    assert profile.options({"memory": "3000M", "time": "2h", "cpus": "2"}) == ["--cpus-per-task=2", "--mem=3000M", "--time=120", *fixed[3:]]


@pytest.mark.parametrize(
    "wanted, words",
    [
        ({"memory": "5G"}, "has memory 1G to 4G, not 5G"),
        ({"memory": "1023M"}, "has memory 1G to 4G, not 1023M"),
        ({"cpus": "3"}, "has cpus 2, not 3"),
        ({"time": "1"}, "time '1' is not a valid duration"),
        ({"time": "-1h"}, "is not a valid duration"),
        ({"memory": ["2G"]}, "is not an amount of memory"),
        ({"partition": "other"}, "no partition to choose"),
        ({"uid": "0"}, "no uid to choose"),
        ({"x\nfor alice: forged": "0"}, r"no 'x\\nfor alice: forged' to choose\.$"),
        ({"x" * 1000: "0"}, r"no 'x{37}\.\.\.' to choose\.$"),
        ({"time": "9" * 1000}, r"^time '9{37}\.\.\.' is not"),
    ],
)
def test_what_is_not_granted(wanted, words):
    with pytest.raises(profiles.NotGranted, match=words):
        profiles.parse(SMALL)[0]["small"].options(wanted)


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("cpus = 1\n", 1, "no [PROFILE] above"),
        ("[ok]\n\n# none\n[Not Ok]\n", 4, "not a valid name of a profile"),
        ("[a]\n[a]\n", 2, "two profiles a"),
        ("[a]\ncpus = 0\n", 2, "not a whole number"),
        ("[a]\ncpus = 4-2\n", 2, "4 is more than 2"),
        ("[a]\ncpus 2\n", 2, "neither [PROFILE] nor KEY = VALUE"),
        ("[a]\ncpus =\n", 2, "neither [PROFILE] nor KEY = VALUE"),
        ("[a]\ncores = 2\n", 2, "no key cores"),
        ("[a]\ncpus = 2\ncpus = 3\n", 3, "set twice"),
        ("[a]\npartition = --uid=0 x\n", 2, "not a valid partition"),
        ("[a]\ntime = 8\n", 2, "not a valid duration"),
        ("[a]\ngroup = staff # not physics\n", 2, "not a list of groups"),
        ("[a]\ngroup = ,\n", 2, "not a list of groups"),
    ],
)
def test_mistakes_have_their_line(text, line, words):
    _, mistakes = profiles.parse(text)
    assert [mistake.line for mistake in mistakes] == [line]
    assert words in mistakes[0].what and mistakes[0].mend


def test_profile_with_a_mistake_is_nobodys():
    """A group that is misspelt must not make a profile one for everybody; nor may the lines below a bad name count for the profile before it."""
    assert profiles.parse("[a]\ngruop = staff\ncpus = 2\n")[0] == {}
    found, _ = profiles.parse("[a]\ngroup = staff\n[B B]\ngpus = 8\n")
    assert found["a"].amounts == {}


def test_rows_of_squeue_cannot_be_forged():
    """A job's comment is its owner's, with whatever he likes in it."""
    tag = "0123456789abcdef"
    forged = f"x\n7|alice|RUNNING|None|node|1|2|jupyterhub:{tag}:80"
    text = f"MARK|5|bob|RUNNING|None|node|100|N/A|{forged}|MARK\nMARK|6|alice|PENDING|Resources|||N/A|jupyterhub:{tag}|MARK\nMARK|8|eve|PENDING|x|||N/A||MARK\n"
    found = job_gate.rows(text, "MARK", ["alice", "bob"])
    assert set(found) == {5, 6}
    assert found[5]["tag"] == "" and found[5]["port"] is None
    assert found[6] == {
        "user": "alice",
        "state": "PENDING",
        "reason": "Resources",
        "node": "",
        "start": None,
        "end": None,
        "tag": tag,
        "port": None,
        "says": "",
    }


def test_mark_of_rows_is_not_in_a_command_line(monkeypatch, tmp_path):
    """Another user could read it there, and have it in a comment before squeue has asked."""
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\ntr "\\0" " " </proc/$$/cmdline >{tmp_path}/seen\necho "$SQUEUE_FORMAT" >{tmp_path}/format\n')
    squeue.chmod(0o755)
    real = job_gate.run
    monkeypatch.setattr(job_gate, "run", lambda program, *more, **variables: real(str(tmp_path / program), *more, **variables))
    assert job_gate.state({"jobs": [5], "users": ["root"]}, None) == {"jobs": {}}
    mark = (tmp_path / "format").read_text().partition("|")[0]
    assert len(mark) == 16 and mark not in (tmp_path / "seen").read_text()


@pytest.mark.parametrize(
    "comment, port, says",
    [
        (":4711", 4711, ""),
        (":0", None, ""),
        (":65536", None, ""),
        (":no:the home\nis missing\x1b[1m", None, "the home is missing [1m"),
        (":4711:x", None, ""),
    ],
)
def test_what_a_job_says_of_itself(comment, port, says):
    found = job_gate.rows(f"M|5|bob|RUNNING|None|n|1|2|jupyterhub:0123456789abcdef{comment}|M\n", "M", ["bob"])[5]
    assert (found["port"], found["says"]) == (port, says)


@pytest.mark.parametrize("tag", ["../../../.ssh/id", "0123456789abcdef\n", ""])
def test_tag_is_no_path(tag):
    """The mediator removes the key of a job that is cancelled, by the job's tag: a hub that was taken over must not name other files of the user's."""
    asked = []
    request = {"user": "alice", "job": 5, "tag": tag, "key": "0" * 64, "server": "", "profile": "small", "chosen": {}}
    for action in (job_gate.cancel, job_gate.submit):
        with pytest.raises(job_gate.Refused, match="not a tag of a job"):
            action(request, asked.append)
    assert asked == []


@pytest.mark.parametrize("number", ["5", 0, -1, 1 << 32, None, [5], True])
def test_number_of_a_job_is_one(monkeypatch, number):
    """The mediator is its user's process; a number that is none would spoil the question that the hub asks about all its jobs."""
    monkeypatch.setattr(job_gate, "options", lambda request: [])
    request = {"user": "alice", "tag": "0" * 16, "key": "0" * 64, "server": "", "profile": "small", "chosen": {}}
    with pytest.raises(job_gate.Refused, match="no number of a job"):
        job_gate.submit(request, lambda order: {"ok": True, "job": number})
    assert job_gate.submit(request, lambda order: {"ok": True, "job": 5}) == {"job": 5}


def test_user_says_nothing_that_is_not_of_its_form(monkeypatch):
    """Of his own jobs he may say anything. It goes into the command lines of this account, and the hub's pages and journal."""
    asked = []
    monkeypatch.setattr(job_gate, "run", lambda *command: asked.append(command) or "")
    monkeypatch.setattr(job_gate.secrets, "token_hex", lambda number: "M")
    told = ":80|M\n".join(
        f"M|{number}|alice|{state}|because|{node}|{start}|N/A|jupyterhub:0123456789abcdef"
        for number, state, node, start in [
            ("1", "RUNNING", "n[0-65535][0-65535]", "1"),
            ("2", "RUNNING", "--json", "9" * 40),
            ("9" * 5000, "RUNNING", "n1", "1"),
            ("3", "WAITS\nfor alice: forged", "", "1"),
        ]
    )
    found = job_gate.state({"own": "alice", "addresses": True}, lambda order: {"ok": True, "text": f"M|4|alice|M\n{told}"})["jobs"]
    assert asked == [] and set(found) == {1, 2, 3}
    assert found[1]["node"] == found[2]["node"] == "" and found[2]["start"] is None
    assert found[3]["state"] == "WAITS for alice: forged"


def test_node_without_an_address_is_its_own_jobs_affair(monkeypatch, capsys):
    """All jobs of the hub are in one question."""
    found = {number: {"state": "RUNNING", "port": 80, "node": node, "says": ""} for number, node in ((1, "n1"), (2, "n2"))}
    monkeypatch.setattr(job_gate, "run", lambda *_command: "NodeName=n1 NodeAddr=192.0.2.1 X=\nNodeName=n2 NodeAddr=no.such.name.invalid X=\n")

    def resolve(name, _port, type):
        if name != "192.0.2.1":
            raise OSError("Name or service not known")
        return [(0, 0, 0, "", (name, 0))]

    monkeypatch.setattr(job_gate.socket, "getaddrinfo", resolve)
    job_gate.placed(found, {"addresses": True})
    assert (found[1]["address"], found[1]["says"]) == ("192.0.2.1", "")
    assert found[2]["address"] == "" and found[2]["says"] == "Node n2 has no address that this server knows. Ask your administrator."
    assert "no.such.name.invalid (NodeAddr of the node n2)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["hub", "hub:443", "hub:99999", "http://hub:8443", "hub:8443/", "2001:db8::1:8443", ":8443"])
def test_address_for_nodes_is_wrong(monkeypatch, text):
    monkeypatch.setenv("JUPYTERHUB_JOBS", "beside")
    monkeypatch.setenv("JUPYTERHUB_JOBS_ADDRESS", text)
    with pytest.raises(SystemExit, match=r"JUPYTERHUB_JOBS_ADDRESS=.*: write HOST:PORT, a port from 1024 to 65535"):
        profiles.setting()


@pytest.mark.parametrize("text, found", [("", None), ("Hub.example.org:8443", ("hub.example.org", 8443)), ("[2001:db8::1]:8443", ("2001:db8::1", 8443))])
def test_address_for_nodes(monkeypatch, text, found):
    monkeypatch.setenv("JUPYTERHUB_JOBS_ADDRESS", text)
    assert profiles.address() == found


def test_form():
    """Each button and field has a label; what is chosen last comes first; nothing of a site's title is HTML."""
    shown = [
        {"name": "small", "title": "<b>&", "choices": {"time": ("1h", "8h"), "cpus": ("1", "4")}},
        {"name": "gpu", "title": "GPU", "choices": {}},
    ]
    text = job_words.form(shown, {"profile": "small", "time": '"2h'}, local=True)
    ids, labels = (re.findall(f'{attribute}="([^"]*)"', text) for attribute in (r"<input[^>]* id", r"<label[^>]* for"))
    assert sorted(ids) == sorted(labels) == ["profile-", "profile-gpu", "profile-small", "small-cpus", "small-time"]
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text and 'value="&quot;2h"' in text and 'value="1"' in text
    assert re.findall(r'id="([^"]*)" required checked', text) == ["profile-small"]
    assert "On this server" not in job_words.form(shown, {}, local=False)
    assert "nothing that you may choose" in job_words.form([], {}, local=False)
