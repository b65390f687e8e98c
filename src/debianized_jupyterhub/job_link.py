"""What hub and job-starter say to each other: lines of JSON over TLS, by a key that only this job has.

=======  ============================  =====================================================================
action   further keys of the request   keys of the answer
=======  ============================  =====================================================================
start    args (list), env (dict);      port (int), at which the server will listen at the address that the
         perhaps tls (dict): key,      hub has connected to; one that runs already is ended first. With `tls`
         cert, ca (PEM)                it takes TLS alone, from who has a certificate of that `ca`
look                                   running (bool), port
stop                                   running, port: the server is asked to end
usage                                  memory (bytes), cpu (seconds since its start), version (str or null) of
                                       the server with its kernels and terminals; nothing of these where none
                                       runs, or the starter is older than this
=======  ============================  =====================================================================

Answers have ``lacks`` (str), too: what the node does not have of the hub's machine, one line for humans, mostly "".

This is language 1. What an earlier starter or hub would not understand is another language: the job's script says which the hub has (SPEAKS in
src/libexec/sudospawner), and the starter refuses where it has none of them (LANGUAGES).

Every answer has ``ok``; where that is false, ``error`` is one line for humans. After it the connection stays: when the server ends there is one line more,
``ended`` (str), why, for humans, and then the starter itself ends.

The key is a pre-shared one (RFC 5489): each end shows that it has it, and the keys of a session are made anew each time. No certificate is needed for that,
and nothing that a job that waits could outlive.
"""

import asyncio
import json
import socket
import ssl
from typing import Any

LONGEST = 1 << 20  # bytes of a line
CIPHERS = "ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES128-CBC-SHA256"
KEYS = ".local/share/jupyterhub/jobs"  # in the user's home; src/libexec/sudospawner writes there


class Stranger(ConnectionRefusedError):
    """Who answers does not have the job's key."""


def context(key: str, *, server: bool) -> ssl.SSLContext:
    """Return the settings of an end of the connection; `key` is hexadecimal. Raises OSError where Python has no pre-shared keys (before 3.13)."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if not hasattr(found, "set_psk_client_callback"):
        raise OSError("jobs need Python 3.13, which this suite does not have")
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE  # the key says who it is
    found.minimum_version = found.maximum_version = ssl.TLSVersion.TLSv1_2  # Python has pre-shared keys of that alone
    found.set_ciphers(CIPHERS)
    secret = bytes.fromhex(key)
    ends: Any = found  # types of Python before 3.13 do not know them
    if server:
        ends.set_psk_server_callback(lambda _identity: secret)
    else:
        ends.set_psk_client_callback(lambda _hint: ("hub", secret))
    return found


def port_of(answer: dict[str, Any]) -> int:
    """Return the port in an answer. Raises OSError where it is not one: the user who answers could say anything, and it becomes part of an address."""
    port = answer.get("port")
    if type(port) is not int or not 0 < port < 1 << 16:
        raise OSError("the job's starter tells no port")
    return port


def notice_silence(connection: socket.socket) -> None:
    """Let the kernel break a connection to a machine that has vanished, after a minute."""
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 60_000)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def connect(address: str, port: int, key: str, seconds: float = 5) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to the starter of a job. Raises OSError where its node does not answer in time, ConnectionRefusedError where that does and the
    starter is not there, and Stranger where somebody without the key is in its place.
    """
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port, ssl=context(key, server=False), limit=LONGEST), seconds)
    except (ssl.SSLError, ConnectionResetError):
        raise Stranger(f"who answers at {address}:{port} does not have the job's key") from None
    except ConnectionRefusedError:
        raise ConnectionRefusedError(f"nobody listens at {address}:{port}") from None
    except OSError:  # TimeoutError is one
        raise OSError(f"nobody answers at {address}:{port}") from None
    notice_silence(writer.get_extra_info("socket"))
    return reader, writer


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: dict[str, Any], seconds: float = 10) -> dict[str, Any]:
    """Put a request to a starter; return its answer. Raises OSError where it does not answer, or refuses."""
    writer.write(json.dumps(request).encode() + b"\n")
    answer = await said(reader, seconds)
    if not answer.get("ok"):
        raise OSError(str(answer.get("error", "the job's starter does not answer")))
    return answer


async def said(reader: asyncio.StreamReader, seconds: float | None = None) -> dict[str, Any]:
    """Return the next that a starter says, {} if it has ended or its machine has vanished. Raises OSError if it does not say anything for `seconds`."""
    try:
        line = await asyncio.wait_for(reader.readline(), seconds)
        found = json.loads(line) if line else {}
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: of brackets alone
        # The kernel's word for a connection on which nobody answers any more is a TimeoutError, too.
        if isinstance(error, TimeoutError) and error.errno is None:
            raise OSError(f"the job's starter does not answer within {seconds:g} s") from None
        return {}
    return found if isinstance(found, dict) else {}
