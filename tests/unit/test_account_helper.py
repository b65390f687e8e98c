"""src/libexec/account-helper: for whom it asks useradd to make an account, and whom it refuses. useradd is not the real one."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HELPER = pathlib.Path(__file__).resolve().parents[2] / "src/libexec/account-helper"
# nogroup, the one with a number above the system's that is there on every Debian.
SETTINGS = {"GROUP": "nogroup", "UID_MIN": "50000", "UID_MAX": "59999", "RESERVED": "postgres www"}
FREE = "zq-no-such-account"


@pytest.fixture
def make(tmp_path):
    """A function: puts a request to the helper and returns (its answer, what useradd was called with as list of str, or None)."""
    useradd, note = tmp_path / "useradd", tmp_path / "called"
    useradd.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{note}\necho "useradd: a word" >&2\necho more >&2\nexit 4\n')
    useradd.chmod(0o755)

    def run(request, **settings):
        line = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **SETTINGS, **settings}
        done = subprocess.run([sys.executable, "-IS", HELPER], input=line, capture_output=True, env=environment, check=True, timeout=10)
        [answer] = done.stdout.splitlines()
        return json.loads(answer), note.read_text().splitlines() if note.exists() else None

    return run


def test_useradd_gets_no_more_than_the_settings_allow(make):
    answer, called = make({"user": FREE})
    assert called[-2:] == ["--", FREE]
    assert {"--no-create-home", "--user-group", "UID_MIN=50000", "UID_MAX=59999", "GID_MIN=50000", "GID_MAX=59999"} <= set(called)
    assert called[called.index("--groups") + 1] == "nogroup"
    assert answer == {"ok": False, "error": f"useradd made no account {FREE}: useradd: a word / more"}


BAD_NAMES = ["", "-x", "--root=/", "0day", "Alice", "a.b", "a b", "a:b", "a\nb", "alice\n", "../x", "j\u00fcrgen", "a$", "a" * 32, ["alice"], 7, None]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_name_that_no_account_can_have_is_refused(make, name):
    answer, called = make({"user": name})
    assert called is None
    assert not answer["ok"] and "cannot be an account" in answer["error"] and "\n" not in answer["error"]


@pytest.mark.parametrize(
    "name", ["root", "admin", "sudo", "nobody", "systemd-x", "jupyterhub", "jupyterhub-proxy", "debian-user", "postgres", "www-data", "shadow", "mail"]
)
def test_reserved_name_is_refused(make, name):
    """By the helper's own list, the site's, and Debian's accounts and groups."""
    assert make({"user": name}) == ({"ok": False, "error": f"{name} is a reserved name"}, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"UID_MIN": "0"}, "must be a range from 1000 on"),
        ({"UID_MIN": "999"}, "must be a range from 1000 on"),
        ({"UID_MIN": "60000"}, "must be a range from 1000 on"),
        ({"UID_MAX": str(2**32 - 1)}, "must be a range from 1000 on"),
        ({"UID_MAX": "many"}, "must be whole numbers"),
        ({"UID_MIN": ""}, "must be whole numbers"),
        ({"GROUP": ""}, "GROUP is empty"),
        ({"GROUP": "zq-none"}, "there is no group zq-none"),
        ({"GROUP": "sudo"}, "is a group of the system's"),
        ({"GROUP": "root"}, "is a group of the system's"),
    ],
)
def test_settings_that_would_give_rights_are_refused(make, settings, said):
    answer, called = make({"user": FREE}, **settings)
    assert called is None
    assert not answer["ok"] and said in answer["error"]


@pytest.mark.parametrize("request_", [b"", b"nonsense\n", b"[]\n", b"{}\n", b'{"user": "' + b"x" * 5000])
def test_what_is_no_request_is_refused(make, request_):
    answer, called = make(request_)
    assert called is None
    assert not answer["ok"] and answer["error"].startswith("not a request that I know")
