"""What a newer Debian leaves of a user's: environments of a Python, and a library of an R, that the machine no longer has.

Nothing in them is lost, and nothing uses them any more. docs/kernels.md says how they are made anew.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

R_BASE = Path("/usr/lib/R/library/base/DESCRIPTION")  # its version is R's


def pythons_of(program: str) -> tuple[str, str, str] | None:
    """Return an environment, the Python it was made for and the one that it starts now ("3.11", "3.13"), if `program` is one's Python and they differ."""
    environment = os.path.dirname(os.path.dirname(program))
    try:
        with open(f"{environment}/pyvenv.cfg") as config:
            made_for = re.search(r"^version(?:_info)?\s*=\s*(3\.\d+)", config.read(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    starts = re.fullmatch(r"python(3\.\d+)", os.path.basename(os.path.realpath(program)))
    if not made_for or not starts or made_for[1] == starts[1]:
        return None
    return environment, made_for[1], starts[1]


def _kernels(folder: Path) -> Iterator[str]:
    """Yield the programs of the kernels in a folder of kernelspecs; those that cannot be read are named where they are started."""
    for file in sorted(folder.glob("*/kernel.json")):
        try:
            yield str(json.loads(file.read_text())["argv"][0])
        except (OSError, ValueError, LookupError, TypeError):
            continue


def environments(kernels: Path) -> Iterator[str]:
    """Yield a line for each environment of another Python that has a kernel in the folder `kernels`: what it is, and the commands that make it anew."""
    for program in dict.fromkeys(_kernels(kernels)):
        if found := pythons_of(program):
            folder, old, new = found
            # Without setuptools: Python 3.11 puts its own into an environment, the new Python has none to offer.
            site, quoted = shlex.quote(f"{folder}/lib/python{old}/site-packages"), shlex.quote(folder)
            yield (
                f"{folder}: an environment of Python {old}, and this machine has {new}: jupyterhub-packages run pip freeze --exclude setuptools --path {site} "
                f"> packages.txt; python3 -m venv --clear {quoted}; {quoted}/bin/pip install -r packages.txt"
            )


def libraries(home: Path) -> Iterator[str]:
    """Yield a line for each library of another R in a user's home: what it is, and the command that installs its packages anew."""
    try:
        version = re.search(r"^Version: (\d+\.\d+)", R_BASE.read_text(), re.MULTILINE)
    except OSError:
        return
    for library in sorted(home.glob("R/*-library/*.*")):
        if version and library.name != version[1] and any(library.glob("*/DESCRIPTION")):
            # Outside a kernel R would ask before it makes the library.
            code = f"""dir.create(own <- Sys.getenv("R_LIBS_USER"), FALSE, TRUE); install.packages(setdiff(dir({json.dumps(str(library))}), dir(own)), own)"""
            yield f"{library}: packages of R {library.name}, and this machine has {version[1]}: Rscript -e {shlex.quote(code)}"
