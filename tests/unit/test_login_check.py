"""login_check.py: logins that wait for an answer of their user. The rest needs PAM: tests/machine."""

import asyncio

import pytest

from debianized_jupyterhub.login_check import WaitingLogins


class Check:
    """A login-check that only knows whether it was ended."""

    closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def waiting(monkeypatch):
    monkeypatch.setattr(WaitingLogins, "SECONDS", 0.2)
    return WaitingLogins()


def test_answer_finds_its_login_once(waiting):
    async def run():
        check = Check()
        id = waiting.add(check, "alice", "browser")
        assert len(id) >= 20
        for wrong in ((id[:-1], "alice", "browser"), (id, "bob", "browser"), (id, "alice", "another")):
            assert waiting.take(*wrong) is None
        assert waiting.take(id, "alice", "browser") is check
        assert waiting.take(id, "alice", "browser") is None
        await asyncio.sleep(0.3)
        assert not check.closed  # its time has ended with the answer

    asyncio.run(run())


def test_login_without_an_answer_is_given_up(waiting):
    async def run():
        check = Check()
        id = waiting.add(check, "alice", "browser")
        await asyncio.sleep(0.3)
        assert check.closed and waiting.take(id, "alice", "browser") is None

    asyncio.run(run())


@pytest.mark.parametrize("name, most", [("alice", WaitingLogins.OF_ACCOUNT), ("user-{}", WaitingLogins.LARGEST)])
def test_oldest_give_way(waiting, name, most):
    async def run():
        checks = [Check() for _ in range(most + 10)]
        ids = [waiting.add(check, name.format(number), "browser") for number, check in enumerate(checks)]
        assert [check.closed for check in checks] == [True] * 10 + [False] * most
        assert [waiting.take(id, name.format(number), "browser") is not None for number, id in enumerate(ids)] == [False] * 10 + [True] * most

    asyncio.run(run())
