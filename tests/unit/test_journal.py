"""Entries of the journal, as its socket gets them."""

import asyncio
import logging
import socket
import struct

import pytest

from debianized_jupyterhub import journal


@pytest.fixture
def inbox(monkeypatch, tmp_path):
    """The journal's end of the socket."""
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(journal.SOCKET)
        inbox.settimeout(5)
        yield inbox


def parsed(data):
    """Return the fields of a datagram in which all are written with their length."""
    fields = {}
    while data:
        name, _, data = data.partition(b"\n")
        length = struct.unpack_from("<Q", data)[0]
        fields[name.decode()] = data[8 : 8 + length].decode()
        assert data[8 + length : 9 + length] == b"\n"
        data = data[9 + length :]
    return fields


@pytest.mark.parametrize(
    "text, written",
    [
        ("alice", "alice"),
        ("größe", "größe"),
        ("", ""),
        ("a\nJUPYTERHUB_EVENT=login\n", r"a\nJUPYTERHUB_EVENT=login\n"),
        ("\x00\x1b[2K\x9b\u202e\u2028\udc80", r"\x00\x1b[2K\x9b\u202e\u2028\udc80"),
        ("n" * 5000, "n" * 1024),
    ],
)
def test_value_is_one_field_of_one_line(inbox, text, written):
    assert journal.send({"MESSAGE": text, "JUPYTERHUB_USER": text, "LAST": "x"})
    assert parsed(inbox.recv(100_000)) == {"MESSAGE": written, "JUPYTERHUB_USER": written, "LAST": "x"}


def test_without_a_journal_nothing_waits_or_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "none"))
    assert journal.send({"MESSAGE": "x"}) is False


def test_journal_that_has_no_time_is_not_waited_for(inbox):
    sent = 0
    while journal.send({"MESSAGE": "x" * 1000}):
        sent += 1
        assert sent < 100_000
    assert sent


def test_reasons_come_from_the_tasks_of_one_login():
    journal.because("nobody asks")

    async def login(reason):
        found = journal.reasons()
        await asyncio.gather(asyncio.ensure_future(asyncio.to_thread(journal.because, reason)))
        return found

    async def both():
        return await asyncio.gather(login("one"), login("two"))

    assert asyncio.run(both()) == [["one"], ["two"]]


@pytest.mark.parametrize(
    "level, function, priority",
    [
        ("DEBUG", "f", 7),
        ("INFO", "f", 6),
        ("INFO", "log_request", 7),
        ("WARNING", "log_request", 4),
        ("WARNING", "f", 4),
        ("ERROR", "f", 3),
        ("CRITICAL", "f", 2),
        ("CRITICAL", "shutdown_cancel_tasks", 6),
        ("CRITICAL", "_signal_stop", 6),
    ],
)
def test_each_line_of_a_log_has_its_priority(level, function, priority):
    record = logging.LogRecord("x", getattr(logging, level), "x.py", 1, "one\ntwo %s", ("<0>three\n<0>four",), None, function)
    assert journal.Prioritized("[%(levelname)s] %(message)s").format(record).split("\n") == [
        f"<{priority}>[{level}] one",
        f"<{priority}>two <0>three",
        f"<{priority}><0>four",
    ]
