"""identity.py: what makes another account. That login-check sees it is for tests/machine."""

import json

import pytest

from debianized_jupyterhub.identity import Home, Identity, of_machine

BORN = 1_000
ALICE = Identity(1001, Home(inode=7, birth=BORN, changed=5_000), seen=8_000)

# What is seen later, of another account ("" if it is the same), seen at a login.
LATER = {
    "worked in": (Identity(1001, Home(7, BORN, 9_000)), "", ""),
    "another uid": (Identity(1002, Home(7, BORN, 5_000)), "its uid is 1002, and was 1001", "its uid is 1002, and was 1001"),
    "another uid, no home": (Identity(1002), "its uid is 1002, and was 1001", "its uid is 1002, and was 1001"),
    "made anew": (Identity(1001, Home(8, 9_000, 9_000)), "its home folder is another one", "its home folder is another one"),
    "made anew, the inode used again": (Identity(1001, Home(7, 9_000, 9_001)), "its home folder is another one", "its home folder is another one"),
    "made of a skeleton with its times": (Identity(1001, Home(8, 9_000, 500)), "its home folder is another one", "its home folder is another one"),
    "copied with its times": (Identity(1001, Home(8, 9_000, 6_000)), "", ""),
    "cannot be seen": (Identity(1001), "", ""),
    "is not there": (Identity(1001, None, missing=True), "", "its home folder is gone"),
    "was there when it was seen first": (Identity(1001, Home(9, 7_000, 7_500)), "", ""),
    "on a file system without births": (Identity(1001, Home(8, None, 6_000)), "", ""),
}


@pytest.mark.parametrize("name", LATER)
def test_another_account(name):
    now, otherwise, at_a_login = LATER[name]
    assert ALICE.why_another(now) == otherwise
    assert ALICE.why_another(now, logging_in=True) == at_a_login


@pytest.mark.parametrize("inode, reason", [(7, ""), (8, "its home folder is another one")])
def test_inodes_count_without_births(inode, reason):
    before = Identity(1001, Home(7, None, 5_000), seen=8_000)
    assert before.why_another(Identity(1001, Home(inode, None, 9_000))) == reason


def test_home_is_learned_when_it_is_made():
    before = Identity(1001, None, missing=True)
    assert before.why_another(ALICE) == "" and before.updated(ALICE) == ALICE


def test_what_is_kept_changes_with_the_folder_alone():
    """A database is not written to for each change in a home, nor when a disk is away."""
    for now in (Identity(1001, Home(7, BORN, 9_000)), Identity(1001), Identity(1001, None, missing=True)):
        assert ALICE.updated(now) == ALICE
    moved = Identity(1001, Home(8, 9_000, 6_000))
    assert ALICE.updated(moved) == moved


@pytest.mark.parametrize("identity", [ALICE, Identity(1001)])
def test_kept_as_json(identity):
    assert Identity.kept(json.loads(json.dumps(identity.facts()))) == identity


@pytest.mark.parametrize("answer", [{}, {"uid": None, "home": None}])
def test_answers_that_do_not_say_it(answer):
    assert Identity.of(answer) is None


def test_answers():
    home = {"inode": 7, "birth": BORN, "changed": 5_000}
    for found, seen in ((home, ALICE), ({}, Identity(1001, None, missing=True)), (None, Identity(1001))):
        identity = Identity.of({"uid": 1001, "home": found})
        assert identity.seen > 10**18 and identity._replace(seen=seen.seen) == seen


def test_each_installation_is_another(tmp_path):
    (tmp_path / "other").mkdir()
    assert of_machine(str(tmp_path)) == of_machine(str(tmp_path)) != of_machine(str(tmp_path / "other"))
    assert of_machine(str(tmp_path / "missing"))  # a full disk keeps no hub from starting
