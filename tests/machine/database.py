"""The hub's SQLite database, seen from the machine that it is on."""

PYTHON = "/opt/venvs/jupyterhub/bin/python"
STATE = "/var/opt/jupyterhub"
DATABASE = f"{STATE}/jupyterhub.sqlite"
ASK = f"import sqlite3, sys; c = sqlite3.connect('{DATABASE}'); print(*c.execute(sys.argv[1])); c.commit()"


def sql(machine, statement):
    """Put one statement to the database; return the rows that it answers with, as Python shows them."""
    return machine.run(PYTHON, "-c", ASK, statement).stdout.strip()
