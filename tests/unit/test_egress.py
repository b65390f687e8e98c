"""egress.py: what the settings of /etc/default/jupyterhub mean, and the rules that follow."""

import grp
import pwd

import pytest

from debianized_jupyterhub import egress


@pytest.fixture
def accounts(monkeypatch):
    """alice (1000), and ada (1001), a member of staff; otto (1002), whose first group staff is."""
    ids = {"root": (0, 0), "alice": (1000, 1000), "ada": (1001, 1001), "otto": (1002, 50)}
    people = {name: pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh")) for name, (uid, gid) in ids.items()}
    by_uid = {account.pw_uid: account for account in people.values()}
    groups = {"staff": grp.struct_group(("staff", "x", 50, ["ada", "somebody-who-left"]))}
    monkeypatch.setattr(egress.pwd, "getpwnam", people.__getitem__)
    monkeypatch.setattr(egress.pwd, "getpwuid", by_uid.__getitem__)
    monkeypatch.setattr(egress.grp, "getgrnam", groups.__getitem__)
    return people


def settings(**values):
    return egress.settings({f"JUPYTERHUB_EGRESS_{name}": value for name, value in values.items()})


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("10.1.2.3", "ip daddr 10.1.2.3/32 accept"),
        ("10.1.2.3:443", "ip daddr 10.1.2.3/32 meta l4proto { tcp, udp } th dport 443-443 accept"),
        ("10.0.0.0/8:8000-8010", "ip daddr 10.0.0.0/8 meta l4proto { tcp, udp } th dport 8000-8010 accept"),
        ("2001:db8::/32", "ip6 daddr 2001:db8::/32 accept"),
        ("[2001:db8::1]:443", "ip6 daddr 2001:db8::1/128 meta l4proto { tcp, udp } th dport 443-443 accept"),
        ("[2001:db8::1]", "ip6 daddr 2001:db8::1/128 accept"),
    ],
)
def test_exceptions(word, rule):
    assert egress.target(word).rule == rule


WRONG = [
    ("ALLOW", "example.org:443", "is not a valid address"),
    ("ALLOW", "10.1.2.3:", "is not a valid address"),
    ("ALLOW", "10.1.2.3/8", "is not a valid address"),
    ("ALLOW", "[2001:db8::1]443", "is not a valid address"),
    ("ALLOW", "10.1.2.3:70000", "has no valid port"),
    ("ALLOW", "10.1.2.3:0", "has no valid port"),
    ("ALLOW", "10.1.2.3:9-1", "has no valid port"),
    ("ALLOW", '10.1.2.3"; flush ruleset', "is not a valid address"),
    ("TEST", "10.1.2.3", "is not one address with its port"),
    ("TEST", "10.0.0.0/8:443", "is not one address with its port"),
    ("CLOSED_FOR", "users", "is not a valid range of uids"),
    ("CLOSED_FOR", "1000-", "is not a valid range of uids"),
    ("CLOSED_FOR", "2000-1000", "is not a valid range of uids"),
    ("CLOSED_FOR", "1000-4294967295", "is not a valid range of uids"),
    ("CLOSED_FOR", "0-59999", "has the uid of root (0), which needs the network: begin at 1000"),
]


@pytest.mark.parametrize(("name", "word", "words"), WRONG)
def test_wrong_settings_are_named(accounts, name, word, words):
    with pytest.raises(egress.Refused) as refused:
        settings(**{name: f"{word}"})
    assert f"JUPYTERHUB_EGRESS_{name} in /etc/default/jupyterhub" in str(refused.value) and words in str(refused.value)


def test_who_is_exempt(accounts):
    free = egress.exempt(["staff", "ghosts"])
    assert free == ({1001}, {50}, ["ghosts"])
    wanted = settings(CLOSED_FOR="1000-1999")
    assert [name for name, account in accounts.items() if egress.is_closed(account, wanted, free)] == ["alice"]


def test_containers_count_as_their_owners(accounts, monkeypatch, tmp_path):
    """Also of an owner whom no directory knows now; not those of exempt accounts and of root."""
    lines = ["alice:100000:65536", "ada:165536:65536", "root:1000000:10", "1000:300000:10", "ghost:400000:10", "nonsense", "alice::", "alice:1:0"]
    (tmp_path / "subuid").write_text("\n".join(lines))
    monkeypatch.setattr(egress, "SUBUIDS", tmp_path / "subuid")
    found = egress.subuids(settings(CLOSED_FOR="1000-1999"), egress.exempt(["staff"]))
    assert found == [(100000, 165535), (300000, 300009), (400000, 400009)]


def test_ranges_are_merged():
    """nftables refuses those that overlap."""
    assert egress.merged([(5, 9), (1, 4), (8, 8), (20, 30), (11, 12)]) == [(1, 9), (11, 12), (20, 30)]


def test_comment_tells_rules_apart(accounts):
    """Also in what nft lists."""
    free = egress.exempt([])
    one, other = (egress.rules(settings(CLOSED_FOR="1000", ALLOW=allowed), free) for allowed in ("", "10.0.0.1"))
    assert egress.comment_of(one) != egress.comment_of(other) and len(egress.comment_of(one)) > 64
    assert egress.comment_of("table inet jupyterhub_egress {\n}\n") == ""
