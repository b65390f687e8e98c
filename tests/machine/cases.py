"""Parameters of tests: which are tried each time, and which with --slow alone."""

import pytest


def further(cases, often, why):
    """Return the list of `cases` for parametrize(), those that are not among `often` marked slow, since `why`."""
    return [case if case in often else pytest.param(case, marks=pytest.mark.slow(why)) for case in cases]
