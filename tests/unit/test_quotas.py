"""What users and accounts use of the host: counts over processes, and rates."""

import os

import pytest

from shardd.errors import QuotaError
from shardd.quotas import Quotas

SECOND_NS = 1_000_000_000


def test_a_name_keeps_its_entry_and_names_do_not_share_one() -> None:
    quotas = Quotas(64)
    entries = {name: quotas.entry(name) for name in (b"alice", b"bob", b"carol")}
    assert len(set(entries.values())) == 3
    assert all(quotas.entry(name) == entry for name, entry in entries.items())


def test_a_full_table_says_so_and_still_finds_what_it_holds() -> None:
    quotas = Quotas(2)
    first, second = quotas.entry(b"a"), quotas.entry(b"b")
    with pytest.raises(QuotaError):
        quotas.entry(b"c")
    assert (quotas.entry(b"a"), quotas.entry(b"b")) == (first, second)


def test_a_limit_holds_over_all_processes() -> None:
    quotas = Quotas(8)
    entry = quotas.entry(b"alice")
    assert quotas.take_connection(entry, 0, 2)
    assert quotas.take_connection(entry, 7, 2)
    assert not quotas.take_connection(entry, 3, 2)
    assert quotas.connections(entry) == 2
    quotas.give_connection(entry, 0)
    assert quotas.take_connection(entry, 3, 2)


def test_a_negative_limit_counts_and_refuses_nobody() -> None:
    quotas = Quotas(8)
    entry = quotas.entry(b"alice")
    assert all(quotas.take_connection(entry, 1, -1) for _ in range(10))
    assert quotas.connections(entry) == 10


def test_what_a_dead_process_used_is_cleared_and_nothing_else() -> None:
    quotas = Quotas(8)
    alice, bob = quotas.entry(b"alice"), quotas.entry(b"bob")
    for process in (1, 2):
        quotas.take_connection(alice, process, -1)
    quotas.take_connection(bob, 1, -1)
    quotas.clear(1)
    assert quotas.connections(alice) == 1
    assert quotas.connections(bob) == 0


def test_a_child_sees_and_changes_the_same_counts() -> None:
    quotas = Quotas(8)
    entry = quotas.entry(b"alice")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if quotas.take_connection(entry, 5, 1) and quotas.entry(b"bob") >= 0 else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert quotas.connections(entry) == 1
    assert not quotas.take_connection(entry, 0, 1)


def test_a_rate_lets_the_burst_through_and_then_makes_wait() -> None:
    quotas = Quotas(8)
    entry = quotas.entry(b"alice")
    now = 50 * SECOND_NS
    assert quotas.charge_messages(entry, 100, 1000, now) == 0  # a tenth of a second at once
    assert quotas.charge_messages(entry, 100, 1000, now) == SECOND_NS // 10
    # After that wait the burst is there again, no more.
    later = now + SECOND_NS // 5
    assert quotas.charge_messages(entry, 100, 1000, later) == 0
    assert quotas.charge_messages(entry, 1, 1000, later) == SECOND_NS // 1000


def test_a_rate_is_kept_in_the_long_run() -> None:
    quotas = Quotas(8)
    entry = quotas.entry(b"alice")
    now = start = 7 * SECOND_NS
    published = 0
    while now < start + 20 * SECOND_NS:
        published += 37
        now += quotas.charge_messages(entry, 37, 1000, now) or SECOND_NS // 1000
    assert 20 * 1000 <= published <= 20 * 1000 * 1.02


@pytest.mark.parametrize(("entry", "process"), [(8, 0), (0, 64)])
def test_what_is_out_of_range_is_refused(entry: int, process: int) -> None:
    with pytest.raises(ValueError, match="no such"):
        Quotas(8).take_connection(entry, process, 1)
