"""The bill of materials: it names what is in the tree, all of it, and nothing else."""

import csv
import gzip
import json
import os.path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

VENV = "/opt/venvs/jupyterhub"
SBOM = "/usr/share/jupyterhub/sbom.cdx.json"


@pytest.fixture(params=["package", pytest.param("node", marks=pytest.mark.slow("debian/sbom writes both, the node's about fewer files"))])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def sbom(either):
    return json.loads(either.head[SBOM])


@pytest.fixture
def places(sbom):
    """Where components lie: path to purl."""
    return {place["location"]: component["purl"] for component in sbom["components"] for place in component["evidence"]["occurrences"]}


@pytest.fixture
def site(either):
    return f"{VENV}/lib/{either.python}/site-packages"


def test_it_is_cyclonedx(either):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(either.head[SBOM].decode()) is None


def test_it_lies_beside_the_package(package):
    beside = package.file.with_name(f"jupyterhub_{package.field('Version')}_{package.field('Architecture')}.cdx.json")
    assert beside.read_bytes() == package.head[SBOM]


def test_it_is_about_this_package(either, sbom):
    component = sbom["metadata"]["component"]
    assert (component["name"], component["version"]) == (either.field("Package"), either.field("Version"))


def test_what_it_lists_is_there(either, places):
    assert [place for place in places if not either.has(place)] == []


def test_each_python_distribution_is_listed(either, places, site):
    found = {os.path.dirname(path) for path in either.entries if path.startswith(site) and path.endswith(".dist-info/METADATA")}
    listed = {place for place in places if place.endswith(".dist-info")}
    assert found == listed
    assert len(found) > 100


def test_each_npm_package_is_listed(either, sbom, places):
    found = set()
    for path in either.head:
        if path.endswith("/package.json"):
            content = json.loads(either.head[path])
            if content.get("name") and content.get("version"):
                found.add((path, f"{content['name']}@{content['version']}"))
    names = {component["purl"]: f"{component['name']}@{component['version']}" for component in sbom["components"]}
    assert found == {(place, names[purl]) for place, purl in places.items() if place.endswith("/package.json")}
    assert len(found) > 10


def test_what_pages_are_packed_of_is_listed(either, sbom):
    packed = {path: json.loads(text)["packages"] for path, text in either.head.items() if path.endswith("/third-party-licenses.json")}
    found = {(path, part["name"], part["versionInfo"]) for path, parts in packed.items() for part in parts}
    listed = {
        (place["location"], component["name"], component["version"])
        for component in sbom["components"]
        for place in component["evidence"]["occurrences"]
        if place["location"].endswith("/third-party-licenses.json")
    }
    assert found == listed
    assert len(found) > 200


def above(path):
    """Yield the folders that a path is in."""
    while path := path.rpartition("/")[0]:
        yield path


def test_every_file_belongs_to_a_component(either, places):
    """A file that no component claims would be software that the list does not know."""
    claimed = set()
    for path, text in either.head.items():
        if path.endswith(".dist-info/RECORD"):
            folder = os.path.dirname(path)
            assert folder in places
            claimed |= {os.path.normpath(f"{os.path.dirname(folder)}/{row[0]}") for row in csv.reader(text.decode().splitlines())}
    folders = {os.path.dirname(place) for place in places if place.startswith(f"{VENV}/lib/node_modules/")}
    # What `python -m venv` makes is Debian's; npm keeps a list of its own.
    claimed |= {
        f"{VENV}/pyvenv.cfg",
        f"{VENV}/lib/node_modules/.package-lock.json",
        *(f"{VENV}/bin/{name}" for name in ("activate", "activate.csh", "activate.fish", "Activate.ps1")),
    }
    unclaimed = [
        path
        for path, entry in either.entries.items()
        if path.startswith(f"{VENV}/") and entry.kind == "f" and path not in claimed and not path.endswith(".pyc") and not folders & set(above(path))
    ]
    assert unclaimed == []


def test_the_list_for_people_is_as_complete(either, sbom):
    lines = gzip.decompress(either.head[f"/usr/share/doc/{either.field('Package')}/components.txt.gz"]).decode().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    assert [(row[0], row[1]) for row in rows] == [(component["name"], component["version"]) for component in sbom["components"]]
    assert all(row[2] for row in rows)
