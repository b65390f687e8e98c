"""gate.py: what the hub gets from the programs outside its sandbox, through a socket or as its children."""

import asyncio
import json
import os
import pathlib
import sys

import pytest

from debianized_jupyterhub import gate

LIBEXEC = pathlib.Path(__file__).resolve().parents[2] / "src/libexec"


class Here(gate.Helper):
    """A helper whose socket is where the test has it."""

    @property
    def socket(self):
        return f"{self.program}.sock"


def helper(folder, script="exit 1"):
    """Return a Helper below `folder` (Path) whose program is a shell `script` (str)."""
    program = folder / "helper"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Here("test", str(program), "sudo")


@pytest.fixture
def with_systemd(monkeypatch, request):
    """Let the hub find systemd or, as in a container, none: request.param (bool)."""
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: request.param if path == "/run/systemd/system" else real(path))
    return request.param


def ask(one, serve=None, timeout=10, **request):
    """Put a request to the helper `one`; `serve(reader, writer)`, a coroutine, is who listens at its socket, if anybody."""

    async def run():
        server = await asyncio.start_unix_server(serve, one.socket) if serve else None
        try:
            return await gate.ask_helper(one, request, timeout)
        finally:
            if server:
                server.close()

    return asyncio.run(run())


def answering(line):
    """Return who takes a request and answers `line` (bytes) to it."""

    async def serve(reader, writer):
        await reader.readline()
        writer.write(line)
        writer.close()

    return serve


sandboxed = pytest.mark.parametrize("with_systemd", [True], indirect=True)
in_container = pytest.mark.parametrize("with_systemd", [False], indirect=True)


@sandboxed
def test_request_is_one_line_through_the_socket(with_systemd, tmp_path):
    seen = []

    async def serve(reader, writer):
        seen.append(await reader.readline())
        writer.write(b'{"ok": true, "alive": false}\n')
        writer.close()

    assert ask(helper(tmp_path), serve, action="poll", pid=1, name="a\nb\u00e9") == {"ok": True, "alive": False}
    assert seen[0].count(b"\n") == 1 and json.loads(seen[0]) == {"action": "poll", "pid": 1, "name": "a\nb\u00e9"}


@in_container
def test_gate_is_a_child_where_there_is_no_systemd(with_systemd, tmp_path):
    one = helper(tmp_path, f"exec {sys.executable} -IS {LIBEXEC}/spawner-gate")
    assert ask(one, action="poll", pid=os.getpid(), started="another boot/1") == {"ok": True, "alive": False}
    with pytest.raises(gate.GateError, match="not a request that I know"):
        ask(one, action="reboot")


@sandboxed
def test_refusal_is_said_in_its_own_words(with_systemd, tmp_path):
    with pytest.raises(gate.GateError) as error:
        ask(helper(tmp_path), answering(b'{"ok": false, "error": "no home"}\n'))
    assert str(error.value) == error.value.jupyterhub_message == "no home"


@sandboxed
def test_missing_socket_says_how_to_start_it(with_systemd, tmp_path):
    with pytest.raises(gate.GateError, match=r"systemctl start jupyterhub-test\.socket"):
        ask(helper(tmp_path))


@sandboxed
@pytest.mark.parametrize("line", [b"", b'{"ok": true', b"Creating directory\n"])
def test_end_without_a_whole_answer_points_to_the_journal(with_systemd, tmp_path, line):
    with pytest.raises(gate.GateError, match="The test service failed: see `journalctl -u 'jupyterhub-test@"):
        ask(helper(tmp_path), answering(line))


@pytest.mark.parametrize("with_systemd", [True, False], indirect=True)
def test_long_answer_is_read(with_systemd, tmp_path):
    """What Slurm says of 5,000 jobs."""
    line = json.dumps({"ok": True, "jobs": {number: {"user": "alice", "tag": "0" * 200} for number in range(5000)}}).encode() + b"\n"
    (tmp_path / "line").write_bytes(line)
    assert len(ask(helper(tmp_path, f"read request; cat {tmp_path}/line"), answering(line) if with_systemd else None)["jobs"]) == 5000


@sandboxed
def test_answer_without_an_end_is_refused(with_systemd, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "LONGEST", 1000)
    with pytest.raises(gate.GateError, match="The test service answers more than"):
        ask(helper(tmp_path), answering(b"x" * 10_000))


@in_container
def test_child_that_fails_points_to_the_journal(with_systemd, tmp_path):
    with pytest.raises(gate.GateError, match="The test service failed"):
        ask(helper(tmp_path, "read line; exit 1"))


@sandboxed
def test_silence_ends_in_time(with_systemd, tmp_path):
    async def serve(reader, writer):
        await reader.read()  # until the hub has gone
        writer.close()

    with pytest.raises(gate.GateError, match=r"sudo did not answer within 0\.1 s"):
        ask(helper(tmp_path), serve, timeout=0.1)
