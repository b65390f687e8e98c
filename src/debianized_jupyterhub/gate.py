"""The hub's way to sudo: ask ``spawner-gate``, which runs outside the hub's sandbox.

The protocol is described at the head of src/libexec/spawner-gate.
"""

import asyncio
import json
import os

SOCKET = "/run/jupyterhub-spawner.sock"
PROGRAM = "/usr/libexec/jupyterhub/spawner-gate"


class GateError(Exception):
    """A request was refused or not answered; the text is one line for humans."""

    @property
    def jupyterhub_message(self) -> str:
        """What JupyterHub shows on the page of a failed spawn."""
        return str(self)


async def ask(action: str, *, timeout: float = 10, **request) -> dict:
    """Put one request to the gate and return its answer.

    `timeout` is in seconds. Raises GateError where the gate cannot be reached,
    does not answer in time, or refuses.
    """
    try:
        line = await asyncio.wait_for(_exchange({"action": action, **request}), timeout)
    except TimeoutError:
        raise GateError(
            f"sudo did not answer within {timeout:g} s: see `journalctl -u 'jupyterhub-spawner@*'`"
        ) from None
    except OSError as error:
        raise GateError(
            f"{SOCKET} does not answer ({error.strerror}):"
            " `systemctl start jupyterhub-spawner.socket` on the server mends it"
        ) from None
    if not line:
        raise GateError("The spawner service failed: see `journalctl -u 'jupyterhub-spawner@*'`")
    answer = json.loads(line)
    if not answer["ok"]:
        raise GateError(answer["error"])
    return answer


async def _exchange(request: dict) -> bytes:
    """Send one line, return one line; an empty one if the gate ended without an answer."""
    message = json.dumps(request).encode() + b"\n"
    if os.path.isdir("/run/systemd/system"):
        reader, writer = await asyncio.open_unix_connection(SOCKET)
        try:
            writer.write(message)
            return await reader.readline()
        except ConnectionResetError:  # it ended before it had read the request
            return b""
        finally:
            writer.close()
    # In a container without systemd the hub has no sandbox that sudo would inherit.
    process = await asyncio.create_subprocess_exec(
        PROGRAM, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    process.stdin.write(message)
    line = await process.stdout.readline()
    await process.wait()
    return line
