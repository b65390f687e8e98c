"""jupyterhub-ctl database move: all that the hub knows, from SQLite to PostgreSQL and back.

The copy is made and compared first (moving.py). Which database is the hub's, one small file says (database_url.py), which is replaced last, in one
step: wherever the command is interrupted, the hub has the one or the other, and what it had before is not touched.
"""

import contextlib
import grp
import hashlib
import json
import os
import sys
from pathlib import Path

import click

from .. import accounts, as_hub, files, units
from .. import state as hub_state
from ..database import DatabaseError, dump_postgresql, sqlite_file
from ..database_url import FILE, called, has_password, place
from ..paths import SCRATCH, STATE
from . import check_config
from .backup import PENDING, SYSTEMD, alone, explained, start, stopped
from .command import properties
from .common import BadDatabase, Busy, Failure, configuration_folder, require_root
from .verify.data import expected_revision

PASSFILE = f"{STATE}/.pgpass"  # libpq's, in the home folder of the hub's account


@click.group()
def database() -> None:
    """Move the hub's database, from SQLite to PostgreSQL and back. See database.md."""


@database.command()
@click.argument("url")
def move(url: str) -> None:
    """Move the hub's database to URL: an empty one of PostgreSQL's (postgresql://USER@HOST/NAME), or a new file (sqlite:////PATH).

    With - in place of URL, it is read from standard input: one with a password in it, say. The hub is away meanwhile, notebooks keep running.
    What it had before is kept as it is.
    """
    require_root()
    target = _target(url)
    with alone(), explained(Path(sqlite_file(target) or SCRATCH).parent):
        before = _move(target)
    _say(f"the hub's database is {called(target)}; the one before is kept as it was: {called(before)}")


def _target(text: str) -> str:
    """Return the URL that was meant. Raises Failure."""
    try:
        given = text != "-"
        if not given:
            text = click.prompt("URL", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
        target = place(text)
    except DatabaseError as error:
        raise Failure(str(error)) from None
    if given and has_password(target):
        advice = f"`jupyterhub-ctl database move - <FILE` reads the URL from a file, or write the password into {PASSFILE}"
        raise Failure(f"every account of the machine can read a password on the command line: {advice}")
    return target


def _move(target: str) -> str:
    """Move the hub's database to the URL `target`, and return the URL of the one before. Raises Failure, DatabaseError, OSError: nothing is changed then."""
    folder = configuration_folder()
    source = _source(folder)
    # As the running hub sees files and sockets.
    rows = _copy(source, target, rehearsal=True, become=[*check_config.hub_view(), *check_config.BECOME_HUB])
    _warn_of_backups(target)
    _say(f"checked: all {rows} rows of {called(source)} fit into {called(target)}")
    _say("the hub stops; notebook servers keep running")
    with stopped(units.HUB) as running:
        _copy(source, target, rehearsal=False)
        _say("copied and compared")
        if properties(units.HUB, "ActiveState").get("ActiveState") not in ("inactive", "failed"):
            raise Busy("somebody has started the hub meanwhile, so nothing is changed: try again")
        before = _switch(folder, f"{target}\n")
        _say("the hub starts" if running else "the hub did not run before, and stays stopped")
        up = start(running)
    if not up:
        _take_back(folder, before, source, target)
    with contextlib.suppress(DatabaseError, OSError):  # the hub does it, too
        as_hub.run("settle", stdin=target.encode())
    return source


def _say(line: str) -> None:
    """Tell how far it is; whoever has listened may be gone by now."""
    with contextlib.suppress(OSError):
        click.echo(line)


def _source(folder: Path) -> str:
    """Return the URL of the database that the hub has, by the configuration in `folder`. Raises Failure where it is not this command's to change."""
    if not SYSTEMD:
        raise Failure("systemd does not run here, and without it the hub cannot be stopped for a moment")
    if PENDING.exists():
        raise Failure("a restore was interrupted: `systemctl start jupyterhub` completes it first")
    if not files.is_roots_alone(folder):
        raise Failure(f"{folder}: others than root can write to it or a folder above it: `namei -om {folder}` shows which")
    problems, facts = check_config.read()
    if not facts:
        raise Failure(f"the configuration cannot be read: {problems[0]}")
    if facts["db_url_place"]:
        advice = f"write its value into {folder / FILE} (mode 0640, group {accounts.HUB}) and remove it there"
        raise Failure(f"{facts['db_url_place']}: c.JupyterHub.db_url is set there, where this command changes nothing: {advice}")
    return place(facts["db_url"])


def _copy(source: str, target: str, rehearsal: bool, become: list[str] | None = None) -> int:
    """Have the hub's account copy the database, or only try, and return how many rows it has; see moving.move."""
    machine = Path("/etc/machine-id").read_text().strip()
    mover = hashlib.sha256(f"jupyterhub-ctl database move {machine}".encode()).hexdigest()
    orders = {"source": source, "target": target, "mover": mover, "schema": expected_revision(), "rehearsal": rehearsal}
    return int(json.loads(as_hub.run("move", stdin=json.dumps(orders).encode(), timeout=as_hub.TIMEOUT, become=become or [])))


def _warn_of_backups(target: str) -> None:
    """Say it where the new database cannot be saved as the old one was."""
    if sqlite_file(target):
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            dump_postgresql(target, nowhere)
    except DatabaseError as error:
        click.echo(f"jupyterhub-ctl: backups will fail with that database: {error}", err=True)


def _switch(folder: Path, content: str | None) -> str | None:
    """Give the file that says where the database is another content, None for no file, in one step; return what it had."""
    file = folder / FILE
    before = file.read_text() if file.exists() else None
    if content is not None:
        files.put(file, content, 0o640, grp.getgrnam(accounts.HUB).gr_gid)
    else:
        file.unlink(missing_ok=True)
        files.sync_folder(folder)
    return before


def _take_back(folder: Path, before: str | None, source: str, target: str) -> None:
    """Let a hub that has not come up have the database of before. Raises BadDatabase in any case."""
    why = hub_state.of_unit(properties(units.HUB, "ActiveState", "StatusText")).line or "`journalctl -u jupyterhub` says why"
    with stopped(units.HUB) as running:
        _switch(folder, before)
    again = "runs" if start(running) else "does not start either"
    raise BadDatabase(f"the hub does not start with {called(target)} ({why}): it has {called(source)} as before, and {again} with that")
