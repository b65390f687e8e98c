"""Programs that jupyterhub-ctl runs, some as other accounts: ctl/command.py."""

import sys

from debianized_jupyterhub.ctl.command import output


def test_programs_have_no_terminal():
    """Who can trace a process of its account could have it type into root's shell."""
    assert output(sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())") == (0, "True")
