"""What `jupyterhub-ctl user show` prints: the hub's word, in which nothing acts on root's terminal."""

from debianized_jupyterhub.ctl import users


def test_words_of_the_hub_do_not_act_on_a_terminal():
    evil = "\x1b[2J\nservers:    may be started"
    hub = {
        "admin": False,
        "last_activity": None,
        "logins": [{"at": evil, "address": evil, "browser": evil}],
        "tokens": [{"id": evil, "note": evil, "created": evil, "used": evil}],
    }
    about = {
        "name": "alice",
        "uid": 1000,
        "rules": [],
        "admitted": False,
        "account": None,
        "hub": hub,
        "servers": [{"name": evil, "since": evil}],
        "elsewhere": [],
    }
    said = list(users._lines(about))
    assert len(said) == 6 and all(line.isprintable() for line in said), said
