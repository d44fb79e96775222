"""What only the PostgreSQL store does: its bound of memory, what it reads ahead, its tables."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardd.config.streaming import SqlOptions, StreamingOptions
from shardd.errors import StoreError
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import LATER, MESSAGE, append, append_many
from shardd.streaming.log_probe import find as find_now
from shardd.streaming.msgproto import decode
from shardd.streaming.postgres_store import PostgresStore
from shardd.streaming.stores import open_store
from tests.support.postgres import shared_cluster
from tests.support.stores import PostgresHarness, encoded_messages, find

KIB = 1024


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[PostgresHarness]:
    with PostgresHarness(tmp_path) as harness:
        harness.cached_bytes = 1024 * KIB
        yield harness


def store_of(harness: PostgresHarness) -> PostgresStore:
    assert isinstance(harness.opened, PostgresStore)
    return harness.opened


def only_log(harness: PostgresHarness) -> ChannelLog:
    (channel,) = harness.reopen().channels
    return channel.log


def test_memory_is_bounded_whatever_was_published_and_read(harness):
    harness.open()
    logs = [harness.opened.create_channel(b"c.%d" % number) for number in range(4)]
    for _ in range(10):
        for log in logs:
            append_many(log, 1, b"x" * KIB, 200)
        harness.commit_well()
        assert store_of(harness).statistics().cached_bytes <= harness.cached_bytes
    for log in logs:
        assert len(encoded_messages(log)) == 2000
    append(logs[0], 1, b"")
    harness.commit_well()  # lets go of what was read last
    append(logs[0], 1, b"")
    harness.commit_well()
    assert store_of(harness).statistics().cached_bytes <= harness.cached_bytes


def test_one_message_may_be_larger_than_the_bound(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    append(log, 1, b"x" * 3000 * KIB)
    append(log, 1, b"y" * 3000 * KIB)
    harness.commit_well()
    found = [decode(each)[3][:1] for each in encoded_messages(log)]
    assert found == [b"x", b"y"]


def test_small_commits_do_not_cost_a_chunk_each(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    for number in range(300):
        append(log, 1, b"%d" % number)
        harness.commit_well()
    assert store_of(harness).statistics().cached_bytes < 64 * KIB
    assert [decode(each)[3] for each in encoded_messages(log)] == [b"%d" % n for n in range(300)]


def test_what_is_behind_a_piece_that_is_read_is_fetched_before_it_is_asked_for(harness):
    harness.open()
    append_many(harness.opened.create_channel(b"foo"), 1, b"x" * KIB, 700)
    harness.commit_well()
    log = only_log(harness)
    assert find_now(log, 1)[0] == LATER
    assert find_now(log, 600)[0] == LATER, "one piece at a time"
    assert find(log, 1)[1] == 1  # asks for the next piece
    harness.turn_until_loaded(log)
    assert find_now(log, 600)[0] == MESSAGE
    assert find_now(log, 700)[0] == MESSAGE


def test_messages_that_were_dropped_are_not_read_again_after_a_restart(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    append_many(log, 1, b"x", 100)
    harness.commit_well()
    assert log.drop_before(41) == 40
    assert harness.opened.has_changes
    harness.commit_well()
    log = only_log(harness)
    assert (log.first, log.last, log.messages) == (41, 100, 60)
    assert find(log, 1)[1] == 41


def test_a_search_path_keeps_clusters_apart(tmp_path):
    cluster = shared_cluster()
    with PostgresHarness(tmp_path) as one, PostgresHarness(tmp_path) as other:
        one.open()
        one.opened.create_channel(b"foo")
        one.commit_well()
        assert other.open().channels == ()
    tables = cluster.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    assert tables == [(0,)]


def test_without_psycopg_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shardd.streaming.postgres_store", None)
    options = StreamingOptions(store="SQL", sql=SqlOptions("dbname=x"))
    with pytest.raises(StoreError, match=r"pip install 'shardd\[postgres\]'"):
        open_store(options, 0, 1, None)  # type: ignore[arg-type]
