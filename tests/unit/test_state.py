"""What tools make of the hub's word about itself: state.py."""

import pytest

from debianized_jupyterhub import state
from debianized_jupyterhub.keeper import asked_for


@pytest.mark.parametrize(
    "active, text, name, line",
    [
        ("active", "Ready", "ready", ""),
        ("active", "Degraded: the database does not answer: FATAL", "degraded", "the database does not answer: FATAL"),
        ("activating", "Degraded: the database is locked", "degraded", "the database is locked"),
        ("activating", "", "starting", ""),
        ("activating", "Ready", "starting", ""),  # of the one before
        ("activating", "Starting again after: a.py:2: SyntaxError", "starting", "a.py:2: SyntaxError"),
        ("activating", "Failed: a.py:2: SyntaxError", "failed", "a.py:2: SyntaxError"),
        ("inactive", "Ready", "stopped", ""),
        ("failed", "Failed: a.py:2: SyntaxError", "stopped", "a.py:2: SyntaxError"),
        ("active", "", "", ""),  # a hub from before the states
        ("active", "Something: else", "", "else"),
    ],
)
def test_state_of_a_unit(active, text, name, line):
    found = state.of_unit({"ActiveState": active, "StatusText": text})
    assert (found.name, found.line) == (name, line)


def test_what_systemd_hears_is_what_tools_read(monkeypatch):
    told = []
    monkeypatch.setattr(state, "notify", told.append)
    state.enter(state.DEGRADED, "Words.", "a line\nREADY=1", "WATCHDOG=1")
    assert told == ["STATUS=Degraded: a line\\nREADY=1\nWATCHDOG=1"]
    found = state.of_unit({"ActiveState": "active", "StatusText": told[0].splitlines()[0].removeprefix("STATUS=")})
    assert (found.name, found.line) == ("degraded", "a line\\nREADY=1")
    assert state.now() == ("degraded", "Words.", "a line\nREADY=1")


@pytest.mark.parametrize(
    "line, asked",
    [
        ("GET /hub/health HTTP/1.1", "health"),
        ("HEAD /jupyter/hub/ready?x=1 HTTP/1.0", "ready"),
        ("POST /hub/health HTTP/1.1", ""),
        ("GET /hub/healthy HTTP/1.1", ""),
        ("GET /user/alice/hub/health HTTP/1.1", ""),
        ("GET /jupyter/services/it/hub/ready HTTP/1.1", ""),
        ("GET /login?next=/hub/health HTTP/1.1", ""),
    ],
)
def test_what_the_keeper_is_asked(line, asked):
    assert asked_for(f"{line}\r\nHost: x\r\n\r\n".encode()) == asked
