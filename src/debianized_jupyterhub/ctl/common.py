"""What all commands of jupyterhub-ctl share: how they fail and how they show data."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

from .. import accounts, database_url, files
from ..paths import CONFIG, DEFAULTS
from .command import stdout_of

FULL = (errno.ENOSPC, errno.EDQUOT)  # what OSError.errno is where NoSpace is the answer

# rich is imported where a terminal is there to show its tables: it takes longer than all of --help.


class Failure(click.ClickException):
    """The command could not do what was asked for and has changed nothing; `message` is the one line that says why and how to fix it.

    The exit codes of all commands are those of this class and the ones below it, and nowhere else; jupyterhub-ctl(8) lists them. 2 is
    click's own, for wrong usage.
    """

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, without click's "Error: "."""
        click.echo(f"jupyterhub-ctl: {self.format_message()}", file=file or sys.stderr)


class HubDown(Failure):
    """The hub does not answer."""

    exit_code = 3


class NotRoot(Failure):
    """The caller is not root."""

    exit_code = 4


class CheckFailed(Failure):
    """A check of the installation failed: the output says which."""

    exit_code = 5


class CheckError(Failure):
    """A check could not be done, and none failed."""

    exit_code = 6


class NoSuchUser(Failure):
    """The user is unknown to the machine or to the hub."""

    exit_code = 7


class Busy(Failure):
    """Another jupyterhub-ctl is at work that would be in the way."""

    exit_code = 8


class BadArchive(Failure):
    """The archive is damaged, is none of this command's, or comes from a newer version."""

    exit_code = 9


class NoSpace(Failure):
    """A file system is full."""

    exit_code = 10


class BadDatabase(Failure):
    """The hub's database is locked, corrupt or out of reach."""

    exit_code = 11


class NoServer(Failure):
    """The user has no such notebook server."""

    exit_code = 12


def default_setting(name: str, otherwise: str = "") -> str:
    """Return a setting (str) of /etc/default/jupyterhub, which is a shell file; `otherwise` if it is empty or not there."""
    script = '. "$1" >/dev/null 2>&1; printf %s "${!2:-}"'
    return stdout_of("bash", "-c", script, "bash", DEFAULTS, name) or otherwise


def configuration_folder() -> Path:
    """Return the folder of the hub's configuration."""
    return Path(os.path.normpath(default_setting("JUPYTERHUB_CONFDIR", CONFIG)))


def own_database_url() -> str:
    """Return the URL of the hub's database as far as the package says it, and no configuration file of Python's. Raises Failure."""
    try:
        return database_url.own(configuration_folder())
    except SystemExit as end:
        raise Failure(str(end)) from None


def require_new(file: Path) -> None:
    """Raise Failure unless root can make `file`, where nothing is."""
    require_no_service(file)
    if os.path.lexists(file):
        raise Failure(f"{file} is there already: name another file")


def require_no_service(file: Path) -> None:
    """Raise Failure where root is to write `file` into a folder of the hub's or the proxy's account, which could lay a link in its place."""
    for folder in file.resolve().parents:
        owner = accounts.user_name(folder.stat().st_uid) if folder.is_dir() else ""
        if owner in (accounts.HUB, accounts.PROXY):
            raise Failure(f"{folder} belongs to {owner}: choose a folder of your own")


def pristine() -> Callable[[str], bool]:
    """Return a function that tells whether a path (str) is a configuration file that nobody has changed since dpkg has brought it."""
    query = ["dpkg-query", "--show", "--showformat=${Conffiles}", "jupyterhub"]
    shipped = dict(line.split()[:2] for line in subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines() if line.strip())

    def is_pristine(path: str) -> bool:
        if path not in shipped:
            return False
        try:
            return hashlib.md5(files.read(path, limit=1 << 20)).hexdigest() == shipped[path]
        except OSError:
            return False

    return is_pristine


def require_root() -> None:
    """Raise NotRoot unless the caller is root."""
    if os.geteuid() != 0:
        raise NotRoot(f"needs root: sudo jupyterhub-ctl {' '.join(sys.argv[1:])}")


def show(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], as_json: bool) -> None:
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
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns.values(), box=box.SIMPLE)
    for line in cells:
        table.add_row(*line)
    Console().print(table)
