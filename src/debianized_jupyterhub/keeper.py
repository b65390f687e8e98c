"""The keeper of JupyterHub's ports, jupyterhub-ports.service: ports.py says what for, and how it is asked."""

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from . import accounts, journal, state, units
from .paths import AWAY_PAGE, HUB_SOCKET, KEEPER_SOCKET
from .ports import FIRST_FD, SERVICE, TAKER, Address, Refused, numeric, resolved
from .sockets import credentials, listeners, notify

BACKLOG = 4096  # connections that wait while a service restarts; the kernel's net.core.somaxconn cuts it
PATIENCE = 0.02  # seconds between two tries to bind a port that somebody else has
OPEN_TO_ALL = 1024  # ports from here on can be bound without rights: capabilities(7), CAP_NET_BIND_SERVICE
SILENCE = 5  # seconds in which a request must have come
REASON = 200  # characters


class Taken(Refused):
    """Somebody else has the port; `holder` is the account, None where that cannot be seen."""

    def __init__(self, message: str, holder: str | None) -> None:
        super().__init__(message)
        self.holder = holder


def stored() -> dict[str, socket.socket]:
    """Return the sockets that systemd kept for us, by name."""
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")[: int(os.environ.pop("LISTEN_FDS", "0"))]
    return {name: socket.socket(fileno=FIRST_FD + at) for at, name in enumerate(names)}


def holder(port: int) -> str | None:
    """Return the account whose socket listens on TCP port `port`, None if nobody's does."""
    uids, _ = listeners(port)
    return accounts.user_name(min(uids)) if uids else None


def listen(address: Address) -> socket.socket:
    """Return a new socket that listens at `address`. Raises OSError."""
    if isinstance(address, str):
        Path(address).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o117)
        try:
            listener.bind(address)
        finally:
            os.umask(before)
    else:
        family, name = resolved(*address)
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # From one address to another of the same port without a gap; the kernel allows it to our own account alone.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # The address may be the machine's a moment later (at boot), as systemd's FreeBind= has it.
        listener.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND, ip(7)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind(name)
        except OSError:
            listener.close()
            raise
    listener.listen(BACKLOG)
    return listener


def listens_at(listener: socket.socket, address: Address) -> bool:
    """Tell whether `listener` is what listen(address) would make. Raises OSError where a name cannot be resolved."""
    if isinstance(address, str):
        return listener.getsockname() == address and os.path.exists(address)
    return listener.family != socket.AF_UNIX and listener.getsockname()[:2] == resolved(*address)[1][:2]


def address_of(listener: socket.socket) -> Address:
    """Return where a socket is bound, as listen() takes it."""
    name = listener.getsockname()
    return name if isinstance(name, str) else name[:2]


def is_left_over(address: Address) -> bool:
    """Tell whether a service listens at `address` with a socket of ours that we no longer have: a second one would get half of the connections."""
    if not isinstance(address, str):
        return holder(address[1]) == accounts.PORTS
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address) == 0


def asked_for(head: bytes) -> str:
    """Return "health" or "ready" where a request (its header) is for that address of the hub, below whatever path; "" for all others."""
    found = re.match(rb"(?:GET|HEAD) ((?:/[^/ ?]+)*)/hub/(health|ready)[ ?]", head)
    return found[2].decode() if found and not re.search(rb"/(user|services)(/|$)", found[1]) else ""


class Keeper:
    """Holds the sockets; `answering` has the servers that answer in place of a service that is away."""

    def __init__(self, wanted: dict[str, Address]) -> None:
        self.sockets = stored()
        self.settings = wanted  # as they were at our start; only these may ask for our right to low ports
        # What the services have asked for since the settings were read counts more than these.
        self.wanted = wanted | {name: address_of(listener) for name, listener in self.sockets.items() if name in wanted}
        self.answering: dict[str, asyncio.Server] = {}
        self.given: set[str] = set()  # to a service that has not said since that it has ended
        self.complained: set[str] = set()
        self.states: dict[str, dict[str, str]] = {}  # by account: what /hub/ready says in place of a service
        self.lock = asyncio.Lock()  # one change at a time: nobody answers beside the service that has just come

    async def run(self) -> None:
        """Keep, and answer requests, for ever."""
        control = self.sockets.pop("control", None) or self._store("control", listen(KEEPER_SOCKET))
        for name in self.sockets.keys() & self.wanted.keys():
            await self._away_unless_up(name)
        server = await asyncio.start_unix_server(self._serve, sock=control)
        tried = asyncio.Event()
        opening = asyncio.create_task(self._open_wanted(tried))
        with contextlib.suppress(TimeoutError):
            # The machine's start, which waits for us, does not wait for DNS.
            await asyncio.wait_for(tried.wait(), 2)
        notify("READY=1")
        await asyncio.gather(opening, server.serve_forever())

    async def _open_wanted(self, tried: asyncio.Event) -> None:
        """Return once all sockets are open; set `tried` once each was tried."""
        while missing := self.wanted.keys() - self.sockets.keys():
            taken = [await self._try(name) for name in missing]
            tried.set()
            for name in missing & self.sockets.keys():
                await self._away_unless_up(name)
            await asyncio.sleep(PATIENCE if any(taken) else 1)
        tried.set()

    def _store(self, name: str, listener: socket.socket) -> socket.socket:
        notify(f"FDSTORE=1\nFDNAME={name}", listener.fileno())
        return listener

    def _open(self, name: str, address: Address) -> socket.socket:
        """Return the socket `name` at `address`, a new one if need be. Raises Refused where somebody else has the address."""
        try:
            if name in self.sockets and listens_at(self.sockets[name], address):
                return self.sockets[name]
            if name not in self.sockets and is_left_over(address):
                raise Taken(f"{address}: the service still has the socket of a keeper that was stopped", accounts.PORTS)
            listener = listen(address)
        except OSError as error:
            if isinstance(address, str):
                raise Refused(f"{address}: {error.strerror}") from None
            what = f"{address[0] or 'all addresses'}, port {address[1]}"
            if error.errno == errno.EADDRINUSE:
                account = holder(address[1])
                who = f"the account {account}" if account else "another program"
                raise Taken(f"{what}: taken by {who}, `ss -ltnp 'sport = :{address[1]}'` names the program: stop it", account) from None
            raise Refused(f"{what}: {error.strerror}") from None
        if name in self.sockets:
            self._close(name)
        self.wanted[name] = address
        self.sockets[name] = self._store(name, listener)
        return listener

    def _close(self, name: str) -> None:
        self._serve_no_more(name)
        notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
        with self.sockets.pop(name) as listener:
            if listener.family == socket.AF_UNIX:
                Path(listener.getsockname()).unlink(missing_ok=True)

    # What happens at the sockets

    async def _try(self, name: str) -> bool:
        """Open a socket that is wanted, if that is possible now. Tell whether somebody else has the port."""
        try:
            address = self.wanted[name]
            if not isinstance(address, str):
                address = await asyncio.to_thread(numeric, *address)
            async with self.lock:
                if name in self.wanted and name not in self.sockets:
                    self._open(name, address)
        except Refused as refusal:
            holder = refusal.holder if isinstance(refusal, Taken) else None
            # A hub or proxy from before this keeper lets go when it restarts: an upgrade.
            if name not in self.complained and holder not in (TAKER[name], accounts.PORTS):
                self.complained.add(name)
                print(journal.error(str(refusal)), file=sys.stderr, flush=True)
            return isinstance(refusal, Taken) and holder != accounts.PORTS
        return False

    async def _away_unless_up(self, name: str) -> None:
        """Answer in place of a service that is stopped; one that is about to restart comes for its socket."""
        systemctl = await asyncio.create_subprocess_exec("systemctl", "is-active", SERVICE[TAKER[name]], stdout=subprocess.PIPE)
        state, _ = await systemctl.communicate()  # which takes seconds at the machine's start
        async with self.lock:
            if name in self.sockets and name not in self.given and state.decode().strip() in ("inactive", "failed", "unknown"):
                await self._away(name)

    async def _away(self, name: str) -> None:
        """Answer in place of the service, at a socket that is open."""
        if name not in self.answering:
            # A copy: asyncio closes what it was given.
            self.answering[name] = await asyncio.start_server(partial(self._say_away, name), sock=self.sockets[name].dup(), backlog=BACKLOG)

    def _serve_no_more(self, name: str) -> None:
        if server := self.answering.pop(name, None):
            server.close()

    async def _say_away(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(SILENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._answer(name, request)
                head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + (b"" if request.startswith(b"HEAD ") else body))
                await writer.drain()
        writer.close()

    def _answer(self, name: str, request: bytes) -> tuple[str, str, bytes]:
        """Return status (with a further header), type and body of the answer to a request at the socket `name`."""
        away = "503 Service Unavailable\r\nRetry-After: 5"
        match asked_for(request), name:
            case "health", "front":  # which the proxy alone reaches: notebooks can be reached through it
                return "200 OK", "text/html; charset=utf-8", b""
            case "ready", "front" | "api":
                return away, "application/json", json.dumps(self.states.get(TAKER[name], {"state": state.STOPPED, "reason": "The hub does not run."})).encode()
        return away, "text/html; charset=utf-8", Path(AWAY_PAGE).read_bytes()

    # Requests

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        _, uid = credentials(peer)
        listener = None
        try:
            async with asyncio.timeout(SILENCE):
                request = json.loads(await reader.readline())
            async with self.lock:
                listener = await self._do(request, accounts.user_name(uid))
            answer: dict = {"ok": True}
        except Refused as refusal:
            answer = {"ok": False, "error": str(refusal)}
        except (ValueError, KeyError, TypeError, TimeoutError) as error:
            answer = {"ok": False, "error": f"not a request that I know: {error!r}"}
        # Not by the writer, which cannot pass files; a line is so short that it always fits.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(peer.fileno())) as connection:
            socket.send_fds(connection, [json.dumps(answer).encode() + b"\n"], [listener.fileno()] if listener else [])
        writer.close()

    async def _do(self, request: dict, account: str) -> socket.socket | None:
        """Carry out a request of `account`; return the socket it asked for, if it did. Raises Refused."""
        theirs = [name for name in TAKER if TAKER[name] == account]
        match request["action"]:
            case "take":
                name, address = request["name"], request["address"]
                if name not in theirs:
                    raise Refused(f"{account} may not have the socket {name}")
                address = HUB_SOCKET if name == "front" else (str(address[0]), int(address[1]))
                self._require_harmless(name, address)
                listener = await self._soon(name, address)
                self.given.add(name)
                self._serve_no_more(name)
                return listener
            case "left":
                self.states.pop(account, None)
                if "state" in request:
                    self.states[account] = {key: journal.plain(str(request[key])[:REASON]) for key in ("state", "reason")}
                for name in theirs:
                    self.given.discard(name)
                    if name in self.wanted and name not in self.sockets:
                        with contextlib.suppress(Refused):
                            self._open(name, self.wanted[name])
                    if name in self.sockets and not request["waits"]:
                        await self._away(name)
            case "release":
                for name in theirs:
                    self.wanted.pop(name, None)
                    if name in self.sockets:
                        self._close(name)
            case action:
                raise ValueError(action)
        return None

    def _require_harmless(self, name: str, address: Address) -> None:
        """Raise Refused for a port that is not the services' to choose: taken over, they could stand in for ssh, mail or DNS."""
        if isinstance(address, str) or address[1] >= OPEN_TO_ALL:
            return
        setting = self.settings.get(name)
        if name != "public" or setting is None or setting[1] != address[1]:
            mend = f"`systemctl restart {units.PORTS}` first"
            raise Refused(f"port {address[1]} is below {OPEN_TO_ALL}, and was not JUPYTERHUB_BIND_URL's at the keeper's start: {mend}")

    async def _soon(self, name: str, address: Address) -> socket.socket:
        """Like _open, but for an address that the service before has not let go of yet: try for two seconds."""
        for _ in range(100):
            with contextlib.suppress(Taken):
                return self._open(name, address)
            await asyncio.sleep(PATIENCE)
        return self._open(name, address)


def keep(host: str, port: int) -> None:
    """Keep the proxy's socket, at `host` and `port`, and the hub's. Does not return."""
    wanted: dict[str, Address] = {"public": (host, port), "api": ("127.0.0.1", 8081), "front": HUB_SOCKET}
    asyncio.run(Keeper(wanted).run())
