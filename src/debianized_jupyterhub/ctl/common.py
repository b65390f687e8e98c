"""What all commands of jupyterhub-ctl share: how they fail and how they show data."""

import json
import os
import sys

import click
from rich import box
from rich.console import Console
from rich.table import Table


class Failure(click.ClickException):
    """The command could not do what was asked for and has changed nothing; `message` is the one line that says why and how to mend it.

    Subclasses set `exit_code`; jupyterhub-ctl(8) lists them. 2 is click's own, for wrong usage.
    """

    exit_code = 1

    def show(self, file=None):
        """Print the line, without click's "Error: "."""
        click.echo(f"jupyterhub-ctl: {self.format_message()}", file=file or sys.stderr)


class NotRoot(Failure):
    """The caller is not root."""

    exit_code = 4


def require_root():
    """Raise NotRoot unless the caller is root."""
    if os.geteuid() != 0:
        raise NotRoot(f"needs root: sudo jupyterhub-ctl {' '.join(sys.argv[1:])}")


def show(rows, columns, as_json):
    """Print `rows` (list of dict).

    As JSON, whole; as a table of `columns` (dict: key of a row to heading, both str) on a terminal; else one line a row with tabs between
    the same columns, for cut and awk. None is shown as "-".
    """
    if as_json:
        click.echo(json.dumps(rows, indent=2, default=str))
        return
    cells = [["-" if row.get(key) is None else str(row[key]) for key in columns] for row in rows]
    if not sys.stdout.isatty():
        for line in cells:
            click.echo("\t".join(line))
        return
    table = Table(*columns.values(), box=box.SIMPLE)
    for line in cells:
        table.add_row(*line)
    Console().print(table)
