"""A class logs in: fifty users within 30 s. What else the benchmark measures of it is in docs/performance.md."""

import figures
import pytest
from contenders import Contender, add_users

pytestmark = pytest.mark.slow("fifty servers at once take what a machine has")


@pytest.fixture(scope="module")
def crowd(machine, hub, site, say):
    """What figures.crowd() has measured, and what went wrong."""
    contender = Contender(site, say)
    contender.machine = machine
    add_users(machine, figures.CROWD)
    measured = figures.crowd(contender)
    say("; ".join(f"{name}: {value:.1f}" for name, value in measured.items()))
    return {**measured, **contender.details}


def test_nobody_sees_an_error_page(crowd):
    assert crowd["errors of fifty users"] == []


def test_everybody_gets_a_server(crowd):
    assert crowd["fifty users, without a server"] == 0


def test_pages_of_the_hub_stay_usable(crowd):
    """Two cores do a minute's work meanwhile."""
    assert crowd["fifty users, login page meanwhile, median"] < 2
    assert crowd["fifty users, login page meanwhile, longest"] < 15


def test_8_gb_are_enough(crowd):
    """Memory cannot be limited where cgroup2 has no controllers: it is counted."""
    assert crowd["fifty users, PSS of all processes"] < 6e9
