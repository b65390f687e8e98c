"""jupyterhub-ctl verify: what is wrong with this machine's JupyterHub, and how to fix it.

check.py says what a check is; the checks are in modules by subject.
"""

import contextlib
import importlib
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import click

from ..common import CheckError, CheckFailed, require_root, show
from .check import END, Check, Result

SUBJECTS = ("rights", "services", "people", "software", "data", "public", "network", "slurm", "machine")  # the modules with checks, in the order of the output
COLUMNS = {"status": "status", "name": "check", "what": "what", "why": "what follows", "mend": "how to fix it"}


def results(names: Iterable[str] = ()) -> Iterator[Result]:
    """Yield what the checks called `names` (list of str; none for all) and those that they need find (check.Result).

    Raises click.BadParameter for an unknown name.
    """
    for subject in SUBJECTS:
        importlib.import_module(f"{__name__}.{subject}")  # it registers its checks
    from . import check, services, software

    known = {each.name: each for each in check.CHECKS}
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is no check; there are: {', '.join(known)}")
    wanted = in_order(known, names or known)
    slow = {"package-files": software.altered, "configuration": services.configuration_read, "server-settings": services.server_settings_read}
    for name in slow.keys() & {each.name for each in wanted}:
        # No pool: its threads would be waited for, however long they take.
        threading.Thread(target=_ahead, args=(slow[name],), daemon=True).start()
    try:
        yield from check.run(wanted)
    finally:
        check.end_children()


def _ahead(function: Callable[[], object]) -> None:
    """Call a function that keeps its answer for when it is asked; who asks is told what it raises."""
    with contextlib.suppress(Exception):
        function()


def in_order(known: dict[str, Check], names: Iterable[str]) -> list[Check]:
    """Return the checks called `names`, each after those that it needs (list of check.Check, from the dict `known`)."""
    done: dict[str, Check] = {}

    def add(name: str) -> None:
        for ground in known[name].needs:
            add(ground)
        done[name] = known[name]

    for name in names:
        add(name)
    return list(done.values())


def on_terminal(found: Iterable[Result]) -> None:
    """Print a table of what was looked at, and each problem with its remedy."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    colours = {"passed": "green", "warning": "yellow", "failed": "red", "error": "magenta", "skipped": "dim"}
    console = Console(highlight=False, markup=False)
    table = Table(box=box.SIMPLE)
    for heading in ("status", "check", "what"):
        table.add_column(heading)
    for result in found:
        table.add_row(result.status, result.name, result.what, style=None if result.status == "passed" else colours[result.status])
    console.print(table)
    for result in found:
        if result.status in ("warning", "failed", "error"):
            console.print(f"{result.status}: {result.what}", style=f"bold {colours[result.status]}")
            if result.why:
                console.print(f"  that is: {result.why}")
            console.print(f"  to fix: {result.mend}\n")


@click.command()
@click.argument("checks", metavar="[CHECK]...", nargs=-1)
@click.option(
    "--user",
    metavar="NAME",
    help="Also log in as NAME, start a server, run a cell and stop the server. The password is asked for, or read from stdin.",
)
@click.option("--timeout", metavar="SECONDS", type=click.IntRange(1), help="With --user: what a step may take at most, in place of 10 to 30 seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print all results as JSON.")
def verify(checks: list[str], user: str | None, timeout: int | None, as_json: bool) -> None:
    """Look at everything that JupyterHub needs on this machine, and say what is wrong and how to fix it.

    With CHECKs only at these, and at what they build on. Nothing is changed. It ends within 90 seconds, whatever hangs.

    Exit code 5: a check failed. 6: none failed, but one could not be done.
    """
    require_root()
    password = ""
    if user:
        from .login import ask_password

        password = ask_password(user)
    until = time.monotonic() + END
    for number in (signal.SIGTERM, signal.SIGHUP):  # what was started is ended then, too
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    found = list(results([*checks, "public-url"] if checks and user else checks))
    if user:
        from .login import journey

        found += journey(user, password, found, until, timeout)
    rows = [result.as_dict() for result in found]
    if as_json or not sys.stdout.isatty():
        show(rows, COLUMNS, as_json)
    else:
        on_terminal(found)
    conclude(found)


def conclude(found: Iterable[Result]) -> None:
    """Print a last line to stderr, or raise CheckFailed or CheckError."""
    count = Counter(result.status for result in found)
    summary = ", ".join(f"{number} {status}" for status, number in count.items())
    for status, error in (("failed", CheckFailed), ("error", CheckError)):
        if names := dict.fromkeys(result.name for result in found if result.status == status):
            raise error(f"{summary}: {', '.join(names)}")
    click.echo(f"jupyterhub-ctl: {summary}", err=True)
