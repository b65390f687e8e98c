"""Lengths of time in /etc/default/jupyterhub, and what follows from them."""

import pytest

from debianized_jupyterhub import services


@pytest.mark.parametrize("text, seconds", [("90", 90), ("90s", 90), ("5m", 300), ("8h", 28800), ("2d", 172800), ("", 0), ("0", 0)])
def test_length_of_time(monkeypatch, text, seconds):
    monkeypatch.setenv("JUPYTERHUB_CULL_IDLE", text)
    assert services.duration("JUPYTERHUB_CULL_IDLE") == services.cull_after() == seconds


def test_missing_setting_is_off(monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_CULL_IDLE", raising=False)
    assert services.cull_after() == 0


@pytest.mark.parametrize("idle, interval", [("", 300), ("8h", 300), ("8m", 120), ("8s", 2), ("1s", 1)])
def test_activity_is_known_well_before_idle_servers_are_looked_for(monkeypatch, idle, interval):
    monkeypatch.setenv("JUPYTERHUB_CULL_IDLE", idle)
    assert services.activity_interval() == interval


@pytest.mark.parametrize("idle, culls", [("", False), ("8h", True)])
def test_hub_culls_where_it_is_asked_to(monkeypatch, tmp_path, idle, culls):
    monkeypatch.setenv("JUPYTERHUB_CULL_IDLE", idle)
    monkeypatch.setattr(services, "config_dir", lambda: tmp_path)
    assert (services.CULL in services.wanted()) is culls


@pytest.mark.parametrize("token, said", [("short", "32 characters or more"), ("a b" * 20, "without blanks")])
def test_bad_token_for_metrics_is_named(monkeypatch, tmp_path, token, said):
    (tmp_path / "metrics.token").write_text(token)
    monkeypatch.setattr(services, "config_dir", lambda: tmp_path)
    with pytest.raises(SystemExit, match=said) as error:
        services.metrics_token()
    assert str(tmp_path) in str(error.value)
