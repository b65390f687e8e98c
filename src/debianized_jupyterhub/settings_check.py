"""Parse the hub's configuration the way the hub does, and say what is wrong with it, with file and line.

This is what `jupyterhub-launcher config` runs, as the hub's account: the hub's own code up to where it would open its database. It
prints {"problems": list of Problem, "facts": dict of FACTS} as JSON. preflight.py uses `inspect` itself; for root, ctl/check_config.py
starts the launcher.

What takes long to import (jupyterhub, traitlets) is imported where it is used: jupyterhub-ctl only wants Problem.
"""

from __future__ import annotations

import ast
import difflib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import database_url
from .lines import one_line

if TYPE_CHECKING:
    from traitlets.config import Config, Configurable

Place = tuple[str | None, int | None]  # file, line
Places = dict[tuple[str, str], Place]  # by section and key
UNKNOWN: Place = (None, None)
# Exceptions whose text names what the administrator has to look for, and no value.
TELLING = {"SyntaxError", "IndentationError", "TabError", "NameError", "ImportError", "ModuleNotFoundError", "FileNotFoundError", "PermissionError"}

# Settings of the hub that say where its parts are, and of its authenticator (by SudoersPolicy) that say which accounts it takes.
FACTS = ("bind_url", "cookie_secret_file", "db_url", "hub_ip", "hub_port", "public_url", "subdomain_host")
ACCOUNT_FACTS = ("account_service", "refused_shells")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    # "fatal": the hub would not start; "unknown": nothing has such a setting; "note": what JupyterHub itself would warn of. Of notebook servers, which start
    # all the same: "ignored": a file is left out; "value": one that does not fit.
    kind: str
    what: str  # one line
    mend: str  # one line
    file: str | None = None
    line: int | None = None

    @property
    def fatal(self) -> bool:
        """Would it keep the hub from starting?"""
        return self.kind == "fatal"

    @property
    def spoils(self) -> bool:
        """Do notebook servers start without settings of that file, or not at all?"""
        return self.kind in ("ignored", "value")

    @property
    def place(self) -> str | None:
        """Where it is, as "FILE:LINE" or "FILE"; None where that is unknown."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" if self.place else self.what

    def in_public(self) -> str:
        """Return it as every account of the machine may read it: without values of settings, which may be passwords."""
        name = re.match(r"(\w+(?:Error|Exception|Exit|Interrupt)): ", self.what)
        trait = re.match(r"The '\w+' trait of an? \w+ instance(?: expected [^,]+)?", self.what)  # in traitlets' words, which end with the value
        if trait:
            what = trait[0]
        elif name:
            what = self.what if name[1] in TELLING else name[1]
        else:
            what = self.what if self.what.startswith("c.") else "a setting that is wrong"
        return f"{self.place}: {what}" if self.place else what


class Collector(logging.Filter):
    """Keeps what is logged as a warning, lets nothing through."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        # Settings that nobody knows are found in all classes by _unknown(), not only in those that are made here.
        if record.levelno >= logging.WARNING and not record.getMessage().startswith("Config option `"):
            self.messages.append(one_line(record.getMessage()))
        return False


def inspect(argv: list[str]) -> tuple[list[Problem], dict[str, Any]]:
    """Return what is wrong (list of Problem) and what is set (dict of FACTS, empty for a fatal problem) for a hub with the arguments `argv`.

    `argv` is a list of str, as jupyterhub-launcher makes it. Nothing that a configuration file raises comes out of here.
    """
    from jupyterhub import orm
    from traitlets import TraitError

    from . import profiles
    from .app import Hub

    app = Hub()
    log = Collector()
    app.log.addFilter(log)
    bare = Hub.load_config_file.__wrapped__  # without the wrapper that would end us
    try:
        Hub.parse_command_line.__wrapped__(app, argv)
        folder = Path(app.config_file).parent
        places = places_in([folder / "jupyterhub_config.py", *sorted(folder.glob("jupyterhub_config.d/*.py"))])
        bare(app, app.config_file)
        # Some keep their users in the hub's database; this one is empty and nobody's.
        db = orm.new_session_factory("sqlite:///:memory:")()
        authenticator = app.authenticator_class(parent=app, _deprecated_db_session=db)
        authenticator.check_allow_config()
        proxy = app.proxy_class(parent=app, app=app)
        parts = [authenticator, app.spawner_class(parent=app), proxy, app]
    except TraitError as error:
        name = str(error).partition("'")[2].partition("'")[0]
        file, line = next((place for (_, key), place in places.items() if key == name), UNKNOWN)
        return [Problem("fatal", _without_address(error), "give it a value of that kind", file, line)], {}
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a configuration file may raise anything)
        return [_raised(error, Path(app.config_file).parent)], {}
    if impossible := [Problem("fatal", what, mend, *places.get(("JupyterHub", key), UNKNOWN)) for key, what, mend in app.cannot_work(proxy)]:
        return impossible, {}
    if app.has_jobs() and (wrong := profiles.mistakes()):
        return [Problem("fatal", what, mend, file, line) for file, line, what, mend in wrong], {}
    warned = [Problem("note", message, "see JupyterHub's reference of settings") for message in log.messages]
    facts = {name: getattr(app, name) for name in FACTS} | {"db_url_place": _set_elsewhere(app, places)}
    return [*_unknown(app.config, parts, places), *warned], facts | _account_facts(authenticator)


def _account_facts(authenticator: Any) -> dict[str, Any]:
    """Return {name of ACCOUNT_FACTS: its value} of an authenticator that has them; sets become sorted lists."""
    found = {name: getattr(authenticator, name) for name in ACCOUNT_FACTS if hasattr(authenticator, name)}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}


def _set_elsewhere(app: Any, places: Places) -> str | None:
    """Return where the configuration of `app` sets db_url ("FILE:LINE", or the folder where that is not found), None where it is left to the package."""
    if isinstance(app.config.JupyterHub.get("db_url"), database_url.Own):
        return None
    file, line = places.get(("JupyterHub", "db_url"), UNKNOWN)
    return f"{file}:{line}" if file else str(Path(app.config_file).parent)


def _without_address(error: BaseException) -> str:
    """Return what an exception says, in one line, with objects named by their class alone."""
    return one_line(re.sub(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>", r"a \1", str(error)))


def _raised(error: BaseException, folder: Path) -> Problem:
    """Return the Problem for an exception that came out of a configuration file in `folder` (Path)."""
    mend = "correct that line"
    if isinstance(error, SyntaxError):
        return Problem("fatal", f"{type(error).__name__}: {error.msg}", mend, error.filename, error.lineno)
    what = f"{type(error).__name__}: {_without_address(error)}"
    if isinstance(error, OSError) and str(error.filename).startswith(f"{folder}/"):
        return Problem("fatal", what, "`systemd-tmpfiles --create jupyterhub.conf` sets owners and modes right", error.filename)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(f"{folder}/"):
            return Problem("fatal", what, mend, frame.filename, frame.lineno)
    return Problem("fatal", what, "correct the setting it names")


def places_in(paths: Iterable[Path]) -> Places:
    """Return where settings are set: {(section, key): (file, line)}, from the syntax trees of the configuration files `paths`; the last place of each."""
    places: Places = {}
    for path in paths:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # the hub's own parser says what is wrong
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and isinstance(node.value.value, ast.Name):
                places[node.value.attr, node.attr] = (str(path), node.lineno)
    return places


def _unknown(config: Config, parts: list[Configurable], places: Places) -> list[Problem]:
    """Return a Problem for each setting in `config` that none of the objects `parts` knows: it has no effect."""
    from traitlets.config import Config, LazyConfigValue

    from . import defaults

    ours = Config()
    defaults.apply(ours)
    found = []
    for section, settings in config.items():
        known = [type(part) for part in parts if section in _names(type(part))] + _optional(section)
        traits = {name for cls in known for name in cls.class_traits(config=True)}
        keys = settings if isinstance(settings, Config) else {"": settings}
        for key, value in keys.items():
            empty = isinstance(value, (Config, LazyConfigValue)) and not value.to_dict() if hasattr(value, "to_dict") else False
            if key in traits or empty or (not known and key in ours.get(section, {})):
                continue
            name = f"c.{section}.{key}" if key else f"c.{section}"
            file, line = places.get((section, key), UNKNOWN)
            if known:
                elsewhere = [_owner(type(part), key) for part in parts if key in type(part).class_traits(config=True)]
                close = [f"c.{section}.{match}" for match in difflib.get_close_matches(key, traits, 1)]
                guess = [f"c.{owner}.{key}" for owner in elsewhere] + close
                what = f"{name} is no setting of {section}, so it has no effect"
                found.append(Problem("unknown", what, f"did you mean {guess[0]}?" if guess else "remove it", file, line))
            elif section in _installed():
                found.append(Problem("note", f"{name} has no effect: {section} is not in use", "use it or remove the line", file, line))
            else:
                classes = sorted({name for part in parts for name in _names(type(part))} | _installed())
                close = difflib.get_close_matches(section, classes, 1)
                mend = f"did you mean {name.replace(section, close[0], 1)}?" if close else "remove it"
                found.append(Problem("unknown", f"{name} has no effect: there is no class {section}", mend, file, line))
    return found


def _names(cls: type) -> list[str]:
    return [base.__name__ for base in cls.__mro__]


def _owner(cls: type, key: str) -> str:
    """Return the name of the class above `cls` that defines the setting `key`."""
    return next(base.__name__ for base in reversed(cls.__mro__) if key in getattr(base, "class_traits", dict)())


def _subclasses(cls: type[Configurable]) -> Iterator[type[Configurable]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _optional(section: str) -> list[type[Configurable]]:
    """Return the classes called `section` that the hub makes beside its main parts, such as CryptKeeper."""
    from traitlets.config import Configurable

    main = ("Authenticator", "Spawner", "Proxy", "JupyterHub", "Application")
    return [cls for cls in _subclasses(Configurable) if cls.__name__ == section and not set(_names(cls)) & set(main)]


def _installed() -> set[str]:
    """Return the names of all classes that can be configured here, in use or not."""
    from importlib.metadata import entry_points

    from traitlets.config import Configurable

    names = {cls.__name__ for cls in _subclasses(Configurable)}
    for group in ("jupyterhub.authenticators", "jupyterhub.spawners", "jupyterhub.proxies"):
        names.update(point.value.rpartition(":")[2] for point in entry_points(group=group))
    return names


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # what configuration files print is not ours
        found, facts = inspect(sys.argv[1:])
        json.dump({"problems": [asdict(problem) for problem in found], "facts": facts}, answer)
