"""Lengths of time in /etc/default/jupyterhub, and what follows from them."""

import pytest

from debianized_jupyterhub import culling, durations, services
from debianized_jupyterhub.culling import Limits
from debianized_jupyterhub.durations import NEVER


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in (culling.IDLE, culling.GROUPS, culling.AGE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("text, seconds", [("90", 90), ("90s", 90), ("5m", 300), ("8h", 28800), ("2d", 172800), ("", NEVER)])
def test_length_of_time(monkeypatch, text, seconds):
    monkeypatch.setenv("JUPYTERHUB_CULL_IDLE", text)
    monkeypatch.setenv("JUPYTERHUB_CULL_MAX_AGE", text)
    assert culling.limits() == Limits(idle=seconds, age=seconds)


def test_missing_setting_is_off():
    assert not culling.limits()


@pytest.mark.parametrize("text, seconds", [("", 0), ("30m", 1800)])
def test_idle_logins(monkeypatch, text, seconds):
    monkeypatch.setenv("JUPYTERHUB_LOGIN_IDLE", text)
    assert durations.login_idle() == seconds


@pytest.mark.parametrize(
    "setting, text, said",
    [
        ("JUPYTERHUB_CULL_IDLE", "soon", "JUPYTERHUB_CULL_IDLE=soon in /etc/default/jupyterhub is not a valid duration"),
        ("JUPYTERHUB_CULL_IDLE", "0", "not a valid duration"),
        ("JUPYTERHUB_CULL_MAX_AGE", "-5h", "not a valid duration"),
        ("JUPYTERHUB_CULL_MAX_AGE", "٣h", "not a valid duration"),
        ("JUPYTERHUB_CULL_IDLE_GROUPS", "staff=3d guests=soon", "guests=soon is not a valid duration"),
        ("JUPYTERHUB_CULL_IDLE_GROUPS", "staff", "staff is not of the form GROUP=TIME"),
        ("JUPYTERHUB_CULL_IDLE_GROUPS", "=3d", "=3d is not of the form GROUP=TIME"),
    ],
)
def test_what_is_no_length_of_time_is_named(monkeypatch, setting, text, said):
    monkeypatch.setenv(setting, text)
    with pytest.raises(SystemExit, match=said) as error:
        culling.limits()
    assert setting in str(error.value)


def test_longest_time_of_a_users_groups_holds(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_CULL_IDLE", "1h")
    monkeypatch.setenv("JUPYTERHUB_CULL_IDLE_GROUPS", "staff=3d guests=5m a=b=never")
    limits = culling.limits()
    assert limits.idle_in(["users"]) == 3600
    assert limits.idle_in(["users", "guests"]) == 300
    assert limits.idle_in(["guests", "staff"]) == 3 * 86400
    assert limits.idle_in(["guests", "a=b"]) == NEVER
    assert limits.shortest() == 300


@pytest.mark.parametrize("idle, interval", [("", 300), ("8h", 120), ("4m", 60), ("8s", 2), ("1s", 1)])
def test_activity_is_known_well_before_idle_servers_are_looked_for(monkeypatch, idle, interval):
    monkeypatch.setenv("JUPYTERHUB_CULL_IDLE", idle)
    assert culling.activity_interval() == interval


@pytest.mark.parametrize("limit, seconds", [(28800, 300), (20, 10)])
def test_pages_say_it_before(limit, seconds):
    assert culling.notice(limit) == seconds


@pytest.mark.parametrize("token, said", [("short", "32 characters or more"), ("a b" * 20, "without blanks")])
def test_bad_token_for_metrics_is_named(monkeypatch, tmp_path, token, said):
    (tmp_path / "metrics.token").write_text(token)
    monkeypatch.setattr(services, "config_dir", lambda: tmp_path)
    with pytest.raises(SystemExit, match=said) as error:
        services.metrics_token()
    assert str(tmp_path) in str(error.value)
