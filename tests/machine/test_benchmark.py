"""The benchmark, in its short form: every figure is measured once. What the figures say is docs/performance.md's part.

The package alone by default. With the peer, which is installed from the registries as its documentation says, it takes many minutes.
"""

import math

import figures
import pytest
from comparison import compare
from contenders import Package, Peer

pytestmark = pytest.mark.slow("it measures, for minutes; no figure is a test")


@pytest.fixture(scope="module", params=[pytest.param([Package], id="package"), pytest.param([Package, Peer], id="both")])
def contenders(request, site, suite, deb, say):
    return [contender(site, suite[0], deb, say) for contender in request.param]


@pytest.fixture(scope="module")
def comparison(contenders, say):
    wanted = {*figures.FIGURES, "install"} - {"crowd"}  # test_many_users has the crowd
    return compare(contenders, dict.fromkeys(sorted(wanted), 1), say)


def test_every_figure_is_measured(comparison, contenders):
    assert len(comparison.values) > 15
    for figure, values in comparison.values.items():
        assert list(values) == [contender.name for contender in contenders], figure
        assert all(math.isfinite(value) and value > 0 for measured in values.values() for value in measured), figure


def test_every_process_of_a_user_is_counted(comparison):
    """The peer's is one Python; ours has sudo and the session's service manager beside it."""
    names = {name: {process for process, _ in details["PSS of one idle user"]} for name, details in comparison.details.items()}
    assert {"sudo", "systemd", "(sd-pam)"} <= names["package"]
    assert all(any(process.startswith(("python", "jupyterhub")) for process in processes) for processes in names.values())


def test_the_table_shows_them(comparison, contenders):
    header, _, *rows = comparison.table()
    assert ("ratio" in header) == (len(contenders) == 2)
    assert [row.split(" | ")[0].removeprefix("| ").removesuffix(" (more is better)") for row in rows] == list(comparison.values)
