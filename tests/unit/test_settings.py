"""defaults.py: what /etc/default/jupyterhub says about pages and administrators, and the order of jupyterhub_config.d."""

import collections
import types

import pytest

from debianized_jupyterhub import defaults


@pytest.fixture
def applied(monkeypatch, tmp_path):
    """A function: returns the configuration that `apply` makes with these settings; any section and name may be set, as in traitlets' Config."""
    monkeypatch.setenv("JUPYTERHUB_CONFDIR", str(tmp_path))

    class Config(collections.defaultdict):
        __getattr__ = collections.defaultdict.__getitem__

    def apply(**settings):
        for name in ("BIND_URL", "ANNOUNCEMENT", "LOGIN_HINT", "ADMIN_USERS", "ADMIN_GROUPS"):
            monkeypatch.delenv(f"JUPYTERHUB_{name}", raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(f"JUPYTERHUB_{name}", value)
        c = Config(types.SimpleNamespace)
        defaults.apply(c)
        return c

    return apply


@pytest.mark.parametrize(
    ("text", "names"),
    [("alice", {"alice"}), (" alice,bob  carol,\tdave ", {"alice", "bob", "carol", "dave"}), ("a.b@example.org host$", {"a.b@example.org", "host$"})],
)
def test_administrators_are_separated_by_spaces_or_commas(applied, text, names):
    c = applied(ADMIN_USERS=text, ADMIN_GROUPS=text)
    assert c.Authenticator.admin_users == c.PAMAuthenticator.admin_groups == names


@pytest.mark.parametrize("text", ["", "  ", " , "])
def test_empty_settings_leave_jupyterhubs_own(applied, text):
    c = applied(ADMIN_USERS=text, ADMIN_GROUPS=text)
    assert not hasattr(c.Authenticator, "admin_users") and not hasattr(c.PAMAuthenticator, "admin_groups")


@pytest.mark.parametrize("name", ["%admins", "a:b", "alice;bob", "al*ce", "'alice'", "alice$x"])
@pytest.mark.parametrize("setting", ["ADMIN_USERS", "ADMIN_GROUPS"])
def test_name_that_nobody_can_have_is_named(applied, setting, name):
    with pytest.raises(SystemExit) as end:
        applied(**{setting: f"alice {name}"})
    assert f"JUPYTERHUB_{setting} in /etc/default/jupyterhub: {name} is not a valid name of" in end.value.code


def test_setting_in_another_encoding_is_named(applied):
    with pytest.raises(SystemExit, match="JUPYTERHUB_LOGIN_HINT in /etc/default/jupyterhub is not in UTF-8"):
        applied(LOGIN_HINT=b"Gr\xfc\xdfe".decode(errors="surrogateescape"))


def test_announcement_is_text_and_not_html(applied):
    assert applied(ANNOUNCEMENT="<b>5 & 6</b>").JupyterHub.template_vars == {"announcement": "&lt;b&gt;5 &amp; 6&lt;/b&gt;"}


def test_hub_is_not_open_to_the_network_unless_asked(applied):
    assert applied().JupyterHub.bind_url == "http://127.0.0.1:8000/"
    assert applied(BIND_URL="http://:8000/x").JupyterHub.bind_url == "http://:8000/x"


def test_servers_get_nothing_of_the_hubs_environment(applied):
    assert applied().Spawner.env_keep == []


def test_site_s_files_are_loaded_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTERHUB_CONFDIR", str(tmp_path))
    (tmp_path / "jupyterhub_config.d").mkdir()
    for name in ("20-b.py", "README", "10-a.py", "30-c.py.dpkg-old"):
        (tmp_path / "jupyterhub_config.d" / name).touch()
    loaded = []
    defaults.load_config_d(loaded.append)
    assert loaded == [f"{tmp_path}/jupyterhub_config.d/{name}" for name in ("10-a.py", "20-b.py")]
