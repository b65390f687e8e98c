"""How hub and proxy get their listening sockets from the keeper of the ports, which is keeper.py.

A port that is free for the second of a restart is anybody's who has a loop of bind(). So hub and proxy do not open their
listening sockets: jupyterhub-ports.service does, at boot before any user's process runs, and keeps them open while the two come
and go. Connections wait in the kernel's queue meanwhile; while a service is stopped, or does not start, the keeper answers them
itself, with the page that says so. Its own restarts outlive the sockets in systemd's file descriptor store.

=========  =======================================  ============================  =============
socket     address                                  leads to                      taken by
=========  =======================================  ============================  =============
`public`   that of JUPYTERHUB_BIND_URL              proxy                         proxy
`api`      127.0.0.1:8081, or what the site set     hub, for servers and tokens   hub
`front`    HUB_SOCKET                               hub, for the proxy alone      hub
`jobs`     that of JUPYTERHUB_JOBS_ADDRESS, if set  hub, for servers on nodes     hub
=========  =======================================  ============================  =============

Protocol, on KEEPER_SOCKET: one line of JSON in, one line out, and the listening socket as SCM_RIGHTS (unix(7)) with it.

=========  =======================================  =============================================================================================
action     further keys of the request              what happens
=========  =======================================  =============================================================================================
take       name, address ([host, port] or path)     the answer brings the socket; it is bound anew where the address changed
left       waits (bool); perhaps state, reason      the asker's sockets: connections wait for the next one, or are answered; /hub/ready says the two
release                                             the asker's sockets are closed
=========  =======================================  =============================================================================================

Every answer has ``ok``; where that is false, ``error`` is one line for humans.
"""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator

from . import accounts, units
from .addresses import is_local
from .paths import CTL_FILE, KEEPER_SOCKET

TAKER = {"public": accounts.PROXY, "api": accounts.HUB, "front": accounts.HUB, "jobs": accounts.HUB}
SERVICE = {accounts.PROXY: units.PROXY, accounts.HUB: units.HUB}
FIRST_FD = 3  # sd_listen_fds(3)

Address = tuple[str, int] | str


class Refused(Exception):
    """What is wrong and how to mend it, in one line."""


def ask(**request: object) -> socket.socket | None:
    """Put one request to the keeper; return the socket that came with its answer. Raises OSError, and Refused with the keeper's words."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(KEEPER_SOCKET)
        connection.sendall(json.dumps(request).encode() + b"\n")
        line, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
    given = [socket.socket(fileno=fd) for fd in fds]
    answer = json.loads(line or b'{"ok": false, "error": "the keeper of the ports ended without an answer"}')
    if not answer["ok"]:
        raise Refused(answer["error"])
    return given[0] if given else None


def take(name: str, address: Address) -> socket.socket:
    """Return the listening socket `name` (see the table above) at `address`. Raises OSError and Refused."""
    listener = ask(action="take", name=name, address=address)
    if listener is None:
        raise Refused(f"the keeper gave no socket {name}: journalctl -u {units.PORTS}")
    listener.setblocking(False)
    return listener


def resolved(host: str, port: int, flags: int = socket.AI_NUMERICHOST) -> tuple[int, tuple]:
    """Return family and socket address for `host` (address, or "" for all; a name with other `flags`) and `port`. Raises OSError."""
    wanted = host or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
    family, _, _, _, address = socket.getaddrinfo(wanted, port, type=socket.SOCK_STREAM, flags=flags)[0]
    return family, address


@contextlib.contextmanager
def named(host: str, setting: str) -> Iterator[None]:
    """Raise as Refused, which names the `setting`, that its `host` is not found."""
    try:
        yield
    except UnicodeError:  # of the codec idna: a part of it is empty, or longer than 63 characters
        raise Refused(f"{host} in {setting}: no host has such a name") from None
    except OSError as error:
        raise Refused(f"{host} in {setting}: {error.strerror}") from None


def numeric(host: str, port: int, setting: str = "JUPYTERHUB_BIND_URL") -> tuple[str, int]:
    """Return the address of `host`, which may be a name, with `port`; may wait for DNS. Raises Refused, which names the `setting`."""
    with named(host, setting):
        return resolved(host, port, 0)[1][:2]


def for_nodes(host: str, port: int, setting: str) -> list[tuple[str, int]]:
    """Return the addresses at which other machines may reach `host` (at least one; the hub listens at the first); as numeric, and Refused where it leads no
    further than this machine.
    """
    with named(host, setting):
        every = [found[4][:2] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    reached = [(str(address), int(port)) for address, port in dict.fromkeys(every) if not is_local(str(address))]
    if not reached:  # Debian's installer writes a machine's own name that way
        raise Refused(f"{host} in {setting} leads to {every[0][0]} on this machine, which no other one reaches: see /etc/hosts")
    return reached


def take_for(command: list[str], host: str, port: int) -> None:
    """Become `command` (argv), which finds the proxy's socket as systemd's services do: file descriptor 3. Does not return."""
    fd = take("public", numeric(host, port)).detach()
    if fd != FIRST_FD:
        os.dup2(fd, FIRST_FD)
    os.set_inheritable(FIRST_FD, True)
    os.execvpe(command[0], command, {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})


def jobs(unit: str) -> list[str]:
    """Return the words of systemd's job for `unit`, among them what it is: stop, restart."""
    return subprocess.run(["systemctl", "list-jobs", "--no-legend", unit], check=False, capture_output=True, text=True).stdout.split()


def left(unit: str) -> None:
    """Tell the keeper, as ExecStopPost= of `unit`, whether its connections shall wait; SERVICE_RESULT is of systemd.exec(5).

    They wait for one that restarts by order or after a crash. One that says that it cannot go on will not be better at once.
    """
    if unit == units.HUB:
        with contextlib.suppress(OSError):
            os.unlink(CTL_FILE)  # its folder stays, for FAILED_FILE
    waiting = jobs(unit)
    failed = os.environ.get("SERVICE_RESULT") in ("exit-code", "protocol")  # the latter: a good end before it was up
    if "stop" in waiting:
        enabled = subprocess.run(["systemctl", "is-enabled", unit], check=False, capture_output=True, text=True).stdout.strip()
        ask(**{"action": "release"} if enabled in ("disabled", "masked") else {"action": "left", "waits": False})
    elif failed:
        ask(action="left", waits="restart" in waiting, state="failed", reason="The hub has ended with an error, and is started again.")
    else:
        ask(action="left", waits=True)
