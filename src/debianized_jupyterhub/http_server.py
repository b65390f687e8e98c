"""The hub's HTTP servers: one for the proxy, one for everybody on the machine, one for servers on other machines; see ports.py for their sockets."""

import asyncio
import os
import time
from collections.abc import Awaitable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream

from .sockets import peer_uid

PATIENCE = 2  # seconds that a hub which ends gives to what it is answering
CONNECTIONS = 200  # of one account at a time; a notebook server has a handful
CONNECTIONS_OF_NODE, IDLE_NODE = 2000, 60  # seconds without a request, or without a certificate
# What a reverse proxy says of a request, and JupyterHub and Tornado believe.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Real-Ip", "X-Scheme")


class HubServer(HTTPServer):
    """A server that can end without cutting off what it is answering; its peer is the proxy, whose X-headers count."""

    def initialize(self, *args: Any, **options: Any) -> None:
        """Take what HTTPServer takes."""
        super().initialize(*args, **options)
        self.busy: set[object] = set()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Note that the last request of this connection was answered, and when the next one comes."""
        self.busy.discard(server_conn)
        return _Noted(super().start_request(server_conn, request_conn), self, server_conn)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection that has ended or become a websocket."""
        self.busy.discard(server_conn)
        super().on_close(server_conn)

    def headers_received(self, headers: HTTPHeaders) -> None:
        """See the headers of a request before anybody else does."""

    async def drain(self) -> None:
        """Take no more connections, and wait for the answers under way, PATIENCE seconds at most. Who comes now waits for the next hub."""
        self.stop()
        self.conn_params.no_keep_alive = True
        deadline = time.monotonic() + PATIENCE
        while self.busy and time.monotonic() < deadline:
            await asyncio.sleep(0.005)


class OpenServer(HubServer):
    """The server for every account of the machine: what it says of itself in X-headers does not count, and nobody gets more than his share."""

    share = CONNECTIONS

    def initialize(self, *args: Any, **options: Any) -> None:
        """Take what HTTPServer takes."""
        super().initialize(*args, **options)
        self.streams: dict[int | str, set[IOStream]] = {}

    def headers_received(self, headers: HTTPHeaders) -> None:
        """Drop what only a reverse proxy may say."""
        for name in FORWARDED:
            headers.pop(name, None)

    def handle_stream(self, stream: IOStream, address: tuple) -> None:
        """Serve a connection, unless its account has too many."""
        peer = self.peer(stream, address)
        if peer not in (None, 0, os.getuid()):
            streams = {other for other in self.streams.get(peer, ()) if not other.closed()}
            if len(streams) >= self.share:
                stream.close()
                return
            self.streams[peer] = streams | {stream}
        super().handle_stream(stream, address)

    def peer(self, stream: IOStream, _address: tuple) -> int | str | None:
        """Return whose share a connection is of: an account's (uid)."""
        return peer_uid(stream.socket)


class NodesServer(OpenServer):
    """The server for notebook servers on other machines. Each of these has its share, before it shows a certificate."""

    share = CONNECTIONS_OF_NODE

    def peer(self, _stream: IOStream, address: tuple) -> int | str | None:
        """Return whose share a connection is of: a machine's (IP address)."""
        return str(address[0])


class _Noted(HTTPMessageDelegate):
    """Hands a request on, and notes its connection as busy."""

    def __init__(self, delegate: HTTPMessageDelegate, server: HubServer, connection: object) -> None:
        self.delegate, self.server, self.connection = delegate, server, connection

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Awaitable[None] | None:
        self.server.busy.add(self.connection)
        self.server.headers_received(headers)
        return self.delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self.delegate.data_received(chunk)

    def finish(self) -> None:
        self.delegate.finish()

    def on_connection_close(self) -> None:
        self.delegate.on_connection_close()
