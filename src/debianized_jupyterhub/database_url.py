"""Where the hub's database is: the file that says it, and the URLs in it, in SQLAlchemy's form."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qs

from .database import DatabaseError, sqlite_file
from .paths import STATE

FILE = "database.url"  # in the configuration's folder, one line; `jupyterhub-ctl database move` writes it
SHIPPED = f"sqlite:///{STATE}/jupyterhub.sqlite"  # without it
FORMS = f"write postgresql://USER@HOST/NAME, postgresql:///NAME?host=/run/postgresql or sqlite:///{STATE}/NAME.sqlite, special characters of a password as %40"

# What is understood in one way by SQLAlchemy, by libpq and by what hides passwords.
_POSTGRESQL = re.compile(
    r"(?:postgres|postgresql(?P<driver>\+\w+)?)://(?P<rest>(?:[^:/?#@\s]*(?::[^:/?#@\s]*)?@)?[^/?#@\s]*/[^/?#\s]+(?:\?(?P<query>[^#\s]*))?)"
)
_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:///(?!:memory:|file:)(?P<path>[^?#%\s]*[^?#%\s/])")


class Own(str):
    """The URL that `own` has returned: settings_check.py tells it from one that is set elsewhere, even if that is the same."""


def own(folder: Path) -> Own:
    """Return the URL of the hub's database by FILE in `folder`, that of the configuration. Raises SystemExit with one line."""
    path = folder / FILE
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return Own(SHIPPED)
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}: `systemd-tmpfiles --create jupyterhub.conf` corrects its owner and mode") from None
    except UnicodeDecodeError:
        text = ""
    if not re.fullmatch(r"[\w+]+://\S*", text):
        raise SystemExit(f"{path}: the URL of a database is one line, without blanks: {FORMS}")
    return Own(text)


def place(text: str) -> str:
    """Return the URL of a database in one form: with the driver that the package has, or the whole path of a SQLite file. Raises DatabaseError."""
    if match := _POSTGRESQL.fullmatch(text):
        if secret := {"password", "sslpassword"} & set(parse_qs(match["query"] or "")):
            raise DatabaseError(f"{secret.pop()}= in the URL's query would be shown in messages: write postgresql://USER:PASSWORD@HOST/NAME")
        return f"postgresql{match['driver'] or '+psycopg'}://{match['rest']}"
    if match := _SQLITE.fullmatch(text):
        return f"sqlite:///{os.path.normpath(Path(STATE, match['path']))}"
    kind = re.match(r"[\w+]+(?=://)", text)
    if kind and kind[0].partition("+")[0] not in ("postgres", "postgresql", "sqlite"):
        raise DatabaseError(f"a database of the kind {kind[0]} cannot be moved: {FORMS}")
    raise DatabaseError(f"that is not the URL of a database: {FORMS}")


def called(url: str) -> str:
    """Return what a database is called in messages: the path of a SQLite file, or the URL without its password."""
    return sqlite_file(url) or re.sub(r"(://[^/@]*:)[^/]*@", r"\1***@", url)


def has_password(url: str) -> bool:
    """Return whether there is a password in a URL."""
    return sqlite_file(url) is None and re.search(r"://[^/@]*:[^/]*@", url) is not None
