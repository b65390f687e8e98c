"""The benchmark, in its short form: every figure is measured on both machines, once. What the figures say is docs/performance.md's part."""

import math

import figures
import pytest
from comparison import compare

pytestmark = pytest.mark.slow  # the peer is installed from the registries as its documentation says: minutes, each week anew

@pytest.fixture(scope="module")
def comparison(site, suite, deb, say):
    wanted = [name for name in figures.FIGURES if name not in figures.SLOW]
    return compare(site, suite[0], deb, wanted, 1, say)


def test_every_figure_is_measured_on_both(comparison):
    assert len(comparison.values) > 15
    for figure, values in comparison.values.items():
        assert set(values) == {"package", "peer"}, figure
        assert all(math.isfinite(value) and value > 0 for measured in values.values() for value in measured), figure


def test_every_process_of_a_user_is_counted(comparison):
    """The peer's is one Python; ours has sudo and the session's service manager beside it."""
    names = {name: {process for process, _ in details["PSS of one idle user"]} for name, details in comparison.details.items()}
    assert {"sudo", "systemd", "(sd-pam)"} <= names["package"]
    assert any(process.startswith(("python", "jupyterhub")) for process in names["peer"])


def test_the_table_shows_them(comparison):
    rows = "\n".join(comparison.table())
    assert all(f"| {figure}" in rows for figure in comparison.values)
