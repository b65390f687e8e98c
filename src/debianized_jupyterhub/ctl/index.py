"""jupyterhub-ctl index: a folder with the packages that users may install, in place of an index in the network."""

import re
import socket
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import click
from click.shell_completion import CompletionItem
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from .. import package_index
from ..paths import DEFAULTS, INDEX
from . import checked_tar, index_build, uv
from .common import BadArchive, Failure, default_setting, require_new, require_root, show
from .environment_archive import this_machine
from .environment_build import PYTHON, minor, version_of

COLUMNS = {"name": "NAME", "version": "VERSION", "asked_for": "ASKED FOR", "size": "BYTES"}
MEMBER = re.compile(r"lock\.txt|wheels/[A-Za-z0-9][\w.+!-]*\.whl")
FROM = click.option("--from", "source", metavar="URL", help="The index to take them from; otherwise that of /etc/pip.conf and uv.toml, or PyPI.")


class Asked(click.ParamType):
    """A package that was asked for, which Tab completes."""

    name = "package"

    def shell_complete(self, _context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return those that begin with `incomplete`."""
        try:
            names = sorted(canonicalize_name(Requirement(text).name) for text in package_index.current().asked_for)
        except (OSError, ValueError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.group()
def index() -> None:
    """Look after a folder of packages that users may install, in place of an index in the network. See index-of-packages.md."""


@index.command()
@click.argument("file", type=click.Path(path_type=Path))
@FROM
def fill(file: Path, source: str | None) -> None:
    """Make the index of the packages that FILE names (a requirements.txt) and of all that they need, in the newest versions that fit together."""
    wanted = read(file)
    with _at_work():
        index_build.fetch(wanted, source, upgrade=True)
    _said()


@index.command()
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...")
@FROM
def add(packages: Sequence[str], source: str | None) -> None:
    """Add PACKAGEs (pandas, "pandas<3") and what they need; the versions of others stay, where they can."""
    new = [_requirement(text, "") for text in packages]
    with _at_work():
        asked_for = _state().asked_for if package_index.exists() else []
        names = {canonicalize_name(Requirement(text).name) for text in new}
        index_build.fetch([*(text for text in asked_for if canonicalize_name(Requirement(text).name) not in names), *new], source)
    _said()


@index.command()
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...", type=Asked())
def remove(packages: Sequence[str]) -> None:
    """Remove PACKAGEs, and what nothing else needs. No network is needed. What users have installed stays."""
    names = {canonicalize_name(name): name for name in packages}
    with _at_work():
        asked_for = _state().asked_for
        there = {canonicalize_name(Requirement(text).name) for text in asked_for}
        for name, given in names.items():
            if name not in there:
                raise Failure(f"{given} is not among the packages that were asked for ({', '.join(sorted(there))}): `jupyterhub-ctl index list` shows who is")
        index_build.reduce([text for text in asked_for if canonicalize_name(Requirement(text).name) not in names])
        left = {wheel.name for wheel in package_index.current().wheels}
    if stayed := sorted(left & names.keys()):
        click.echo(f"jupyterhub-ctl: others need {', '.join(stayed)}, so it stays in the index", err=True)
    _said()


@index.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_all(as_json: bool) -> None:
    """List the packages of the index; those that were asked for are marked."""
    require_root()
    if not package_index.exists():
        show([], COLUMNS, as_json)
        return
    state = _state()
    names = {canonicalize_name(Requirement(text).name) for text in state.asked_for}
    rows = [{**wheel._asdict(), "asked_for": "yes" if wheel.name in names else None} for wheel in state.wheels]
    show(rows, COLUMNS, as_json)


@index.command()
@click.argument("file", type=click.Path(path_type=Path))
def export(file: Path) -> None:
    """Write the index to FILE, which `import` reads on another machine; print its checksum."""
    with _at_work():
        state = _state()
        require_new(file)
        held = {"lock.txt": package_index.CURRENT / package_index.LOCK} | {f"wheels/{wheel.file}": package_index.WHEELS / wheel.file for wheel in state.wheels}
        about = {**state.about, "asked_for": state.asked_for, "host": socket.gethostname()}
        digest = checked_tar.write(file, about, {}, held)
    click.echo(f"{file}  sha256:{digest}")


@index.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_(file: Path) -> None:
    """Replace the index by what `export` has written to FILE, on this or another machine."""
    with _at_work():
        package_index.ROOT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=package_index.WORK, dir=INDEX) as work:
            folder = Path(work)
            (folder / "wheels").mkdir()
            about = checked_tar.unpack(
                file, folder, MEMBER, ("asked_for", "python", "architecture"), "export of an index", "export the index again, or fetch the file again"
            )
            _require_fitting(file, about)
            if not isinstance(about["asked_for"], list):
                raise BadArchive(f"{file} is no export of an index")
            index_build.take(folder, [_requirement(str(text), f"{file}: ") for text in about["asked_for"]], file)
    _said()


# -- What they share ---------------------------------------------------------------------------------------------------------------


def _at_work() -> AbstractContextManager[None]:
    return uv.at_work(package_index.sweep, package_index.ROOT)


def read(file: Path) -> list[str]:
    """Return the requirements of a file (list of str). Raises Failure with file and line for what is none."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise Failure(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    texts = [(number, re.sub(r"(^|\s)#.*", "", line).strip()) for number, line in enumerate(lines, 1)]
    found = [_requirement(text, f"{file}:{number}: ") for number, text in texts if text]
    if not found:
        raise Failure(f"{file} names no packages")
    return found


def _requirement(text: str, place: str) -> str:
    """Return what was asked for. Raises Failure for what is not the name of a package with versions."""
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        parsed = None
    if not parsed or parsed.url:
        raise Failure(
            f"{place}{text[:80]!r} is not the name of a package, such as pandas or pandas<3 (options, hashes, files and addresses do not belong here)"
        )
    return text


def _state() -> package_index.State:
    """Return what the index is. Raises Failure."""
    if not package_index.exists():
        raise Failure("there is no index: `jupyterhub-ctl index fill FILE` makes one")
    try:
        return package_index.current()
    except (OSError, ValueError) as error:
        raise Failure(f"the index is damaged ({error}): `jupyterhub-ctl index fill {package_index.LIST}` makes it anew") from None


def _require_fitting(file: Path, about: dict[str, object]) -> None:
    """Raise BadArchive where wheels are for other machines."""
    here = {"python": minor(version_of(PYTHON)), "architecture": this_machine()["architecture"]}
    for key, words in (("architecture", "machines of the architecture"), ("python", "Python")):
        if about.get(key) != here[key]:
            raise BadArchive(f"{file} is for {words} {about.get(key)}, and this machine has {here[key]}: export it from one of its kind")


def _said() -> None:
    """Say what the index has now, and what is missing for users to use it."""
    state = package_index.current()
    size = sum(wheel.size for wheel in state.wheels)
    click.echo(f"{len(state.wheels)} packages, {size / 1e6:.0f} MB in {package_index.WHEELS}")
    missing = [str(path) for path in (package_index.PIP, package_index.UV) if path not in package_index.users()]
    if missing:
        click.echo(f"jupyterhub-ctl: {' and '.join(missing)} do not name it, so users do not use it yet: see index-of-packages.md", err=True)
    elif not default_setting("JUPYTERHUB_EGRESS_CLOSED_FOR"):
        click.echo(f"jupyterhub-ctl: users can name another index, for the network is open to them (JUPYTERHUB_EGRESS_CLOSED_FOR in {DEFAULTS})", err=True)
