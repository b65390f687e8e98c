"""setup.py, requirements.txt and the locks of npm/ agree, and debian/select-requirements picks what is asked for."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SETUP = runpy.run_path(str(ROOT / "setup.py"))
EXTRAS = SETUP["EXTRAS"]
NODE_DIRS = sorted(ROOT.glob("npm/node*"))


def select(*arguments, root=ROOT):
    """Run debian/select-requirements below `root` (Path) and return the CompletedProcess."""
    command = [sys.executable, root / "debian/select-requirements", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def names(text):
    """Return the set of names of a requirements file's `text` (str); each must be pinned and hashed."""
    entries = re.split(r"(?m)^(?=[a-z0-9])", text)
    found = set()
    for entry in entries:
        entry = re.sub(r"(?m)^ *#.*\n?", "", entry)
        if not entry.strip():
            continue
        requirement, *hashes = re.split(r"\s*\\\n", entry.strip())
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;*]+( ; .+)?", requirement), entry
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r" *--hash=sha256:[0-9a-f]{64}", line) for line in hashes), entry
        name = Requirement(requirement).name
        assert name not in found, f"{name} is there twice"
        found.add(name)
    return found


def selected(extras):
    """Return the set of names that are selected for `extras` (str), with and without a wheel."""
    return names(select(extras).stdout) | names(select(extras, "--sdists").stdout)


def tree(destination):
    """Copy what select-requirements reads below `destination` (Path) and return that."""
    for name in ("setup.py", "requirements.txt", "debian/select-requirements"):
        copy = destination / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((ROOT / name).read_text())
    return destination


@pytest.mark.parametrize("requirement", SETUP["CORE"] + EXTRAS["full"])
def test_setup_names_one_version(requirement):
    parsed = Requirement(requirement)
    assert requirement == f"{canonicalize_name(parsed.name)}{parsed.specifier}"
    assert re.fullmatch(r"==[^*,]+", str(parsed.specifier))


def test_full_is_everything_and_default_a_part_of_it():
    everything = {requirement for extra in EXTRAS.values() for requirement in extra}
    assert set(EXTRAS["full"]) == everything
    assert set(EXTRAS["default"]) < everything
    listed = {requirement.partition("==")[0] for requirement in everything}
    assert len(listed) == len(everything), "an extra pins another version than the others"


def test_lock_agrees_with_setup():
    done = select("--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_lock_is_hashed_and_says_nothing_about_this_machine():
    lock = (ROOT / "requirements.txt").read_text()
    assert names(lock) > {"jupyterhub", "numpy", "pyspark"}
    assert not re.search(r"://|file:|==\S*\+|^-|sys_platform", lock, re.MULTILINE)


def test_selection():
    none, default, full = selected("none"), selected("default"), selected("full")
    # jupyterhub, and what it wants at one and at two removes
    assert {"jupyterhub", "jupyterlab", "sudospawner", "tornado", "alembic", "mako"} <= none
    assert not none & {"numpy", "pandas", "matplotlib", "scipy", "pyspark"}
    assert default > none | {"numpy", "pandas", "matplotlib", "ipympl", "openpyxl", "fonttools"}
    assert not default & {"scipy", "holoviews", "panel", "bokeh", "pyspark"}
    assert full == names((ROOT / "requirements.txt").read_text())
    assert selected("base, ml") == selected("base") | selected("ml")


def test_pyspark_is_kept_apart_since_it_has_no_wheel():
    assert "pyspark" not in names(select("spark").stdout)
    assert "py4j" in names(select("spark").stdout)
    assert names(select("spark", "--sdists").stdout) == {"pyspark"}
    assert select("none", "--sdists").stdout == ""


@pytest.mark.parametrize("arguments", [["base,kitchen"], [""], ["default,"], ["base,none"], ["--nonsense"], []])
def test_bad_arguments_give_one_line(arguments):
    done = select(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_unknown_extra_is_named_with_the_known_ones():
    stderr = select("base,kitchen").stderr
    assert "'kitchen'" in stderr
    assert all(extra in stderr for extra in EXTRAS)


@pytest.mark.parametrize("arguments", [["--check"], ["none"]])
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("setup.py", "pandas==", "pandas==0."),
        ("setup.py", '"pandas==', '"ponders=='),
        ("requirements.txt", "\npandas==", "\npandas==0."),
    ],
)
def test_disagreement_names_the_package_and_the_remedy(tmp_path, arguments, name, old, new):
    root = tree(tmp_path)
    text = (root / name).read_text()
    assert text.count(old) == 1
    (root / name).write_text(text.replace(old, new))
    done = select(*arguments, root=root)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "./build.sh --update" in done.stderr
    assert ("ponders" if "ponders" in new else "pandas") in done.stderr


def test_missing_lock(tmp_path):
    root = tree(tmp_path)
    (root / "requirements.txt").unlink()
    done = select("none", root=root)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


@pytest.mark.parametrize(
    ("changelog", "version"),
    [
        ("jupyterhub (6.1.1.1) unstable; urgency=medium", "6.1.1.1"),
        ("jupyterhub (6.1.1.1+deb13) trixie; urgency=medium", "6.1.1.1+deb13"),
        ("jupyterhub (6.1.1.2+ubuntu24.04) noble; urgency=medium", "6.1.1.2+ubuntu24.04"),
        ("nonsense", None),
        (None, None),
    ],
)
def test_version_comes_from_the_changelog(tmp_path, changelog, version):
    root = tree(tmp_path)
    if changelog:
        (root / "debian/changelog").write_text(f"{changelog}\n\n  * Text.\n")
    code = "import runpy; print(runpy.run_path('setup.py')['version']())"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    if version:
        assert done.stdout.strip() == version
    else:
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1
        assert "debian/changelog" in done.stderr


def admits(engines, least):
    """Tell whether npm's range `engines` (str) admits Node `least` (tuple of int) and the rest of that major.

    Knows what the locks use: alternatives (||) of ^, >= or a bare *; ValueError for anything else.
    """
    for alternative in engines.split("||"):
        found = re.fullmatch(r"(\^|>=)\s*(\d+(?:\.\d+){0,2})", alternative.strip())
        if alternative.strip() == "*":
            return True
        if not found:
            raise ValueError(f"this test cannot read the engine range {engines!r}")
        bound = tuple(int(part) for part in found[2].split("."))
        if least >= bound and (found[1] == ">=" or least[0] == bound[0]):
            return True
    return False


def test_admits():
    assert admits("^16 || ^18 || >=20", (18,))
    assert not admits("^16 || ^18 || >=20", (19, 1))
    assert not admits(">= 22.12.0", (22, 11))


@pytest.mark.parametrize("folder", NODE_DIRS, ids=lambda folder: folder.name)
def test_npm_lock(folder):
    package = json.loads((folder / "package.json").read_text())
    lock = json.loads((folder / "package-lock.json").read_text())
    node = package["engines"]["node"].removeprefix(">=")
    least = (*(int(part) for part in node.split(".")), 0, 0)[:3]
    assert folder.name == f"node{least[0]}"
    assert package["private"] is True

    entries = lock["packages"]
    assert entries.pop("")["dependencies"] == package["dependencies"]
    [(name, wanted)] = package["dependencies"].items()
    assert name == "configurable-http-proxy"
    assert entries[f"node_modules/{name}"]["version"] == wanted
    for path, entry in entries.items():
        assert entry["integrity"].startswith("sha512-"), path
        assert "resolved" not in entry, path
        assert admits(entry.get("engines", {}).get("node", "*"), least), (path, entry["engines"])


def test_npm_locks_are_there():
    assert [folder.name for folder in NODE_DIRS] == ["node18", "node20", "node22"]


@pytest.fixture
def selector():
    """debian/select-requirements as a module."""
    return runpy.run_path(str(ROOT / "debian/select-requirements"), run_name="select_requirements")


LOCK = """\
app==1.0 \\
    --hash=sha256:aa
    # via setup.py
helper==2.0 ; python_version < '3.13' \\
    --hash=sha256:bb
    # via app
ring-a==1 \\
    --hash=sha256:cc
    # via
    #   helper
    #   ring-b
ring-b==1 \\
    --hash=sha256:dd
    # via ring-a
other==3 \\
    --hash=sha256:ee
    # via elsewhere
"""


@pytest.mark.parametrize(
    "names, needed",
    [(["app"], {"app", "helper", "ring-a", "ring-b"}), (["ring-b"], {"ring-a", "ring-b"}), (["other"], {"other"}), ([], set())],
)
def test_selection_is_closed_under_what_packages_need(selector, names, needed):
    """Also where packages need each other."""
    assert selector["closure"](names, selector["read_lock"](LOCK)) == needed


def test_markers_and_hashes_stay_on_the_lines(selector):
    version, wanted_by, lines = selector["read_lock"](LOCK)["helper"]
    assert (version, wanted_by) == ("2.0", {"app"})
    assert lines == ["helper==2.0 ; python_version < '3.13' \\", "    --hash=sha256:bb"]
