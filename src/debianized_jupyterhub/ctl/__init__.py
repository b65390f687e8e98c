"""jupyterhub-ctl: what a sysadmin asks of a JupyterHub, one module of this package for each subject.

A command is imported when it is called, so `--help` and completion stay quick. To add one, write a
module with a `click.command` of that name and put it into COMMANDS.
"""

import importlib

import click

# Name on the command line: the module that has it. The order is that of --help.
COMMANDS = {}


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, _context):
        """Return the names (list of str) in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, _context, name):
        """Return the click.Command called `name` (str), None if there is none."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[name]}")
        return getattr(module, name.replace("-", "_"))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """Look after the JupyterHub of this machine.

    Exit codes and files: jupyterhub-ctl(8).
    """
