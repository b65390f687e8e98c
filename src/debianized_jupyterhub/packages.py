"""jupyterhub-packages: what users ask of their own packages in the bundled kernel and in environments (layers.py)."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
from jupyter_core.paths import jupyter_data_dir

from . import layers, leftovers
from .paths import ENVIRONMENTS

MB = 1 << 20


class Failure(click.ClickException):
    """The command could not do what was asked for; `message` is the one line that says why and how to fix it."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, without click's "Error: "."""
        click.echo(f"jupyterhub-packages: {self.format_message()}", file=file or sys.stderr)


class Package(NamedTuple):
    """A package of a layer."""

    name: str
    version: str
    asked_for: bool  # by the user, not by another package
    bundled: str  # version of the bundled one that it stands in for, "" for none


def plain(name: str) -> str:
    """Return a package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(folder: Path, base: layers.Base) -> list[Package]:
    """Return the packages of a layer over `base`, also of another version's of Python (sorted list of Package)."""
    bundled = {plain(each.name): each.version for each in metadata.distributions(path=[f"{base.folder}/{base.site}"])}
    found = []
    for site in folder.glob("lib/python3.*/site-packages"):
        for each in metadata.distributions(path=[str(site)]):
            found.append(Package(each.name, each.version, each.read_text("REQUESTED") is not None, bundled.get(plain(each.name), "")))
    return sorted(found, key=lambda package: plain(package.name))


def others(layer: layers.Layer) -> list[Path]:
    """Return the user's layers of other versions of Python that have packages (list of Path), the newest last."""
    found = [path for path in layer.home.glob("py3.*") if path != layer.folder and re.fullmatch(r"py3\.\d+", path.name)]
    return sorted((path for path in found if installed(path, layer.base)), key=lambda path: int(path.name.removeprefix("py3.")))


def size(folder: Path) -> int:
    """Return the room that a folder takes, in bytes."""
    return sum(os.lstat(os.path.join(where, name)).st_blocks * 512 for where, _, names in os.walk(folder) for name in names)


def layer_or_fail(kernel: str) -> layers.Layer:
    """Return the user's layer over the bundle or an environment, which is made where there is none. Raises Failure."""
    base = layers.bundle() if kernel == layers.BUNDLED else layers.environment(f"{ENVIRONMENTS}/{kernel}/current")
    if not base:
        raise Failure(f"there is no environment {kernel}, or you may not use it: `jupyter kernelspec list` names your kernels")
    layer = layers.Layer(base)
    try:
        layer.prepare()
    except layers.LayerError as error:
        raise Failure(str(error)) from None
    return layer


def environment(layer: layers.Layer) -> dict[str, str]:
    """Return the environment of a program that uses the layer."""
    env = {name: value for name, value in os.environ.items() if name not in (layers.REFUSAL, "PYTHONHOME", "PYTHONPATH")}
    return {**env, **layer.variables(env)}


def python_says(layer: layers.Layer, *arguments: str) -> tuple[int, list[str]]:
    """Run the layer's Python with arguments; return its exit code and the lines that it printed."""
    command = [f"{layer.folder}/bin/python", *arguments]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(layer))
    return done.returncode, [line for line in done.stdout.splitlines() if line.strip()]


@contextmanager
def alone(layer: layers.Layer) -> Generator[None, None, None]:
    """Keep a second command of this kind out. Raises Failure."""
    with open(layer.home / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failure("another jupyterhub-packages is at work: wait for it") from None
        yield


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kernel", default=layers.BUNDLED, help="An environment of the administrator's, in place of the bundled kernel.", metavar="NAME")
@click.pass_context
def main(context: click.Context, kernel: str) -> None:
    """Look after your own packages in the kernel "Python 3 (ipykernel)". In a notebook, %pip install adds some."""
    context.obj = kernel


@main.command("list")
@click.pass_obj
def show(kernel: str) -> None:
    """Show your packages, and the room that they take."""
    layer = layer_or_fail(kernel)
    found = installed(layer.folder, layer.base)
    for package in found:
        notes = [*(["asked for"] if package.asked_for else []), *([f"instead of the bundled {package.bundled}"] if package.bundled else [])]
        click.echo(" ".join([package.name, package.version, *([f"({', '.join(notes)})"] if notes else [])]))
    click.echo(f"{len(found)} packages, {size(layer.folder) / MB:.0f} MB in {layer.folder}")
    for other in others(layer):
        packages = len(installed(other, layer.base))
        click.echo(f"{packages} packages of Python {other.name[2:]}, {size(other) / MB:.0f} MB in {other}: see jupyterhub-packages rebuild")


@main.command()
@click.pass_obj
def check(kernel: str) -> None:
    """Say which of your packages do not fit to each other or to the bundled ones, whether the kernel starts, and what a newer Debian has left behind.

    Exit code 1: something is wrong.
    """
    layer = layer_or_fail(kernel)
    code, said = python_says(layer, "-m", "pip", "check")
    wrong = said if code else []
    code, said = python_says(layer, "-m", "ipykernel_launcher", "--version")
    if code:
        named = ", ".join(layer.versions(layer.suspects()))
        wrong.append(f"the kernel does not start with {named or 'your packages'}: {said[-1] if said else f'exit code {code}'}")
    kept = [other for other in others(layer) if lacking(layer, other)]
    wrong += [f"{other}: packages of Python {other.name[2:]}, which notebooks no longer use: jupyterhub-packages rebuild" for other in kept]
    left = [f"{other}: packages of Python {other.name[2:]}, which are installed anew: rm -r {other}" for other in others(layer) if other not in kept]
    left += [*leftovers.environments(Path(jupyter_data_dir(), "kernels")), *leftovers.libraries(Path.home())]
    for line in (*wrong, *left):
        click.echo(line)
    if wrong:
        raise Failure("see above; pip install another version, or jupyterhub-packages reset to do without your packages")
    if left:
        raise Failure("see above; your packages fit, but what is named there is used no longer")
    click.echo("all of your packages fit")


@main.command()
@click.option("--all", "everything", is_flag=True, help="Also those of other versions of Python.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def reset(kernel: str, everything: bool, yes: bool) -> None:
    """Remove all of your packages. Kernels that run keep what they have loaded; restart them."""
    layer = layer_or_fail(kernel)
    folders = [layer.folder, *(others(layer) if everything else [])]
    found = [package for folder in folders for package in installed(folder, layer.base)]
    if not yes:
        if not sys.stdin.isatty():
            raise Failure("this removes your packages: say so with --yes")
        click.confirm(f"Remove {len(found)} packages ({sum(map(size, folders)) / MB:.0f} MB)?", abort=True)
    for folder in folders:
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            raise Failure(f"{error.filename} cannot be removed: {error.strerror}") from None
    click.echo(f"{len(found)} packages removed; to have some again: pip install {' '.join(f'{each.name}=={each.version}' for each in found if each.asked_for)}")


def lacking(layer: layers.Layer, other: Path) -> list[Package]:
    """Return the packages that were asked for in the layer of another Python, or all where nobody noted that, and are not in `layer`."""
    there = {package.name for package in installed(layer.folder, layer.base)}
    packages = installed(other, layer.base)
    return [package for package in [each for each in packages if each.asked_for] or packages if package.name not in there]


def wanted(packages: Iterable[Package], newest: bool) -> list[str]:
    """Return what pip is to install (list of str) to have the packages that were asked for again, or all, where nobody noted that."""
    packages = list(packages)
    asked_for = [package for package in packages if package.asked_for] or packages
    return [package.name if newest else f"{package.name}=={package.version}" for package in asked_for]


def install(layer: layers.Layer, names: list[str]) -> None:
    """Have pip install `names` into the layer; what it says goes to the terminal. Raises Failure with what is missing."""
    command = [f"{layer.folder}/bin/python", "-m", "pip", "install", *names]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(layer)) as pip:
        lines = []
        for line in pip.stdout or ():
            lines.append(line.strip())
            click.echo(line, nl=False)
    if pip.returncode:
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise Failure(f"nothing was changed: {errors[-1] if errors else 'pip failed, see above'} (newer versions: jupyterhub-packages rebuild --newest)")


@main.command()
@click.option("--newest", is_flag=True, help="Install the newest versions, not those that you have.")
@click.pass_obj
def rebuild(kernel: str, newest: bool) -> None:
    """Install your packages anew: after an upgrade of the machine's Python, or to clean up. If that fails, all stays as it was."""
    layer = layer_or_fail(kernel)
    folder = layer.folder
    before = others(layer)[-1:]
    names = wanted(installed(folder, layer.base), newest) + wanted([package for other in before for package in lacking(layer, other)], newest)
    if not names:
        raise Failure("you have no packages")
    with alone(layer):
        kept = folder.with_name(f".{folder.name}.before")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        try:
            install(layer_or_fail(kernel), names)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            kept.rename(folder)
            raise
        shutil.rmtree(kept)
    rest = [f"; {other} is no longer needed: rm -r it" for other in before]
    click.echo(f"installed anew: {' '.join(names)}{''.join(rest)}")


@main.command()
@click.pass_obj
def shell(kernel: str) -> None:
    """Open a shell in which pip, uv and python are those of your packages; its prompt says so."""
    layer = layer_or_fail(kernel)
    program = os.environ.get("SHELL") or "/bin/bash"
    options = ["--rcfile", f"{layer.folder}/bashrc"] if os.path.basename(program) == "bash" else []
    os.execve(program, [program, *options, "-i"], environment(layer))


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(kernel: str, command: tuple[str, ...]) -> None:
    """Run a command that sees your packages: run python -m nbconvert --to notebook --execute FILE, for example."""
    env = environment(layer_or_fail(kernel))
    program = shutil.which(command[0], path=env["PATH"])
    if not program:
        raise Failure(f"there is no program {command[0]}")
    os.execve(program, command, env)
