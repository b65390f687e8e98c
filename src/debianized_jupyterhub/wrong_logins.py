"""Wrong logins: how many there were for an account and from an address, and whose turn it is to have a password checked."""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from .addresses import host_of, is_local


class FairTurns:
    """A number of turns at a time that go round among those who wait.

    Who waits says with a path, such as (address, account), who he is. Next is the address that has had no turn for the longest time, and of its accounts the
    one of which the same is true. So nobody waits for all that another has asked for.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[tuple[str, ...], asyncio.Future]] = []
        self._served: dict[tuple[str, ...], int] = {}
        self._ticks = itertools.count(1)

    @contextlib.asynccontextmanager
    async def turn(self, path: tuple[str, ...]) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the length of the context."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((path, turn))
        self._next()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
            turn.cancel()
            self._next()

    def _next(self) -> None:
        self._waiting = [(path, turn) for path, turn in self._waiting if not turn.done()]
        while self._free and self._waiting:
            chosen = min(self._waiting, key=self._last_turns)
            self._waiting.remove(chosen)
            path, turn = chosen
            self._free -= 1
            self._served.update(dict.fromkeys(_prefixes(path), next(self._ticks)))
            turn.set_result(None)
        if not self._waiting:
            self._served.clear()

    def _last_turns(self, waiting: tuple[tuple[str, ...], asyncio.Future]) -> list[int]:
        return [self._served.get(prefix, 0) for prefix in _prefixes(waiting[0])]


def _prefixes(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [path[:length] for length in range(1, len(path) + 1)]


class Origin(NamedTuple):
    """What wrong logins are counted for: an account, at one address or at all of them (""), or an address (account "")."""

    account: str
    address: str


class WrongLogins:
    """Counts wrong logins in the memory of this hub.

    An address from which somebody has logged in has a count of its own for the account: who guesses elsewhere, or other accounts there, does not lock its
    owner out. Addresses of this machine are not counted, for all tunnels end there; an IPv6 host has all of its /64.
    """

    LARGEST = 10_000  # of each kind that are remembered; the oldest go

    def __init__(self, of_account: int, of_address: int, window: int) -> None:
        self._limits, self._window = (of_account, of_address), window
        self._wrong: dict[Origin, deque[float]] = {}
        self._known: dict[Origin, None] = {}

    def origins(self, account: str, address: str) -> list[Origin]:
        """Return what a login as `account` from `address` counts for."""
        account, host = account.casefold()[:64], host_of(address)
        owner = Origin(account, host)
        if owner in self._known:
            return [owner]
        return [Origin(account, "")] if is_local(address) else [Origin(account, ""), Origin("", host)]

    def wait(self, origins: list[Origin]) -> int:
        """Return after how many seconds a next login is looked at, 0 for at once."""
        return max(self._wait(origin) for origin in origins)

    def _wait(self, origin: Origin) -> int:
        limit = self._limits[0 if origin.account else 1]
        wrong = self._recent(origin)
        return int(wrong[-limit] + self._window - time.monotonic()) + 1 if limit and len(wrong) >= limit else 0

    def _recent(self, origin: Origin) -> deque[float]:
        wrong = self._wrong.get(origin, deque())
        while wrong and wrong[0] <= time.monotonic() - self._window:
            wrong.popleft()
        if not wrong:
            self._wrong.pop(origin, None)
        return wrong

    def begin(self, origins: list[Origin]) -> float:
        """Count a login as wrong until it is known to be none: many at once are no way around the limit. Return what `take_back` wants."""
        now = time.monotonic()
        for origin in origins:
            self._recent(origin)
            self._wrong.setdefault(origin, deque()).append(now)
        while len(self._wrong) > self.LARGEST:
            del self._wrong[next(iter(self._wrong))]
        return now

    def take_back(self, origins: list[Origin], begun: float) -> None:
        """Forget a login that was no guess."""
        for origin in origins:
            with contextlib.suppress(ValueError):
                self._wrong.get(origin, deque()).remove(begun)
            self._recent(origin)

    def succeeded(self, account: str, address: str) -> None:
        """Forget the wrong ones of who has logged in, there; a typing error a day is no guess."""
        owner = Origin(account.casefold()[:64], host_of(address))
        self._wrong.pop(owner, None)
        self._known.pop(owner, None)
        self._known[owner] = None
        while len(self._known) > self.LARGEST:
            del self._known[next(iter(self._known))]

    def listing(self) -> list[dict[str, str | int | None]]:
        """Return what is counted: account and address (None for all), wrong logins, seconds until the next is looked at."""
        return [
            {"account": origin.account or None, "address": origin.address or None, "wrong": len(self._recent(origin)), "wait": self._wait(origin)}
            for origin in list(self._wrong)
            if self._recent(origin)
        ]

    def lift(self, name: str) -> int:
        """Forget all that is counted for the account or the address `name`; return how many counts that were."""
        names = {name.casefold()[:64], host_of(name)}
        found = [origin for origin in self._wrong if origin.account in names or (not origin.account and origin.address in names)]
        for origin in found:
            del self._wrong[origin]
        return len(found)
