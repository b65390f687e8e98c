"""Wrong logins are counted for whom they are meant to be, and turns go round (wrong_logins.py, addresses.py)."""

import asyncio

import pytest

from debianized_jupyterhub import wrong_logins
from debianized_jupyterhub.addresses import address_of, origin_of
from debianized_jupyterhub.wrong_logins import FairTurns, WrongLogins

HERE, THERE = "127.0.0.1", "192.0.2.7"


async def order_of_turns(paths):
    """Return the paths in the order in which they get the one turn there is; all wait before the first is over."""
    turns, order = FairTurns(1), []

    async def wait(path):
        async with turns.turn(path):
            order.append("/".join(path))
            await asyncio.sleep(0)

    async with turns.turn(("first",)):
        waiting = [asyncio.create_task(wait(path)) for path in paths]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    return order


def test_nobody_waits_for_all_of_another():
    crowd = [("a", f"{number}") for number in range(50)]
    order = asyncio.run(order_of_turns([*crowd, ("b", "x"), ("b", "y")]))
    assert order[:4] == ["a/0", "b/x", "a/1", "b/y"]


def test_accounts_of_one_address_take_turns():
    order = asyncio.run(order_of_turns([("a", "x")] * 5 + [("a", "y")]))
    assert order[:2] == ["a/x", "a/y"]


def test_who_gives_up_keeps_no_turn():
    async def scene():
        turns = FairTurns(1)
        for _ in range(3):
            async with turns.turn(("a",)):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01), turns.turn(("b",)):
                        pass
        async with asyncio.timeout(1), turns.turn(("c",)):
            return True

    assert asyncio.run(scene())


@pytest.fixture
def counts():
    return WrongLogins(of_account=3, of_address=5, window=60)


def guess(counts, account, address, times=1):
    for _ in range(times):
        counts.begin(counts.origins(account, address))


def waits(counts, account, address):
    return counts.wait(counts.origins(account, address)) > 0


def test_account_is_counted_over_all_addresses(counts):
    for number in range(3):
        guess(counts, "Alice", f"192.0.2.{number}")
    assert waits(counts, "alice", "192.0.2.9") and not waits(counts, "bob", "192.0.2.9")


def test_owner_is_not_locked_out_by_others(counts):
    counts.succeeded("alice", THERE)
    guess(counts, "alice", "192.0.2.8", 3)
    assert waits(counts, "alice", "192.0.2.9") and not waits(counts, "alice", THERE)
    guess(counts, "alice", THERE, 3)
    assert waits(counts, "alice", THERE)


def test_owner_is_not_locked_out_by_guesses_at_others_there(counts):
    counts.succeeded("alice", THERE)
    for number in range(5):
        guess(counts, f"user-{number}", THERE)
    assert waits(counts, "bob", THERE) and not waits(counts, "alice", THERE)


@pytest.mark.parametrize("address, waiting", [(THERE, True), ("192.0.2.8", False)])
def test_address_is_counted_over_all_accounts(counts, address, waiting):
    for number in range(5):
        guess(counts, f"user-{number}", THERE)
    assert waits(counts, "alice", address) == waiting


@pytest.mark.parametrize("address", [HERE, "::1", "::ffff:127.0.0.1", "", "0.0.0.0"])
def test_this_machine_is_not_counted_as_an_address(counts, address):
    for number in range(50):
        guess(counts, f"user-{number}", address)
    assert not waits(counts, "alice", address)


def test_ipv6_host_has_all_of_its_network(counts):
    for number in range(5):
        guess(counts, f"user-{number}", f"2001:db8::{number}")
    assert waits(counts, "alice", "2001:db8::ffff:1") and not waits(counts, "alice", "2001:db8:0:1::1")


def test_what_was_no_guess_is_forgotten(counts):
    origins = counts.origins("alice", THERE)
    for _ in range(9):
        counts.take_back(origins, counts.begin(origins))
    assert counts.listing() == []


def test_wrong_logins_pass(counts, monkeypatch):
    guess(counts, "alice", THERE, 3)
    now = wrong_logins.time.monotonic()
    monkeypatch.setattr(wrong_logins.time, "monotonic", lambda: now + 61)
    assert not waits(counts, "alice", THERE) and counts.listing() == []


def test_listing_and_lifting(counts):
    guess(counts, "alice", THERE, 3)
    account, address = counts.listing()
    assert (account["account"], account["address"], account["wrong"]) == ("alice", None, 3) and 0 < account["wait"] <= 61
    assert address == {"account": None, "address": THERE, "wrong": 3, "wait": 0}
    assert (counts.lift("ALICE"), counts.lift(THERE), counts.lift("alice")) == (1, 1, 0)
    assert not waits(counts, "alice", THERE)


def test_memory_has_a_bound(counts):
    counts.LARGEST = 100
    for number in range(300):
        guess(counts, f"user-{number}", f"198.51.100.{number % 250}")
        counts.succeeded(f"user-{number}", THERE)
    assert len(counts._wrong) <= 101 and len(counts._known) <= 100


@pytest.mark.parametrize(
    "forwarded_for, address",
    [
        ("", None),
        ("127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 127.0.0.1", "192.0.2.7"),
        ("10.9.9.9, 192.0.2.7,::ffff:127.0.0.1", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.1, 127.0.0.1", "192.0.2.7"),
        ("nonsense, 127.0.0.1", "127.0.0.1"),
    ],
)
def test_origin_is_the_last_that_is_not_trusted(forwarded_for, address):
    assert origin_of(forwarded_for, {address_of("10.0.0.1")}) == address
