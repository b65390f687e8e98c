"""The hub's ways out of its sandbox: to sudo, and to new accounts.

The protocols are described at the heads of src/libexec/spawner-gate and account-helper.
"""

import asyncio
import json
import os
from typing import NamedTuple

from .paths import LIBEXEC


class Door(NamedTuple):
    """A socket of systemd's, the program behind it, and what that calls."""

    name: str
    program: str
    calls: str

    @property
    def unit(self) -> str:
        return f"jupyterhub-{self.name}"

    @property
    def socket(self) -> str:
        return f"/run/{self.unit}.sock"


SPAWNER = Door("spawner", f"{LIBEXEC}/spawner-gate", "sudo")
ACCOUNTS = Door("accounts", f"{LIBEXEC}/account-helper", "useradd")


class GateError(Exception):
    """A request was refused or not answered; the text is one line for humans."""

    @property
    def jupyterhub_message(self) -> str:
        """What JupyterHub shows on the page of a failed spawn."""
        return str(self)


async def ask(action: str, *, timeout: float = 10, **request) -> dict:
    """Put one request to the spawner's gate and return its answer; see knock for errors."""
    return await knock(SPAWNER, {"action": action, **request}, timeout)


async def knock(door: Door, request: dict, timeout: float = 10) -> dict:
    """Put one request to the program behind a door and return its answer.

    `timeout` is in seconds. Raises GateError where it cannot be reached, does not
    answer in time, or refuses.
    """
    log = f"see `journalctl -u '{door.unit}@*'`"
    try:
        line = await asyncio.wait_for(_exchange(door, request), timeout)
    except TimeoutError:
        raise GateError(f"{door.calls} did not answer within {timeout:g} s: {log}") from None
    except OSError as error:
        raise GateError(
            f"{door.socket} does not answer ({error.strerror}):"
            f" `systemctl start {door.unit}.socket` on the server mends it"
        ) from None
    if not line:
        raise GateError(f"The {door.name} service failed: {log}")
    answer = json.loads(line)
    if not answer["ok"]:
        raise GateError(answer["error"])
    return answer


async def _exchange(door: Door, request: dict) -> bytes:
    """Send one line, return one line; an empty one if the gate ended without an answer."""
    message = json.dumps(request).encode() + b"\n"
    if os.path.isdir("/run/systemd/system"):
        reader, writer = await asyncio.open_unix_connection(door.socket)
        try:
            writer.write(message)
            return await reader.readline()
        except ConnectionResetError:  # it ended before it had read the request
            return b""
        finally:
            writer.close()
    # In a container without systemd the hub has no sandbox that sudo would inherit.
    process = await asyncio.create_subprocess_exec(
        door.program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    process.stdin.write(message)
    line = await process.stdout.readline()
    await process.wait()
    return line
