"""What jupyterhub-ctl environment does before and after uv: ctl/environment.py, ctl/environment_build.py, environments.py."""

import stat

import pytest

from debianized_jupyterhub import environments
from debianized_jupyterhub.ctl import environment


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder (Path) of environments."""
    for module in (environments, environment):
        monkeypatch.setattr(module, "ROOT", tmp_path / "environments")
        monkeypatch.setattr(module, "KERNELS", tmp_path / "kernels")
    monkeypatch.setattr(environments, "ENVIRONMENTS", str(tmp_path / "environments"))
    monkeypatch.setattr(environment, "require_root", lambda: None)
    return tmp_path / "environments"


def test_nobody_else_can_hold_the_lock(root):
    with environment._at_work():
        assert stat.S_IMODE((root / ".lock").stat().st_mode) == 0o600
