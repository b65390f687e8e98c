"""The hub's ways out of its sandbox: to sudo, to the end of sessions that sudo cannot reach, and to new accounts.

The protocols are described at the heads of src/libexec/spawner-gate, session-helper and account-helper.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import NamedTuple

from .paths import LIBEXEC


class Helper(NamedTuple):
    """A program outside the hub's sandbox, reached through a socket of systemd's, and what it calls."""

    name: str
    program: str
    calls: str

    @property
    def unit(self) -> str:
        return f"jupyterhub-{self.name}"

    @property
    def socket(self) -> str:
        return f"/run/{self.unit}.sock"


SPAWNER = Helper("spawner", f"{LIBEXEC}/spawner-gate", "sudo")
SESSIONS = Helper("sessions", f"{LIBEXEC}/session-helper", "systemd-logind")
ACCOUNTS = Helper("accounts", f"{LIBEXEC}/account-helper", "useradd")
LONGEST = 32 << 20  # bytes of an answer: what Slurm says of all jobs; asyncio would take 64 kB


class GateError(Exception):
    """A request was refused or not answered; the text is one line for humans."""

    @property
    def jupyterhub_message(self) -> str:
        """What JupyterHub shows on the page of a failed spawn."""
        return str(self)


class Refusal(GateError):
    """A request was refused: what it asked for was not done, or not to the end."""


async def ask(action: str, *, timeout: float = 10, **request: object) -> dict:
    """Put one request to the spawner's gate and return its answer; see ask_helper for errors."""
    return await ask_helper(SPAWNER, {"action": action, **request}, timeout)


@contextlib.asynccontextmanager
async def starting(*, timeout: float, **request: object) -> AsyncIterator[tuple[dict, asyncio.Future[str]]]:
    """Have the spawner's gate start a server; yield its answer, and what becomes the reason if the server ends before we leave.

    The reason is "" where the gate has ended first. See ask_helper for errors.
    """
    async with _asking(SPAWNER, {"action": "spawn", **request}, timeout) as (answer, reader):
        end = asyncio.ensure_future(_why_it_ended(reader))
        try:
            yield answer, end
        finally:
            end.cancel()


async def _why_it_ended(reader: asyncio.StreamReader) -> str:
    with contextlib.suppress(OSError, ValueError):
        return str(json.loads(await reader.readline()).get("ended", ""))
    return ""


async def ask_helper(helper: Helper, request: dict, timeout: float = 10) -> dict:
    """Put one request to a helper and return its answer.

    `timeout` is in seconds. Raises GateError where it cannot be reached, does not
    answer in time, or refuses.
    """
    async with _asking(helper, request, timeout) as (answer, _):
        return answer


@contextlib.asynccontextmanager
async def _asking(helper: Helper, request: dict, timeout: float) -> AsyncIterator[tuple[dict, asyncio.StreamReader]]:
    """Put one request to a helper; yield its answer, and where more may come from. It is told when we leave."""
    log = f"see `journalctl -u '{helper.unit}@*'`"
    async with contextlib.AsyncExitStack() as leaving:
        try:
            reader, line = await asyncio.wait_for(_exchange(helper, request, leaving), timeout)
        except TimeoutError:
            raise GateError(f"{helper.calls} did not answer within {timeout:g} s: {log}") from None
        except ValueError:
            raise GateError(f"The {helper.name} service answers more than {LONGEST >> 20} MB: {log}") from None
        except OSError as error:
            raise GateError(f"{helper.socket} does not answer ({error.strerror}): `systemctl start {helper.unit}.socket` on the server fixes it") from None
        try:
            answer = json.loads(line)
        except ValueError:  # nothing, or not all of it
            raise GateError(f"The {helper.name} service failed: {log}") from None
        if not answer["ok"]:
            raise Refusal(answer["error"])
        yield answer, reader


async def _exchange(helper: Helper, request: dict, leaving: contextlib.AsyncExitStack) -> tuple[asyncio.StreamReader, bytes]:
    """Send one line; return where the answers come from, and the first: an empty line if the gate ended without one. `leaving` ends the connection."""
    message = json.dumps(request).encode() + b"\n"
    if os.path.isdir("/run/systemd/system"):
        reader, writer = await asyncio.open_unix_connection(helper.socket, limit=LONGEST)
        leaving.callback(writer.close)
        try:
            writer.write(message)
            return reader, await reader.readline()
        except ConnectionResetError:  # it ended before it had read the request
            return reader, b""
    # In a container without systemd the hub has no sandbox that sudo would inherit.
    process = await asyncio.create_subprocess_exec(helper.program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST)
    assert process.stdin and process.stdout
    leaving.callback(process.stdin.close)
    process.stdin.write(message)
    line = await process.stdout.readline()
    leaving.push_async_callback(_gone, process)
    return process.stdout, line


async def _gone(process: asyncio.subprocess.Process) -> None:
    """End the conversation with a helper that has answered, and wait for its end."""
    assert process.stdin
    process.stdin.close()
    await process.wait()
