"""What users see of their logins, and what root's jupyterhub-ctl sees and ends of theirs."""

import functools
import json
import time
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler, LogoutHandler
from jupyterhub.handlers.pages import TokenPageHandler
from jupyterhub.utils import isoformat
from sqlalchemy import func
from tornado import web

from . import record, user_logins
from .account_ends import forget_password
from .handlers import in_place_of
from .services import CTL


@functools.cache
def with_logins(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one that notes logins and, where it is the token page, lists them."""
    if not issubclass(handler, BaseHandler):
        return handler
    ours = TokenPage if issubclass(handler, TokenPageHandler) else Noting
    return in_place_of(handler, type("LoginsHandler", (ours, handler), {}))


class Noting(BaseHandler):
    """Notes logins."""

    async def login_user(self, data: dict | None = None) -> Any:
        begun = time.monotonic()
        user = await super().login_user(data)
        if user is None:
            return None
        if user_logins.ended_since(user.name, begun):
            user_logins.forget(self.db, user.orm_user)
            raise web.HTTPError(403, "Your logins have just been ended. Log in again.")
        browser = "".join(c for c in self.request.headers.get("User-Agent", "") if c.isprintable())
        user_logins.note(self.db, user.orm_user, self.get_session_cookie() or "", self.request.remote_ip or "", browser)
        return user


class TokenPage(Noting):
    """Lists the user's logins above the tokens: src/templates/token.html."""

    def render_template(self, name: str, sync: bool = False, **ns: Any) -> Any:
        if name == "token.html":  # not the page of an error
            ns["logins"] = user_logins.listing(self.db, self.current_user.orm_user, self.cookie_max_age_days)
            ns["session"] = self.get_session_cookie()
        return super().render_template(name, sync=sync, **ns)


class LogoutEverywhere(LogoutHandler):
    """Ends the user's logins in all browsers, at the hub and at notebook servers. A form of the token page leads here."""

    @web.authenticated
    async def post(self) -> None:
        user_logins.end(self.db, self.current_user.orm_user)
        await self.get()


class AccountsHandler(APIHandler):
    """What the hub has of its users, for root's jupyterhub-ctl alone.

    GET lists it for all, or has all of it for ?of=NAME. DELETE with ?of=NAME ends logins and tokens; with &forget=1 the hub forgets the user, whose servers
    must have ended.
    """

    async def prepare(self) -> None:
        await super().prepare()
        if not isinstance(self.current_user, orm.Service) or self.current_user.name != CTL:
            raise web.HTTPError(403, "This is for jupyterhub-ctl.")

    def get(self) -> None:
        """Answer with a list, or with one user (dict; null for one that the hub does not know, which is no error for the log)."""
        if not self.get_argument("of", ""):
            self.write(json.dumps(self._all()))
            return
        found = self.find_user(self.get_argument("of"))
        if found is None:
            self.write("null")
            return
        user = found.orm_user
        tokens = [
            {
                "id": token.api_id,
                "note": token.note,
                "created": isoformat(token.created),
                "used": isoformat(token.last_activity),
                "expires": isoformat(token.expires_at),
            }
            for token in user_logins.of_programs(user)
        ]
        about = {"name": user.name, "admin": user.admin, "created": isoformat(user.created), "last_activity": isoformat(user.last_activity)}
        self.write(json.dumps({**about, "logins": user_logins.listing(self.db, user, self.cookie_max_age_days), "tokens": tokens}))

    def _all(self) -> list[dict[str, Any]]:
        servers = self.db.query(orm.Spawner.user_id, func.count()).filter(orm.Spawner.server_id.is_not(None)).group_by(orm.Spawner.user_id)
        running = dict(servers.all())
        users = self.db.query(orm.User.id, orm.User.name, orm.User.admin, orm.User.last_activity).order_by(orm.User.name)
        return [{"name": name, "admin": admin, "last_activity": isoformat(last), "servers": running.get(number, 0)} for number, name, admin, last in users]

    async def delete(self) -> None:
        """Answer with what has ended: logins, tokens (int), and whose servers the user had entered (list of str)."""
        user = self.find_user(self.get_argument("of"))
        if user is None:
            raise web.HTTPError(404, "The hub knows no such user.")
        forget = bool(self.get_argument("forget", ""))
        if forget and any(spawner.active or spawner.pending for spawner in user.spawners.values()):
            raise web.HTTPError(409, f"A server of {user.name} runs.")
        entered = {spawner.user.name for token in user.api_tokens if token.session_id and (spawner := token.oauth_client.spawner)}
        tokens = len(user_logins.of_programs(user.orm_user))
        ended = {"tokens": tokens, "entered": sorted(entered - {user.name}), "logins": user_logins.end(self.db, user.orm_user, tokens=True)}
        what = f"What {user.name} had at the hub ends (logins, {tokens} token(s)): asked for by root{', and it is forgotten' if forget else ''}"
        record.write("account-ended", what, record.actor(self), user=user.name, reason="asked for by root")
        if forget:
            await forget_password(self.authenticator, user.orm_user)
            await user.delete_spawners()
            self.users.delete(user)
        self.write(json.dumps(ended))
