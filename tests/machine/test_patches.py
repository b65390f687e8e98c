"""debian/venv-patches: each still keeps what it changes working, and still matters.

That they apply is seen at every build, which fails where one does not.
"""

import pathlib
import subprocess

import pytest

PATCHES = pathlib.Path(__file__).parents[2] / "debian/venv-patches"
PYTHON = "/opt/venvs/jupyterhub/bin/python"
SITE = "/opt/venvs/jupyterhub/lib/python3.*/site-packages"

COUNT_PARSERS = """
import lark
made = []
init = lark.Lark.__init__
lark.Lark.__init__ = lambda self, *a, **k: (made.append(a), init(self, *a, **k))[1]
import rfc3987_syntax
print(len(made))
"""


@pytest.fixture(scope="module")
def upstream(machine, tmp_path_factory):
    """A folder inside with rfc3987_syntax as upstream has it: the patch taken back."""
    folder = tmp_path_factory.mktemp("upstream") / "rfc3987_syntax"
    folder.mkdir()
    for name in machine.sh(f"cd {SITE}/rfc3987_syntax; find . -type f ! -name '*.pyc'").splitlines():
        (folder / name).write_text(machine.run("sh", "-c", f"cat {SITE}/rfc3987_syntax/{name}").stdout)
    patch = ["patch", "--quiet", "--reverse", "--strip=1", f"--directory={folder.parent}", f"--input={PATCHES / 'rfc3987-syntax-lazy.patch'}"]
    subprocess.run(patch, check=True)
    for path in folder.iterdir():
        machine.write(f"/opt/upstream/rfc3987_syntax/{path.name}", path.read_text())
    return "/opt/upstream"


def test_rfc3987_patch_still_matters(machine, upstream):
    """Upstream's own code builds parsers at import: if it does no longer, drop the patch."""
    code = f"import sys; sys.path.insert(0, {upstream!r}){COUNT_PARSERS}"
    assert int(machine.run(PYTHON, "-c", code).stdout) > 0


def test_rfc3987_builds_no_parser_at_import(machine):
    assert machine.run(PYTHON, "-c", COUNT_PARSERS).stdout.strip() == "0"


@pytest.mark.parametrize("iri, valid", [("http://example.org/ü?x=1#y", True), ("urn:isbn:0451450523", True), ("not an iri", False)])
def test_rfc3987_still_checks(machine, iri, valid):
    code = "import sys, rfc3987_syntax as r; print(r.is_valid_syntax('iri', sys.argv[1]), r.is_valid_syntax_iri(sys.argv[1]))"
    assert machine.run(PYTHON, "-c", code, iri).stdout.split() == [str(valid)] * 2


def test_rfc3987_is_what_jsonschema_uses(machine):
    code = "import jsonschema; print(jsonschema.FormatChecker().conforms('not an iri', 'iri'))"
    assert machine.run(PYTHON, "-c", code).stdout.strip() == "False"
