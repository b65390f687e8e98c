"""Copies the hub's database to another place, SQLite or PostgreSQL: all tables in one transaction, compared, or nothing.

as_hub.py does it as the hub's account, for `jupyterhub-ctl database move`: first as a rehearsal that is taken back, while the hub runs, then for good.
A copy has the table MARK until a hub has served from it, or the command is done: what a move has left that was interrupted may be replaced, and nothing else.
"""

import contextlib
import errno
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import sqlalchemy
from jupyterhub import orm
from sqlalchemy import Column, Connection, MetaData, Table, Text, Unicode, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from . import accounts, files
from .database import HUBS, DatabaseError, deadlines, in_short, require_database, require_one_hub, snapshot, sqlite_file
from .database_url import called
from .paths import STATE

MARK = Table("debianized_move", MetaData(), Column("mover", Unicode(64)), Column("tables", Text))  # who has made the copy; JSON, the tables that are its own
KEY = int.from_bytes(b"jhubmove")  # of PostgreSQL's advisory locks; they are each database's own
LOCKED = "10s"  # for PostgreSQL
ADVICE = f"/usr/share/doc/jupyterhub/database.md says how to make one that is {accounts.HUB}'s"
AT_ONCE = 1000  # rows in memory


def move(source: str, target: str, mover: str, schema: str, rehearsal: bool) -> int:
    """Copy the database at `source` to `target` (URLs as database_url.place makes them), for good or, with `rehearsal`, up to the moment before that.

    `mover` is who asks, in 64 characters: only what the same one has left is replaced. `schema` is the revision that the database must have. Returns how many
    rows there are. Raises DatabaseError, OSError.
    """
    if source == target or _is_one_file(source, target):
        raise DatabaseError(f"the hub's database is {called(source)} already")
    with _reading(source) as reader:
        _require_schema(reader, called(source), schema)
        tables = _tables(reader, called(source))
        with _writing(target, mover, rehearsal, _size(reader)) as writer:
            with _explained(f"{called(target)}: no tables can be made there", ADVICE):
                tables.create_all(writer)
                MARK.create(writer)
                writer.execute(MARK.insert(), {"mover": mover, "tables": json.dumps(sorted(tables.tables))})
            return sum(_copy(table, reader, writer) for table in tables.sorted_tables)


def settle(connection: Any) -> None:
    """Take the mark from the database of `connection` (or session) of SQLAlchemy's: from now on it is a hub's. Raises SQLAlchemyError."""
    connection.execute(sqlalchemy.text(f"DROP TABLE IF EXISTS {MARK.name}"))
    connection.commit()


def settle_at(url: str) -> None:
    """Do so at a URL. Raises DatabaseError."""
    with _explained(called(url)), _engine(url).connect() as connection:
        settle(connection)


# -- Both sides ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(what: str, advice: str = "") -> Iterator[None]:
    """Turn what SQLAlchemy raises, and values that do not fit their types, into a DatabaseError that begins with `what` and ends with `advice`."""
    try:
        yield
    except (SQLAlchemyError, NotImplementedError, ValueError, TypeError) as error:
        said = str(getattr(error, "orig", None) or error).split("\nLINE ")[0]
        raise DatabaseError(f"{what}: {in_short(said) or type(error).__name__}{advice and f': {advice}'}") from None


def _engine(url: str) -> sqlalchemy.Engine:
    """Return an engine that keeps no connections. Raises DatabaseError where its driver is missing."""
    try:
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=deadlines(url))
    except (ImportError, SQLAlchemyError):
        driver = url.partition("://")[0]
        raise DatabaseError(f"the driver of {driver}:// is not in this package: the extra postgresql brings that of postgresql:// (building.md)") from None


def _is_one_file(*urls: str) -> bool:
    paths = [os.path.realpath(path) for path in map(sqlite_file, urls) if path]
    return len(paths) == 2 and paths[0] == paths[1]


def _lock(connection: Connection, name: str, why: str) -> None:
    """Let no other move be at work in the same database of PostgreSQL's until the transaction ends, and no other hub use it. Raises DatabaseError."""
    connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCKED}'"))
    if not connection.scalar(sqlalchemy.text(f"SELECT pg_try_advisory_xact_lock({KEY})")):
        raise DatabaseError(f"{name} {why}")
    require_one_hub(set(connection.scalars(sqlalchemy.text(HUBS))), name)


# -- The source ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(url: str) -> Iterator[Connection]:
    """Yield a connection that sees one state of the database; SQLite's is a sound copy. Raises DatabaseError, OSError."""
    with contextlib.ExitStack() as stack:
        if path := sqlite_file(url):
            yield stack.enter_context(_engine(f"sqlite:///{stack.enter_context(snapshot(path))}").connect())
            return
        with _explained(called(url)):
            engine = _engine(url).execution_options(isolation_level="REPEATABLE READ")
            connection = stack.enter_context(engine.connect())
            _lock(connection, called(url), "is being moved already: wait until that is done")
        yield connection


def _require_schema(reader: Connection, name: str, schema: str) -> None:
    with _explained(f"{name} is not a hub's database"):
        found = reader.scalar(sqlalchemy.text("SELECT version_num FROM alembic_version"))
    if found != schema:
        advice = "`systemctl restart jupyterhub` migrates one of an earlier version"
        raise DatabaseError(f"{name} has the schema {found}, and this version of the package {schema}: {advice}")


def _tables(reader: Connection, name: str) -> MetaData:
    """Return the tables to copy: JupyterHub's own, and what there is besides (of this package, of an authenticator, Alembic's) as far as SQLAlchemy sees it."""
    tables = MetaData(naming_convention=orm.meta.naming_convention)
    with _explained(f"the tables of {name} cannot be read"):
        there = set(inspect(reader).get_table_names()) - {MARK.name}
        known = [table for table in orm.Base.metadata.sorted_tables if table.name in there]
        for table in known:
            table.to_metadata(tables)
        others = sorted(there - {table.name for table in known})
        tables.reflect(reader, only=others)
        for column in [column for table in others for column in tables.tables[table].columns]:
            # What the one kind of database calls by its own words, the other does not understand.
            column.type = column.type.as_generic()
            for words in ("server_default", "identity", "computed"):
                setattr(column, words, None)
    return tables


def _size(reader: Connection) -> int:
    """Return the bytes of a database."""
    if reader.dialect.name == "sqlite":
        return int(reader.scalar(sqlalchemy.text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")))
    return int(reader.scalar(sqlalchemy.text("SELECT pg_database_size(current_database())")))


# -- The target ----------------------------------------------------------------------------------------------------------------------


def _writing(url: str, mover: str, rehearsal: bool, size: int) -> contextlib.AbstractContextManager[Connection]:
    """Return a context with a connection to an empty database; without an error, and if it is no `rehearsal`, what is written stays. Else nothing does."""
    path = sqlite_file(url)
    return _into_sqlite(path, mover, rehearsal, size) if path else _into_postgresql(url, mover, rehearsal)


@contextlib.contextmanager
def _into_postgresql(url: str, mover: str, rehearsal: bool) -> Iterator[Connection]:
    name = called(url)
    with contextlib.ExitStack() as stack:
        with _explained(name, ADVICE):
            connection = stack.enter_context(_engine(url).connect())
            transaction = connection.begin()
            _lock(connection, name, "is the hub's database already, or another move is at work there")
            encoding = connection.scalar(sqlalchemy.text("SHOW server_encoding"))
            if encoding != "UTF8":
                raise DatabaseError(f"{name} has the encoding {encoding}, not UTF8: createdb --encoding=UTF8 --template=template0 --owner={accounts.HUB} NAME")
            _make_room(connection, name, mover)
        yield connection
        with _explained(name):
            transaction.rollback() if rehearsal else transaction.commit()


def _make_room(connection: Connection, name: str, mover: str) -> None:
    """Remove what an interrupted move of the same mover has left. Raises DatabaseError where there is anything else."""
    there = set(inspect(connection).get_table_names())
    if MARK.name in there:
        made_by, own = connection.execute(select(MARK.c.mover, MARK.c.tables)).one()
        if made_by == mover:
            for table in ({*json.loads(own), MARK.name}) & there:
                connection.execute(sqlalchemy.text(f"DROP TABLE {connection.dialect.identifier_preparer.quote(table)} CASCADE"))
            there = set(inspect(connection).get_table_names())
    if there:
        what = "holds a hub's state already" if {"alembic_version", "users", "api_tokens"} <= there else f"is not empty (table {min(there)})"
        raise DatabaseError(f"{name} {what}: make another one, `createdb --owner={accounts.HUB} NAME`, or remove this one first")


@contextlib.contextmanager
def _into_sqlite(path: str, mover: str, rehearsal: bool, size: int) -> Iterator[Connection]:
    new = f"{path}.jupyterhub-ctl~"
    if os.path.lexists(path) and not _is_left_over(path, mover):
        raise DatabaseError(f"{path} is there already, maybe a database that the hub had before: rename or remove it, or name another file")
    _make_file(new, size)
    try:
        with _explained(path), _engine(f"sqlite:///{new}").connect() as connection:
            # A copy that is not whole is thrown away.
            connection.exec_driver_sql("PRAGMA journal_mode = OFF")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
            yield connection
            connection.commit()
        if not rehearsal:
            with open(new, "rb+") as stream:
                os.fchmod(stream.fileno(), 0o640)
                os.fsync(stream.fileno())
            os.rename(new, path)
            files.sync_folder(os.path.dirname(path))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def _make_file(path: str, size: int) -> None:
    """Make an empty file, in a folder with room for `size` bytes. Raises OSError."""
    folder = os.path.dirname(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise OSError(error.errno, f"{accounts.HUB} cannot make a file there ({error.strerror}); {STATE} is its own folder", folder) from None
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < size:
        os.unlink(path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


def _is_left_over(path: str, mover: str) -> bool:
    """Return whether a file is what an interrupted move of the same mover has left."""
    require_database(path)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as database:
            return database.execute(f"SELECT mover FROM {MARK.name}").fetchone() == (mover,)
    except sqlite3.Error:
        return False


# -- Rows ----------------------------------------------------------------------------------------------------------------------------


def _copy(table: Table, reader: Connection, writer: Connection) -> int:
    """Copy the rows of a table as they are, JSON as its text, and compare; have PostgreSQL count on from the last. Returns how many there are."""
    plain = sqlalchemy.table(table.name, *(sqlalchemy.column(column.name, _stored(column)) for column in table.columns))
    with _explained(f"the table {table.name} cannot be copied"):
        for rows in reader.execute(select(plain).execution_options(yield_per=AT_ONCE)).mappings().partitions():
            writer.execute(plain.insert(), [dict(row) for row in rows])
        own = table.autoincrement_column
        if writer.dialect.name == "postgresql" and own is not None:
            quoted = writer.dialect.identifier_preparer.format_table(table)
            last = f"(SELECT coalesce(max({writer.dialect.identifier_preparer.quote(own.name)}), 0) + 1 FROM {quoted})"
            writer.execute(sqlalchemy.text(f"SELECT setval(pg_get_serial_sequence(:of, :column), {last}, false)"), {"of": quoted, "column": own.name})
        before, after = (_digest(side.execute(select(plain).execution_options(yield_per=AT_ONCE))) for side in (reader, writer))
    if before != after:
        raise DatabaseError(f"the table {table.name} is not the same after the copy ({before[0]} rows, then {after[0]}): is something else at work there?")
    return after[0]


def _stored(column: Column[Any]) -> Any:
    """Return the type of what a column has in the database, without what SQLAlchemy would make of it."""
    return column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type


def _digest(rows: Iterable[Any]) -> tuple[int, int]:
    """Return how many rows there are, and a sum of them that does not depend on their order."""
    count = total = 0
    for row in rows:
        count += 1
        total += int.from_bytes(sha256(repr(tuple(row)).encode("utf-8", "backslashreplace")).digest())
    return count, total % (1 << 256)
