"""jupyterhub-node: what servers on the nodes of a cluster need, and nothing else; as it is in jupyterhub."""

import os

import pytest

VENV = "/opt/venvs/jupyterhub/"
PROXY = f"{VENV}lib/node_modules"
# As the words of the other package are about these, or since they list what is in the package.
OWN = ("/usr/share/doc/jupyterhub-node", "/usr/share/jupyterhub", "/usr/share/lintian")

PROGRAMS = [
    "/usr/bin/jupyterhub-packages",
    "/usr/libexec/jupyterhub/job-starter",
    "/usr/libexec/jupyterhub/server-tree",
]

# Upper bounds in bytes: it is packed quickly, not small.
SIZES = {"none": 95_000_000, "default": 160_000_000}


def test_it_is_of_the_same_build(node, package):
    fields = ("Version", "Architecture", "Maintainer")
    assert [node.field(name) for name in fields] == [package.field(name) for name in fields]
    assert node.field("Package") == "jupyterhub-node"


def test_one_takes_the_place_of_the_other(node, package):
    for one, other in ((node, package), (package, node)):
        assert one.field("Conflicts") == one.field("Replaces") == other.field("Package")


def test_all_of_the_software_is_there(node, package):
    """The same files, but for the proxy's."""
    expected = {path: entry for path, entry in package.entries.items() if path.startswith(VENV) and not path.startswith(PROXY)}
    assert {path: entry for path, entry in node.entries.items() if path.startswith(VENV)} == expected
    assert len(expected) > 10_000


def test_the_rest_is_little(node, package):
    """The same as in jupyterhub; and no unit, account, rule of sudo's or program of root's among it."""
    rest = {path: entry for path, entry in node.entries.items() if not path.startswith((VENV, *OWN))}
    assert {path: entry for path, entry in rest.items() if package.entries.get(path) != entry} == {}
    files = [path for path, entry in rest.items() if entry.kind == "f" and not path.startswith("/usr/share/")]
    assert sorted(files) == sorted(["/etc/profile.d/jupyterhub.sh", *PROGRAMS])
    assert [path for path in rest if path.startswith("/usr/share/") and not path.startswith(("/usr/share/doc", "/usr/share/man"))] == []


def test_its_settings(node):
    assert node.conffiles == ["/etc/profile.d/jupyterhub.sh"]


def test_it_needs_no_more_than_the_hub(node, package):
    assert set(node.depends) < set(package.depends)
    assert [needed for needed in node.depends if needed.startswith(("nodejs", "sudo", "systemd", "libpam"))] == []


@pytest.mark.parametrize(
    "path", ["/usr/share/doc/jupyterhub/slurm.md", "/usr/share/doc/jupyterhub-node/copyright", "/usr/share/man/man1/jupyterhub-packages.1.gz"]
)
def test_what_its_files_speak_of_is_there(node, path):
    assert node.has(path)


def test_size(node):
    limit = SIZES.get(os.environ.get("EXTRAS") or "default")
    if not limit:
        pytest.skip("no bound for these extras")
    assert node.file.stat().st_size <= limit
