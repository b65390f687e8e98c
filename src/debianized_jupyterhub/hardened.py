"""JupyterHub's request handlers, with what this package asks for beyond upstream."""

import functools
from typing import Any

from jupyterhub.apihandlers.users import UserTokenListAPIHandler
from tornado import web

NOTE_MAX = 1023  # characters of a token's note; the column in the hub's database has as many


@functools.cache
def hardened(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one of ours: the same for classes that need nothing."""
    if issubclass(handler, UserTokenListAPIHandler):
        return _named_as(handler, type("Hardened", (Tokens, handler), {}))
    return handler


def _named_as(handler: type, ours: type) -> type:
    """Return the class `ours` with the name of `handler`, by which logs and metrics call it."""
    ours.__name__, ours.__module__ = handler.__name__, handler.__module__
    return ours


class Tokens(UserTokenListAPIHandler):
    """Makes tokens for who has logged in or shows a token, and takes no passwords: what limits guesses is at the login form."""

    async def post(self, user_name: str) -> None:
        """Make a token. Raises HTTPError 403 without a login, 400 for a note that is no text or too long."""
        if self.current_user is None:
            raise web.HTTPError(403, "Passwords are taken by the login page only: log in there, or send a token, to get another.")
        note: Any = body.get("note") if isinstance(body := self.get_json_body(), dict) else None
        if note is not None and (not isinstance(note, str) or len(note) > NOTE_MAX):
            raise web.HTTPError(400, f"The note of a token is a text of at most {NOTE_MAX} characters.")
        await super().post(user_name)
