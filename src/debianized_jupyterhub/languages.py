"""JupyterLab's language: the one that the browser asks for, of those whose packs are installed.

debian/patches/python/jupyterlab-server-browser-language.patch has the notebook servers call it.
"""

import functools
from collections.abc import Collection
from importlib.metadata import entry_points

ENGLISH = "en"


@functools.cache
def packs() -> frozenset[str]:
    """Return the locales (such as "de_DE") whose language packs are installed. They are looked for once in a process."""
    return frozenset(pack.name for pack in entry_points(group="jupyterlab.languagepack"))


def _asked_for(header: str) -> list[list[str]]:
    """Return the languages of an Accept-Language header (RFC 9110, 12.5.4), most wanted first, in parts: "de-AT" is ["de", "at"]."""
    weighted = []
    for entry in header.split(","):
        tag, _, weight = entry.replace(" ", "").lower().partition(";q=")
        try:
            weighted.append((float(weight or 1), tag.split("-")))
        except ValueError:
            continue
    return [parts for weight, parts in sorted(weighted, key=lambda entry: -entry[0]) if weight > 0]


def choose(header: str, installed: Collection[str], fallback: str) -> str:
    """Return the locale of `installed` that an Accept-Language header asks for; "en" where English comes before them, else `fallback`."""
    for wanted in _asked_for(header):
        if wanted[0] == ENGLISH:
            return ENGLISH
        fitting = [locale for locale in sorted(installed) if locale.lower().split("_")[0] == wanted[0]]
        if fitting:
            return max(fitting, key=lambda locale: len({*locale.lower().split("_")[1:]} & {*wanted[1:]}))
    return fallback


def of_browser(header: str, fallback: str) -> str:
    """Return the locale for JupyterLab's pages, by the request's Accept-Language header; `fallback` where no installed pack fits."""
    return choose(header, packs(), fallback) if packs() else fallback
