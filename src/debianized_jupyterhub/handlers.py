"""What notices.py has to say, on the hub's pages and in those of running notebook servers."""

import functools
import json
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from jupyterhub import orm
from jupyterhub.handlers import BaseHandler, LoginHandler
from markupsafe import escape
from tornado import web, websocket

from .notices import MESSAGE, OFFLINE


def announcement(site: str | Callable[[Any], str] | None, user: Any = None) -> str:
    """Return the announcement (HTML) of the hub's pages: our notices, then what the site has set (HTML, or a callable that takes the user)."""
    notices = [str(escape(text)) for text in (OFFLINE.read(), MESSAGE.read()) if text]
    own = site(user) if callable(site) else site
    return "<br>".join([*notices, own] if own else notices)


def in_place_of(handler: type, ours: type) -> type:
    """Return `ours`, made from the class of request handlers `handler`, with its name: logs and metrics call it by that."""
    ours.__name__, ours.__module__ = handler.__name__, handler.__module__
    return ours


@functools.cache
def closed_while_offline(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one that lets nobody in while the hub is offline.

    Administrators can do everything as before. Whoever has a running server can log in, for that is the way to it.
    """
    if not issubclass(handler, BaseHandler):
        return handler

    def refuse() -> NoReturn:
        raise web.HTTPError(503, "%s", OFFLINE.read(), reason="Offline")

    class ClosedWhileOffline(handler):
        async def prepare(self) -> None:
            await super().prepare()
            # The form stays, for those who may log in; the announcement on it says what is going on.
            if issubclass(handler, LoginHandler) and self.request.method == "GET" and OFFLINE.read():
                self.set_status(503)

        async def auth_to_user(self, authenticated: dict, user: Any = None) -> Any:
            logging_in = user is None
            user = await super().auth_to_user(authenticated, user)
            if logging_in and OFFLINE.read() and not (user.admin or user.active):
                refuse()
            return user

        async def spawn_single_user(self, user: Any, *args: Any, **options: Any) -> Any:
            if OFFLINE.read() and not getattr(self.current_user, "admin", False):
                refuse()
            return await super().spawn_single_user(user, *args, **options)

    return in_place_of(handler, ClosedWhileOffline)


class MessageSocket(websocket.WebSocketHandler):
    """Tells the pages of notebook servers, now and when it changes, the message: {"id": str or null, "text": str or null}, with `ends`.

    `ends` is what only the user reads whose login the page came with, a list of {"server": path of a server of his, "at": when it is stopped (seconds since
    1970), "text": why, "idle": whether use prevents it}. Anybody may listen to the message: the same text is on the login page. A websocket, since a browser
    has few connections of other kinds for all its pages together. src/jupyter/message is the other end.
    """

    # Connections at the same time, by the login that they came with. The hub's unit allows it more files than that, and
    # who has no login cannot take the places of those who have one.
    LIMIT = 64
    LIMIT_WITHOUT_LOGIN = 512
    listeners: ClassVar[dict[Any, bytes | None]] = {}
    told: ClassVar[str | None] = None
    ends: ClassVar[dict[str, list[dict]]] = {}  # by the name of the user
    ping_interval = 30  # seconds; below the 60 s after which web servers close a silent connection
    ping_timeout = 20
    max_message_size = 1024  # bytes; nothing is expected

    def check_origin(self, _origin: str) -> bool:
        """Allow all: nothing is secret, for a login comes with pages of the same site alone, and an off-loader may change the Host header."""
        return True

    def open(self) -> None:
        login = self.get_secure_cookie(self.settings["hub"].cookie_name)
        if list(self.listeners.values()).count(login) >= (self.LIMIT if login else self.LIMIT_WITHOUT_LOGIN):
            self.close(1013)  # RFC 6455's registry: try again later
            return
        self.listeners[self] = login
        self.tell()

    def on_message(self, _message: str | bytes) -> None:
        """Pass over what a page sends; there is nothing to be said."""

    def on_close(self) -> None:
        self.listeners.pop(self, None)

    def _user(self) -> str | None:
        """Return the name of the user whose login this is, as long as it is one: it ends with a logout."""
        login = self.listeners.get(self)
        names = self.settings["db"].query(orm.User.name)
        return names.filter(orm.User.cookie_id == login.decode(errors="replace")).scalar() if login else None

    def tell(self) -> None:
        ends = self.ends.get(self._user() or "", []) if self.ends else []
        self.write_message(json.dumps({"id": MESSAGE.version(), "text": MESSAGE.read(), "ends": ends}))

    @classmethod
    def look(cls) -> None:
        """Tell all listeners if the message is another than at the last call."""
        if MESSAGE.version() != cls.told:
            cls.told = MESSAGE.version()
            cls._tell_all()

    @classmethod
    def announce(cls, ends: dict[str, list[dict]]) -> None:
        """Tell the listeners which servers (list of dict, by the name of the user) are about to be stopped, if that is news."""
        if ends != cls.ends:
            cls.ends = ends
            cls._tell_all()

    @classmethod
    def _tell_all(cls) -> None:
        for listener in list(cls.listeners):
            listener.tell()
