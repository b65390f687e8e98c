"""The record: who logged in, was refused, started or stopped a server, made a token or entered somebody else's server.

Each is one entry of the journal. docs/monitoring.md, "The record", lists events and fields; nothing that is secret is among them.
"""

import asyncio
import functools
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from jupyterhub.apihandlers.auth import OAuthAuthorizeHandler
from jupyterhub.apihandlers.users import UserTokenListAPIHandler
from jupyterhub.handlers import BaseHandler
from tornado import web
from tornado.log import app_log

from . import journal
from .handlers import in_place_of
from .journal import shortened

INFO, NOTICE, WARNING = "6", "5", "4"  # syslog(3)
# Event: its MESSAGE_ID, which `journalctl --new-id128` made, and priority.
EVENTS = {
    "login": ("ad403bbbcd674ebdbda4a19175f86a62", INFO),
    "login-refused": ("72900c7f18ae435c93384498d2669c07", NOTICE),
    "login-failed": ("545ee9f1103a4e8497983eb1d13ebad7", WARNING),
    "start": ("10de0ea746b34ee7b7113fe19c9840d5", INFO),
    "start-failed": ("294a0faf06fc46cfa6042c051c977a4f", WARNING),
    "stop": ("415a64493d51422fba1f02cc2a29c2d6", INFO),
    "stop-failed": ("6294455fcfe64287b4c6d308b6a933ff", WARNING),
    "token": ("54df5b549152496ab280d61ddf453b57", INFO),
    "account-ended": ("c922685e2dcf494da72b09d3cd787dba", NOTICE),
    "enter": ("15c816c87e8649c39aacd4afd9a4efbf", NOTICE),
}


class Actor(NamedTuple):
    """Who asked for something: the name of a user, or of a service, and the address; or why the hub itself did it."""

    user: str
    service: str
    address: str
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"the hub {self.reason}"
        who = f"service {self.service}" if self.service else self.user or "nobody"
        return f"{who} at {self.address}"


def actor(handler: BaseHandler) -> Actor:
    """Return who makes the request of `handler`."""
    name, kind = getattr(handler.current_user, "name", ""), getattr(handler.current_user, "kind", "")
    return Actor("" if kind == "service" else name, name if kind == "service" else "", handler.request.remote_ip or "")


def write(event: str, message: str, by: Actor | None = None, **more: str) -> None:
    """Add an event (of EVENTS) to the record. `more` are fields without their JUPYTERHUB_; those that are empty are left out."""
    message_id, priority = EVENTS[event]
    if by:
        more = {"by": by.user, "by_service": by.service, "address": by.address, "reason": by.reason, **more}
    own = {f"JUPYTERHUB_{name.upper()}": value for name, value in {"event": event, **more}.items() if value}
    fields = {"MESSAGE": message, "MESSAGE_ID": message_id, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "jupyterhub", **own}
    if not journal.send(fields):  # a container without one, or one that has no time
        app_log.warning("%s", journal.plain(message))


@functools.cache
def recorded(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one that keeps the record."""
    if not issubclass(handler, BaseHandler):
        return handler
    rules = {UserTokenListAPIHandler: Tokens, OAuthAuthorizeHandler: Entries, BaseHandler: Recorded}
    ours = next(ours for theirs, ours in rules.items() if issubclass(handler, theirs))
    return in_place_of(handler, type("RecordedHandler", (ours, handler), {}))


class Recorded(BaseHandler):
    """Records logins, starts, and who asks for a stop."""

    async def login_user(self, data: dict | None = None) -> Any:
        reasons, address, name = journal.reasons(), self.request.remote_ip or "", shortened((data or {}).get("username", ""))
        try:
            user = await super().login_user(data)
        except Exception as error:
            self._record_refusal(name, getattr(error, "status_code", 500), "; ".join(reasons) or _words(error))
            raise
        if user is None:
            self._record_refusal(name, 403, "; ".join(reasons) or "not accepted")
        else:
            write("login", f"Login at {address}: {user.name}", user=user.name, address=address)
        return user

    def _record_refusal(self, name: str, status: int, reason: str) -> None:
        event, word = ("login-failed", "failed") if status >= 500 else ("login-refused", "refused")
        address = self.request.remote_ip or ""
        # The address first: a name can look like one, and fail2ban reads this.
        write(event, f"Login {word} at {address}: {name!r}: {reason}", user=name, address=address, reason=reason)

    async def spawn_single_user(self, user: Any, server_name: str = "", *args: Any, **options: Any) -> None:
        by = actor(self)
        if task := asyncio.current_task():  # JupyterHub's page goes on after a second; what comes then is told below, without a traceback
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await super().spawn_single_user(user, server_name, *args, **options)
        except Exception as error:
            _record_start(by, user.name, server_name, error)
            raise
        starting = user.spawners[server_name]._spawn_future if server_name in user.spawners else None
        if starting is None:
            _record_start(by, user.name, server_name)
        else:  # it takes longer than the page waits

            def done(future: asyncio.Future) -> None:
                _record_start(by, user.name, server_name, asyncio.CancelledError() if future.cancelled() else future.exception())

            starting.add_done_callback(done)

    async def stop_single_user(self, user: Any, server_name: str = "") -> Any:
        spawner = user.spawners.get(server_name)
        if spawner is not None and not spawner.pending:
            spawner.stopped_by = actor(self)
        return await super().stop_single_user(user, server_name)


def _record_start(by: Actor, user: str, server: str, error: BaseException | None = None) -> None:
    if error is None:
        write("start", f"{_server(user, server)} was started by {by}", by, user=user, server=server)
    else:
        reason = _words(error)
        write("start-failed", f"{_server(user, server)} was not started for {by}: {reason}", by, user=user, server=server, reason=reason)


def _words(error: BaseException) -> str:
    """Return what an exception has to say to people."""
    if isinstance(error, web.HTTPError):
        text = error.log_message or error.reason or ""
        return text % error.args if error.args else text
    return getattr(error, "jupyterhub_message", "") or str(error) or type(error).__name__


def record_stop(user: str, server: str, by: Actor | None) -> None:
    """Record that a server has ended; `by` is None if nobody asked the hub for it."""
    how = f"was stopped by {by}" if by else "ended by itself"
    write("stop", f"{_server(user, server)} {how}", by, user=user, server=server)


def record_failed_stop(user: str, server: str, by: Actor | None, reason: str) -> None:
    """Record that a server was to be stopped and still runs."""
    write("stop-failed", f"{_server(user, server)} was to be stopped{f' by {by}' if by else ''}: {reason}", by, user=user, server=server)


def _server(user: str, server: str) -> str:
    return f"The server {server!r} of {user}" if server else f"The server of {user}"


class Tokens(Recorded):
    """Records tokens that are made by users, administrators and services; not those that servers get."""

    def token_model(self, token: Any) -> dict:
        self._model: dict = super().token_model(token)
        return self._model

    async def post(self, user_name: str) -> None:
        await super().post(user_name)
        token, by = self._model, actor(self)
        end = token["expires_at"] or ""
        message = f"Token {token['id']} of {user_name} was made by {by}, {f'valid until {end}' if end else 'without an end'}"
        write("token", message, by, user=user_name, token=token["id"], expires=end)


class Entries(Recorded):
    """Records who gets into the server of somebody else: an administrator."""

    def send_oauth_response(self, headers: dict, body: str, status: int) -> None:
        super().send_oauth_response(headers, body, status)
        if "code" not in parse_qs(urlsplit(headers.get("Location", "")).query):
            return
        client = self.oauth_provider.fetch_by_client_id(self.get_argument("client_id"))
        spawner, by = client.spawner, actor(self)
        if spawner is not None and spawner.user.name != by.user:
            write("enter", f"{_server(spawner.user.name, spawner.name)} was entered by {by}", by, user=spawner.user.name, server=spawner.name)
