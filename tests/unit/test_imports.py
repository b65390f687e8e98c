"""Imports in src/debianized_jupyterhub point downwards: what is above may use what is below, never the other way round."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "src/debianized_jupyterhub"

# From top to bottom; a module may import its own level and those below. What is not named is the hub, the second level.
LEVELS = (
    {"ctl"},
    {"app", "authenticator", "authenticators", "handlers", "notices", "preflight", "services", "settings_check", "spawner"},
    {"archive", "database", "defaults", "gate"},
    {"accounts", "pam", "paths", "units"},
)


def level(name):
    """Return the level of a module, by the first part of its name below the package."""
    return next(number for number, names in enumerate(LEVELS) if name.partition(".")[0] in names)


def imports(file):
    """Yield the modules of this package that a file (Path) imports, anywhere in it, as names below the package."""
    package = file.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            start = [part for part in start if part]
            # `from . import gate` names modules, `from .gate import ask` what is in one.
            yield from [".".join(start)] if start else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name.partition(".")[2] for name in names if name.partition(".")[0] == PACKAGE.name and "." in name)


def modules():
    return [file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or file.name != "__init__.py"]


def test_every_module_has_a_level():
    names = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in modules()}
    assert names == set().union(*LEVELS)


def test_no_import_points_upwards():
    found = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in modules()
        for name in imports(file)
        if level(name) < level(file.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    ]
    assert not found


def test_imports_are_found():
    """The test above can fail: it sees relative and absolute ones, at the top and in functions."""
    assert {"paths", "accounts"} <= set(imports(PACKAGE / "ctl/report.py"))
    assert "app" in set(imports(PACKAGE / "settings_check.py"))
