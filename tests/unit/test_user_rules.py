"""Rules of `jupyterhub-ctl user`: what is written is read again, and no name can be more than a name; which lines of limits.conf(5) mean an account."""

import pwd

import pytest

from debianized_jupyterhub.ctl import sudoers, user_limits
from debianized_jupyterhub.ctl.common import Failure

NAMES = ["alice", "ALL", "A_B", "1234", r"DOM\user", "u@d", "a b", "müller", "a,b=c(d)!#\"'", "a\\x41", "-", "x" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_name_is_read_as_it_was_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sudoers, "FILE", tmp_path / "rules")
    rules = {sudoers.ALLOW: ["one", name], sudoers.DENY: [name], sudoers.LOCK: ["two", name]}
    sudoers.FILE.write_text(sudoers._text(rules))
    assert sudoers.read() == {kind: sorted(names) for kind, names in rules.items()}
    assert all(set(line) <= set(map(chr, range(32, 127))) for line in sudoers._text(rules).splitlines())


def test_lock_is_last():
    text = sudoers._text({sudoers.ALLOW: ["a"], sudoers.DENY: ["a"], sudoers.LOCK: ["a"]})
    assert [line[2:] for line in text.splitlines() if line in ("# allow", "# deny", "# lock")] == ["allow", "deny", "lock"]


@pytest.mark.parametrize("name", ["%g", "%#1", "+n", "#1", "!a", "-x", "", " ", " alice", "alice ", "a\n", "a:b", "a/b", "\x1b[31m", "n" * 256])
def test_what_is_no_name(name):
    with pytest.raises(Failure):
        sudoers.require_name(name)


@pytest.mark.parametrize("line", ["root ALL=(ALL) ALL", 'jupyterhub ALL = (a) NOPASSWD: ALL ""', "@include /etc/x", "\xff"])
def test_lines_of_others(line, tmp_path, monkeypatch):
    monkeypatch.setattr(sudoers, "FILE", tmp_path / "rules")
    sudoers.FILE.write_text(f"# allow\n{line}\n", encoding="latin-1")
    with pytest.raises(Failure, match=":2 is not by jupyterhub-ctl"):
        sudoers.read()


@pytest.mark.parametrize(
    "domain, meant",
    [("*", True), ("alice", True), ("bob", False), ("1000:1010", True), ("1001:", False), (":1000", True), (":1001", False), ("@100:", True), ("@:100", True)],
)
def test_domain_of_limits(domain, meant):
    account = pwd.struct_passwd(("alice", "x", 1000, 100, "", "/home/alice", "/bin/sh"))
    assert user_limits._is_for(domain, account, {100}) == meant
