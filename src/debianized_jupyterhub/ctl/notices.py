"""jupyterhub-ctl message, offline, online: what users are told. They need no running hub: see debianized_jupyterhub/notices.py."""

from collections.abc import Sequence

import click

from .. import as_hub
from ..database import DatabaseError
from ..notices import MESSAGE, OFFLINE, Notice
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


@click.command()
@click.argument("message", nargs=-1)
def offline(message: Sequence[str]) -> None:
    """Refuse logins and starts of servers, with MESSAGE and status 503. Running notebooks are left alone.

    Administrators of the hub, and users whose server runs, can log in as before. It stays offline until `online`, also through a
    restart of the machine.
    """
    require_root()
    text = _text(message) or MAINTENANCE
    _write(OFFLINE, text)
    click.echo(f"offline: {text}")


@click.command()
def online() -> None:
    """Let users in again."""
    require_root()
    done = _remove(OFFLINE)
    click.echo("online" if done else "it was online already")
