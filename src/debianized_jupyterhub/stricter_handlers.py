"""JupyterHub's request handlers, with what this package asks for beyond upstream."""

import functools
import json
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers import APIHandler
from jupyterhub.apihandlers.users import UserAPIHandler, UserListAPIHandler, UserTokenListAPIHandler
from jupyterhub.handlers import LogoutHandler
from jupyterhub.scopes import needs_scope
from tornado import web
from tornado.httputil import HTTPHeaders

from . import user_logins
from .authenticator import SudoersPAMAuthenticator
from .handlers import in_place_of
from .services import CTL
from .wrong_logins import WrongLogins

NOTE_MAX = 1023  # characters of a token's note; the column in the hub's database has as many


HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Addresses of pages, which may have a secret in them, stay here.
    "Referrer-Policy": "same-origin",
}


@functools.cache
def hardened(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one of ours."""
    rules = {UserTokenListAPIHandler: Tokens, UserListAPIHandler: Users, UserAPIHandler: OneUser, LogoutHandler: Logout, web.RequestHandler: Hardened}
    ours = next(ours for theirs, ours in rules.items() if issubclass(handler, theirs))
    return in_place_of(handler, type("HardenedHandler", (ours, handler), {}))


class Hardened(web.RequestHandler):
    """Says to browsers what they may do with an answer and with a cookie; what a site has set in JupyterHub.tornado_settings stays as it is."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        site = HTTPHeaders(self.settings.get("headers", {}))
        headers = dict(HEADERS)
        # No window that has opened this page, such as one of another user's server, gets hold of it. Elsewhere browsers complain about the header.
        if self.request.protocol == "https" or self.request.host_name in ("localhost", "127.0.0.1", "[::1]"):
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
        for name, value in headers.items():
            if name not in site:
                self.set_header(name, value)

    def set_cookie(self, name: str, value: str | bytes, *args: Any, **options: Any) -> None:
        """Set a cookie that other sites' forms do not carry, and that goes over HTTPS alone where the browser came so."""
        options.setdefault("samesite", "Lax")
        if self.request.protocol == "https":
            options["secure"] = True
        super().set_cookie(name, value, *args, **options)


class Logout(Hardened, LogoutHandler):
    """Ends what a copy of the login cookie could go on with. The cookie is the same in all browsers of the user, who is logged out in all of them."""

    def _backend_logout_cleanup(self, name: str) -> None:
        super()._backend_logout_cleanup(name)
        user = self.find_user(name)
        if user is not None:
            user_logins.forget(self.db, user.orm_user)


class Tokens(Hardened, UserTokenListAPIHandler):
    """Makes tokens for who has logged in or shows a token, and takes no passwords: what limits guesses is at the login form."""

    async def post(self, user_name: str) -> None:
        """Make a token. Raises HTTPError 403 without a login, 400 for a note that is no text or too long."""
        if self.current_user is None:
            raise web.HTTPError(403, "Passwords are taken by the login page only: log in there, or send a token, to get another.")
        note: Any = body.get("note") if isinstance(body := self.get_json_body(), dict) else None
        if note is not None and (not isinstance(note, str) or len(note) > NOTE_MAX):
            raise web.HTTPError(400, f"The note of a token is a text of at most {NOTE_MAX} characters.")
        await super().post(user_name)


class Users(Hardened, UserListAPIHandler):
    """Looks up in one go the accounts of all users that are added at once; the rest is JupyterHub's."""

    @needs_scope("admin:users")
    async def post(self) -> None:
        """Add users. Raises HTTPError 400 with the names that are no account's; then nobody is added."""
        body = self.get_json_body()
        names = body.get("usernames") if isinstance(body, dict) else None
        if isinstance(names, list):
            await _require_accounts(self, [name for name in names if isinstance(name, str)])
        await super().post()


class OneUser(Hardened, UserAPIHandler):
    """Says why a user cannot be added; the rest is JupyterHub's."""

    @needs_scope("admin:users")
    async def post(self, user_name: str) -> None:
        """Add a user. Raises HTTPError 400 if there is no such account."""
        await _require_accounts(self, [user_name])
        await super().post(user_name)


async def _require_accounts(handler: Any, names: list[str]) -> None:
    """Raise HTTPError 400 if one of the new users' names is no account's. Of what is no name at all JupyterHub itself says so."""
    authenticator = handler.authenticator
    if isinstance(authenticator, SudoersPAMAuthenticator):
        normal = [authenticator.normalize_username(name) for name in names]
        if new := [name for name in normal if authenticator.validate_username(name) and not handler.find_user(name)]:
            await authenticator.require_accounts(new)


class WrongLoginsHandler(Hardened, APIHandler):
    """What wrong_logins.py counts, for root's jupyterhub-ctl alone: GET lists it, DELETE with ?of=NAME forgets that of an account or an address."""

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
