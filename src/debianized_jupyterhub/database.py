"""The hub's database, seen from outside the hub: copies of it while it is in use."""

import contextlib
import errno
import os
import secrets
import socket
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from . import accounts
from .lines import one_line
from .paths import SCRATCH, STATE

PATIENCE = 10  # seconds to wait for a lock; the hub's own writes take milliseconds

LARGEST = 4 << 30  # bytes; a hub's database has some MB, and a file can pretend to have any number

# libpq's, in seconds but for the last, milliseconds: a machine that has vanished is noticed before systemd takes the hub for one that hangs (WatchdogSec=30).
# Source: PostgreSQL's documentation, "Parameter Key Words".
DEADLINES = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}

# What a hub has in a database of PostgreSQL's besides its tables (lease.py).
LEASE_KEY = int.from_bytes(b"jupyter")  # of an advisory lock; they are each database's own
LEASE_TERMS = "jupyterhub_terms"  # a sequence
HUB_SESSIONS = "jupyterhub"  # with which the application_name of a hub's sessions begins, in pg_stat_activity
IS_HUB = f"left(application_name, {len(HUB_SESSIONS) + 1}) = '{HUB_SESSIONS} '"
HUBS = f"SELECT split_part(application_name, ' ', 2) FROM pg_stat_activity WHERE datname = current_database() AND {IS_HUB}"


class DatabaseError(Exception):
    """The database cannot be used; the text is one line for humans: what, where and how to mend it."""


def is_postgresql(url: str) -> bool:
    """Is the database at `url` (SQLAlchemy's form) on PostgreSQL?"""
    return url.startswith("postgresql")


def deadlines(url: str) -> dict[str, int]:
    """Return DEADLINES for the database at `url` (SQLAlchemy's form), as far as it has none of its own; none for another kind than PostgreSQL."""
    if not is_postgresql(url):
        return {}
    import sqlalchemy  # it takes long

    query = sqlalchemy.make_url(url).query
    return {name: value for name, value in DEADLINES.items() if name not in query}


def hub_session() -> str:
    """Return an application_name for the sessions of one hub on this machine: they are told from those of others, and an administrator sees whose they are."""
    return f"{HUB_SESSIONS} {socket.gethostname()[:40]} {secrets.token_hex(4)}"


def require_one_hub(machines: set[str], name: str) -> None:
    """Raise DatabaseError where not this machine's hub alone uses a database, called `name`; `machines` (set of str) is what HUBS has returned."""
    if others := sorted(machines - {socket.gethostname()[:40]}):
        raise DatabaseError(f"{name} is used by the hub of {', '.join(others)}, too: `systemctl stop jupyterhub` there first")


def in_short(error: object) -> str:
    """Return what an exception says, in one line and without the statement that SQLAlchemy adds."""
    return one_line(str(error).split("\n[SQL")[0])


def copy_sqlite(source: str | Path, target: str | Path) -> None:
    """Make `target` (path, replaced) a sound copy of the SQLite database `source` (path), which may be in use.

    By SQLite's online backup, so that what an interrupted hub has left half written is rolled back and what others have not committed
    stays out. Raises DatabaseError where `source` is locked for longer than PATIENCE, or is no sound database; OSError and
    sqlite3.OperationalError ("disk is full") where `target` cannot be written. No copy is left then.
    """
    require_database(source)
    done = False
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            # Python's backup() waits for a lock without an end. With a read lock of ours it never meets one.
            old.execute("BEGIN")
            old.execute("SELECT count(*) FROM sqlite_master")
            old.backup(new)
            faults = [row[0] for row in new.execute("PRAGMA integrity_check(1)")]
            if faults != ["ok"]:
                raise DatabaseError(f"the database {source} is corrupt ({one_line(faults[0])}): {MEND}")
        done = True
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "locked" in text:
            raise DatabaseError(f"the database {source} is locked by another program: `fuser -v {source}` names it, stop that") from None
        if "unable to open" in text:
            raise DatabaseError(f"the database {source} cannot be opened by {accounts.user_name(os.geteuid())}: it must be {accounts.HUB}'s") from None
        if "malformed" in text or "not a database" in text:
            raise DatabaseError(f"the database {source} is corrupt ({text}): {MEND}") from None
        raise
    finally:
        if not done:
            for leftover in (target, f"{target}-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(leftover)


@contextlib.contextmanager
def snapshot(path: str) -> Iterator[str]:
    """Yield the path of a sound copy of the SQLite database `path`, which goes away afterwards. Raises as copy_sqlite does."""
    require_database(path)
    with tempfile.TemporaryDirectory(prefix="jupyterhub-copy-", dir=SCRATCH) as folder:
        copy = f"{folder}/copy"
        try:
            copy_sqlite(path, copy)
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), SCRATCH) from None
            raise DatabaseError(f"the database {path}: {error}") from None
        yield copy


MEND = "`jupyterhub-ctl backups` lists what `jupyterhub-ctl restore` can bring back"


def sqlite_file(url: str) -> str | None:
    """Return the path of the SQLite database at `url` (SQLAlchemy's form), which the hub takes relative to its folder; None for another kind."""
    return str(Path(STATE, url.removeprefix("sqlite:///").partition("?")[0])) if url.startswith("sqlite:///") else None


def state(url: str) -> tuple[str, str]:
    """Look at the database at `url` (SQLAlchemy's form), all of it where it is SQLite, and return a word with details (both str, one line).

    ========== ================
    schema     its revision
    corrupt    where
    locked     what SQLite says
    empty      what SQLite says
    away       what its server, or the system, says
    ========== ================
    """
    if path := sqlite_file(url):
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=3)) as database:
                faults = database.execute("PRAGMA quick_check(1)").fetchone()[0]
                if faults != "ok":
                    return "corrupt", one_line(faults)
                return "schema", database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            kinds = {"locked": "locked", "no such table": "empty", "unable to open": "away"}
            return next((kind for words, kind in kinds.items() if words in str(error)), "corrupt"), str(error)
    import sqlalchemy  # it takes long

    try:
        with sqlalchemy.create_engine(url).connect() as connection:
            return "schema", connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
    except sqlalchemy.exc.SQLAlchemyError as error:
        return "away", one_line(error)


def require_database(path: str | Path) -> None:
    """Raise DatabaseError unless the SQLite database `path` and what is beside it are files, and of a credible size.

    At a FIFO SQLite would wait for ever. FileNotFoundError where there is none; sqlite3 would say "unable to open database file".
    """
    real = os.path.realpath(path)
    for name in (real, f"{real}-journal", f"{real}-wal", f"{real}-shm"):
        try:
            status = os.lstat(name)
        except FileNotFoundError:
            if name == real:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
            continue
        if not stat.S_ISREG(status.st_mode):
            raise DatabaseError(f"the database {path} cannot be used: {name} is no regular file: {MEND}")
        if status.st_size > LARGEST:
            raise DatabaseError(f"the database {path} cannot be used: {name} has {status.st_size >> 30} GiB, a hub's at most {LARGEST >> 30}: {MEND}")


def dump_postgresql(url: str, target: IO[bytes]) -> None:
    """Have `pg_dump` write the database at `url` (SQLAlchemy's form) to the binary file object `target`, as the hub's account.

    Raises DatabaseError.
    """
    _postgresql(
        "pg_dump", url, ["--format=custom", "--no-owner", "--no-privileges", "--lock-wait-timeout=10s", f"--exclude-table={LEASE_TERMS}"], stdout=target
    )


def restore_postgresql(url: str, source: IO[bytes]) -> None:
    """Replace the database at `url` by the dump in the binary file object `source`: all of it or, with DatabaseError, nothing.

    Tables that the dump does not have are of a version to come, and would be in the way of the migration that makes them.
    """
    sql = _postgresql("pg_restore", None, ["--file=-", "--no-owner", "--no-privileges"], stdin=source, stdout=subprocess.PIPE)
    _postgresql("psql", url, ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"], input=EMPTY + sql, stdout=subprocess.DEVNULL)


def require_no_other_hub(url: str) -> None:
    """Raise DatabaseError where the hub of another machine uses the database of PostgreSQL's at `url` (SQLAlchemy's form), serving or not."""
    found = _postgresql("psql", url, ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", f"--command={HUBS}"], stdout=subprocess.PIPE)
    require_one_hub(set(found.decode().split()), "the database")


# No hub begins meanwhile, and one that has lost its lease for a moment will see that somebody else has written.
EMPTY = f"""
DO $$ DECLARE name text; BEGIN
    SET LOCAL lock_timeout = '10s';
    PERFORM pg_advisory_xact_lock({LEASE_KEY});
    IF to_regclass('{LEASE_TERMS}') IS NOT NULL THEN PERFORM nextval('{LEASE_TERMS}'); END IF;
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tableowner = current_user LOOP
        EXECUTE 'DROP TABLE public.' || name || ' CASCADE';
    END LOOP;
    FOR name IN SELECT quote_ident(typname) FROM pg_type JOIN pg_namespace ON pg_namespace.oid = typnamespace
            WHERE nspname = 'public' AND typtype = 'e' AND typowner = current_user::regrole LOOP
        EXECUTE 'DROP TYPE public.' || name || ' CASCADE';
    END LOOP;
END $$;
""".encode()


def _postgresql(program: str, url: str | None, options: list[str], **streams: Any) -> bytes:
    """Run one of PostgreSQL's programs as the hub's account, with the password in its environment, where `ps` does not show it."""
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "10"}
    if url:
        parts = urlsplit(url)
        if parts.password:
            env["PGPASSWORD"] = unquote(parts.password)
        account = f"{parts.username}@" if parts.username else ""
        place = parts.netloc.rpartition("@")[2]
        query = "&".join(f"{key}={quote(value, safe='/')}" for key, value in parse_qsl(parts.query))
        options = [*options, f"--dbname=postgresql://{account}{place}{parts.path}?{query}"]
    try:
        done = subprocess.run(
            [program, *options], check=False, env=env, cwd="/", stderr=subprocess.PIPE, user=accounts.HUB, group=accounts.HUB, extra_groups=[], **streams
        )
    except FileNotFoundError:
        raise DatabaseError(f"the hub's database is PostgreSQL, and {program} is missing: apt-get install postgresql-client") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise DatabaseError(f"{program}: {said[0].removeprefix(f'{program}: ').removeprefix('error: ')}")
    return done.stdout or b""
