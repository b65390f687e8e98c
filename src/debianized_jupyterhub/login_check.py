"""The hub's way to PAM and NSS: the program src/libexec/login-check, whose head describes the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from asyncio.subprocess import PIPE, Process
from typing import NamedTuple

from . import units
from .paths import LIBEXEC, LOGIN_SOCKET

PROGRAM = f"{LIBEXEC}/login-check"


class LoginCheckError(Exception):
    """It cannot be reached, or ended without an answer; the text is one line for the log."""


class LoginCheck:
    """A process of login-check's that is ready for a request, and ends when it is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, process: Process | None = None) -> None:
        self._reader, self._writer, self._process = reader, writer, process

    @classmethod
    async def open(cls) -> LoginCheck:
        """Return one, of jupyterhub-login.service; where there is no systemd, of a child of ours. Raises LoginCheckError."""
        if os.path.isdir("/run/systemd/system"):
            try:
                check = cls(*await asyncio.open_unix_connection(LOGIN_SOCKET))
            except OSError as error:
                raise LoginCheckError(f"{LOGIN_SOCKET} does not answer ({error.strerror}): `systemctl start {units.LOGIN}` fixes it") from None
        else:
            # Without the hub's environment: its tokens are no business of PAM's modules.
            process = await asyncio.create_subprocess_exec(PROGRAM, stdin=PIPE, stdout=PIPE, env={"PATH": os.defpath})
            assert process.stdin and process.stdout
            check = cls(process.stdout, process.stdin, process)
        try:
            await check._line()
        except BaseException:
            check.close()
            raise
        return check

    async def ask(self, request: dict[str, object]) -> dict:
        """Send a line, return what is answered. Raises LoginCheckError."""
        with contextlib.suppress(ConnectionError):  # the answer that does not come says it
            self._writer.write(json.dumps(request).encode() + b"\n")
            await self._writer.drain()
        return json.loads(await self._line())

    async def _line(self) -> bytes:
        line = b""
        with contextlib.suppress(ConnectionError):
            line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise LoginCheckError(f"{PROGRAM} failed: see `journalctl -u {units.LOGIN_CHECK}`")
        return line

    def close(self) -> None:
        """End the process."""
        self._writer.close()
        if self._process and self._process.returncode is None:
            self._process.kill()


async def ask(request: dict[str, object], timeout: float) -> dict:
    """Put one request to it and return its answer; `timeout` is in seconds. Raises LoginCheckError."""
    check = None
    try:
        async with asyncio.timeout(timeout):
            check = await LoginCheck.open()
            return await check.ask(request)
    except TimeoutError:
        raise LoginCheckError(f"{PROGRAM} did not answer within {timeout:g} s: see `journalctl -u {units.LOGIN_CHECK}`") from None
    finally:
        if check:
            check.close()


class Waiting(NamedTuple):
    """A login whose user has been asked something."""

    check: LoginCheck
    user: str
    browser: object  # what only the browser that was asked can show
    timer: asyncio.TimerHandle


class WaitingLogins:
    """Logins that wait for their users' answers: each under an id that nobody can guess, for a while. Not too many, the oldest are given up first."""

    SECONDS = 120
    LARGEST, OF_ACCOUNT = 128, 4

    def __init__(self) -> None:
        self._logins: dict[str, Waiting] = {}

    def add(self, check: LoginCheck, user: str, browser: object) -> str:
        """Keep a login; return the id under which `take` has it."""
        of_account = [id for id, login in self._logins.items() if login.user == user]
        for ids, most in ((of_account, self.OF_ACCOUNT), (list(self._logins), self.LARGEST)):
            if len(ids) >= most:
                self._give_up(ids[0])
        id = secrets.token_urlsafe(16)
        self._logins[id] = Waiting(check, user, browser, asyncio.get_running_loop().call_later(self.SECONDS, self._give_up, id))
        return id

    def take(self, id: str, user: str, browser: object) -> LoginCheck | None:
        """Return a login that `add` has kept, once; None if there is none of that user and browser (any more)."""
        login = self._logins.get(id)
        if login is None or (login.user, login.browser) != (user, browser):
            return None
        login.timer.cancel()
        return self._logins.pop(id).check

    def _give_up(self, id: str) -> None:
        if login := self._logins.pop(id, None):
            login.timer.cancel()
            login.check.close()
