"""What a process of the hub's account answers to root is that account's word: one printable line, whatever it is."""

import errno
import json

import pytest

from debianized_jupyterhub import as_hub
from debianized_jupyterhub.database import DatabaseError


def told(what, number=0, path=""):
    return as_hub._error(json.dumps({"what": what, "errno": number, "path": path}).encode(), 1)


def test_errors_come_back_as_what_they_were():
    assert isinstance(told("No such file", errno.ENOENT, "/x"), FileNotFoundError)
    full = told("No space left", errno.ENOSPC, "/var/tmp")
    assert (full.errno, full.strerror, full.filename) == (errno.ENOSPC, "No space left", "/var/tmp")
    assert str(told("the database is locked")) == "the database is locked"


@pytest.mark.parametrize("error", [told("a\x1b[2Jb\nc\u202ed"), as_hub._error(b"line\n\x1b[2Ja\xff b  c d", 1), told("a b c d", errno.EIO, "/x\n\x1b]0;y")])
def test_nothing_in_it_reaches_the_terminal(error):
    assert str(error).isprintable()
    assert isinstance(error, DatabaseError | OSError)


@pytest.mark.parametrize("said", [b"", b"[]", b"{}", b'{"what": 1, "errno": "x", "path": 2}', b"\xff\xfe", b"9" * 5000])
def test_nonsense_is_an_error_too(said):
    error = as_hub._error(said, 3)
    assert isinstance(error, DatabaseError) and len(str(error)) <= 1000 and str(error)
