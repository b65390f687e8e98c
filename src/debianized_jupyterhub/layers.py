"""A user's own packages: a layer over the bundled ones, in the user's home, that the bundled kernel runs in.

The layer is a bare venv. `%pip`, pip and uv write to it as to any other; a module in it looks up the tree of the notebook server at each start, so that
what is not in the layer comes from there. Only kernels and the user's own commands use it: neither the hub nor a notebook server ever does.
docs/packages.md says what users see.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from .paths import TREES

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SWITCH = "JUPYTERHUB_PERSONAL_PACKAGES"  # /etc/default/jupyterhub; the hub hands it to servers
REFUSAL = "JUPYTERHUB_NO_PACKAGES"  # why a kernel has no layer: the bundled pip says it (debian/patches/python/pip-bundled-is-read-only.patch)
WITHOUT = "Python 3 (without my packages)"
MINE = "jupyterhub_bundle"  # module of the layer
SITE = f"lib/python{VERSION}/site-packages"

# In the layer, and run at each start of its Python: keep it short. The server's tree is named by a variable; elsewhere (ssh) the newest is taken.
BUNDLE = f"""\
import os, sys

for tree in os.path.dirname(os.environ.get("JUPYTERHUB_SERVER_PATH", "")), "{TREES}/current":
    if os.path.isdir(f"{{tree}}/{SITE}"):
        sys.path.append(f"{{tree}}/{SITE}")
        SHARE = f"{{tree}}/share/jupyter"  # debian/patches/python/jupyter-core-layer.patch
        break
"""
PIP = """\
#!/bin/sh
exec "${0%/*}/python" -m pip "$@"
"""
BASHRC = """\
[ ! -f ~/.bashrc ] || . ~/.bashrc
PATH=$VIRTUAL_ENV/bin:$PATH
PS1="(my packages) $PS1"
"""


class LayerError(Exception):
    """There is no layer; the text says why, and what to do, in one line."""


def allowed() -> bool:
    """Does the site let users have layers?"""
    return os.environ.get(SWITCH, "").strip().lower() != "false"


def home() -> Path:
    """Return the folder of the user's layers, of all versions of Python."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data) / "jupyterhub/packages/python3"


def folder() -> Path:
    """Return the folder of the user's layer; it need not be there."""
    return home() / f"py{VERSION}"


def files() -> dict[str, str]:
    """Return the texts of the layer's own files, by their paths in it."""
    config = f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\nversion = {'.'.join(map(str, sys.version_info[:3]))}\nprompt = my packages\n"
    return {"pyvenv.cfg": config, "bashrc": BASHRC, f"{SITE}/{MINE}.py": BUNDLE, f"{SITE}/{MINE}.pth": f"import {MINE}\n"}


def links() -> dict[str, str]:
    """Return the targets of the layer's links, by their paths in it."""
    real = f"python{VERSION}"
    return {f"bin/{real}": f"{sys.base_prefix}/bin/{real}", "bin/python3": real, "bin/python": real}


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file at once: another kernel may start at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text)
        new.chmod(mode)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _fill(layer: Path) -> None:
    """Make what is missing in the layer; the file that makes it one comes last."""
    for name, target in links().items():
        if not (layer / name).is_symlink() or os.readlink(layer / name) != target:
            (layer / name).parent.mkdir(parents=True, exist_ok=True)
            new = layer / f"bin/.link.{os.getpid()}"
            new.symlink_to(target)
            new.replace(layer / name)
    for name in ("pip", "pip3"):
        if not (layer / "bin" / name).exists():  # pip itself may have been replaced by the user
            _write(layer / "bin" / name, PIP, 0o755)
    for name, text in reversed(files().items()):
        _write(layer / name, text)


def _is_whole(layer: Path) -> bool:
    """Is all there, as this version makes it?"""
    try:
        as_made = all((layer / name).read_text() == text for name, text in files().items())
        linked = all(os.readlink(layer / name) == target for name, target in links().items())
        return as_made and linked and (layer / "bin/pip").exists()
    except (OSError, ValueError):
        return False


def prepare() -> Path:
    """Return the user's layer, which is made where there is none; a matter of milliseconds. Raises LayerError."""
    if not allowed():
        raise LayerError("personal packages are switched off on this machine; make an environment of your own and use it as a kernel")
    layer = folder()
    try:
        whole = _is_whole(layer)
        if not whole:
            layer.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = layer.stat()
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise LayerError(f"others can write to {layer}, or own it: rename it, or have it given to you alone")
        if not whole:
            _fill(layer)
    except OSError as error:
        raise LayerError(f"the folder {layer} for them cannot be made: {error.strerror or error}") from None
    return layer


def variables(layer: Path, env: dict[str, str]) -> dict[str, str]:
    """Return what the environment `env` of a process needs in addition, to use the layer: its programs first, its pip."""
    return {
        "VIRTUAL_ENV": str(layer),
        "PATH": f"{layer}/bin:{env.get('PATH', '/usr/bin:/bin')}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_USER": "0",  # a pip.conf that says otherwise is meant for the machine's Python
    }


def has_packages(layer: Path) -> bool:
    """Has the user installed anything?"""
    try:
        return any(not entry.name.startswith((MINE, "__pycache__")) for entry in os.scandir(layer / SITE))
    except OSError:
        return False


def suspects(layer: Path) -> list[str]:
    """Return what can break the kernel (sorted list of str): modules of the layer that stand in for bundled ones, and what Python runs at its start."""
    try:
        mine = {name for name in os.listdir(layer / SITE) if not name.startswith((MINE, "__pycache__"))}
    except OSError:
        return []
    bundled = set(os.listdir(f"{sys.prefix}/{SITE}"))
    return sorted(name for name in mine if name in bundled or name.endswith(".pth") or name.startswith(("sitecustomize", "usercustomize")))


def versions(layer: Path, modules: Iterable[str]) -> list[str]:
    """Return the packages (list of str, "numpy 2.1.0") that `modules` of the layer belong to; files that belong to none as they are."""
    found: dict[str, None] = {}
    known = {}
    for package in metadata.distributions(path=[str(layer / SITE)]):
        top = {str(file).partition("/")[0] for file in package.files or ()}
        known.update(dict.fromkeys(top, f"{package.name} {package.version}"))
    for module in modules:
        found[known.get(module, module)] = None
    return list(found)


def state(layer: Path) -> str:
    """Return a text that changes when packages are installed or removed, and with each version of the bundle."""
    return f"{os.stat(layer / SITE).st_mtime_ns} {sys.prefix}"


def is_known_good(layer: Path) -> bool:
    """Has a kernel with these packages worked before?"""
    try:
        return (layer / "worked").read_text() == state(layer)
    except OSError:
        return False


def remember_good(layer: Path) -> None:
    """Note that a kernel with these packages works. Where that cannot be written it is tried again at the next start."""
    with contextlib.suppress(OSError):
        _write(layer / "worked", state(layer))
