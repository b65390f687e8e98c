"""Entries of the journal as `jupyterhub-ctl logs` shows them: what users write themselves into it is shown as theirs, and in any form."""

import pytest

from debianized_jupyterhub import units
from debianized_jupyterhub.ctl import logs

HUBS_UID = 990
SAID = "Login at 10.0.0.1: alice"
ENTRY = {"__REALTIME_TIMESTAMP": "1", "_PID": "7", "_UID": "1000", "_SYSTEMD_UNIT": "session-3.scope", "MESSAGE": SAID}


@pytest.mark.parametrize(
    "fields, source",
    [
        ({}, "server"),
        ({"SYSLOG_IDENTIFIER": ["jupyterhub-singleuser", "python3"], "JUPYTERHUB_USER": "alice"}, "server"),  # as sd_journal_send(3) lets anybody
        ({"_UID": str(HUBS_UID), "_SYSTEMD_UNIT": units.HUB}, "hub"),
        ({"_UID": str(HUBS_UID), "_SYSTEMD_UNIT": "jupyterhub-spawner@1.service"}, "gate"),
    ],
)
def test_source_is_what_the_journal_knows(fields, source):
    assert logs._line({**ENTRY, **fields}, "alice", HUBS_UID).endswith(f" {source}[7]: {SAID}")


@pytest.mark.parametrize(
    "message, lines", [("a\x1b[31m", ["a\\x1b[31m"]), ([97, 255], ["a\ufffd"]), (["a", "b"], ["a", "b"]), (["a", [98, 27]], ["a", "b\\x1b"]), (None, [])]
)
def test_message_in_any_form(message, lines):
    said = logs._line({**ENTRY, "MESSAGE": message}, "alice", HUBS_UID)
    assert [line.partition("server[7]: ")[2] for line in said.splitlines()] == lines
