"""Let a hub of any version initialise its database in the current folder, with the configuration given, and end."""

import asyncio
import sys

from jupyterhub.app import JupyterHub

app = JupyterHub()
asyncio.get_event_loop().run_until_complete(app.initialize(["--config", sys.argv[1]]))
