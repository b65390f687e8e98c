"""What all tests share: where the sources are, which .deb is meant."""

import os
import pathlib

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--suite", default=os.environ.get("SUITE", "debian:trixie"), help="distribution:suite to test, as in tools/suites")
    parser.addoption("--sit", action="store_true", help="after a failed test leave its machines up, and say how to enter them")
    parser.addoption("--here", action="store_true", help="take this machine, where the package is installed, for the topics' machine (debian/tests)")
    parser.addoption("--docs-images", action="store_true", help="make the pictures of docs/images anew")
    parser.addoption("--shard", type=shard, default=(1, 1), metavar="K/N", help="only the K-th of N parts of the files, for N machines")
    parser.addoption("--slow", action="store_true", help="also the tests marked slow: proofs that take many minutes")


def shard(text):
    """Return "K/N" as (K, N); raise ValueError, which pytest shows, where it is no such thing."""
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def pytest_collection_modifyitems(config, items):
    part, parts = config.getoption("shard")
    files = sorted({item.path for item in items})
    mine = set(files[part - 1 :: parts])

    def wanted(item):
        marks = list(item.iter_markers("slow"))
        if any(not mark.args for mark in marks) and not hasattr(config, "workerinput"):  # pytest-xdist has no line for a worker's errors
            raise pytest.UsageError(f'{item.nodeid} is marked slow and does not say why: pytest.mark.slow("...")')
        return item.path in mine and (config.getoption("slow") or not marks)

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]


@pytest.fixture(scope="session")
def suite(pytestconfig):
    """The row of tools/suites under test, as (suite, suffix of the version)."""
    wanted = pytestconfig.getoption("suite")
    for line in (TOP / "tools/suites").read_text().splitlines():
        fields = line.split("#")[0].split()
        if fields and fields[0] == wanted:
            return wanted, fields[1]
    raise pytest.UsageError(f"--suite {wanted}: no such row in tools/suites")


@pytest.fixture(scope="session")
def deb(suite):
    """The newest .deb in dist/ that was built for the suite."""
    name, suffix = suite
    found = sorted((TOP / "dist").glob(f"jupyterhub_*{suffix}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise pytest.UsageError(f"no jupyterhub_*{suffix}_*.deb in dist/: run ./build.sh {name}")
    return found[-1]


@pytest.fixture(scope="session")
def node_deb(deb):
    """The package for the nodes of a cluster, of the same build."""
    return deb.with_name(deb.name.replace("jupyterhub_", "jupyterhub-node_"))
