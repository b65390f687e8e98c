"""JupyterHub's request handlers, with what this package asks for beyond upstream."""

import functools
import json
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers import APIHandler
from jupyterhub.apihandlers.users import UserTokenListAPIHandler
from tornado import web

from .logins import WrongLogins
from .services import CTL

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


class WrongLoginsHandler(APIHandler):
    """What logins.py counts, for root's jupyterhub-ctl alone: GET lists it, DELETE with ?of=NAME forgets that of an account or an address."""

    def _counts(self) -> WrongLogins:
        requester = self.current_user
        if not isinstance(requester, orm.Service) or requester.name != CTL:
            raise web.HTTPError(403, "This is for jupyterhub-ctl.")
        counts = getattr(self.authenticator, "wrong_logins", None)
        if counts is None:
            raise web.HTTPError(404, f"{type(self.authenticator).__name__} does not count wrong logins.")
        return counts

    def get(self) -> None:
        """Answer with what is counted (list)."""
        self.write(json.dumps(self._counts().listing()))

    def delete(self) -> None:
        """Answer with how many counts were forgotten."""
        self.write(json.dumps({"lifted": self._counts().lift(self.get_argument("of"))}))
