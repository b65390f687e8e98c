"""Names of users, for Tab."""

import contextlib
import csv
from pathlib import Path
from typing import Any

from . import sudoers
from .common import Failure
from .hub import Hub

PEOPLE = range(1000, 60000)  # uids; those of a directory are not asked for


def complete(_context: Any, _parameter: Any, begun: str) -> list[str]:
    """Return the names (list of str) that begin so: users of the hub's, local people, and who has a rule."""
    names: set[str] = set()
    with contextlib.suppress(OSError), open("/etc/passwd", errors="replace") as lines:
        rows = csv.reader(lines, delimiter=":", quoting=csv.QUOTE_NONE)
        names |= {row[0] for row in rows if len(row) > 2 and row[2].isdecimal() and int(row[2]) in PEOPLE}
    with contextlib.suppress(OSError, Failure):
        names |= {name for those in sudoers.read().values() for name in those}
    if Path("/run/jupyterhub").is_dir():
        with contextlib.suppress(OSError, Failure):
            names |= {user["name"] for user in Hub().accounts()}
    return sorted(name for name in names if name.startswith(begun))
