"""Checks: the hub's database, and the certificate of a web server before it."""

import datetime
import re
import socket
import sqlite3
import ssl
from pathlib import Path
from urllib.parse import quote

from ...paths import VENV
from ..command import one_line
from .check import Failed, Findings, Warned, check
from .services import setting

RESTORE = "jupyterhub-ctl backups lists what jupyterhub-ctl restore can bring back"


def expected_revision() -> str:
    """Return the schema (str) that this version's database has, from JupyterHub's own list of migrations."""
    (versions,) = Path(VENV).glob("lib/python3.*/site-packages/jupyterhub/alembic/versions")
    own, earlier = set(), set()
    for path in versions.glob("*.py"):
        text = path.read_text()
        own.update(re.findall(r"^revision = ['\"](\w+)", text, re.MULTILINE))
        earlier.update(re.findall(r"^down_revision = ['\"](\w+)", text, re.MULTILINE))
    (head,) = own - earlier
    return head


def _sqlite_revision(path: str) -> str:
    """Return the schema (str) of a SQLite file after a look at all of its pages; raise Failed."""
    try:
        with sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=3) as database:
            faults = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if faults != "ok":
                raise Failed(f"{path} is corrupt: {one_line(faults)}", "users and tokens may be lost", RESTORE)
            return database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise Failed(f"{path} is locked by another program", "the hub cannot write", f"fuser -v {path} names it: stop that") from None
        if "no such table" in str(error):
            raise Failed(f"{path} has no schema: {error}", "the hub will not start again", RESTORE) from None
        raise Failed(f"{path} is corrupt: {error}", "users and tokens may be lost", RESTORE) from None


def _server_revision(url: str) -> tuple[str, str]:
    """Return the name without its password and the schema of a database on a server; raise Failed."""
    import sqlalchemy

    name = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    try:
        with sqlalchemy.create_engine(url).connect() as connection:
            return name, connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
    except sqlalchemy.exc.SQLAlchemyError as error:
        what = f"{name} does not answer: {one_line(error).partition(' / ')[0]}"
        raise Failed(what, "the hub cannot work", "start that server, or correct c.JupyterHub.db_url") from None


@check("database", needs=["secrets", "configuration", "disk"])
def database() -> Findings:
    """Sound, and of the schema of this version."""
    url = setting("db_url")
    if url.startswith("sqlite:///"):
        name = url.removeprefix("sqlite:///").partition("?")[0]
        if not Path(name).exists():
            raise Failed(
                f"{name} is not there",
                "the hub loses users and tokens, or starts with none",
                f"{RESTORE}; a new hub makes it at its start: systemctl restart jupyterhub",
            )
        found = _sqlite_revision(name)
    else:
        name, found = _server_revision(url)
    if found != (wanted := expected_revision()):
        raise Failed(
            f"{name} has schema {found}, this version needs {wanted}",
            "the hub will not start again, or migrates it",
            "systemctl restart jupyterhub (with JUPYTERHUB_AUTO_MIGRATION=true); after a downgrade: jupyterhub-ctl restore",
        )
    yield f"schema {found}"


@check("certificate")
def certificate() -> Findings:
    """What a web server on this machine shows at port 443; nothing to say where there is none."""
    try:
        with socket.create_connection(("127.0.0.1", 443), timeout=2):
            pass
    except OSError:
        yield "no TLS here"
        return
    from cryptography import x509

    try:
        pem = ssl.get_server_certificate(("127.0.0.1", 443), timeout=4)
    except OSError as error:
        raise Warned(f"port 443 does not speak TLS ({one_line(error)})", "browsers cannot use https", "look at the log of the web server") from None
    cert = x509.load_pem_x509_certificate(pem.encode())
    until = cert.not_valid_after_utc
    left = until - datetime.datetime.now(datetime.UTC)
    mend = "renew it (certbot renew, for example) and reload the web server"
    if left.total_seconds() < 0:
        yield Failed(f"the certificate at port 443 ended on {until:%Y-%m-%d}", "browsers refuse the site", mend)
    elif left.days < 21:
        yield Warned(f"the certificate at port 443 ends on {until:%Y-%m-%d}", "browsers will refuse the site", mend)
    else:
        yield f"valid until {until:%Y-%m-%d}"
