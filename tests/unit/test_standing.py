"""standing.py: what answers about an account mean. That PAM gives them is for tests/machine."""

import asyncio

import pytest

from debianized_jupyterhub import standing
from debianized_jupyterhub.login_check import LoginCheckError
from debianized_jupyterhub.pam import PAM_ACCT_EXPIRED, PAM_SUCCESS, PAM_USER_UNKNOWN

GOOD = {"known": True, "certain": True, "locked": False, "closed": None, "shell": "/bin/bash", "status": PAM_SUCCESS, "reason": "Success", "said": ""}
AUTHINFO_UNAVAIL = 9
BAD = {**GOOD, "status": PAM_ACCT_EXPIRED, "reason": "expired"}
GONE = {"known": False, "certain": True, "locked": False, "closed": None, "shell": None}


@pytest.fixture
def standings(monkeypatch):
    """Standings with `answers`, of which the last is given again and again; an exception is raised. `now` is the time."""
    standings = standing.Standings("jupyterhub", {"nologin"}, memory=100, patience=1)
    standings.answers, standings.now = [], 0

    async def ask(_request, _timeout):
        answer = standings.answers.pop(0) if len(standings.answers) > 1 else standings.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(standing, "ask", ask)
    monkeypatch.setattr(standing.time, "monotonic", lambda: standings.now)
    return standings


def reasons(standings, *answers, **options):
    standings.answers = list(answers)
    return [asyncio.run(standings.of("alice", **options)).reason for _ in answers]


@pytest.mark.parametrize(
    "answer, reason",
    [
        (GOOD, ""),
        (BAD, "PAM's account phase says: expired"),
        ({**GOOD, "locked": True}, "its password is locked"),
        ({**GOOD, "shell": None}, "it is missing"),
        ({**GOOD, "shell": "/sbin/nologin"}, "/sbin/nologin"),
        (GONE, "there is no such account any more"),
        ({**GOOD, "status": AUTHINFO_UNAVAIL}, ""),
    ],
)
def test_answers(standings, answer, reason):
    (found,) = reasons(standings, answer)
    assert reason in found and bool(reason) == bool(found)


@pytest.mark.parametrize("unsure", [LoginCheckError("no answer"), {**GOOD, "status": AUTHINFO_UNAVAIL}, {**GONE, "certain": False}])
def test_last_answer_counts_for_a_while(standings, unsure):
    assert [bool(reason) for reason in reasons(standings, GOOD, unsure, BAD, unsure, unsure)] == [False, False, True, True, True]
    standings.now = 99
    assert reasons(standings, unsure) != [""]
    standings.now = 101
    assert ("no such account" if isinstance(unsure, dict) and not unsure["known"] else "") in reasons(standings, unsure)[0]


@pytest.mark.parametrize("missing", [{**GONE, "certain": False}, {**GOOD, "certain": False, "known": True, "status": PAM_USER_UNKNOWN}])
def test_account_of_a_directory_is_gone_when_it_is_missing_for_long(standings, missing):
    missing = {**missing, "certain": False}
    assert reasons(standings, GOOD, missing) == ["", ""]
    standings.now = 99
    assert reasons(standings, missing) == [""]
    assert reasons(standings, GOOD) == [""]  # it was there all the time
    standings.now = 150
    assert reasons(standings, missing) == [""]
    standings.now = 250
    assert reasons(standings, missing) == ["there is no such account any more"]


def test_closed_logins_keep_from_starts_alone(standings):
    closed = {**{key: GOOD[key] for key in ("known", "certain", "locked", "shell")}, "closed": "New disks."}
    assert reasons(standings, closed) == [""]
    assert reasons(standings, closed, starts=True) == ["logins are closed: /etc/nologin or /run/nologin"]
    assert reasons(standings, {**closed, "locked": True}) != [""]
