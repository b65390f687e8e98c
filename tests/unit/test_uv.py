"""What uv is told by jupyterhub-ctl environment: ctl/uv.py."""

import pytest

from debianized_jupyterhub.ctl import uv

# In uv's place: says, where the test looks, which settings it was given.
PROGRAM = """#!/bin/sh
echo "file=$UV_CONFIG_FILE none=$UV_NO_CONFIG" >"$0.said"
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program (Path) in uv's place."""
    file = tmp_path / "uv"
    file.write_text(PROGRAM)
    file.chmod(0o755)
    monkeypatch.setattr(uv, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(uv, "program", lambda: str(file))
    monkeypatch.setattr(uv, "CONFIG", tmp_path / "uv.toml")
    monkeypatch.setenv("UV_CONFIG_FILE", "/home/alice/uv.toml")
    return file


@pytest.mark.parametrize("exists, arguments, said", [(False, (), "file= none=1"), (True, (), "file=CONFIG none="), (True, ("--no-config",), "file= none=1")])
def test_settings_are_the_machines_alone(program, tmp_path, exists, arguments, said):
    """Whoever owns the folder of a requirements.txt, or one above it, does not choose the index, or where root installs into."""
    if exists:
        uv.CONFIG.touch()
    uv.run("pip", *arguments, folder=tmp_path)
    assert program.with_name("uv.said").read_text().strip() == said.replace("CONFIG", str(uv.CONFIG))


def test_end_before_it_has_read_is_its_own_to_explain(program, tmp_path):
    program.write_text("#!/bin/sh\necho 'error: no such comparison operator' >&2\nexit 2\n")
    with pytest.raises(uv.UvFailed, match="no such comparison operator"):
        uv.run("pip", given="x" * (1 << 20), folder=tmp_path)
