"""What is wrong with the settings that root has made for all notebook servers and their kernels, in /etc/jupyter and the like.

A server leaves out a file that it cannot read, and a setting that nothing knows, and says so in its own log alone. Here the same loaders read the same files,
and what is set is compared with what the bundled software knows. The files are programs, and run: ctl/check_config.py starts this module as the account
nobody, in a home folder of its own. It prints a list of Problem as JSON, and before it reads a file a line on standard error with READING and its name.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import os
import re
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lines import one_line
from .settings_check import Place, Problem, places_in

if TYPE_CHECKING:
    from traitlets.config import Config, Configurable

READING = "reading "
JUPYTER = ("/etc/jupyter", "/usr/local/etc/jupyter")
IPYTHON = ("/etc/ipython", "/usr/local/etc/ipython")
# Files (without .py or .json) that servers and kernels read, and names of other programs' that look like them.
SERVERS, KERNELS = ("jupyter_config", "jupyter_server_config", "jupyter_lab_config", "jupyter_notebook_config"), ("ipython_config", "ipython_kernel_config")
OTHERS = ("jupyterhub_config", "jupyter_nbconvert_config", "jupyter_console_config", "jupyter_qtconsole_config", "jupyter_execute_config", "nbgrader_config")
LANGUAGE_SERVERS = ("jupyter_config.d", "jupyter_notebook_config.d", "jupyter_server_config.d")  # jupyter_lsp reads these
TAKEN = (("ServerApp", "jpserver_extensions"), ("LanguageServerManager", "language_servers"))
# Frontend settings, which are JSON without settings of traitlets.
PLAIN = ("labconfig", "nbconfig", "serverconfig")
# What a server has in memory, so that all of its classes are known here, too.
MODULES = (
    "IPython.terminal.ipapp",
    "ipykernel.kernelapp",
    "jupyter_lsp.manager",
    "jupyter_resource_usage.config",
    "jupyter_server_terminals",
    "jupyterhub.services.auth",
    "jupyterhub.singleuser.extension",
    "jupyterlab.labapp",
    "matplotlib_inline.config",
    "nbconvert.exporters",
    "nbconvert.postprocessors",
    "nbconvert.preprocessors",
    "nbconvert.writers",
    "notebook.app",
    "debianized_jupyterhub.contents",
    "debianized_jupyterhub.kernels",
)
SHIMS = {"NotebookApp": "ServerApp"}  # notebook_shim hands over what is set under the earlier name
OF_THE_HUB = ("JupyterHub", "Spawner", "Authenticator", "PAMAuthenticator", "SudoersPolicy")
SECRET = re.compile("password|token|secret|key", re.IGNORECASE)
Settings = dict[str, tuple["Config", bool]]  # by file: what it sets, and whether it is a file of a folder *.d


def inspect() -> list[Problem]:
    """Return what is wrong (list of Problem) with files, settings and values."""
    problems, settings = [], {}
    for folder in (*JUPYTER, *IPYTHON):
        if not os.path.isdir(folder):
            continue
        if not os.access(folder, os.R_OK | os.X_OK):
            problems.append(_ignored(folder, "users cannot read this folder", f"chmod a+rX {folder}"))
            continue
        problems += _misnamed(Path(folder))
        for path in _files(Path(folder)):
            print(f"{READING}{path}", file=sys.stderr, flush=True)
            read = _read(path)
            if isinstance(read, Problem):
                problems.append(read)
            elif read:
                settings[str(path)] = (read, path.parent.suffix == ".d")
    if settings:
        problems += _unknown(settings)
    return problems


def open_to_others(folders: tuple[str, ...] = (*JUPYTER, *IPYTHON)) -> list[str]:
    """Return what in the folders (str) others than root can change (list of str): the code there runs in every user's server."""
    found = []
    for folder in folders:
        for path in (folder, *(str(path) for path in Path(folder).rglob("*"))):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                if status.st_uid != 0 or (status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX):
                    found.append(path)
    return found


def _ignored(file: str, what: str, mend: str, line: int | None = None) -> Problem:
    return Problem("ignored", what, mend, file, line)


# -- Files -------------------------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files (Path) in `folder` that notebook servers or kernels read."""
    if str(folder) in IPYTHON:
        yield from (path for name in KERNELS for path in sorted(folder.glob(f"{name}.*")) if path.suffix in (".py", ".json"))
        yield from sorted(path for path in folder.glob("startup/*") if path.suffix in (".py", ".ipy"))
        return
    yield from (path for name in SERVERS for path in sorted(folder.glob(f"{name}.*")) if path.suffix in (".py", ".json"))
    yield from (path for name in (*LANGUAGE_SERVERS, *PLAIN) for path in sorted(folder.glob(f"{name}/*.json")))


def _misnamed(folder: Path) -> Iterator[Problem]:
    """Yield a Problem for each file that nothing reads by its name, which is almost one that would be read."""
    known = KERNELS if str(folder) in IPYTHON else SERVERS
    for path in sorted(folder.iterdir()):
        close = difflib.get_close_matches(path.stem, (*known, *OTHERS), 1, 0.85)
        if path.suffix in (".py", ".json") and close and close[0] in known and path.stem not in known and path.is_file():
            yield Problem("ignored", "no notebook server reads a file of this name", f"did you mean {close[0]}{path.suffix}?", str(path))


def _read(path: Path) -> Config | Problem | None:
    """Return what a file sets, None for one without settings of traitlets, or what is wrong with it."""
    from traitlets.config.loader import JSONFileConfigLoader, PyFileConfigLoader

    try:
        if path.stat().st_size == 0:
            return None
        if path.parent.name == "startup":
            if path.suffix == ".py":
                compile(path.read_bytes(), path, "exec", dont_inherit=True)
            return None
        if path.parent.name in PLAIN:
            if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                raise ValueError("it is not an object, {...}")
            return None
        loader = (JSONFileConfigLoader if path.suffix == ".json" else PyFileConfigLoader)(path.name, path=str(path.parent))
        return loader.load_config()
    except PermissionError:
        return _ignored(str(path), "users cannot read this file", f"chmod a+r {path}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a configuration file may raise anything)
        return _raised(path, error)


def _raised(path: Path, error: BaseException) -> Problem:
    """Return the Problem for what reading a file has raised."""
    text = one_line(error)
    if isinstance(error, json.JSONDecodeError):
        return _ignored(str(path), f"this is not JSON: {error.msg}", "correct that line", error.lineno)
    line = error.lineno if isinstance(error, SyntaxError) else None
    if isinstance(error, SyntaxError):
        text = error.msg
    if isinstance(error, SystemExit):
        text = f"{text}: this file ends each server"
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            line = frame.lineno
    return _ignored(str(path), f"{type(error).__name__}: {text}", "correct that line" if line else "correct the file", line)


# -- Settings ----------------------------------------------------------------------------------------------------------------------


def _classes(settings: Settings) -> dict[str, list[type[Configurable]]]:
    """Return all classes that can be configured, by name, with those of the extensions that `settings` switch on."""
    from traitlets.config import Configurable

    extensions = {name for config, _ in settings.values() for name, on in _extensions(config).items() if on}
    for name in (*MODULES, *extensions):
        with contextlib.suppress(Exception, SystemExit):  # what is missing has a line of its own, or is a selection of the build
            importlib.import_module(name)
    found: dict[str, list[type[Configurable]]] = {}

    def add(cls: type[Configurable]) -> None:
        for sub in cls.__subclasses__():
            if sub not in found.setdefault(sub.__name__, []):
                found[sub.__name__].append(sub)
                add(sub)

    add(Configurable)
    return found


def _extensions(config: Config) -> dict[str, bool]:
    listed = config.ServerApp.get("jpserver_extensions", {}) if "ServerApp" in config else {}
    return dict(listed) if isinstance(listed, dict) else {}


def _unknown(settings: Settings) -> list[Problem]:
    """Return a Problem for each setting that has no effect, and each value that does not fit."""
    classes = _classes(settings)
    problems = []
    for file, (config, in_folder) in settings.items():
        places = places_in([Path(file)] if file.endswith(".py") else [])
        for name, on in _extensions(config).items():
            if on and importlib.util.find_spec(name.partition(".")[0]) is None:
                problems.append(Problem("unknown", f"there is no server extension {name}", "install it into the servers' software, or remove it", file))
        for section, content in config.items():
            keys = content.items() if isinstance(content, dict) else [("", content)]
            for key, value in keys:
                place = places.get((section, key), (file, None))
                if in_folder:
                    problem = _in_folder(file, section, key, place)
                else:
                    problem = _setting(classes, section, key, value, place)
                if problem:
                    problems.append(problem)
    return problems


def _in_folder(file: str, section: str, key: str, place: Place) -> Problem | None:
    """Return a Problem for a setting in jupyter_server_config.d, of which Jupyter takes two alone."""
    folder = Path(file).parent
    if folder.name != "jupyter_server_config.d" or (section, key) in TAKEN:
        return None
    what = f"{section}.{key} has no effect here: of {folder.name} Jupyter takes ServerApp.jpserver_extensions alone"
    return Problem("unknown", what, f"put it into {folder.parent}/jupyter_server_config.json", *place)


def _setting(classes: dict[str, list[type[Configurable]]], section: str, key: str, value: Any, place: Place) -> Problem | None:
    """Return what is wrong with one setting, None if nothing is."""
    name = f"c.{section}.{key}" if key else f"c.{section}"
    owners = [sub for cls in classes.get(SHIMS.get(section, section), []) for sub in (cls, *_below(cls))]
    if not owners:
        if section in OF_THE_HUB:
            return Problem("unknown", f"{name} has no effect: notebook servers have no {section}", "put it into /etc/jupyterhub/jupyterhub_config.d", *place)
        if close := difflib.get_close_matches(section, classes, 1, 0.8):
            return Problem("unknown", f"{name} has no effect: there is no class {section}", f"did you mean c.{close[0]}.{key}?", *place)
        return Problem("note", f"{name} has no effect in the bundled software: it has no class {section}", "remove it, unless another Jupyter reads it", *place)
    if not key:
        return Problem("unknown", f"{name} is a class, not a setting", f"write {name}.SETTING = VALUE", *place)
    traits = {trait: found for cls in owners for trait, found in cls.class_traits(config=True).items()}
    if key not in traits:
        close = difflib.get_close_matches(key, traits, 1)
        what = f"{name} is no setting of {section}, so it has no effect"
        return Problem("unknown", what, f"did you mean c.{section}.{close[0]}?" if close else "remove it", *place)
    complaint = _misfit(traits[key], value)
    if complaint and SECRET.search(key):
        complaint = f"{traits[key].info()} is right"  # the other would show it
    if complaint:
        return Problem("value", f"{name}: {complaint}", "give it a value of that kind", *place)
    return None


def _below(cls: type[Configurable]) -> Iterator[type[Configurable]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _below(sub)


def _misfit(trait: Any, value: object) -> str:
    """Return why a trait does not take a value, "" if it does or that cannot be told without an object."""
    from traitlets import TraitError
    from traitlets.config.loader import DeferredConfig, LazyConfigValue

    if isinstance(value, (DeferredConfig, LazyConfigValue)) or (value is None and trait.allow_none):
        return ""
    with contextlib.suppress(Exception):
        try:
            with contextlib.suppress(AttributeError):
                trait._resolve_classes()
            trait.validate(None, value)
        except TraitError as error:
            return one_line(str(error).replace(" of None instance", ""))
    return ""


def main() -> None:
    """Print what is wrong."""
    with os.fdopen(os.dup(1), "w") as answer, tempfile.TemporaryDirectory(prefix="jupyter-settings-") as home:
        os.dup2(2, 1)  # what configuration files print is not ours
        os.environ.update(HOME=home, JUPYTER_RUNTIME_DIR=home, XDG_RUNTIME_DIR=home)
        json.dump([asdict(problem) for problem in inspect()], answer)


if __name__ == "__main__":
    main()
