"""Who or what has stopped a notebook server, in words for its user's page (src/templates/home.html, not_running.html)."""

import asyncio
import functools
from datetime import UTC, datetime
from typing import Any

from jupyterhub.handlers import BaseHandler
from tornado import web

from .handlers import in_place_of

# Why the hub itself has done it: culler.py.
IDLE = "because it was idle"
OLD = "because it had reached the age limit"
MAINTENANCE = "for maintenance"
# A server of the machine {}, whose hub another one's has taken over from.
LOST = "Your server ran on {}, a machine that is out of service now, and cannot be reached any more. Your files are kept: you can start a new server."


def at(moment: datetime) -> str:
    """Return a time as users' pages have it."""
    return f"{moment:%Y-%m-%d at %H:%M} UTC"


def words(actor: Any, owner: str) -> str:
    """Return the sentence about a stop by `actor` (JupyterHub's User or Service) of `owner`'s server; empty if the owner asked."""
    if actor is None or (actor.kind == "user" and actor.name == owner):
        return ""
    by = f" {actor.name}" if actor.kind == "user" else ""
    return f"Your server was stopped on {at(datetime.now(UTC))} by the administrator{by}."


@functools.cache
def noted(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one that notes in the spawner, as `ended`, who stops its server."""
    if not issubclass(handler, BaseHandler):
        return handler

    class Noting(handler):
        async def stop_single_user(self, user: Any, server_name: str = "") -> Any:
            spawner = user.spawners.get(server_name)
            stopping = getattr(spawner, "_stop_future", None)
            if stopping is not None:
                # Asked for twice. JupyterHub sees to that before it looks whether the server runs, but not after.
                await asyncio.wait([stopping], timeout=self.slow_stop_timeout)
            else:
                if spawner is not None:
                    spawner.ended = words(self.current_user, user.name)
                stopping = await super().stop_single_user(user, server_name)
            if not_stopped := getattr(spawner, "not_stopped", ""):  # JupyterHub says nothing of what a spawner raises here
                raise web.HTTPError(500, "%s", not_stopped)
            return stopping

    return in_place_of(handler, Noting)
