"""jupyterhub-ctl logins: who has typed wrong passwords, and has to wait for it."""

import click

from .common import show
from .hub import Hub
from .names import complete
from .sessions import span

COLUMNS = {"account": "account", "address": "address", "wrong": "wrong", "wait": "wait"}


@click.command()
@click.option("--lift", metavar="NAME", shell_complete=complete, help="Forget the wrong logins of an account or an address.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, times in seconds.")
def logins(lift: str | None, as_json: bool) -> None:
    """List the wrong logins of the last minutes, for each account and each address.

    `wait` is the time until the next login is looked at: there were too many. --lift lets it be looked at now.
    """
    hub = Hub()
    if lift is not None:
        count = hub.request("DELETE", "/wrong-logins", of=lift)[1]["lifted"]
        click.echo(f"forgotten: the wrong logins of {lift}" if count else f"there were no wrong logins of {lift}")
        return
    rows = hub.request("GET", "/wrong-logins")[1]
    if not as_json:
        for row in rows:
            row["wait"] = span(row["wait"]) if row["wait"] else None
    show(rows, COLUMNS, as_json)
