"""Why a start of the hub failed: one line, with file and line where a setting is to blame, as the last one in the journal and for `systemctl status`."""

import json
import subprocess
import sys

from . import journal, state
from .paths import DEFAULTS
from .settings_check import Problem

PATIENCE = 20  # seconds for the configuration, which may run anything


def explain(arguments: list[str], said: str, logged: str) -> None:
    """Tell journal and systemd why a hub with the command line `arguments` (without its name) has ended.

    `said` is what it ended with, `logged` the last error that it logged; "" where there is none.
    """
    line = public = said
    if state.now().name == state.STARTING:
        placed = f" in {DEFAULTS}" in said
        if not placed and (found := next((problem for problem in _problems(arguments) if problem.fatal), None)):
            line, public = (f"{text}: {found.mend} (`jupyterhub-ctl check-config` shows all that is wrong)" for text in (str(found), found.in_public()))
        line = line or logged
        state.fail("The hub does not start.", public or line)
    if line:
        print(journal.error(f"jupyterhub: {line}"), file=sys.stderr, flush=True)


def _problems(arguments: list[str]) -> list[Problem]:
    """Return what is wrong with the configuration (list of Problem), by a process of its own: it may end that."""
    command = [sys.executable, "-P", "-m", "debianized_jupyterhub.settings_check", *arguments]
    try:
        done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
        return [Problem(**problem) for problem in json.loads(done.stdout)["problems"]]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return []
