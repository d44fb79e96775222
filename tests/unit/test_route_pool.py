"""Which connection to a peer carries what, which of them are missing, and when they are dialed."""

import random

import pytest

from shardd import limits
from shardd.errors import ProtocolError
from shardd.routes.greeting import Introduction
from shardd.routes.peer import Link, Peer, pool_index
from shardd.routes.pool import Place, Pool, place_of, pool_size
from shardd.routes.roster import Dial
from shardd.values import RouteUrl

URL = RouteUrl("10.0.0.1", 6222)
ACCOUNTS = (b"$SYS", b"A")


def told(**fields: object) -> Introduction:
    return Introduction(server_id="PEER", **{"pool_size": 3, **fields})  # type: ignore[arg-type]


def whole_peer() -> Peer:
    peer = Peer(0, "PEER", 3, ACCOUNTS)
    for index in range(3):
        peer.place(Link(), index)
    for account in ACCOUNTS:
        peer.place(Link(), 0, account)
    return peer


@pytest.mark.parametrize(
    ("name", "size", "index"),
    [("$G", 3, 2), ("A", 3, 0), ("C", 3, 1), ("A", 5, 2), ("B", 5, 4), ("A", 1, 0), ("A", 0, 0)],
)
def test_the_place_of_an_account_is_that_of_nats_server(name: str, size: int, index: int) -> None:
    assert pool_index(name.encode(), size) == index


def test_an_account_goes_by_its_own_connection_or_by_the_place_of_its_name() -> None:
    peer = whole_peer()
    assert [peer.carries(b"C", link) for link in peer.links] == [False, True, False]
    assert [peer.carries(b"A", link) for link in peer.all_links()] == [False] * 4 + [True]
    pinned = peer.pinned[b"A"]
    assert pinned is not None
    assert peer.account_of(pinned) == b"A"
    peer.remove(pinned)
    # Not by another one meanwhile: its messages would overtake each other.
    assert not any(peer.carries(b"A", link) for link in peer.all_links())
    assert peer.is_incomplete()


def test_the_larger_pool_counts_and_one_that_does_not_pool_decides() -> None:
    assert pool_size(3, told(pool_size=5)) == 5
    assert pool_size(5, told(pool_size=3)) == 5
    assert pool_size(0, told(pool_size=3)) == 0
    assert pool_size(3, told(pool_size=0)) == 0
    with pytest.raises(ProtocolError, match="Mismatch route pool size: 3 vs"):
        pool_size(3, told(pool_size=limits.ROUTE_POOL_MAX + 1))


def test_who_accepts_takes_the_place_that_the_dialer_says() -> None:
    peer = Peer(0, "PEER", 3, ACCOUNTS)
    peer.place(Link(), 1)
    assert place_of(3, ACCOUNTS, None, None, told(pool_index=2)) == Place(2)
    assert place_of(3, ACCOUNTS, peer, None, told(pool_index=2)) == Place(2)
    assert place_of(3, ACCOUNTS, peer, None, told(pool_index=1)) is None
    assert place_of(3, ACCOUNTS, peer, None, told(account="A")) == Place(0, "A")
    assert place_of(3, ACCOUNTS, None, None, told(pool_size=0)) == Place(0)
    assert place_of(3, ACCOUNTS, peer, None, told(pool_size=0)) is None
    for wrong in (
        told(pool_index=3),
        told(pool_index=-1),
        told(account="B"),
        told(account="A", pool_size=0),
    ):
        with pytest.raises(ProtocolError):
            place_of(3, ACCOUNTS, peer, None, wrong)


def test_who_dials_takes_the_first_place_that_is_free() -> None:
    dial = Dial(URL, True, 0.0)
    peer = Peer(0, "PEER", 3, ACCOUNTS)
    for index in (0, 2):
        peer.place(Link(), index)
    assert place_of(3, ACCOUNTS, None, dial, told()) == Place(0)
    assert place_of(3, ACCOUNTS, peer, dial, told()) == Place(1)
    peer.place(Link(), 1)
    assert place_of(3, ACCOUNTS, peer, dial, told()) is None
    dial = Dial(URL, False, 0.0, "PEER", is_extra=True, account="A")
    assert place_of(3, ACCOUNTS, peer, dial, told()) == Place(0, "A")
    assert place_of(3, ACCOUNTS, None, dial, told()) is None


def test_what_is_missing_is_dialed_for_one_by_one() -> None:
    peer = whole_peer()
    pool = Pool(peer, random.Random(1))
    assert pool.next(URL, 0.0) is None
    for link in (peer.links[1], peer.pinned[b"A"]):
        assert link is not None
        peer.remove(link)
    first = pool.next(URL, 0.0)
    assert first is not None
    assert (first.account, first.is_extra, first.url) == ("", True, URL)
    assert pool.next(URL, 0.0) is None
    pool.registered(first)
    peer.place(Link(), 1)
    second = pool.next(URL, 0.0)
    assert second is not None
    assert second.account == "A"


def test_what_fails_waits_longer_each_time() -> None:
    peer = Peer(0, "PEER", 2)
    peer.place(Link(), 0)
    pool = Pool(peer, random.Random(1))
    now, waits = 0.0, []
    dial = pool.next(URL, now)
    for _ in range(8):
        assert dial is not None
        pool.failed(dial, now)
        start = now
        while (dial := pool.next(URL, now)) is None:
            now += 0.05
        waits.append(now - start)
    assert [round(wait / 1.1) for wait in waits[:3]] == [1, 2, 4]
    assert all(26 < wait < 34 for wait in waits[5:])


def test_what_fails_does_not_hold_up_the_rest() -> None:
    peer = Peer(0, "PEER", 2, (b"A",))
    peer.place(Link(), 0)
    pool = Pool(peer, random.Random(1))
    dial = pool.next(URL, 0.0)
    assert dial is not None
    pool.failed(dial, 0.0)
    dial = pool.next(URL, 0.0)
    assert dial is not None
    assert dial.account == "A"
    pool.duplicate(dial, 0.0)
    again = pool.next(URL, 0.2)
    assert again is not None
    assert again.account == "A"
