"""What every store of NATS Streaming does: one suite, run by each of them.

A store without its own way of being opened in `tests/support/stores.py` fails the first test.
"""

import importlib
import inspect
import pkgutil
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import shardd.streaming
from shardd.errors import StoreError
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import MESSAGE, NOTHING, append, append_many
from shardd.streaming.msgproto import decode, encode
from shardd.streaming.store import (
    ClientRow,
    CommitResult,
    Recovered,
    ServerRow,
    Store,
    SubscriptionRow,
)
from shardd.streaming.subjects import PARTITIONS, partition_of
from tests.support.stores import (
    STORES,
    EncryptedPostgresHarness,
    StoreHarness,
    append_all,
    encoded_messages,
    find,
    kept_bytes,
    quick_directory,
    read_all,
)

SERVER = ServerRow("c", b"d.c", b"p", b"s", b"u", b"sc", b"cl", b"_INBOX.abc")
ROW = SubscriptionRow(
    1, "me", b"in", b"ack", 10, 30, "dur", "", 3, True, False, (2, 3), b"heartbeats"
)


def stores() -> list[Any]:
    """All of them; encryption stands outside of a store, so twice among the quick tests will do."""
    slow = EncryptedPostgresHarness
    return [pytest.param(kind, marks=pytest.mark.slow) if kind is slow else kind for kind in STORES]


@pytest.fixture(params=stores(), ids=lambda kind: kind.__name__)
def harness(request: pytest.FixtureRequest) -> Iterator[StoreHarness]:
    with quick_directory() as directory, request.param(directory / "store") as harness:
        yield harness


@pytest.fixture
def durable(harness: StoreHarness) -> StoreHarness:
    if not harness.is_durable:
        pytest.skip("this store forgets everything when it is closed, and is meant to")
    return harness


def channel_of(recovered: Recovered, name: bytes) -> ChannelLog:
    return next(channel.log for channel in recovered.channels if channel.log.name == name)


def test_every_store_runs_this_suite():
    names = set()
    for module in pkgutil.iter_modules(shardd.streaming.__path__):
        if module.name.endswith("store") and module.name != "store":
            loaded = importlib.import_module(f"shardd.streaming.{module.name}")
            classes = inspect.getmembers(loaded, inspect.isclass)
            names |= {name for name, each in classes if issubclass(each, Store)} - {"Store"}
    assert names == {harness.name for harness in STORES}, (
        "list the store in tests/support/stores.py"
    )


# --- logs ------------------------------------------------------------------------------------


def test_a_new_store_is_empty(harness):
    recovered = harness.open()
    assert recovered == Recovered(None, (), (), dict.fromkeys(range(PARTITIONS), 0))
    assert not harness.opened.has_changes


def test_a_new_channel_has_no_message(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    assert (log.name, log.first, log.last, log.appended) == (b"foo", 1, 0, 0)
    assert (log.messages, log.bytes) == (0, 0)
    assert find(log, 1)[0] == NOTHING
    assert log.sequence_at(0) == 1
    with pytest.raises(StoreError):
        harness.opened.create_channel(b"foo")


def test_a_message_is_seen_once_it_is_committed(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo.bar")
    assert append(log, 5, b"data", b"reply") == 1
    assert harness.opened.has_changes
    assert (log.appended, log.last) == (1, 0)
    assert find(log, 1)[0] == NOTHING
    harness.commit_well()
    encoded = encode(1, b"foo.bar", b"reply", b"data", 5)
    assert find(log, 1) == (MESSAGE, 1, 5, encoded)
    assert (log.first, log.last, log.messages) == (1, 1, 1)
    assert log.bytes == kept_bytes([encoded])
    assert not harness.opened.has_changes


def test_what_is_appended_during_a_commit_goes_into_the_next(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    append_all(log, [b"a", b"b"])
    results = harness.start_commit()
    assert append(log, 1, b"c") == 3
    assert log.last == 0
    harness.finish(results)
    assert (log.last, log.appended) == (2, 3)
    assert harness.opened.has_changes
    harness.commit_well()
    assert [decode(each)[3] for each in encoded_messages(log)] == [b"a", b"b", b"c"]


def test_many_commits_and_many_channels_keep_every_message(harness):
    harness.open()
    logs = [harness.opened.create_channel(b"c.%d" % number) for number in range(40)]
    for turn in range(6):
        for number, log in enumerate(logs):
            append_many(log, turn, b"%d" % number, number % 7)
        harness.commit_well()
    for number, log in enumerate(logs):
        assert log.messages == 6 * (number % 7)
        assert {decode(each)[3] for each in encoded_messages(log)} <= {b"%d" % number}
        assert read_all(log, 1) == (log.messages, log.bytes)


def test_a_timestamp_is_never_lower_than_the_one_before(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    for now_ns in (100, 50, 200):
        append(log, now_ns, b"")
    harness.commit_well()
    append(log, 10, b"")
    harness.commit_well()
    assert [decode(each)[4] for each in encoded_messages(log)] == [100, 100, 200, 200]
    assert log.last_timestamp_ns == 200


def test_finding_takes_the_next_message_that_is_there(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    append_all(log, [b"x"] * 10)
    harness.commit_well()
    log.set_limits(4, 0, 0)
    assert log.first == 7
    assert [find(log, sequence)[1] for sequence in (0, 1, 6, 7, 10)] == [7, 7, 7, 7, 10]
    assert find(log, 11)[0] == NOTHING


def test_a_time_leads_to_the_first_message_that_is_not_older(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    for now_ns in (10, 20, 20, 20, 30):
        append_many(log, now_ns, b"y" * 100, 1)
    harness.commit_well()
    for now_ns in range(40, 1000, 10):
        append(log, now_ns, b"x" * 100)
    harness.commit_well()
    wanted = {0: 1, 10: 1, 11: 2, 20: 2, 21: 5, 30: 5, 31: 6, 990: 101, 991: 102}
    assert {time_ns: log.sequence_at(time_ns) for time_ns in wanted} == wanted
    log.set_limits(50, 0, 0)
    assert log.sequence_at(20) == log.first == 52


def test_messages_of_any_size_are_stored(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    sizes = [0, 1, 127, 128, 16_383, 16_384, 1 << 20, 3, 300_000, 5]
    for size in sizes:
        append(log, 1, bytes([size % 251]) * size)
    harness.commit_well()
    append(log, 1, b"end")
    harness.commit_well()
    assert [len(decode(each)[3]) for each in encoded_messages(log)] == [*sizes, 3]


@pytest.mark.parametrize(
    "name",
    [b"a", b"A", b"a.b", b"%41", b"~", b"a~1", b"\xff\x00 \t", b"x" * 3000, b"$x.deleted", b"-"],
)
def test_a_channel_may_have_any_name(harness, name):
    harness.open()
    log = harness.opened.create_channel(name)
    append(log, 1, b"1")
    append(harness.opened.create_channel(name + b"2"), 1, b"2")
    harness.commit_well()
    assert decode(find(log, 1)[3])[1] == name
    if harness.is_durable:
        recovered = harness.reopen()
        assert {channel.log.name for channel in recovered.channels} == {name, name + b"2"}
        assert decode(find(channel_of(recovered, name), 1)[3])[1:4] == (name, b"", b"1")


# --- what is kept ----------------------------------------------------------------------------


def test_the_oldest_messages_go_when_there_are_too_many(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    log.set_limits(3, 0, 0)
    for number in range(1, 200):
        append(log, 1, b"%d" % number)
        harness.commit_well()
        assert log.messages == min(number, 3)
        assert (log.first, log.last) == (max(1, number - 2), number)
    kept = encoded_messages(log)
    assert [decode(each)[3] for each in kept] == [b"197", b"198", b"199"]
    assert log.bytes == kept_bytes(kept)


def test_the_oldest_messages_go_when_they_are_too_large_together(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    log.set_limits(0, 1000, 0)
    for _ in range(5):
        append_many(log, 1, b"x" * 90, 20)
        harness.commit_well()
        kept = encoded_messages(log)
        assert log.bytes == kept_bytes(kept) <= 1000
        assert log.bytes + kept_bytes(kept[:1]) > 1000
    append(log, 1, b"y" * 5000)
    harness.commit_well()
    assert (log.messages, log.first, log.last) == (1, 101, 101)


def test_old_messages_go_when_their_time_is_over(harness):
    harness.open()
    log = harness.opened.create_channel(b"foo")
    assert log.expire(5) == 0
    log.set_limits(0, 0, 100)
    for now_ns in (10, 20, 20, 30):
        append(log, now_ns, b"x")
    harness.commit_well()
    assert log.expire(50) == 110
    assert log.messages == 4
    assert log.expire(110) == 120
    assert log.expire(125) == 130
    assert (log.first, log.messages) == (4, 1)
    assert log.expire(1000) == 0
    assert (log.first, log.last, log.messages, log.bytes) == (5, 4, 0, 0)
    assert find(log, 1)[0] == NOTHING
    assert log.sequence_at(0) == 5
    append(log, 2000, b"y")
    harness.commit_well()
    assert find(log, 1)[:3] == (MESSAGE, 5, 2000)
    assert log.messages == 1
    assert log.expire(2001) == 2100


def test_messages_that_were_dropped_on_demand_do_not_come_back(durable):
    durable.open()
    log = durable.opened.create_channel(b"foo")
    append_many(log, 1, b"x" * 100, 60)
    durable.commit_well()
    append(log, 1, b"not committed")
    assert log.drop_before(5) == 4
    assert log.drop_before(3) == 0
    assert (log.first, log.messages) == (5, 56)
    durable.commit_well()
    assert log.drop_before(50) == 45
    assert durable.opened.has_changes
    durable.commit_well()
    assert not durable.opened.has_changes
    kept = encoded_messages(log)
    assert [decode(each)[0] for each in kept] == list(range(50, 62))
    assert log.bytes == kept_bytes(kept)
    log = channel_of(durable.reopen(), b"foo")
    assert encoded_messages(log) == kept
    assert log.bytes == kept_bytes(kept)
    assert log.drop_before(1000) == 12
    durable.commit_well()
    log = channel_of(durable.reopen(), b"foo")
    assert (log.first, log.last, log.messages, log.bytes) == (62, 61, 0, 0)
    assert append(log, 1, b"y") == 62


def test_a_sequence_is_never_given_again_though_every_message_has_expired(durable):
    durable.open()
    log = durable.opened.create_channel(b"foo")
    log.set_limits(0, 0, 100)
    append_many(log, 1, b"x" * 200, 100)
    durable.commit_well()
    assert log.expire(10_000) == 0
    if durable.opened.has_changes:
        durable.commit_well()
    log = channel_of(durable.reopen(), b"foo")
    log.set_limits(0, 0, 100)
    log.expire(10_000)
    assert (log.first, log.last, log.messages) == (101, 100, 0)
    assert append(log, 10_000, b"y") == 101


# --- rows ------------------------------------------------------------------------------------


def test_rows_of_the_server_and_of_clients_are_kept(durable):
    durable.open()
    store = durable.opened
    store.save_server(SERVER)
    clients = [ClientRow(f"c{each}", b"hb.%d" % each, b"id", 1, 5, 88) for each in range(3)]
    for client in clients:
        store.save_client(client)
    assert store.has_changes
    durable.commit_well()
    assert not store.has_changes
    clients[1] = replace(clients[1], heartbeat_inbox=b"other", ping_max_out=3)
    store.save_client(clients[1])
    store.forget_client("c0")
    durable.commit_well()
    recovered = durable.reopen()
    server = replace(SERVER, key_check=durable.key_check)
    assert (recovered.server, recovered.clients) == (server, tuple(clients[1:]))
    durable.opened.save_server(replace(SERVER, pub=b"p2"))
    durable.commit_well()
    assert durable.reopen().server == replace(server, pub=b"p2")


def test_subscriptions_and_their_positions_are_kept(durable):
    durable.open()
    store = durable.opened
    append_many(store.create_channel(b"foo"), 1, b"x", 1000)
    rows = [replace(ROW, id=each, client_id=f"c{each}") for each in range(1, 5)]
    rows[3] = replace(rows[3], durable_name="", queue_group="d:q\udcff", is_closed=True)
    for row in rows:
        store.save_subscription(b"foo", row)
    durable.commit_well()
    store.forget_subscription(b"foo", 1)
    pending = tuple(range(1, 900, 3))
    store.save_position(b"foo", 2, 900, pending)
    store.save_position(b"foo", 3, 7, [])
    store.save_position(b"foo", 77, 7, [1])  # of nobody
    durable.commit_well()
    kept = [rows[1].moved(900, pending), rows[2].moved(7, ()), rows[3]]
    (channel,) = durable.reopen().channels
    assert list(channel.subscriptions) == kept


def test_a_row_replaces_what_was_queued_for_it_before(durable):
    durable.open()
    store = durable.opened
    append_many(store.create_channel(b"foo"), 1, b"x", 10)
    store.save_subscription(b"foo", ROW)
    store.save_position(b"foo", 1, 9, [9])
    store.save_subscription(b"foo", ROW.moved(5, (4,)))
    store.save_subscription(b"foo", replace(ROW, id=2))
    store.forget_subscription(b"foo", 2)
    store.save_subscription(b"foo", replace(ROW, id=3))
    store.save_position(b"foo", 3, 6, (6,))
    durable.commit_well()
    (channel,) = durable.reopen().channels
    assert channel.subscriptions == (ROW.moved(5, (4,)), replace(ROW, id=3).moved(6, (6,)))


def test_the_number_of_a_subscription_is_never_given_again(durable):
    durable.open()
    store = durable.opened
    store.create_channel(b"foo")
    store.save_subscription(b"foo", replace(ROW, id=41))
    durable.commit_well()
    store.forget_subscription(b"foo", 41)
    durable.commit_well()
    last_ids = durable.reopen().last_ids
    assert last_ids[partition_of(b"foo")] == 41
    assert sum(last_ids.values()) == 41


def test_a_position_beyond_the_end_of_the_log_is_put_back_to_it(durable):
    durable.open()
    store = durable.opened
    append_many(store.create_channel(b"foo"), 1, b"x", 5)
    store.save_subscription(b"foo", ROW.moved(9, (2, 5, 6, 9)))
    durable.commit_well()
    recovered = durable.reopen()
    assert recovered.channels[0].subscriptions == (ROW.moved(5, (2, 5)),)
    assert len(recovered.repairs) == 1


# --- channels --------------------------------------------------------------------------------


def test_an_empty_channel_is_there_after_a_restart(durable):
    durable.open()
    durable.opened.create_channel(b"foo")
    assert durable.opened.has_changes
    durable.commit_well()
    log = channel_of(durable.reopen(), b"foo")
    assert (log.first, log.last) == (1, 0)
    assert append(log, 1, b"x") == 1
    durable.commit_well()
    assert channel_of(durable.reopen(), b"foo").last == 1


def test_a_deleted_channel_is_gone_and_begins_anew(harness):
    harness.open()
    store = harness.opened
    append_many(store.create_channel(b"foo"), 1, b"x", 50)
    append_many(store.create_channel(b"bar"), 1, b"x", 5)
    store.save_subscription(b"foo", ROW)
    harness.commit_well()
    store.delete_channel(b"foo")
    log = store.create_channel(b"foo")
    assert append(log, 1, b"new") == 1
    store.save_subscription(b"foo", replace(ROW, id=2).moved(0, ()))
    harness.commit_well()
    assert [decode(each)[3] for each in encoded_messages(log)] == [b"new"]
    if harness.is_durable:
        found = {each.log.name: each for each in harness.reopen().channels}
        assert found.keys() == {b"foo", b"bar"}
        assert [row.id for row in found[b"foo"].subscriptions] == [2]
        assert found[b"foo"].log.messages == 1
        harness.opened.delete_channel(b"foo")
        harness.commit_well()
        assert [each.log.name for each in harness.reopen().channels] == [b"bar"]


def test_a_channel_may_be_deleted_while_it_is_written(harness):
    harness.open()
    store = harness.opened
    for turn in range(5):
        append_many(store.create_channel(b"foo"), 1, b"x", 50)
        results = harness.start_commit()
        store.delete_channel(b"foo")
        if turn % 2:
            store.create_channel(b"foo")
        harness.finish(results)
        assert results == [CommitResult()]
        harness.commit_well()
        if turn % 2:
            store.delete_channel(b"foo")
    harness.commit_well()
    if harness.is_durable:
        assert harness.reopen().channels == ()


def test_closing_writes_what_is_queued(durable):
    durable.open()
    store = durable.opened
    log = store.create_channel(b"foo")
    append_many(log, 1, b"x", 5)
    results = durable.start_commit()
    append_many(log, 1, b"y", 5)
    store.save_subscription(b"foo", ROW)
    store.save_client(ClientRow("c", b"hb"))
    recovered = durable.reopen()
    assert results == [CommitResult()]
    assert channel_of(recovered, b"foo").last == 10
    assert recovered.channels[0].subscriptions == (ROW,)
    assert recovered.clients == (ClientRow("c", b"hb"),)


# --- against a model -------------------------------------------------------------------------


class Model:
    """One channel, as a list."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, bytes, int]] = []  # sequence, data, timestamp
        self.waiting: list[tuple[int, bytes, int]] = []
        self.last = 0
        self.time_ns = 0
        self.limits = (0, 0, 0)

    def append(self, now_ns: int, data: bytes) -> int:
        self.last += 1
        self.time_ns = max(self.time_ns, now_ns)
        self.waiting.append((self.last, data, self.time_ns))
        return self.last

    def commit(self) -> None:
        self.kept += self.waiting
        self.waiting = []
        self.trim()

    def trim(self) -> None:
        messages, bytes_, _ = self.limits
        while len(self.kept) > 1 and (
            (messages and len(self.kept) > messages) or (bytes_ and self.size > bytes_)
        ):
            del self.kept[0]

    def expire(self, now_ns: int) -> None:
        age_ns = self.limits[2]
        while age_ns and self.kept and self.kept[0][2] + age_ns <= now_ns:
            del self.kept[0]

    @property
    def size(self) -> int:
        return kept_bytes(self.encoded)

    @property
    def encoded(self) -> list[bytes]:
        return [encode(number, b"foo", b"", data, time) for number, data, time in self.kept]


def same(log: ChannelLog, model: Model, random_: random.Random) -> None:
    """Whether a log and its model say the same."""
    committed = model.last - len(model.waiting)
    assert (log.last, log.appended) == (committed, model.last)
    assert (log.messages, log.bytes) == (len(model.kept), model.size)
    assert log.first == (model.kept[0][0] if model.kept else committed + 1)
    assert encoded_messages(log) == model.encoded
    for _ in range(5):
        sequence = random_.randint(0, model.last + 2)
        wanted = next((each[0] for each in model.kept if each[0] >= sequence), 0)
        assert find(log, sequence)[1] == wanted
        time_ns = random_.randint(0, model.time_ns + 2)
        later = (each[0] for each in model.kept if each[2] >= time_ns)
        assert log.sequence_at(time_ns) == next(later, committed + 1)


@pytest.mark.parametrize("turn", range(6))
def test_a_log_does_what_a_plain_list_does(harness, seed, turn):
    print(f"seed {seed} turn {turn}")
    random_ = random.Random(f"{seed} {turn}")
    harness.open()
    log, model = harness.opened.create_channel(b"foo"), Model()
    now_ns = 1
    for _ in range(40):
        now_ns += random_.randint(0, 3)
        match random_.choice(["append", "append", "commit", "limits", "expire", "reopen"]):
            case "append":
                for _ in range(random_.randint(1, 12)):
                    data = random_.randbytes(random_.choice([0, 5, 150, 900]))
                    assert append(log, now_ns, data) == model.append(now_ns, data)
            case "limits":
                choice = random_.choice
                model.limits = (choice([0, 1, 9, 60]), choice([0, 500, 5000]), choice([0, 4, 30]))
                log.set_limits(*model.limits)
                model.trim()
            case "expire":
                log.expire(now_ns)
                model.expire(now_ns)
            case "reopen" if harness.is_durable:
                model.commit()
                log = channel_of(harness.reopen(), b"foo")
                log.set_limits(*model.limits)
                log.expire(now_ns)
                model.expire(now_ns)
            case _:
                if harness.opened.has_changes:
                    harness.commit_well()
                model.commit()
        same(log, model, random_)
