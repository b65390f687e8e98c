"""Lengths of time in /etc/default/jupyterhub."""

import os
import re

from .settings import place_of

NEVER = 0
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """Return a length of time in seconds: a whole number with s, m, h or d, seconds without. Raises ValueError with words for humans."""
    if not (found := re.fullmatch(r"([1-9][0-9]{0,8})([smhd]?)", text)):
        raise ValueError("is not a valid duration; use a whole number with s, m, h or d (8h)")
    return int(found[1]) * UNITS[found[2]]


def setting(name: str) -> int:
    """Return what the setting `name` says, in seconds; NEVER where it is empty. Raises SystemExit with one line."""
    text = os.environ.get(name, "").strip()
    try:
        return seconds(text) if text else NEVER
    except ValueError as error:
        raise SystemExit(f"{name}={text} in {place_of(name)} {error}, or leave it empty") from None


def login_idle() -> int:
    """Return after how many seconds without use a login ends, NEVER for not at all."""
    return setting("JUPYTERHUB_LOGIN_IDLE")
