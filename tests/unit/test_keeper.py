"""The keeper of the ports, with real sockets: keeper.py."""

import asyncio
import http.client
import os
import pwd
import socket

import pytest

from debianized_jupyterhub import keeper as keeping

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    """A keeper whose front socket is in a folder of the test, and whose hub and proxy are we."""
    monkeypatch.setattr(keeping, "HUB_SOCKET", str(tmp_path / "hub.sock"))
    monkeypatch.setattr(keeping, "TAKER", dict.fromkeys(keeping.TAKER, ME))
    monkeypatch.setattr(keeping, "PATIENCE", 0.001)
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    keeper = keeping.Keeper({"public": ("127.0.0.1", 0), "front": keeping.HUB_SOCKET})
    yield keeper
    for name in list(keeper.sockets):
        keeper.sockets.pop(name).close()


def do(keeper, **request):
    return asyncio.run(keeper._do(request, ME))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_whoever_asks_again_gets_the_same_socket(keeper):
    address = ["127.0.0.1", free_port()]
    first, second = (do(keeper, action="take", name="public", address=address) for _ in range(2))
    assert first is second and first.getsockname() == tuple(address)


def test_what_waits_is_answered_by_the_next(keeper):
    """Neither refused nor reset: it connects while nobody accepts."""
    address = ("127.0.0.1", free_port())
    listener = do(keeper, action="take", name="public", address=address)
    with socket.create_connection(address, timeout=1) as waits:
        do(keeper, action="left", waits=True)
        connection, _ = do(keeper, action="take", name="public", address=address).accept()
        connection.sendall(b"next")
        connection.close()
        assert waits.recv(10) == b"next"
    assert listener.fileno() >= 0


def test_same_port_of_all_addresses_is_never_free(keeper):
    """The new socket is there before the old one goes."""
    port = free_port()
    old = do(keeper, action="take", name="public", address=["127.0.0.1", port])
    new = do(keeper, action="take", name="public", address=["0.0.0.0", port])
    assert new is not old and old.fileno() == -1 and new.getsockname() == ("0.0.0.0", port)


@pytest.mark.parametrize("action", ["take", "left", "release"])
def test_others_get_nothing(keeper, action):
    listener = do(keeper, action="take", name="front", address="")
    request = {"action": action, "name": "front", "address": "", "waits": False}
    if action == "take":
        with pytest.raises(keeping.Refused, match="mallory may not have the socket front"):
            asyncio.run(keeper._do(request, "mallory"))
    else:
        asyncio.run(keeper._do(request, "mallory"))
    assert keeper.sockets["front"] is listener and listener.fileno() >= 0


def test_taken_port_names_the_account(keeper):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(keeping.Refused) as refused:
            do(keeper, action="take", name="public", address=["127.0.0.1", port])
    assert str(refused.value).startswith(f"127.0.0.1, port {port}: taken by the account {ME}, `ss -ltnp") and refused.value.holder == ME


@pytest.mark.parametrize("address, said", [(["host.example.org", 8000], "host.example.org, port 8000: "), (["127.0.0.1", "x"], "invalid literal")])
def test_address_that_is_none(keeper, address, said):
    """Names are not for the keeper to resolve, which would wait for DNS."""
    with pytest.raises((keeping.Refused, ValueError), match=said):
        do(keeper, action="take", name="public", address=address)


def test_keeper_that_was_stopped_leaves_its_sockets_to_the_services(keeper, monkeypatch):
    """A second socket at the same port would get half of the connections. It is opened once the service has gone."""
    monkeypatch.setattr(keeping.accounts, "PORTS", ME)
    address = ("127.0.0.1", free_port())
    serving = do(keeper, action="take", name="public", address=address).dup(), do(keeper, action="take", name="front", address="").dup()
    for name in ("public", "front"):
        keeper.sockets.pop(name).close()
    for name, where in (("public", address), ("front", "")):
        with pytest.raises(keeping.Taken, match="still has the socket"):
            do(keeper, action="take", name=name, address=where)
    for listener in serving:
        listener.close()
    do(keeper, action="left", waits=True)
    assert set(keeper.sockets) == {"public", "front"} and keeper.sockets["public"].getsockname() == address


@pytest.mark.parametrize("name, port", [("api", 22), ("public", 25)])
def test_low_port_is_the_administrators_to_choose(keeper, name, port):
    """The keeper has the right to bind it; an account that asks has not, unless the setting says so."""
    with pytest.raises(keeping.Refused, match=f"port {port} is below 1024"):
        do(keeper, action="take", name=name, address=["127.0.0.1", port])


def test_low_port_of_the_setting_is_given(keeper, monkeypatch):
    port = free_port()
    monkeypatch.setattr(keeping, "OPEN_TO_ALL", port + 1)
    keeper.settings["public"] = ("127.0.0.1", port)
    assert do(keeper, action="take", name="public", address=["127.0.0.1", port]).getsockname() == ("127.0.0.1", port)


def test_released_port_is_everybodys(keeper):
    address = ("127.0.0.1", free_port())
    do(keeper, action="take", name="public", address=address)
    do(keeper, action="release")
    with socket.create_server(address):
        pass


def test_who_is_away_is_said_to_be(keeper, tmp_path, monkeypatch):
    page = tmp_path / "away.html"
    page.write_text("Back in a moment")
    monkeypatch.setattr(keeping, "AWAY_PAGE", str(page))
    port = free_port()

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/hub/login")
        answer = connection.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read()

    async def leave_and_ask():
        await keeper._do({"action": "take", "name": "public", "address": ["127.0.0.1", port]}, ME)
        await keeper._do({"action": "left", "waits": False}, ME)
        return await asyncio.to_thread(ask)

    assert asyncio.run(leave_and_ask()) == (503, "5", b"Back in a moment")
