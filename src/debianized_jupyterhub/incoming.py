"""What the hub takes of a request before any of its handlers sees it: so much of a body, and whose word on where it comes from."""

import json
from collections.abc import Awaitable, Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from tornado import web
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.ioloop import IOLoop
from tornado.log import app_log

from .addresses import address_of, origin_of

BODY_MAX = 1 << 20  # bytes; a form has some hundred, and a list of all users to add some ten thousand
BODY_SECONDS = 60  # from the headers to the end of the body


class Application(web.Application):
    """The hub's handlers behind these bounds.

    The setting `body_max` (bytes) in JupyterHub.tornado_settings is for sites whose form for starting servers takes files. `trusted_downstream` are the
    addresses of reverse proxies on other machines; those on this machine are trusted.
    """

    def __init__(self, handlers: list[tuple], trusted_downstream: Collection[str] = (), **settings: Any) -> None:
        super().__init__(handlers, **settings)
        self.trusted = {address for address in map(address_of, trusted_downstream) if address}

    def start_request(self, server_conn: object, request_conn: HTTP1Connection) -> HTTPMessageDelegate:
        """Return what is told of a request as it comes in."""
        return _Bounded(super().start_request(server_conn, request_conn), request_conn, self)


class _Bounded(HTTPMessageDelegate):
    """Hands a request on to its handler, unless its body is too large: then it is passed over, and 413 is the answer."""

    def __init__(self, handler: HTTPMessageDelegate, connection: HTTP1Connection, application: Application) -> None:
        self._handler: HTTPMessageDelegate | None = handler
        self._connection, self._application = connection, application
        self._limit, self._size = application.settings.get("body_max", BODY_MAX), 0
        # Tornado's own limit would end the connection without a word.
        connection.set_max_body_size(1 << 62)

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Awaitable[None] | None:
        _note_origin(self._connection.context, headers, self._application.trusted)
        self._line = start_line
        loop = IOLoop.current()
        self._deadline = loop.call_later(BODY_SECONDS, self._connection.close)
        length = headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self._limit:
            self._refuse()
        return self._handler.headers_received(start_line, headers) if self._handler else None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._size += len(chunk)
        if self._handler and self._size > self._limit:
            self._handler.on_connection_close()
            self._refuse()
        return self._handler.data_received(chunk) if self._handler else None

    def finish(self) -> None:
        IOLoop.current().remove_timeout(self._deadline)
        if self._handler:
            self._handler.finish()
            return
        words = f"The request is too large: at most {self._limit} bytes are taken here."
        body = json.dumps({"status": 413, "message": words}).encode()
        headers = HTTPHeaders({"Content-Type": "application/json", "Content-Length": str(len(body))})
        self._connection.write_headers(ResponseStartLine("", 413, "Content Too Large"), headers, body)
        self._connection.finish()

    def on_connection_close(self) -> None:
        IOLoop.current().remove_timeout(self._deadline)
        if self._handler:
            self._handler.on_connection_close()

    def _refuse(self) -> None:
        self._handler = None
        path = getattr(self._line, "path", "")[:100]
        app_log.warning("A request of %s was refused, its body has more than %d bytes: %r", self._connection.context.remote_ip, self._limit, path)


def _note_origin(context: Any, headers: HTTPHeaders, trusted: Collection[IPv4Address | IPv6Address]) -> None:
    """Set where a request comes from, and whether by HTTPS, in the context (tornado.httpserver's) of its connection.

    X-Real-IP can be anybody's. Of the protocol the first is the browser's; who makes it up harms himself.
    """
    context.remote_ip = origin_of(headers.get("X-Forwarded-For", ""), trusted) or context.remote_ip
    if headers.get("X-Forwarded-Proto", "").partition(",")[0].strip() == "https":
        context.protocol = "https"
