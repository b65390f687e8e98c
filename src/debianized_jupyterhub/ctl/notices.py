"""jupyterhub-ctl message, offline, online: what users are told. They need no running hub: see debianized_jupyterhub/notices.py."""

import contextlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import click

from .. import as_hub, durations
from ..database import DatabaseError
from ..notices import MESSAGE, OFFLINE, STOP_AT, Notice
from .common import FULL, Failure, NoSpace, require_root

MAINTENANCE = "The notebook server is under maintenance. Please try again later."
LIMIT = 2000  # characters; it is an announcement


def _change(notice: Notice, action: str, *arguments: str, stdin: bytes = b"") -> bool:
    """Have the hub's account change a notice in its folder, where it could lay links for root; return whether it is there. Raises Failure."""
    try:
        as_hub.run(action, str(notice.path), *arguments, stdin=stdin)
    except FileNotFoundError:
        return False
    except (OSError, DatabaseError) as error:
        kind = NoSpace if isinstance(error, OSError) and error.errno in FULL else Failure
        raise kind(f"{notice.path.parent}: {error.strerror if isinstance(error, OSError) else error}: nothing was changed") from None
    return True


def _write(notice: Notice, text: str) -> None:
    """Replace the text of a notice, whole or not at all; raise Failure."""
    if not _change(notice, "put", "600", stdin=f"{text}\n".encode()):
        raise Failure(f"{notice.path.parent} is not there, or has no owner: `dpkg-reconfigure jupyterhub` makes both")


def _remove(notice: Notice) -> bool:
    """Take a notice away; return whether there was one. Raises Failure."""
    return _change(notice, "remove")


def _text(words: Sequence[str]) -> str:
    """Return the words of the command line as a text; raise click.UsageError for what nobody could read."""
    text = " ".join(words).strip()
    if len(text) > LIMIT:
        raise click.UsageError(f"the text has {len(text)} characters; {LIMIT} are enough for an announcement.")
    if not text.replace("\n", " ").isprintable():
        raise click.UsageError("the text holds characters that cannot be shown.")
    return text


@click.command()
@click.argument("words", metavar="[TEXT]...", nargs=-1)
@click.option("--clear", is_flag=True, help="Take the message away.")
def message(words: Sequence[str], clear: bool) -> None:
    """Show TEXT to all users: on the hub's pages, and within seconds in all open pages of JupyterLab and Notebook.

    It stays until it is cleared or replaced. Without TEXT, print the message that is shown.
    """
    require_root()
    text = _text(words)
    if text and clear:
        raise click.UsageError("either TEXT or --clear.")
    if clear:
        done = _remove(MESSAGE)
        click.echo("the message is gone" if done else "there was no message")
    elif text:
        _write(MESSAGE, text)
        click.echo("the message is shown")
    else:
        click.echo(MESSAGE.read() or "there is no message")


class Time(click.ParamType):
    """A time to come, of this machine's clock; the command gets a datetime with its zone."""

    name = "time"

    def convert(self, value: object, _parameter: click.Parameter | None, _context: click.Context | None) -> datetime:
        """Return the time that `value` (str) says: HH:MM, "YYYY-MM-DD HH:MM" or +DURATION; raise click.BadParameter."""
        now = datetime.now().astimezone()
        text = str(value).strip()
        moment = None
        with contextlib.suppress(ValueError, OverflowError):
            if text.startswith("+"):
                moment = now + timedelta(seconds=durations.seconds(text[1:]))
            elif re.fullmatch(r"\d{1,2}:\d\d", text):
                moment = datetime.combine(now.date(), datetime.strptime(text, "%H:%M").time()).astimezone()
                moment = moment if moment > now else (moment.replace(tzinfo=None) + timedelta(days=1)).astimezone()
            else:
                moment = datetime.strptime(text.replace("T", " "), "%Y-%m-%d %H:%M").astimezone()
        if moment is None:
            raise click.BadParameter(f"{text!r} is no time; write 18:00, '2026-12-24 18:00' or +90m.")
        if moment <= now:
            raise click.BadParameter(f"{moment:%Y-%m-%d %H:%M} is over.")
        return moment


@click.command()
@click.argument("message", nargs=-1)
@click.option("--stop-at", type=Time(), help="Stop the servers that run then: 18:00, '2026-12-24 18:00' or +90m. Open pages count down to it.")
def offline(message: Sequence[str], stop_at: datetime | None) -> None:
    """Refuse logins and starts of servers, with MESSAGE and status 503. Running notebooks are left alone, unless --stop-at says until when.

    Administrators of the hub, and users whose server runs, can log in as before. It stays offline until `online`, also through a
    restart of the machine.
    """
    require_root()
    text = _text(message) or MAINTENANCE
    # Nobody is told of, or stopped at, the time of an earlier maintenance.
    withdrawn = _remove(STOP_AT)
    _write(OFFLINE, text)
    click.echo(f"offline: {text}")
    if stop_at:
        _write(STOP_AT, str(int(stop_at.timestamp())))
        click.echo(f"the servers that run at {stop_at:%Y-%m-%d %H:%M} are stopped then; open pages say so")
    elif withdrawn:
        click.echo("no server is stopped; there was a time for that")


@click.command()
def online() -> None:
    """Let users in again. Nothing is stopped any more at the time that `offline --stop-at` has set."""
    require_root()
    _remove(STOP_AT)
    done = _remove(OFFLINE)
    click.echo("online" if done else "it was online already")
