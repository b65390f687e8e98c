"""src/libexec/job-starter: what it sees at the start of a job, before it opens a port."""

import errno
import os
import pathlib
import pwd
import runpy

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
STARTER = runpy.run_path(str(TOP / "src/libexec/job-starter"), run_name="job_starter")
MEDIATOR = (TOP / "src/libexec/sudospawner").read_text()
ME = pwd.getpwuid(os.getuid())


@pytest.fixture(autouse=True)
def node(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n2")


def account(home):
    """Return our account with another home."""
    return pwd.struct_passwd((*ME[:5], str(home), ME.pw_shell))


def refusal(function, *arguments):
    """Return why `function` of the starter refuses; it is one line, and short enough for the comment of a job."""
    with pytest.raises(STARTER["Refused"]) as caught:
        STARTER[function](*arguments)
    words = str(caught.value)
    assert "\n" not in words and len(words) <= 300
    return words


def test_hub_and_starter_of_one_version_fit():
    (line,) = [line for line in MEDIATOR.splitlines() if line.startswith("SPEAKS = ")]
    assert set(line.split('"')[1].split(",")) <= STARTER["LANGUAGES"]


def test_one_language_in_common_is_enough():
    STARTER["require_language"]("0,1,99", "9.9")


def test_another_version_is_named():
    words = refusal("require_language", "98,99", "7.0.0.1+deb13")
    assert words.startswith("Node n2 has version ") and "does not fit the hub's 7.0.0.1+deb13: it needs jupyterhub-node 7.0.0.1+deb13." in words


def test_account():
    assert STARTER["account_of"](ME.pw_name) == ME
    assert refusal("account_of", "zq-nobody") == f"Node n2 does not know the account zq-nobody (uid {ME.pw_uid})."
    other = next(entry for entry in pwd.getpwall() if entry.pw_uid != ME.pw_uid)
    assert f"{other.pw_name} has uid {ME.pw_uid} on the server, and {other.pw_uid} on node n2" in refusal("account_of", other.pw_name)


def test_home(tmp_path):
    assert "n2 is another one than on the server." in refusal("key_of", "12ab", account(tmp_path))
    assert f"{tmp_path}/away on node n2 is not there: is it mounted?" in refusal("key_of", "12ab", account(tmp_path / "away"))
    key = tmp_path / STARTER["KEYS"] / "12ab.key"
    key.parent.mkdir(parents=True)
    key.write_text("00ff\n")
    assert STARTER["key_of"]("12ab", account(tmp_path)) == "00ff"


def test_room(tmp_path, monkeypatch):
    STARTER["require_room"](str(tmp_path))
    assert list(tmp_path.iterdir()) == []

    def full(*_arguments, **_options):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    assert refusal("require_room", "/home/alice") == "Your home folder /home/alice cannot be written to on node n2: Disk quota exceeded."
    assert refusal("scratch_folder") == "Node n2 has no room for temporary files: Disk quota exceeded."


def test_environments(tmp_path, monkeypatch):
    monkeypatch.setitem(STARTER["missing"].__globals__, "ENVIRONMENTS", str(tmp_path))
    (tmp_path / "here/current/kernel").mkdir(parents=True)
    assert STARTER["missing"]("") == STARTER["missing"]("here") == ""
    assert STARTER["missing"]("here,stats,web") == "Node n2 does not have the environments stats, web."


@pytest.mark.parametrize(
    "env, megabytes",
    [
        ({"SLURM_MEM_PER_NODE": "400"}, 400),
        ({"SLURM_MEM_PER_CPU": "300", "SLURM_CPUS_ON_NODE": "2"}, 600),
        ({"SLURM_MEM_PER_CPU": "300"}, None),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({}, None),
    ],
)
def test_memory_that_is_granted(env, megabytes):
    assert STARTER["memory_granted"](env) == (megabytes and megabytes << 20)
