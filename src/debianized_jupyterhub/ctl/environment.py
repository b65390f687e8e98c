"""jupyterhub-ctl environment: kernels with packages that the administrator has chosen, for all users or a group."""

import grp
import os
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..environments import KERNELS, NAME, Environment, Revision, disk_used, existing, is_ours, sweep
from ..journal import plain
from ..kernelspecs import SYSTEM
from ..lines import joined
from ..paths import DEFAULTS
from . import environment_archive, uv
from .common import Failure, default_setting, require_new, require_root, show
from .environment_build import PYTHON, Source, build, lock_text, minor, source, version_of

RESERVED = "python3"  # and what begins with it: names of the bundled kernel
OTHERS = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]*(?!\w+://)([^\s=/]\S*)", re.MULTILINE)  # files beside a requirements.txt
COLUMNS = {"name": "NAME", "revision": "REVISION", "python": "PYTHON", "packages": "PACKAGES", "processes": "PROCESSES", "bytes": "BYTES", "group": "GROUP"}
OUTDATED = {"name": "NAME", "package": "PACKAGE", "version": "VERSION", "latest": "LATEST"}
REVISIONS = {"revision": "REVISION", "state": "STATE", "made": "MADE", "by": "BY", "python": "PYTHON", "packages": "PACKAGES", "processes": "PROCESSES"}


class Name(click.ParamType):
    """The name of an environment, which Tab completes."""

    name = "name"

    def shell_complete(self, _context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return those that begin with `incomplete`."""
        return [CompletionItem(each.name) for each in existing() if each.name.startswith(incomplete)]


@click.group()
def environment() -> None:
    """Make environments: kernels with packages of your choice, for all users or a group. See environments.md."""


@environment.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--group", help="Show it to members of this group only.", metavar="GROUP")
@click.option("--python", help=f"An interpreter that is installed here; otherwise {PYTHON}.", metavar="PATH")
def add(name: str, file: Path, group: str | None, python: str | None) -> None:
    """Make the environment NAME with what FILE asks for: a requirements.txt, a pyproject.toml or a lock with hashes."""
    with _at_work():
        _add(Environment(name), source(file), group, python)
    click.echo(f"{name}: {_offered(group)}")


@environment.command()
@click.argument("name", type=Name())
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--python", help="Another interpreter from now on.", metavar="PATH")
def upgrade(name: str, file: Path | None, python: str | None) -> None:
    """Make a new revision of NAME, with FILE in place of what it was made of, or with the newest versions of that; new kernels start from it."""
    with _at_work():
        it, keep = _require(name), _keep()
        before = it.current
        record = _record(before)
        asked, kept = before.folder / "input" / str(record["input"]), before.folder / "lock.txt"
        wanted = source(file or asked)
        if not file and (others := OTHERS.search(wanted.text)):
            raise Failure(f"{name} was made of a file that names {others[1]}, which is not kept: `jupyterhub-ctl environment upgrade {name} FILE`")
        interpreter = python or record["interpreter"]
        same = minor(version_of(interpreter or PYTHON)) == minor(record["python"]) and interpreter == record["interpreter"] and kept.exists()
        same = same and (not file or (asked.exists() and asked.read_text() == wanted.text))  # the next upgrade is from this one
        revision = build(it, wanted, interpreter, lambda lock: not same or lock != lock_text([kept]))
        if revision:
            it.switch(revision)
            _note(it)
        gone = it.prune(keep, before)
        uv.bound_cache()
    if not revision:
        click.echo(f"{name}: there is nothing newer than revision {before.number}")
        return
    click.echo(f"{name}: new kernels start from revision {revision.number}; {_rest(before, gone)}")


@environment.command()
@click.argument("name", type=Name())
@click.argument("number", required=False, type=int, metavar="[REVISION]")
def rollback(name: str, number: int | None) -> None:
    """Let new kernels of NAME start from an earlier REVISION: the one before, unless you say which."""
    with _at_work():
        it = _require(name)
        now = it.current
        others = {revision.number: revision for revision in it.revisions() if revision.number != now.number}
        choice = number if number is not None else max((each for each in others if each < now.number), default=-1)
        if choice not in others:
            named = f"revision {number}" if number is not None else "earlier revision"
            raise Failure(f"{name} has no {named} besides the current one, {now.number} (there are: {', '.join(map(str, sorted(others))) or 'no others'})")
        it.switch(others[choice])
        _note(it)
    click.echo(f"{name}: new kernels start from revision {choice}; {_rest(now, [])}")


@environment.command("list")
@click.option("--outdated", is_flag=True, help="List packages instead of which the index has newer versions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_all(outdated: bool, as_json: bool) -> None:
    """List the environments, with the room that each takes."""
    require_root()
    if outdated:
        _show_outdated(existing(), as_json)
        return
    seen: set[int] = set()
    show([_row(it, seen) for it in existing()], COLUMNS, as_json)


@environment.command("show")
@click.argument("name", type=Name())
@click.option("--outdated", is_flag=True, help="List packages instead of which the index has newer versions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_one(name: str, outdated: bool, as_json: bool) -> None:
    """List the revisions of NAME. The lock of each is the file lock.txt in its folder, which --json names."""
    require_root()
    it = _require(name)
    if outdated:
        _show_outdated([it], as_json)
        return
    rows = []
    for revision in it.revisions():
        record = _record(revision)
        state = "current" if revision.number == it.current.number else "kept"
        rows.append({**record, "state": state, "processes": len(revision.processes()), "folder": str(revision.folder)})
    show(rows, REVISIONS, as_json)


@environment.command()
@click.argument("name", type=Name())
@click.option("--force", is_flag=True, help="Also while kernels use it; they break.")
def remove(name: str, force: bool) -> None:
    """Remove NAME with all of its revisions."""
    with _at_work():
        it = _require(name)
        if (users := it.processes()) and not force:
            some = ", ".join(map(str, users[:5])) + (", ..." if len(users) > 5 else "")
            raise Failure(f"{name} is in use by {len(users)} processes ({some}; jupyterhub-ctl sessions lists servers): wait for them, or say --force")
        it.remove()
    click.echo(f"{name} is removed")


@environment.command()
@click.argument("name", type=Name())
@click.argument("file", type=click.Path(path_type=Path))
def archive(name: str, file: Path) -> None:
    """Write the current revision of NAME to FILE, from which `import` makes the same one on another machine, without a network."""
    with _at_work():
        it = _require(name)
        require_new(file)
        _record(it.current)
        digest = environment_archive.write(it.current, file)
    click.echo(f"{file}  sha256:{digest}")


@environment.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("name", required=False)
@click.option("--group", help="Show it to members of this group only.", metavar="GROUP")
@click.option("--python", help="An interpreter of the version that the archive needs.", metavar="PATH")
def import_(file: Path, name: str | None, group: str | None, python: str | None) -> None:
    """Make the environment that `archive` has written to FILE: the same files, by the same hashes. It is called as it was, or NAME."""
    with _at_work(), environment_archive.unpacked(file) as (folder, about):
        made = Environment(name or str(about["environment"]))
        interpreter = environment_archive.interpreter_for(file, about, python)
        lock, wheels = folder / "lock.txt", folder / "wheels"
        uv.program(wheels)
        of = {key: about[key] for key in environment_archive.SOURCE}
        _add(made, Source(lock, lock.read_text(), wheels, {"archive": of}), group, interpreter)
    click.echo(plain(f"{made.name}: revision {about['revision']} of {about['environment']} as {about['host']} has archived it; {_offered(group)}"))


@environment.command()
def prune() -> None:
    """Remove revisions that nobody uses, but for the last JUPYTERHUB_ENVIRONMENT_REVISIONS of each environment, and what interrupted commands have left."""
    with _at_work():
        gone = [f"{it.name} {revision.number}" for it in existing() for revision in it.prune(_keep())]
        uv.bound_cache()
    click.echo(f"removed: {', '.join(gone)}" if gone else "there is nothing to remove")


# -- What they share ---------------------------------------------------------------------------------------------------------------


def _at_work() -> AbstractContextManager[None]:
    return uv.at_work(sweep)


def _add(made: Environment, wanted: Source, group: str | None, python: str | None) -> None:
    """Make a new environment and show its kernel. Raises Failure; nothing of it is left then."""
    _require_free(made)
    owner = _gid(group)
    made.folder.mkdir(mode=0o700)
    try:
        os.chown(made.folder, 0, owner)
        made.folder.chmod(0o750 if group else 0o755)
        revision = build(made, wanted, python)
        assert revision
        made.switch(revision)
    except BaseException:
        shutil.rmtree(made.folder, ignore_errors=True)
        raise
    made.offer()
    _note(made)


def _note(it: Environment) -> None:
    """Keep the lock for backups; the environment is there without that, too."""
    try:
        it.write_note()
    except OSError as error:
        click.echo(f"jupyterhub-ctl: {it.note} cannot be written, so backups lack the lock: {error.strerror}", err=True)


def _offered(group: str | None) -> str:
    return f"the kernel is there for {f'members of {group}' if group else 'all users'}; JupyterLab shows it after a reload of its page"


def _require(name: str) -> Environment:
    """Return an environment that exists. Raises Failure."""
    it = Environment(name)
    if not NAME.fullmatch(name) or not it.exists:
        raise Failure(f"there is no environment {name} (there are: {', '.join(each.name for each in existing()) or 'none'})")
    return it


def _require_free(it: Environment) -> None:
    """Raise Failure where the name cannot be that of a new environment."""
    if not NAME.fullmatch(it.name) or it.name.startswith(RESERVED):
        raise Failure(f"{it.name!r} is not a valid name: use small letters, digits and . _ -, beginning with a letter or digit, and not {RESERVED}...")
    if it.exists:
        raise Failure(f"there is an environment {it.name} already: `jupyterhub-ctl environment upgrade {it.name} FILE` changes it")
    for place in SYSTEM:
        kernel = Path(place, it.name)
        if os.path.lexists(kernel) and not is_ours(kernel):
            raise Failure(f"there is a kernel of that name already, {kernel}: choose another name")


def _gid(group: str | None) -> int:
    try:
        return grp.getgrnam(group).gr_gid if group else 0
    except KeyError:
        raise Failure(f"there is no group {group}: `addgroup {group}` makes one") from None


def _keep() -> int:
    value = default_setting("JUPYTERHUB_ENVIRONMENT_REVISIONS", "3")
    if not value.isdecimal() or int(value) < 1:
        raise Failure(f"JUPYTERHUB_ENVIRONMENT_REVISIONS={value} in {DEFAULTS} is not a number from 1 on")
    return int(value)


def _record(revision: Revision) -> dict[str, Any]:
    try:
        return revision.record
    except (OSError, ValueError) as error:
        raise Failure(f"{revision.folder} is damaged ({joined(error)}): `jupyterhub-ctl environment rollback` to another revision") from None


def _row(it: Environment, seen: set[int]) -> dict[str, Any]:
    """Return what is to be said of an environment; files that it shares with those in `seen` count there."""
    row: dict[str, Any] = {"name": it.name, "group": it.group, "bytes": disk_used(it.folder, seen), "kernel": str(KERNELS / it.name)}
    row["processes"] = len(it.processes())
    row["revisions"] = [revision.number for revision in it.revisions()]
    try:
        row |= {"revision": it.current.number, **{key: it.current.record[key] for key in ("python", "packages", "made", "by")}}
    except (OSError, ValueError, KeyError):
        row |= {"revision": None, "python": "damaged", "packages": None}
    return row


def _show_outdated(environments: list[Environment], as_json: bool) -> None:
    """List the packages of current revisions of which the index has newer versions. Raises Failure."""
    rows = []
    with _at_work():
        for it in environments:
            found = uv.outdated(it.current, _record(it.current).get("interpreter") or PYTHON)
            rows += [{"name": it.name, "package": each["name"], "version": each["version"], "latest": each["latest_version"]} for each in found]
    if not rows:
        click.echo("the index has nothing newer", err=True)
    show(rows, OUTDATED, as_json)


def _rest(before: Revision, gone: list[Revision]) -> str:
    """Say what became of the revision that was current, and which have gone."""
    users, numbers = len(before.processes()), [revision.number for revision in gone]
    kept = [f"{users} processes keep revision {before.number} until they end" if users else f"revision {before.number} is kept for `rollback`"]
    return "; ".join([*(kept if before.number not in numbers else ()), *([f"removed: {', '.join(map(str, numbers))}"] if numbers else ())])
