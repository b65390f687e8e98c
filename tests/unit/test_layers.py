"""Layers of users' own packages: made at once and made whole, refused where they are not the user's, and what in them can break a kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from debianized_jupyterhub import layers


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """The site-packages (Path) of a tree, with one module; the user's data are below it, too."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTERHUB_SERVER_PATH", str(tmp_path / "tree/bin"))
    monkeypatch.delenv(layers.SWITCH, raising=False)
    site = tmp_path / "tree" / layers.SITE
    site.mkdir(parents=True)
    (site / "bundled.py").write_text("value = 'bundled'\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "tree"))
    return site


def says(layer, code):
    return subprocess.run([layer / "bin/python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_layer_sees_the_bundle_and_its_own_first(bundle):
    layer = layers.prepare()
    assert says(layer, "import bundled; print(bundled.value)") == "bundled"
    (layer / layers.SITE / "bundled.py").write_text("value = 'mine'\n")
    assert says(layer, "import bundled; print(bundled.value)") == "mine"
    assert says(layer, "import sys; print(sys.prefix)") == str(layer)


def test_layer_takes_the_tree_that_the_server_has(bundle, tmp_path, monkeypatch):
    layer = layers.prepare()
    (tmp_path / "tree").rename(tmp_path / "newer")
    monkeypatch.setenv("JUPYTERHUB_SERVER_PATH", str(tmp_path / "newer/bin"))
    assert says(layer, "import bundled; print(bundled.__file__)").startswith(str(tmp_path / "newer"))


@pytest.mark.parametrize("name", [*layers.files(), *layers.links(), "bin/pip"])
def test_missing_parts_are_made_anew(bundle, name):
    layer = layers.prepare()
    (layer / name).unlink()
    layers.prepare()
    assert (layer / name).exists()


def test_users_own_pip_stays(bundle):
    layer = layers.prepare()
    (layer / "bin/pip").write_text("of the user's")
    (layer / "pyvenv.cfg").unlink()
    layers.prepare()
    assert (layer / "bin/pip").read_text() == "of the user's"


def test_folder_that_others_can_write_to_is_refused(bundle):
    layers.prepare().chmod(0o777)
    with pytest.raises(layers.LayerError, match="others can write to"):
        layers.prepare()


def test_folder_that_cannot_be_made_is_named(bundle):
    layers.home().parent.mkdir(parents=True)
    layers.home().write_text("a file")
    with pytest.raises(layers.LayerError, match=f"the folder {layers.folder()} for them cannot be made"):
        layers.prepare()


@pytest.mark.parametrize("setting, allowed", [("false", False), (" FALSE ", False), ("true", True), ("", True)])
def test_switch(bundle, monkeypatch, setting, allowed):
    monkeypatch.setenv(layers.SWITCH, setting)
    assert layers.allowed() == allowed
    if not allowed:
        with pytest.raises(layers.LayerError, match="switched off"):
            layers.prepare()


@pytest.mark.parametrize(
    "name, suspect", [("bundled.py", True), ("new.py", False), ("strange.pth", True), ("sitecustomize.py", True), ("jupyterhub_bundle.py", False)]
)
def test_what_can_break_a_kernel_is_seen(bundle, name, suspect):
    layer = layers.prepare()
    (layer / layers.SITE / name).write_text("")
    assert layers.suspects(layer) == ([name] if suspect else [])


def test_packages_are_named_with_their_versions(bundle):
    layer = layers.prepare()
    info = layer / layers.SITE / "Bundled-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Bundled\nVersion: 1.0\n")
    (info / "RECORD").write_text("bundled.py,,\n")
    assert layers.versions(layer, ["bundled.py", "odd.pth"]) == ["Bundled 1.0", "odd.pth"]


def test_proof_lasts_until_packages_change(bundle):
    layer = layers.prepare()
    assert not layers.is_known_good(layer)
    layers.remember_good(layer)
    assert layers.is_known_good(layer)
    os.utime(layer / layers.SITE, ns=(0, 0))
    assert not layers.is_known_good(layer)


def test_programs_of_the_layer_come_first(bundle):
    layer = layers.prepare()
    assert layers.variables(layer, {"PATH": "/usr/bin"})["PATH"] == f"{layer}/bin:/usr/bin"
