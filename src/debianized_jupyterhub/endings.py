"""Who or what has stopped a notebook server, in words for its user's page (src/templates/home.html, not_running.html)."""

import functools
from datetime import UTC, datetime
from typing import Any

from jupyterhub.handlers import BaseHandler

from .handlers import in_place_of
from .services import CULL, cull_after


def words(actor: Any, owner: str, idle: float) -> str:
    """Return the sentence about a stop by `actor` (JupyterHub's User or Service) of `owner`'s server, idle for `idle` s; empty if the owner asked."""
    if actor is None or (actor.kind == "user" and actor.name == owner):
        return ""
    when = f"{datetime.now(UTC):%Y-%m-%d at %H:%M} UTC"
    if actor.name == CULL:
        # The culler has two reasons, and does not tell the hub which one it is. It looks by clocks of its own: hence the second.
        return f"Your server was stopped on {when}, because it {'was idle' if idle >= cull_after() - 1 else 'had reached the age limit'}."
    by = f" {actor.name}" if actor.kind == "user" else ""
    return f"Your server was stopped on {when} by the administrator{by}."


@functools.cache
def noted(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one that notes in the spawner, as `ended`, who stops its server."""
    if not issubclass(handler, BaseHandler):
        return handler

    class Noting(handler):
        async def stop_single_user(self, user: Any, server_name: str = "") -> Any:
            if server_name in user.spawners:
                spawner = user.spawners[server_name]
                last = spawner.orm_spawner.last_activity or spawner.orm_spawner.started
                idle = (datetime.now(UTC) - last.replace(tzinfo=UTC)).total_seconds() if last else 0
                spawner.ended = words(self.current_user, user.name, idle)
            return await super().stop_single_user(user, server_name)

    return in_place_of(handler, Noting)
