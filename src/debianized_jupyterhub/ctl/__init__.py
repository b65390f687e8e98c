"""jupyterhub-ctl: what a sysadmin asks of a JupyterHub, one module of this package for each subject.

A command is imported when it is called. To add one, write a
module with a `click.command` of that name and put it into COMMANDS. `--help` and completion import
all of them, so what takes long to import (rich, requests, jupyterhub) is imported where it is used.
"""

import importlib

import click

# Name on the command line: the module that has it. The order is that of --help.
COMMANDS = {
    "status": "status",
    "sessions": "sessions",
    "stop": "sessions",
    "user": "users",
    "logs": "logs",
    "logins": "logins",
    "message": "notices",
    "offline": "notices",
    "online": "notices",
    "verify": "verify",
    "report": "report",
    "check-config": "check_config",
    "backup": "backup",
    "backups": "backup",
    "restore": "backup",
    "database": "database",
    "environment": "environment",
    "index": "index",
}


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names (list of str) in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Return the click.Command called `name` (str), None if there is none."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[name]}")
        return getattr(module, name.replace("-", "_"))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look after the JupyterHub of this machine.

    Exit codes and files: jupyterhub-ctl(8).
    """
