"""Where a setting is, for messages about it."""

import contextlib
import re
from pathlib import Path

from .paths import DEFAULTS


def place_of(setting: str) -> str:
    """Return the place ("FILE:LINE", str) of a setting in /etc/default/jupyterhub, the last where there are several; the file alone where it is not there."""
    found = []
    with contextlib.suppress(OSError):
        lines = Path(DEFAULTS).read_text(errors="replace").splitlines()
        found = [number for number, line in enumerate(lines, 1) if re.match(rf"\s*(export\s+)?{re.escape(setting)}=", line)]
    return f"{DEFAULTS}:{found[-1]}" if found else DEFAULTS
