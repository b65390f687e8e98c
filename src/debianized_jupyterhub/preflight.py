"""Would the hub start? Reads the configuration and migrates a copy of the database, and changes nothing.

`jupyterhub-launcher check` runs it with the account, the settings and the arguments of the hub: with the software of the new version
before an upgrade lets go of the old one (debian/jupyterhub.postinst), and at `systemctl reload jupyterhub`. It ends with 0, or with 1
and one line that says what is wrong.
"""

import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import alembic.config
import alembic.runtime.environment
import alembic.script
import alembic.util
import sqlalchemy
from jupyterhub import dbutil, orm
from jupyterhub.app import JupyterHub

from . import journal
from .database import DatabaseError, copy_sqlite, in_short
from .paths import DEFAULTS, SCRATCH
from .settings_check import Collector, inspect

NOT_MIGRATED = f"set JUPYTERHUB_AUTO_MIGRATION=true in {DEFAULTS}, or run `jupyterhub upgrade-db` when it suits you"


class WouldNotStart(Exception):
    """The hub would not start; the text is one line for humans."""


def configured(arguments: list[str]) -> JupyterHub:
    """Return the hub's application object for its command line, with the configuration read. Raises WouldNotStart."""
    for problem in inspect(arguments)[0]:
        if problem.fatal:
            raise WouldNotStart(f"{problem} (`jupyterhub-ctl check-config` shows all that is wrong)")
    app = JupyterHub()
    app.parse_command_line(arguments)
    app.load_config_file(app.config_file)
    return app


@contextlib.contextmanager
def explained(app: JupyterHub) -> Iterator[None]:
    """Turn whatever ends a part of the hub's start into WouldNotStart, with the hub's last words."""
    log = Collector()
    app.log.addFilter(log)
    try:
        yield
    except SystemExit as end:  # with its last words, or after them
        raise WouldNotStart(in_short(log.messages[-1] if end.code == 1 and log.messages else end.code)) from None
    except Exception as error:  # noqa: BLE001 (settings reach all of the hub's code, which may raise anything)
        raise WouldNotStart(f"{type(error).__name__}: {in_short(error)}") from None
    finally:
        app.log.removeFilter(log)


def rehearse(app: JupyterHub, folder: Path) -> None:
    """Do to a copy of the hub's database, in `folder`, what the hub's start would do to it.

    Raises WouldNotStart, DatabaseError.
    """
    url = sqlalchemy.make_url(app.db_url)
    name = url.render_as_string(hide_password=True)
    copy = f"sqlite:///{folder}/copy.sqlite"
    if url.get_backend_name() == "sqlite":
        if os.path.exists(url.database or ""):
            copy_sqlite(url.database, folder / "copy.sqlite")
        elif url.database and not os.access(os.path.dirname(os.path.abspath(url.database)), os.W_OK):
            raise DatabaseError(f"the database {name} cannot be made: its folder is missing, or not the hub's to write in")
        app.db_url, app.db_kwargs = copy, {}
        _migrate(app, name, sqlalchemy.create_engine(copy), lambda: dbutil.upgrade(copy))
    else:
        with explained(app):  # its driver may be missing
            engine = sqlalchemy.create_engine(app.db_url, **app.db_kwargs)
        _migrate(app, name, engine, lambda: _roll_back(engine))
        app.db_url, app.db_kwargs = copy, {}
    with explained(app):
        app.init_db()


def _migrate(app: JupyterHub, name: str, engine: sqlalchemy.Engine, migration: Callable[[], None]) -> None:
    """Call `migration` if the database of `engine`, called `name`, needs one and may have it."""
    try:
        orm.check_db_revision(engine)
    except orm.DatabaseSchemaMismatch as mismatch:
        if not app.upgrade_db:
            raise WouldNotStart(f"the database {name} is of an older version ({str(mismatch).split('.')[0]}): {NOT_MIGRATED}") from None
        try:
            migration()
        except (subprocess.CalledProcessError, sqlalchemy.exc.SQLAlchemyError, alembic.util.CommandError) as error:
            why = _said() or in_short(error)
            raise WouldNotStart(f"the database {name} cannot be migrated: {why}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise DatabaseError(f"the database {name} does not answer: {in_short(error)}") from None


def _roll_back(engine: sqlalchemy.Engine) -> None:
    """Migrate the database itself in a transaction that is taken back: PostgreSQL can, and it has no copies to offer."""
    with dbutil._temp_alembic_ini("unused") as ini:
        config = alembic.config.Config(ini)
        script = alembic.script.ScriptDirectory.from_config(config)
        context = alembic.runtime.environment.EnvironmentContext(config, script, fn=lambda revision, _: script._upgrade_revs("head", revision))
        with context, engine.connect() as connection, connection.begin() as transaction:
            connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = '10s'"))
            context.configure(connection=connection)
            context.run_migrations()
            transaction.rollback()


def _said() -> str:
    """Return the last error (one line) among what has been written to stderr, which is a file here."""
    os.lseek(2, 0, os.SEEK_SET)
    with open(2, errors="replace", closefd=False) as stderr:
        errors = [line for line in stderr.read().splitlines() if re.match(r"\S*(Error|Exception)\b.*: ", line)]
    return errors[-1] if errors else ""


@contextlib.contextmanager
def _quiet() -> Iterator[TextIO]:
    """Keep what configuration files and alembic print, and yield where people read."""
    people = os.dup(2)
    with tempfile.TemporaryFile() as messages, open(people, "w") as stream:
        for fd in (1, 2):
            os.dup2(messages.fileno(), fd)
        try:
            yield stream
        finally:
            os.dup2(people, 2)


def main() -> None:
    """Check; the arguments are those of the hub."""
    os.umask(0o077)
    told = journal.error("jupyterhub: ")  # before standard error leads elsewhere
    with _quiet() as people, tempfile.TemporaryDirectory(prefix="jupyterhub-check-", dir=SCRATCH) as folder:
        try:
            app = configured(sys.argv[1:])
            app.cookie_secret = os.urandom(32)
            rehearse(app, Path(folder))
            with explained(app):
                app.init_hub()
                app.init_oauth()
                asyncio.run(app.init_role_creation())
                app.init_services()
        except (WouldNotStart, DatabaseError, OSError, sqlite3.Error) as error:
            print(f"{told}{error}", file=people)
            sys.exit(1)


if __name__ == "__main__":
    main()
