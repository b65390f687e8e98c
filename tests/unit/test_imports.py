"""Imports in src/debianized_jupyterhub point downwards: what is above may use what is below, never the other way round."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "src/debianized_jupyterhub"

# From top to bottom; a module may import its own level and those below. A package's name stands for all in it that has no line of its own.
LEVELS = (
    {"ctl"},
    {"ctl.index_build"},
    {"ctl.environment_archive", "ctl.verify"},
    {"ctl.environment_build"},
    {"ctl.checked_tar", "ctl.jobs", "ctl.uv"},
    {"ctl.check_config", "ctl.command", "ctl.common", "ctl.hub", "ctl.processes", "ctl.sudoers"},
    {"authenticators"},
    {"app", "culler", "failing", "keeper", "preflight", "server_settings", "settings_check"},
    {"jobs"},
    {
        "account_ends",
        "authenticator",
        "endings",
        "handlers",
        "idle_logins",
        "lease",
        "notices",
        "outage",
        "record",
        "spawner",
        "stricter_handlers",
        "user_logins",
        "user_pages",
    },
    {"services"},
    {"standing"},
    {
        "archive",
        "as_hub",
        "contents",
        "culling",
        "defaults",
        "egress",
        "environments",
        "gate",
        "http_server",
        "job_gate",
        "job_records",
        "kernels",
        "languages",
        "login_check",
        "moving",
        "package_index",
        "packages",
        "ports",
    },
    {"database_url"},
    {"database", "identity", "incoming", "job_link", "job_words", "last_words", "layers", "profiles", "server_log", "wrong_logins"},
    {
        "accounts",
        "addresses",
        "certificates",
        "durations",
        "files",
        "journal",
        "kernel_environment",
        "kernelspecs",
        "leftovers",
        "limits",
        "lines",
        "pam",
        "paths",
        "settings",
        "sockets",
        "state",
        "units",
        "usage",
        "watchdog",
    },
)
NUMBERS = {name: number for number, names in enumerate(LEVELS) for name in names}


def level(name):
    """Return the number (int, 0 is the top) of a module's level; KeyError for one that the table does not know."""
    while name not in NUMBERS and "." in name:
        name = name.rpartition(".")[0]
    return NUMBERS[name]


def name_of(file):
    """Return a module's name below the package (str), of a file (Path)."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def is_module(name):
    path = PACKAGE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(code, package=()):
    """Yield the modules of this package (str, below it) that `code` (str) in its part `package` (tuple of str) imports, anywhere in it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = [PACKAGE.name, *package[: len(package) - node.level + 1]] if node.level else []
            start += node.module.split(".") if node.module else []
            # `from . import gate` names a module, `from .gate import ask` what is in one.
            found = [[*start, alias.name] if is_module(".".join([*start[1:], alias.name])) else start for alias in node.names]
        else:
            continue
        yield from (".".join(name[1:]) for name in found if name[0] == PACKAGE.name and len(name) > 1)


def modules():
    return [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]


def test_table_names_what_is_there():
    assert all(is_module(name) for name in NUMBERS)
    assert {name_of(file).partition(".")[0] for file in modules()} == {name.partition(".")[0] for name in NUMBERS}


def test_no_import_points_upwards():
    found = [
        f"{name_of(file)} imports {name}"
        for file in modules()
        for name in imports(file.read_text(), file.relative_to(PACKAGE).parts[:-1])
        if level(name) < level(name_of(file))
    ]
    assert not found


def test_imports_of_each_form_are_seen():
    """Else the test above could not fail: relative and absolute ones, of modules and of names in them, at the top and in functions."""
    code = """
import os, debianized_jupyterhub.paths
from debianized_jupyterhub import units
from debianized_jupyterhub.gate import ask
from .. import accounts
from . import check_config
from .verify import results
def late():
    from ..app import Hub
"""
    seen = sorted(imports(code, ("ctl",)))
    assert seen == ["accounts", "app", "ctl.check_config", "ctl.verify", "gate", "paths", "units"]
    assert level("ctl.backup") < level("ctl.verify.login") < level("ctl.common") < level("authenticators.ldap") < level("app") < level("paths")
