"""Kernelspecs, the files that say how a kernel is started: which program is meant, and how the kernel can be talked to.

Nothing of Jupyter is imported here, so that jupyterhub-ctl can ask, too.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# Where Debian's packages and administrators put kernels for all users, in Jupyter's order.
SYSTEM = ("/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels")
PYTHON = re.compile(r"python(?:3(?:\.\d+)?)?")
# Kernels known to talk over files (ZeroMQ's ipc). Many die of it, or hang without a word: those of xeus, tslab, the JVM's.
TALKS_OVER_FILES = re.compile(r"(?:^|\s)-m\s*(?:ipykernel(?:_launcher|\.kernelapp)?|bash_kernel|m2_kernel|octave_kernel)(?:\s|$)|\bIRkernel::main\(")
# R asks before it makes a library of the user's, but not in a kernel: there install.packages() fails. R's own front end reads the name from Renviron.
R_LIBRARY = (
    'local({ own <- strsplit(Sys.getenv("R_LIBS_USER"), ":")[[1]][1];'
    " if (grepl('^[/~]', own) && !dir.exists(own) && dir.create(own, FALSE, TRUE)) .libPaths(c(own, .libPaths())) })"
)


def transport(argv: Sequence[str]) -> str:
    """Return how a kernel with the command `argv` is to be talked to: "ipc", by files of the user's, or "tcp", by ports that every account can connect to."""
    return "ipc" if TALKS_OVER_FILES.search(" ".join(argv)) else "tcp"


def program(argv: Sequence[str], folder: str) -> str:
    """Return the program (str) that the kernelspec in `folder` means; "python" of the machine's kernels is the machine's, not ours. Raises ValueError."""
    if not argv:
        raise ValueError("it names no program")
    if folder.startswith(("/usr/share/", "/usr/local/share/")) and PYTHON.fullmatch(argv[0]):
        return f"/usr/bin/{'python3' if argv[0] == 'python' else argv[0]}"
    return argv[0]


def with_library(argv: Sequence[str]) -> list[str]:
    """Return the command `argv`; R's kernel makes the user's library where there is none."""
    start = next((number for number, argument in enumerate(argv) if "IRkernel::main(" in argument), 0)
    if start and argv[start - 1] == "-e":
        return [*argv[: start - 1], "-e", R_LIBRARY, *argv[start - 1 :]]
    return list(argv)


class Installed(NamedTuple):
    """A kernel for all users: its file, its name for people, and what is wrong with it ("" for nothing)."""

    file: Path
    name: str
    wrong: str
    open_to_all: bool  # does it talk over ports, without a key?


def _look_at(file: Path) -> Installed:
    """Return what is to be said of a kernelspec."""
    try:
        spec = json.loads(file.read_text())
        argv, name = spec["argv"], str(spec.get("display_name", file.parent.name))
        start = program(argv, str(file.parent))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Installed(file, file.parent.name, f"cannot be used ({type(error).__name__}: {error})", False)
    has_key = "curve" in (spec.get("metadata") or {}).get("supported_encryption", ())
    missing = "" if shutil.which(start) else f"{start}, which it names, is missing"
    return Installed(file, name, missing, transport(argv) == "tcp" and not has_key)


def installed() -> Iterator[Installed]:
    """Yield the kernels that the machine has for all users, besides the bundled one."""
    for folder in SYSTEM:
        for file in sorted(Path(folder).glob("*/kernel.json")):
            yield _look_at(file)
