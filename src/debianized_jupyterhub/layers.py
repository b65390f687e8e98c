"""A user's own packages: a layer over the bundled ones, or over an environment of the administrator's, in the user's home. Kernels run in it.

The layer is a bare venv. `%pip`, pip and uv write to it as to any other; a module in it looks up what it lies over at each start, so that
what is not in the layer comes from there. Only kernels and the user's own commands use it: neither the hub nor a notebook server ever does.
docs/packages.md says what users see.
"""

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from .paths import ENVIRONMENTS, TREES

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SWITCH = "JUPYTERHUB_PERSONAL_PACKAGES"  # /etc/default/jupyterhub; the hub hands it to servers
REFUSAL = "JUPYTERHUB_NO_PACKAGES"  # why a kernel has no layer: the bundled pip says it (debian/patches/python/pip-bundled-is-read-only.patch)
WITHOUT = "Python 3 (without my packages)"
BUNDLED = "python3"  # name of the layer over the bundle; environments cannot have it
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
# As above: the kernel's revision is named by a variable (ctl/environment_build.py). Packages of an environment may have .pth files.
ENVIRONMENT = """\
import os, site

revision = os.environ.get("JUPYTERHUB_ENVIRONMENT", "")
if os.path.dirname(revision) != "{folder}" or not os.path.isdir(revision):
    revision = os.path.realpath("{folder}/current")
site.addsitedir(revision + "/{site}")
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


class Base(NamedTuple):
    """What a layer lies over: the bundle, or a revision of an environment."""

    name: str  # "python3", or the environment's
    python: str  # path of its interpreter
    version: str  # "3.13.5"
    folder: str  # path of the venv that has its packages

    @property
    def minor(self) -> str:
        """Return "3.13"."""
        return ".".join(self.version.split(".")[:2])

    @property
    def site(self) -> str:
        """Return where the packages are, below the folder."""
        return f"lib/python{self.minor}/site-packages"

    @property
    def module(self) -> str:
        """Return the text of the layer's module."""
        return BUNDLE if self.name == BUNDLED else ENVIRONMENT.format(folder=os.path.dirname(self.folder), site=self.site)


def bundle() -> Base:
    """Return the packages of the notebook server's tree."""
    return Base(BUNDLED, f"{sys.base_prefix}/bin/python{VERSION}", ".".join(map(str, sys.version_info[:3])), sys.prefix)


def environment(folder: str) -> Base | None:
    """Return the revision whose folder that is, None where it is none that users may read."""
    revision = Path(os.path.realpath(folder))
    if revision.parent.parent != Path(ENVIRONMENTS):
        return None
    try:
        version = re.search(r"^version_info\s*=\s*(3\.\d+\S*)", (revision / "pyvenv.cfg").read_text(), re.MULTILINE)
        return Base(revision.parent.name, os.path.realpath(revision / "bin/python"), version[1], str(revision)) if version else None
    except OSError:
        return None


class Layer:
    """A user's layer over a base; it need not be there."""

    def __init__(self, base: Base) -> None:
        self.base = base

    @property
    def home(self) -> Path:
        """The folder of the user's layers over it, of all versions of Python."""
        data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        return Path(data) / "jupyterhub/packages" / self.base.name

    @property
    def folder(self) -> Path:
        """The folder of the layer."""
        return self.home / f"py{self.base.minor}"

    @property
    def site(self) -> Path:
        """Where its packages are."""
        return self.folder / self.base.site

    def files(self) -> dict[str, str]:
        """Return the texts of the layer's own files, by their paths in it."""
        home = os.path.dirname(self.base.python)
        config = f"home = {home}\ninclude-system-site-packages = false\nversion = {self.base.version}\nprompt = my packages\n"
        site = self.base.site
        return {"pyvenv.cfg": config, "bashrc": BASHRC, f"{site}/{MINE}.py": self.base.module, f"{site}/{MINE}.pth": f"import {MINE}\n"}

    def links(self) -> dict[str, str]:
        """Return the targets of the layer's links, by their paths in it."""
        real = f"python{self.base.minor}"
        return {f"bin/{real}": self.base.python, "bin/python3": real, "bin/python": real}

    def _fill(self) -> None:
        """Make what is missing; the file that makes it a layer comes last."""
        for name, target in self.links().items():
            link = self.folder / name
            if not link.is_symlink() or os.readlink(link) != target:
                link.parent.mkdir(parents=True, exist_ok=True)
                new = self.folder / f"bin/.link.{os.getpid()}"
                new.symlink_to(target)
                new.replace(link)
        for name in ("pip", "pip3"):
            if not (self.folder / "bin" / name).exists():  # pip itself may have been replaced by the user
                _write(self.folder / "bin" / name, PIP, 0o755)
        for name, text in reversed(self.files().items()):
            _write(self.folder / name, text)

    def _is_whole(self) -> bool:
        """Is all there, as this version makes it?"""
        try:
            as_made = all((self.folder / name).read_text() == text for name, text in self.files().items())
            linked = all(os.readlink(self.folder / name) == target for name, target in self.links().items())
            return as_made and linked and (self.folder / "bin/pip").exists()
        except (OSError, ValueError):
            return False

    def prepare(self) -> None:
        """Make the layer where there is none; a matter of milliseconds. Raises LayerError."""
        if not allowed():
            raise LayerError("personal packages are switched off on this machine; make an environment of your own and use it as a kernel")
        try:
            whole = self._is_whole()
            if not whole:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
                raise LayerError(f"others can write to {self.folder}, or own it: rename it, or have it given to you alone")
            if not whole:
                self._fill()
        except OSError as error:
            raise LayerError(f"the folder {self.folder} for them cannot be made: {error.strerror or error}") from None

    def variables(self, env: dict[str, str]) -> dict[str, str]:
        """Return what the environment `env` of a process needs in addition, to use the layer: its programs first, its pip."""
        return {
            "VIRTUAL_ENV": str(self.folder),
            "PATH": f"{self.folder}/bin:{env.get('PATH', '/usr/bin:/bin')}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_USER": "0",  # a pip.conf that says otherwise is meant for the machine's Python
        }

    def _modules(self) -> list[str]:
        """Return the names of what the user has installed. Raises OSError."""
        return [name for name in os.listdir(self.site) if not name.startswith((MINE, "__pycache__"))]

    def has_packages(self) -> bool:
        """Has the user installed anything?"""
        try:
            return bool(self._modules())
        except OSError:
            return False

    def suspects(self) -> list[str]:
        """Return what can break the kernel (sorted list of str): modules of the layer that stand in for those below, and what Python runs at its start."""
        try:
            mine = set(self._modules())
        except OSError:
            return []
        below = set(os.listdir(f"{self.base.folder}/{self.base.site}"))
        return sorted(name for name in mine if name in below or name.endswith(".pth") or name.startswith(("sitecustomize", "usercustomize")))

    def versions(self, modules: Iterable[str]) -> list[str]:
        """Return the packages (list of str, "numpy 2.1.0") that `modules` of the layer belong to; files that belong to none as they are."""
        found: dict[str, None] = {}
        known = {}
        for package in metadata.distributions(path=[str(self.site)]):
            top = {str(file).partition("/")[0] for file in package.files or ()}
            known.update(dict.fromkeys(top, f"{package.name} {package.version}"))
        for module in modules:
            found[known.get(module, module)] = None
        return list(found)

    def _state(self) -> str:
        """Return a text that changes when packages are installed or removed, and with each version of what is below."""
        return f"{os.stat(self.site).st_mtime_ns} {self.base.folder}"

    def is_known_good(self) -> bool:
        """Has a kernel with these packages worked before?"""
        try:
            return (self.folder / "worked").read_text() == self._state()
        except OSError:
            return False

    def remember_good(self) -> None:
        """Note that a kernel with these packages works. Where that cannot be written it is tried again at the next start."""
        with contextlib.suppress(OSError):
            _write(self.folder / "worked", self._state())


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
