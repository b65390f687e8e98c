"""Parse the hub's configuration the way the hub does, and say what is wrong with it, with file and line.

Two halves. `read` is for the rest of this package: it starts the other half as the hub's account, in the hub's environment and view of
the file system. `inspect`, the other half, is what `jupyterhub-launcher config` runs: the hub's own code up to where it would open its
database.
"""

import ast
import difflib
import json
import logging
import os
import pwd
import re
import shlex
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from .common import CheckError, CheckFailed, require_root, show

UNIT = "jupyterhub.service"
ACCOUNT = "jupyterhub"
LAUNCHER = "/usr/sbin/jupyterhub-launcher"
# The hub's account, with the groups that its unit gives it.
GROUPS = f"{ACCOUNT},shadow,jupyterhub-proxy"
BECOME_HUB = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", f"--groups={GROUPS}", "--inh-caps=-all", "--"]
TIMEOUT = 60  # seconds for a configuration that asks the network, say


# Settings of the hub that say where its parts are.
FACTS = ("bind_url", "cookie_secret_file", "db_url", "hub_ip", "hub_port")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    kind: str  # "fatal": the hub would not start; "unknown": nothing has such a setting; "note": what JupyterHub itself would warn of
    what: str  # one line
    mend: str  # one line
    file: str | None = None
    line: int | None = None

    @property
    def fatal(self):
        """Would it keep the hub from starting?"""
        return self.kind == "fatal"

    @property
    def place(self):
        """Where it is, as "FILE:LINE" or "FILE"; None where that is unknown."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self):
        return f"{self.place}: {self.what}" if self.place else self.what


def problems():
    """Return what is wrong with the hub's configuration (list of Problem); for errors see read."""
    return read()[0]


def read(as_the_hub_sees_it=True):
    """Return what is wrong with the hub's configuration (list of Problem), and what it says (dict of FACTS, empty for a fatal problem).

    Without `as_the_hub_sees_it` (bool) the files are those that the caller sees, whose own sandbox may not let it into another's.
    Needs root, or the hub's account in the hub's unit (ExecStartPre= and the like). Raises CheckError where that cannot be found out.
    """
    command, env = [LAUNCHER, "config"], os.environ
    if os.geteuid() == 0:
        view = _hub_view() if as_the_hub_sees_it else []
        command, env = [*view, *BECOME_HUB, *command], hub_environment()
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
            cwd="/",
            env=env,
        )
    except OSError as error:
        raise CheckError(f"cannot run {LAUNCHER}: {error.strerror}: reinstall the package jupyterhub") from None
    except subprocess.TimeoutExpired:
        waits = "look for what waits in it: a command, a host"
        return [Problem("fatal", f"reading the configuration is not done after {TIMEOUT} s", waits)], {}
    try:
        answer = json.loads(done.stdout)
        return [Problem(**problem) for problem in answer["problems"]], answer["facts"]
    except (ValueError, TypeError):
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return [Problem("fatal", said[-1], "correct what it names, then `systemctl restart jupyterhub`")], {}


def _hub_view():
    """Return the start of a command that sees the file system as the running hub does; nothing while there is none."""
    show_pid = ["systemctl", "show", "--property=MainPID", "--value", UNIT]
    pid = subprocess.run(show_pid, check=False, capture_output=True, text=True).stdout.strip()
    return ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"] if pid.isdecimal() and pid != "0" else []


def hub_environment():
    """Return the environment (dict of str) that systemd gives to the hub, drop-ins and EnvironmentFile= included."""
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/var/opt/jupyterhub",
        "USER": "jupyterhub",
        "LOGNAME": "jupyterhub",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        **_assignments("/etc/jupyterhub/proxy.env"),  # also where the unit is masked and has no properties
    }
    command = ["systemctl", "show", "--property=Environment,EnvironmentFiles", UNIT]
    for line in subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines():
        name, _, value = line.partition("=")
        if name == "Environment":
            env.update(pair.split("=", 1) for pair in shlex.split(value) if "=" in pair)
        elif name == "EnvironmentFiles":
            env.update(_assignments(value.rpartition(" (")[0]))
    return env


def _assignments(path):
    """Return the assignments (dict of str) of an EnvironmentFile; none of one that cannot be read."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and line.lstrip()[0] not in "#;")
    return {name.strip(): value.strip().strip("'\"") for name, value in pairs}


@click.command("check-config")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def check_config(as_json):
    """Read the configuration as the hub would, and say what is wrong.

    Nothing is printed for a good one, and nothing is changed.
    """
    if os.geteuid() != pwd.getpwnam(ACCOUNT).pw_uid:
        require_root()
    found = problems()
    rows = [{"status": "failed" if problem.fatal else "warning", **asdict(problem)} for problem in found]
    if rows or as_json:
        show(rows, {"status": "status", "file": "file", "line": "line", "what": "what", "mend": "how to mend it"}, as_json)
    if any(problem.fatal for problem in found):
        raise CheckFailed("the hub cannot start with this configuration")


# -- The other half: runs as the hub's account -------------------------------------------------------------------------------------


class Collector(logging.Filter):
    """Keeps what is logged as a warning, lets nothing through."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def filter(self, record):
        # Settings that nobody knows are found in all classes by _unknown(), not only in those that are made here.
        if record.levelno >= logging.WARNING and not record.getMessage().startswith("Config option `"):
            self.messages.append(" ".join(record.getMessage().split()))
        return False


def inspect(argv):
    """Do what read says, for a hub that is started with the arguments `argv` (list of str)."""
    from jupyterhub import orm
    from traitlets import TraitError

    from debianized_jupyterhub.app import Hub

    app = Hub()
    log = Collector()
    app.log.addFilter(log)
    bare = Hub.load_config_file.__wrapped__  # without the wrapper that would end us
    try:
        Hub.parse_command_line.__wrapped__(app, argv)
        places = _places(Path(app.config_file).parent)
        bare(app, app.config_file)
        # Some keep their users in the hub's database; this one is empty and nobody's.
        db = orm.new_session_factory("sqlite:///:memory:")()
        authenticator = app.authenticator_class(parent=app, _deprecated_db_session=db)
        authenticator.check_allow_config()
        parts = [authenticator, app.spawner_class(parent=app), app.proxy_class(parent=app, app=app), app]
    except TraitError as error:
        name = str(error).partition("'")[2].partition("'")[0]
        file, line = next((place for (_, key), place in places.items() if key == name), (None, None))
        return [Problem("fatal", _one_line(error), "give it a value of that kind", file, line)], {}
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a configuration file may raise anything)
        return [_raised(error, Path(app.config_file).parent)], {}
    warned = [Problem("note", message, "see JupyterHub's reference of settings") for message in log.messages]
    return [*_unknown(app.config, parts, places), *warned], {name: getattr(app, name) for name in FACTS}


def _one_line(error):
    text = re.sub(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>", r"a \1", str(error))
    return " ".join(text.split())


def _raised(error, folder):
    """Return the Problem for an exception that came out of a configuration file in `folder` (Path)."""
    mend = "correct that line"
    if isinstance(error, SyntaxError):
        return Problem("fatal", f"{type(error).__name__}: {error.msg}", mend, error.filename, error.lineno)
    what = f"{type(error).__name__}: {_one_line(error)}"
    if isinstance(error, OSError) and str(error.filename).startswith(f"{folder}/"):
        return Problem("fatal", what, "`systemd-tmpfiles --create jupyterhub.conf` sets owners and modes right", error.filename)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(f"{folder}/"):
            return Problem("fatal", what, mend, frame.filename, frame.lineno)
    return Problem("fatal", what, "correct the setting it names")


def _places(folder):
    """Return where settings are set: {(section, key): (file, line)}, from the syntax trees of the configuration files in `folder` (Path)."""
    places = {}
    for path in [folder / "jupyterhub_config.py", *sorted(folder.glob("jupyterhub_config.d/*.py"))]:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # the hub's own parser says what is wrong
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and isinstance(node.value.value, ast.Name):
                places[node.value.attr, node.attr] = (str(path), node.lineno)
    return places


def _unknown(config, parts, places):
    """Return a Problem for each setting in `config` that none of the objects `parts` knows: it has no effect."""
    from traitlets.config import Config, LazyConfigValue

    from debianized_jupyterhub import defaults

    ours = Config()
    defaults.apply(ours)
    found = []
    for section, settings in config.items():
        known = [type(part) for part in parts if section in _names(type(part))] + _optional(section)
        traits = {name for cls in known for name in cls.class_traits(config=True)}
        keys = settings if isinstance(settings, Config) else {None: settings}
        for key, value in keys.items():
            empty = isinstance(value, (Config, LazyConfigValue)) and not value.to_dict() if hasattr(value, "to_dict") else False
            if key in traits or empty or (not known and key in ours.get(section, {})):
                continue
            name = f"c.{section}.{key}" if key else f"c.{section}"
            file, line = places.get((section, key), (None, None))
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
                mend = f"did you mean c.{close[0]}.{key}?" if close else "remove it"
                found.append(Problem("unknown", f"{name} has no effect: there is no class {section}", mend, file, line))
    return found


def _names(cls):
    return [base.__name__ for base in cls.__mro__]


def _owner(cls, key):
    """Return the name of the class above `cls` that defines the setting `key`."""
    return next(base.__name__ for base in reversed(cls.__mro__) if key in getattr(base, "class_traits", dict)())


def _subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _optional(section):
    """Return the classes called `section` that the hub makes beside its main parts, such as CryptKeeper."""
    from traitlets.config import Configurable

    main = ("Authenticator", "Spawner", "Proxy", "JupyterHub", "Application")
    return [cls for cls in _subclasses(Configurable) if cls.__name__ == section and not set(_names(cls)) & set(main)]


def _installed():
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
