"""The PostgreSQL store when the database ends, when connections are lost, and when it is fenced.

Publishers of what could not be written are told, positions stay queued, the store goes on by itself
as soon as it can; what was reported as committed is there, once, whatever happens. Nobody writes
who has lost its parts. No text says the password.
"""

import contextlib
import logging
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from shardd.config.streaming import SqlOptions
from shardd.errors import StoreError, StoreUnavailableError
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import append, append_many
from shardd.streaming.msgproto import decode
from shardd.streaming.postgres_session import FencedError
from shardd.streaming.postgres_store import PostgresStore
from shardd.streaming.store import ClientRow, CommitResult, Recovered, SubscriptionRow
from tests.support.cut_proxy import CutProxy
from tests.support.postgres import PASSWORD, Cluster, make_cluster, shared_cluster
from tests.support.stores import PostgresHarness, encoded_messages
from tests.support.waiting import wait_until

ROW: Final = SubscriptionRow(1, "me", b"in", b"ack", 10, 30, "dur", is_durable=True)
REFUSED: Final = "the message could not be stored: the database cannot be reached"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One that tests may stop."""
    made = make_cluster()
    yield made
    made.remove()


@pytest.fixture
def proxy() -> Iterator[CutProxy]:
    made = CutProxy(shared_cluster().port)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_password_is_told(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert PASSWORD not in caplog.text


def harness_of(tmp_path: Path, source: str) -> PostgresHarness:
    return PostgresHarness(tmp_path / "store", source)


def sequences(log: ChannelLog) -> list[int]:
    return [decode(each)[0] for each in encoded_messages(log)]


def payloads(log: ChannelLog) -> list[bytes]:
    return [decode(each)[3] for each in encoded_messages(log)]


def log_of(recovered: Recovered, name: bytes) -> ChannelLog:
    return next(channel.log for channel in recovered.channels if channel.log.name == name)


# --- the database ends ---------------------------------------------------------------------------


def test_a_database_that_stops_refuses_messages_and_the_store_goes_on_when_it_is_back(
    cluster, tmp_path, caplog
):
    with harness_of(tmp_path, cluster.source(cluster.schema())) as harness:
        harness.cached_bytes = 1 << 20
        harness.open()
        store = harness.opened
        log = store.create_channel(b"foo")
        store.save_subscription(b"foo", ROW)
        append_many(log, 1, b"x" * 100, 50)
        harness.commit_well()
        cluster.stop()

        append(log, 1, b"lost")
        results = harness.start_commit()
        append(log, 1, b"appended meanwhile")
        assert harness.finish(results).failed_channels == {b"foo": REFUSED}
        assert (log.last, log.appended) == (50, 50)
        store.save_position(b"foo", 1, 50, (7, 9))
        store.save_client(ClientRow("late", b"hb"))
        log_of_late = store.create_channel(b"late")
        append(log_of_late, 1, b"lost too")
        result = harness.commit()
        assert result.failed_channels == {b"late": REFUSED}
        assert "could not be stored" in result.state_error
        assert sequences(log)[-1] == 50, "what is in memory is still read"

        cluster.start()
        append(log, 1, b"again")
        append(log_of_late, 1, b"first")

        def is_written() -> bool:
            if log.appended == log.last:
                append(log, 1, b"again")
            if log_of_late.appended == 0:
                append(log_of_late, 1, b"first")
            return harness.commit() == CommitResult()

        wait_until(is_written, "the store writes again")
        assert sum("the connection is lost" in line for line in caplog.messages) == 1
        assert sum("can be used again" in line for line in caplog.messages) == 1
        recovered = harness.reopen()
        assert payloads(log_of(recovered, b"foo")) == [b"x" * 100] * 50 + [b"again"]
        assert payloads(log_of(recovered, b"late")) == [b"first"]
        assert recovered.clients == (ClientRow("late", b"hb"),)
        (channel,) = (each for each in recovered.channels if each.log.name == b"foo")
        assert channel.subscriptions == (ROW.moved(50, (7, 9)),)


def test_a_database_that_was_restarted_between_two_commits_costs_nobody_anything(cluster, tmp_path):
    with harness_of(tmp_path, cluster.source(cluster.schema())) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append(log, 1, b"a")
        harness.commit_well()
        for number in (signal.SIGINT, signal.SIGQUIT):  # an orderly end, and a crash
            cluster.stop(number)
            cluster.start()
            append(log, 1, b"b")
            harness.commit_well()
        assert payloads(log_of(harness.reopen(), b"foo")) == [b"a", b"b", b"b"]


def test_under_load_the_database_stops_and_starts_and_nothing_acknowledged_is_lost(
    cluster, tmp_path, seed
):
    print(f"seed {seed}")
    random_ = random.Random(seed)
    with harness_of(tmp_path, cluster.source(cluster.schema())) as harness:
        harness.open()
        logs = [harness.opened.create_channel(b"c.%d" % number) for number in range(3)]
        acknowledged: list[list[bytes]] = [[] for _ in logs]
        refused = number = 0
        for _ in range(3):
            stopper = threading.Timer(random_.random() * 0.1, cluster.stop, [signal.SIGQUIT])
            stopper.start()
            last_refusals = refused
            while refused == last_refusals:
                number, refused = _load(harness, logs, acknowledged, number, refused)
            stopper.join()
            cluster.start()
            sizes = [len(each) for each in acknowledged]
            while [len(each) for each in acknowledged] == sizes:
                number, refused = _load(harness, logs, acknowledged, number, refused)
        recovered = harness.reopen()
        for log, wanted in zip(logs, acknowledged, strict=True):
            found = log_of(recovered, log.name)
            assert payloads(found) == wanted
            assert sequences(found) == list(range(1, len(wanted) + 1))


def _load(
    harness: PostgresHarness,
    logs: list[ChannelLog],
    acknowledged: list[list[bytes]],
    number: int,
    refused: int,
) -> tuple[int, int]:
    """One commit of some messages; the next number, and how many were refused."""
    queued: list[list[bytes]] = [[] for _ in logs]
    for log, of_log in zip(logs, queued, strict=True):
        for _ in range(5):
            number += 1
            of_log.append(b"%d" % number)
            append(log, 1, of_log[-1])
    failed = harness.commit().failed_channels
    for index, log in enumerate(logs):
        if log.name in failed:
            refused += len(queued[index])
        else:
            acknowledged[index] += queued[index]
    return number, refused


# --- connections are lost ------------------------------------------------------------------------


def test_connections_that_are_cut_at_any_moment_neither_lose_nor_double_a_message(tmp_path, seed):
    print(f"seed {seed}")
    random_ = random.Random(seed)
    cluster = shared_cluster()
    with harness_of(tmp_path, cluster.source(cluster.schema())) as harness:
        harness.source += "&application_name=victim"
        harness.open()
        log = harness.opened.create_channel(b"foo")
        acknowledged: list[bytes] = []
        with psycopg.connect(cluster.source(), autocommit=True) as killer:
            for turn in range(25):
                payload = b"%d" % turn
                append(log, 1, payload * 20_000)
                results = harness.start_commit()
                threading.Event().wait(random_.random() * 0.01)
                killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'victim'"
                )
                if not harness.finish(results).failed_channels:
                    acknowledged.append(payload * 20_000)
        while harness.opened.has_changes or harness.opened.is_committing:
            harness.commit()
        recovered = log_of(harness.reopen(), b"foo")
        assert payloads(recovered) == acknowledged
        assert sequences(recovered) == list(range(1, len(acknowledged) + 1))
        assert acknowledged


def test_a_commit_whose_answer_is_lost_is_taken_back_and_its_sequences_are_given_again(
    tmp_path, proxy
):
    cluster = shared_cluster()
    schema = cluster.schema()
    with harness_of(tmp_path, cluster.source(schema, proxy.port)) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append(log, 1, b"a")
        harness.commit_well()
        proxy.cut_behind = b"COMMIT"
        append_many(log, 1, b"refused", 3)
        new = harness.opened.create_channel(b"new")
        append(new, 1, b"refused")
        result = harness.commit()
        assert result.failed_channels == {b"foo": REFUSED, b"new": REFUSED}
        assert proxy.was_cut.is_set()
        count = f"SELECT count(*) FROM {schema}.shardd_messages"
        assert cluster.execute(count) == [(5,)], "the database has it all the same"

        proxy.mend()

        def is_written() -> bool:
            if log.appended == log.last:
                append(log, 1, b"b")
            return harness.commit() == CommitResult()

        wait_until(is_written, "the store writes again")
        append(new, 1, b"c")
        harness.commit_well()
        assert (log.last, new.last) == (2, 1)
        recovered = harness.reopen()
        assert payloads(log_of(recovered, b"foo")) == [b"a", b"b"]
        assert payloads(log_of(recovered, b"new")) == [b"c"]


def test_a_read_that_loses_its_connection_is_made_again(tmp_path, proxy):
    cluster = shared_cluster()
    with harness_of(tmp_path, cluster.source(cluster.schema(), proxy.port)) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append_many(log, 1, b"x" * 1000, 100)
        harness.commit_well()
        log = log_of(harness.reopen(), b"foo")
        proxy.cut()
        threading.Timer(0.2, proxy.mend).start()
        assert len(payloads(log)) == 100


# --- statements fail -----------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_fails_its_commit_only(tmp_path):
    cluster = shared_cluster()
    schema = cluster.schema()
    source = cluster.source(schema) + "%20-c%20statement_timeout%3D1000"
    with harness_of(tmp_path, source) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append(log, 1, b"a")
        harness.commit_well()
        with psycopg.connect(cluster.source()) as other:
            other.execute(f"LOCK TABLE {schema}.shardd_messages IN EXCLUSIVE MODE")
            append(log, 1, b"refused")
            text = "canceling statement due to statement timeout"
            failed = harness.commit().failed_channels
            assert failed == {b"foo": f"the message could not be stored: {text}"}
        append(log, 1, b"b")
        harness.commit_well()
        assert payloads(log_of(harness.reopen(), b"foo")) == [b"a", b"b"]


@contextlib.contextmanager
def hanging(cluster: Cluster) -> Iterator[None]:
    """The database's end of the connection of this name stands still."""
    with psycopg.connect(cluster.source()) as other:
        query = (
            "SELECT DISTINCT pid FROM pg_stat_activity JOIN pg_locks USING (pid)"
            " WHERE application_name = 'hangs' AND locktype = 'advisory' AND granted"
        )
        (backend,) = [row[0] for row in other.execute(query).fetchall()]
    os.kill(backend, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(backend, signal.SIGCONT)


@pytest.mark.slow
def test_a_database_that_hangs_keeps_neither_who_stands_by_nor_who_ends(tmp_path, caplog):
    cluster = shared_cluster()
    source = cluster.source(cluster.schema()) + "%20-c%20statement_timeout%3D200"
    with harness_of(tmp_path, source + "&application_name=hangs") as harness:
        store = harness.make()
        assert store.try_lock()
        with hanging(cluster), pytest.raises(StoreUnavailableError):
            store.try_lock()
        wait_until(store.try_lock, "the lock again")
        store.recover()
        with hanging(cluster):
            store.close()
    assert caplog.text.count("does not answer: the connection is cut") == 2


@pytest.mark.slow
def test_a_database_that_hangs_refuses_messages_in_time_and_the_store_goes_on_when_it_is_back(
    tmp_path, caplog
):
    cluster = shared_cluster()
    source = cluster.source(cluster.schema()) + "%20-c%20statement_timeout%3D200"
    with harness_of(tmp_path, source + "&application_name=hangs") as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append(log, 1, b"a")
        harness.commit_well()
        with hanging(cluster):
            append(log, 1, b"refused")
            assert harness.commit().failed_channels == {b"foo": REFUSED}
        assert "does not answer: the connection is cut" in caplog.text
        wait_until(lambda: "can be used again" in caplog.text, "there is a new connection")
        append(log, 1, b"b")
        harness.commit_well()
        assert payloads(log_of(harness.reopen(), b"foo")) == [b"a", b"b"]


def test_messages_that_somebody_removed_are_missed_and_said(tmp_path, caplog):
    cluster = shared_cluster()
    schema = cluster.schema()
    with harness_of(tmp_path, cluster.source(schema)) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append_many(log, 1, b"x" * 1000, 20)
        harness.commit_well()
        cluster.execute(f"DELETE FROM {schema}.shardd_messages WHERE sequence IN (5, 6)")
        recovered = harness.reopen()
        assert recovered.repairs == ("channel foo: 2 of its messages are not in the database",)
        log = log_of(recovered, b"foo")
        assert log.messages == 18
        cluster.execute(f"DELETE FROM {schema}.shardd_messages WHERE sequence = 9")
        assert sequences(log) == [1, 2, 3, 4, 7, 8, *range(10, 21)]
        assert log.messages == 17
        assert any("1 messages between" in line for line in caplog.messages)


def test_what_is_dropped_is_removed_from_the_database(tmp_path):
    cluster = shared_cluster()
    schema = cluster.schema()
    with harness_of(tmp_path, cluster.source(schema)) as harness:
        harness.open()
        store = harness.opened
        log, gone = store.create_channel(b"foo"), store.create_channel(b"gone")
        log.set_limits(10, 0, 0)
        append_many(log, 1, b"x", 500)
        append_many(gone, 1, b"x", 25_000)
        harness.commit_well()
        store.delete_channel(b"gone")
        harness.commit_well()

        def is_removed() -> bool:
            while not harness.calls.empty():
                harness.calls.get()()
            rows = cluster.execute(
                f"SELECT (SELECT count(*) FROM {schema}.shardd_messages),"
                f" (SELECT count(*) FROM {schema}.shardd_channels)"
            )
            return rows == [(10, 1)]

        wait_until(is_removed, "the database has no more than is kept")


# --- owners --------------------------------------------------------------------------------------


def test_a_part_has_one_owner_and_the_second_one_is_told_who(tmp_path):
    cluster = shared_cluster()
    source = cluster.source(cluster.schema())
    with harness_of(tmp_path, source) as first, harness_of(tmp_path, source) as second:
        first.open()
        with pytest.raises(StoreError, match=r"is in use by another server \(.*pid \d+\)"):
            second.open()
        first.close()
        second.open()


def test_the_lock_of_a_group_is_for_one_session_and_ends_with_it(tmp_path):
    cluster = shared_cluster()
    source = cluster.source(cluster.schema())
    with harness_of(tmp_path, source) as one, harness_of(tmp_path, source) as two:
        first, second = one.make(), two.make()
        assert first.try_lock()
        assert not second.try_lock()
        first.recover()  # goes on with the session that has the lock
        assert not second.try_lock()
        first.close()
        wait_until(second.try_lock, "the database has noticed that the session ended")
        second.close()


def test_who_has_the_lock_of_a_group_gets_the_parts_of_one_that_lost_it(tmp_path):
    cluster = shared_cluster()
    source = cluster.source(cluster.schema())
    of_first = "FROM pg_stat_activity WHERE application_name = 'first'"
    named = source + "&application_name=first"
    with harness_of(tmp_path, named) as one, harness_of(tmp_path, source) as two:
        one.open()
        second = two.make()
        assert not second.try_lock()
        cluster.execute(f"SELECT pg_terminate_backend(pid) {of_first}")
        wait_until(second.try_lock, "the lock")
        append(one.opened.create_channel(b"foo"), 1, b"a")
        results = one.start_commit()
        waits = (
            f"SELECT pid {of_first} AND query LIKE 'SELECT token FROM shardd_parts WHERE part = %'"
        )
        wait_until(lambda: cluster.execute(waits), "the first one is back, and waits")
        second.recover()
        with pytest.raises(FencedError):
            one.turn_until(lambda: False)
        assert results[0].failed_channels
        second.close()


def test_workers_of_one_database_own_different_parts(tmp_path):
    cluster = shared_cluster()
    source = cluster.source(cluster.schema())
    with harness_of(tmp_path, source) as even, harness_of(tmp_path, source) as odd:
        even.parts, odd.parts = range(0, 16, 2), range(1, 16, 2)
        stores = [even.make()]
        other = PostgresStore(SqlOptions(source), odd.parts, is_lead=False, call_soon=odd.calls.put)
        stores.append(other)
        assert [sorted(store.recover().last_ids) for store in stores] == [
            list(even.parts),
            list(odd.parts),
        ]
        for store in stores:
            store.close()


def test_who_lost_its_parts_cannot_write_any_more(tmp_path, proxy, caplog):
    cluster = shared_cluster()
    schema = cluster.schema()
    with (
        harness_of(tmp_path, cluster.source(schema, proxy.port)) as old,
        harness_of(tmp_path, cluster.source(schema)) as new,
    ):
        old.open()
        log = old.opened.create_channel(b"foo")
        append(log, 1, b"a")
        old.commit_well()
        proxy.cut()
        taken = log_of(new.open(), b"foo")
        append(taken, 1, b"of the new owner")
        new.commit_well()
        proxy.mend()

        append(log, 1, b"of the old owner")
        results = old.start_commit()
        with pytest.raises(FencedError, match="another server has taken over"):
            old.turn_until(lambda: False)
        (text,) = results[0].failed_channels.values()
        assert text.startswith("the message could not be stored: ")
        append(log, 1, b"once more")
        assert old.commit().failed_channels
        assert payloads(log_of(new.reopen(), b"foo")) == [b"a", b"of the new owner"]


def test_a_token_that_is_not_the_owners_stops_a_transaction_that_is_under_way(tmp_path):
    """As when the old owner was stopped for a while, and its connection is as good as ever."""
    cluster = shared_cluster()
    schema = cluster.schema()
    with harness_of(tmp_path, cluster.source(schema)) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append(log, 1, b"a")
        harness.commit_well()
        cluster.execute(f"UPDATE {schema}.shardd_parts SET token = token + 1")
        append(log, 1, b"b")
        harness.start_commit()
        with pytest.raises(FencedError):
            harness.turn_until(lambda: False)
        count = f"SELECT count(*) FROM {schema}.shardd_messages"
        assert cluster.execute(count) == [(1,)]


# --- at the start --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("nonsense", StoreError, "sql source: neither"),
        (f"postgres://u:{PASSWORD}@h?{PASSWORD}=1", StoreError, "sql source: neither"),
        (
            f"host=127.0.0.1 port=1 user=u password={PASSWORD} dbname=d",
            StoreUnavailableError,
            'database "d" on 127.0.0.1:1 cannot be reached: ',
        ),
    ],
)
def test_a_source_that_leads_nowhere_is_one_line_without_the_password(source, error, text):
    with pytest.raises(error) as caught:
        PostgresStore(SqlOptions(source), [0], is_lead=True, call_soon=print).recover()
    assert type(caught.value) is error
    assert str(caught.value).startswith(text)
    assert PASSWORD not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_of_another_version_are_refused(tmp_path):
    cluster = shared_cluster()
    schema = cluster.schema()
    with harness_of(tmp_path, cluster.source(schema)) as harness:
        harness.open()
        harness.close()
        cluster.execute(f"UPDATE {schema}.shardd_store SET version = 99")
        with pytest.raises(StoreError, match="the tables have version 99"):
            harness.open()


def test_a_schema_that_does_not_exist_is_said(tmp_path):
    source = shared_cluster().source("nowhere")
    text = "the search_path names no schema that exists"
    with harness_of(tmp_path, source) as harness, pytest.raises(StoreError, match=text):
        harness.open()
