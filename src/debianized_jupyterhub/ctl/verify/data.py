"""Checks: the hub's database."""

import json
import re
from pathlib import Path

from ... import as_hub
from ...database import DatabaseError
from ...database_url import called
from ...lines import joined
from ...paths import VENV
from .check import Failed, Findings, check
from .services import setting

READ = 20  # seconds for the database
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


def _revision(url: str, name: str) -> str:
    """Return the schema of the database at `url`, which is called `name`; raise Failed."""
    try:
        kind, said = json.loads(as_hub.run("state", stdin=url.encode(), timeout=READ))
    except FileNotFoundError:
        raise Failed(
            f"{name} is not there",
            "the hub loses users and tokens, or starts with none",
            f"{RESTORE}; a new hub makes it at its start: systemctl restart jupyterhub",
        ) from None
    except (DatabaseError, OSError, ValueError) as error:
        raise Failed(f"{name} cannot be used: {error.strerror if isinstance(error, OSError) else error}", "the hub cannot work", RESTORE) from None
    said = joined(said)
    if kind == "corrupt":
        raise Failed(f"{name} is corrupt: {said}", "users and tokens may be lost", RESTORE)
    if kind == "locked":
        raise Failed(f"{name} is locked by another program", "the hub cannot write", f"fuser -v {name} names it: stop that")
    if kind == "empty":
        raise Failed(f"{name} has no schema: {said}", "the hub will not start again", RESTORE)
    if kind == "away":
        what = f"{name} does not answer: {said.partition(' / ')[0]}"
        raise Failed(what, "the hub cannot work", "start that server, or correct c.JupyterHub.db_url")
    return said


@check("database", needs=["secrets", "configuration", "disk"], limit=READ + 1)
def database() -> Findings:
    """Sound, and of the schema of this version."""
    url = setting("db_url")
    name = called(url)
    found = _revision(url, name)
    if found != (wanted := expected_revision()):
        raise Failed(
            f"{name} has schema {found}, this version needs {wanted}",
            "the hub will not start again, or migrates it",
            "systemctl restart jupyterhub (with JUPYTERHUB_AUTO_MIGRATION=true); after a downgrade: jupyterhub-ctl restore",
        )
    yield f"schema {found}"
