"""jupyterhub-ctl message, offline, online: what users are told. They need no running hub: see debianized_jupyterhub/notices.py."""

import contextlib
import os
import pwd
from collections.abc import Iterator, Sequence

import click

from .. import accounts
from ..notices import MESSAGE, OFFLINE, Notice
from .common import FULL, Failure, NoSpace, require_root

MAINTENANCE = "The notebook server is under maintenance. Please try again later."
LIMIT = 2000  # characters; it is an announcement


@contextlib.contextmanager
def as_the_hub() -> Iterator[None]:
    """Become the hub's account for files in its folder, where it could lay links for root; raise Failure for what goes wrong with them."""
    try:
        account = pwd.getpwnam(accounts.HUB)
    except KeyError:
        raise Failure(f"there is no account {accounts.HUB}: `dpkg-reconfigure jupyterhub` makes it") from None
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    except OSError as error:
        kind = NoSpace if error.errno in FULL else Failure
        raise kind(f"{MESSAGE.path.parent}: {error.strerror}: nothing was changed") from None
    finally:
        os.seteuid(0)
        os.setegid(0)


def read(notice: Notice) -> str | None:
    """Return the text of a Notice, None without one."""
    with as_the_hub():
        return notice.read()


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
        with as_the_hub():
            done = MESSAGE.clear()
        click.echo("the message is gone" if done else "there was no message")
    elif text:
        with as_the_hub():
            MESSAGE.write(text)
        click.echo("the message is shown")
    else:
        click.echo(read(MESSAGE) or "there is no message")


@click.command()
@click.argument("message", nargs=-1)
def offline(message: Sequence[str]) -> None:
    """Refuse logins and starts of servers, with MESSAGE and status 503. Running notebooks are left alone.

    Administrators of the hub, and users whose server runs, can log in as before. It stays offline until `online`, also through a
    restart of the machine.
    """
    require_root()
    text = _text(message) or MAINTENANCE
    with as_the_hub():
        OFFLINE.write(text)
    click.echo(f"offline: {text}")


@click.command()
def online() -> None:
    """Let users in again."""
    require_root()
    with as_the_hub():
        done = OFFLINE.clear()
    click.echo("online" if done else "it was online already")
