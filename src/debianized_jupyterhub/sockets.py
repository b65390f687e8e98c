"""What the kernel knows of sockets, and what systemd is told through one."""

import contextlib
import os
import socket
import struct
from pathlib import Path


def listeners(port: int) -> tuple[set[int], set[str]]:
    """Return the uids and the inodes of the sockets that listen on a TCP port. Source: proc_net_tcp(5), by /proc/self, which our sandboxes leave."""
    uids, inodes = set(), set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    uids.add(int(fields[7]))
                    inodes.add(fields[9])
    return uids, inodes


def credentials(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end of a unix socket: who connected, or who listens there. Source: unix(7), SO_PEERCRED."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def peer_uid(connection: socket.socket) -> int | None:
    """Return the uid of the process at the other end of a TCP connection of this machine, None for another machine's.

    Source: sock_diag(7). A question for one connection; /proc/net/tcp would list those of everybody.
    """
    try:
        here, peer = connection.getsockname(), connection.getpeername()
    except OSError:  # it has gone already
        return None
    ends = struct.pack("!HH16s16s", peer[1], here[1], *(socket.inet_pton(connection.family, end[0]) for end in (peer, here)))
    # struct inet_diag_req_v2: family, protocol, no extensions, all states; any interface, any cookie
    body = struct.pack("=BBBxI", connection.family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + ends + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:  # NETLINK_SOCK_DIAG
        kernel.settimeout(1)
        kernel.send(struct.pack("=IHHII", 16 + len(body), 20, 1, 0, 0) + body)  # SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST
        answer = kernel.recv(4096)
    kind = struct.unpack_from("=H", answer, 4)[0]
    return struct.unpack_from("=I", answer, 16 + 4 + 48 + 12)[0] if kind == 20 else None


def notify(text: str, *fds: int, wait: bool = True) -> None:
    """Tell systemd `text`, lines of sd_notify(3), with open files for its store; without `wait` not at all where systemd has no time to read."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, contextlib.suppress(BlockingIOError):
            systemd.setblocking(wait)
            systemd.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            socket.send_fds(systemd, [text.encode()], fds)
