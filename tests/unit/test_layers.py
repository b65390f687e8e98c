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


@pytest.fixture
def layer(bundle):
    """A layer (Layer) that has been made."""
    layer = layers.Layer(layers.bundle())
    layer.prepare()
    return layer


def says(layer, code):
    return subprocess.run([layer.folder / "bin/python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_layer_sees_the_bundle_and_its_own_first(layer):
    assert says(layer, "import bundled; print(bundled.value)") == "bundled"
    (layer.site / "bundled.py").write_text("value = 'mine'\n")
    assert says(layer, "import bundled; print(bundled.value)") == "mine"
    assert says(layer, "import sys; print(sys.prefix)") == str(layer.folder)


def test_layer_takes_the_tree_that_the_server_has(layer, tmp_path, monkeypatch):
    (tmp_path / "tree").rename(tmp_path / "newer")
    monkeypatch.setenv("JUPYTERHUB_SERVER_PATH", str(tmp_path / "newer/bin"))
    assert says(layer, "import bundled; print(bundled.__file__)").startswith(str(tmp_path / "newer"))


@pytest.mark.parametrize("name", ["pyvenv.cfg", "bashrc", f"{layers.SITE}/{layers.MINE}.py", f"{layers.SITE}/{layers.MINE}.pth", "bin/python", "bin/pip"])
def test_missing_parts_are_made_anew(layer, name):
    assert {*layer.files(), *layer.links(), "bin/pip"} >= {name}
    (layer.folder / name).unlink()
    layer.prepare()
    assert (layer.folder / name).exists()


def test_users_own_pip_stays(layer):
    (layer.folder / "bin/pip").write_text("of the user's")
    (layer.folder / "pyvenv.cfg").unlink()
    layer.prepare()
    assert (layer.folder / "bin/pip").read_text() == "of the user's"


def test_folder_that_others_can_write_to_is_refused(layer):
    layer.folder.chmod(0o777)
    with pytest.raises(layers.LayerError, match="others can write to"):
        layer.prepare()


def test_folder_that_cannot_be_made_is_named(bundle):
    layer = layers.Layer(layers.bundle())
    layer.home.parent.mkdir(parents=True)
    layer.home.write_text("a file")
    with pytest.raises(layers.LayerError, match=f"the folder {layer.folder} for them cannot be made"):
        layer.prepare()


@pytest.mark.parametrize("setting, allowed", [("false", False), (" FALSE ", False), ("true", True), ("", True)])
def test_switch(bundle, monkeypatch, setting, allowed):
    monkeypatch.setenv(layers.SWITCH, setting)
    assert layers.allowed() == allowed
    if not allowed:
        with pytest.raises(layers.LayerError, match="switched off"):
            layers.Layer(layers.bundle()).prepare()


@pytest.mark.parametrize(
    "name, suspect", [("bundled.py", True), ("new.py", False), ("strange.pth", True), ("sitecustomize.py", True), ("jupyterhub_bundle.py", False)]
)
def test_what_can_break_a_kernel_is_seen(layer, name, suspect):
    (layer.site / name).write_text("")
    assert layer.suspects() == ([name] if suspect else [])
    assert layer.has_packages() == (name != "jupyterhub_bundle.py")


def test_packages_are_named_with_their_versions(layer):
    info = layer.site / "Bundled-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Bundled\nVersion: 1.0\n")
    (info / "RECORD").write_text("bundled.py,,\n")
    assert layer.versions(["bundled.py", "odd.pth"]) == ["Bundled 1.0", "odd.pth"]


def test_proof_lasts_until_packages_change(layer):
    assert not layer.is_known_good()
    layer.remember_good()
    assert layer.is_known_good()
    os.utime(layer.site, ns=(0, 0))
    assert not layer.is_known_good()


def test_programs_of_the_layer_come_first(layer):
    assert layer.variables({"PATH": "/usr/bin"})["PATH"] == f"{layer.folder}/bin:/usr/bin"


@pytest.fixture
def revision(bundle, tmp_path, monkeypatch):
    """The folder (Path) of revision 2 of the environment `work`, which is the current one; each has a module that says its number."""
    monkeypatch.setattr(layers, "ENVIRONMENTS", str(tmp_path / "environments"))
    for number in 1, 2:
        folder = tmp_path / f"environments/work/{number}"
        (folder / layers.SITE / "below").mkdir(parents=True)
        (folder / layers.SITE / "number.py").write_text(f"value = {number}\n")
        (folder / layers.SITE / "more.pth").write_text("below\n")
        (folder / layers.SITE / "below/of_pth.py").write_text("")
        (folder / "bin").mkdir()
        (folder / "bin/python").symlink_to(os.path.realpath(sys.executable))
        (folder / "pyvenv.cfg").write_text(f"version_info = {'.'.join(map(str, sys.version_info[:3]))}\n")
    (tmp_path / "environments/work/current").symlink_to("2")
    return folder


def test_layer_over_an_environment(revision):
    """It sees that and nothing of the bundle, with what its .pth files name; a kernel's own revision, else the current one."""
    layer = layers.Layer(layers.environment(str(revision)))
    layer.prepare()
    assert layer.folder != layers.Layer(layers.bundle()).folder
    assert says(layer, "import number, of_pth; print(number.value)") == "2"
    with pytest.raises(subprocess.CalledProcessError):
        says(layer, "import bundled")
    (layer.site / "number.py").write_text("value = 'mine'\n")
    assert says(layer, "import number; print(number.value)") == "mine" and layer.suspects() == ["number.py"]


@pytest.mark.parametrize("named, value", [("work/1", "1"), ("work/3", "2"), ("other/1", "2"), ("", "2")])
def test_layer_takes_the_revision_of_the_kernel(revision, monkeypatch, named, value):
    layer = layers.Layer(layers.environment(str(revision)))
    layer.prepare()
    monkeypatch.setenv("JUPYTERHUB_ENVIRONMENT", str(revision.parents[1] / named))
    assert says(layer, "import number; print(number.value)") == value


@pytest.mark.parametrize("folder", ["/usr", "/opt/venvs/jupyterhub", ""])
def test_other_folders_are_no_environments(revision, folder):
    assert layers.environment(folder) is None
