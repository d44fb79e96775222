"""Small parts of streaming, one by one: limits of channels, timers, a log in memory."""

import pytest

from shardd.config.streaming import ChannelEntry, ChannelLimits, StoreLimits
from shardd.errors import ConfigError
from shardd.streaming import pb
from shardd.streaming.bus_probe import append_in, found_in
from shardd.streaming.limits_of import LimitsOf
from shardd.streaming.memory_log import MemoryLog
from shardd.streaming.memory_store import MemoryStore
from shardd.streaming.schedule import Schedule
from shardd.streaming.subjects import is_literal

# --- limits --------------------------------------------------------------------------------------


def limits_of(*entries: ChannelEntry, max_channels: int = 100) -> LimitsOf:
    return LimitsOf(StoreLimits(max_channels=max_channels, channels=entries))


def test_a_channel_without_an_entry_has_the_defaults() -> None:
    assert limits_of(ChannelEntry("foo", max_msgs=5))(b"bar") == ChannelLimits()


def test_an_entry_takes_what_it_lacks_from_the_next_wider_one() -> None:
    limits = limits_of(
        ChannelEntry("foo.bar.baz", max_age_s=9),
        ChannelEntry(">", max_msgs=1, max_bytes=2, max_subs=3),
        ChannelEntry("foo.bar.*", max_msgs=11),
        ChannelEntry("foo.>", max_msgs=111, max_bytes=222),
    )
    assert limits(b"foo.bar.baz") == ChannelLimits(3, 11, 222, 9, 0.0)
    assert limits(b"foo.bar.x") == ChannelLimits(3, 11, 222, 0.0, 0.0)
    assert limits(b"foo.x") == ChannelLimits(3, 111, 222, 0.0, 0.0)
    assert limits(b"foo") == ChannelLimits(3, 1, 2, 0.0, 0.0)


def test_zero_and_less_lift_a_limit() -> None:
    limits = limits_of(ChannelEntry("foo", max_msgs=0, max_bytes=-1))
    assert (limits(b"foo").max_msgs, limits(b"foo").max_bytes) == (0, 0)


def test_a_word_is_narrower_than_a_star_and_a_star_than_the_rest() -> None:
    limits = limits_of(
        ChannelEntry("*.b", max_msgs=1),
        ChannelEntry("a.*", max_msgs=2),
        ChannelEntry("a.>", max_msgs=3),
    )
    assert limits(b"a.b").max_msgs == 2
    assert limits(b"x.b").max_msgs == 1
    assert limits(b"a.b.c").max_msgs == 3


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a/b", "a.>.b", "a*"])
def test_bad_names_of_channels_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^invalid channel name"):
        limits_of(ChannelEntry(name))


def test_more_channels_by_name_than_there_may_be_are_refused() -> None:
    entries = [ChannelEntry(name) for name in ("a", "b", "c.*")]
    limits_of(*entries, max_channels=2)
    text = r"too many channels defined \(2\)\. The max channels limit is set to 1"
    with pytest.raises(ConfigError, match=text):
        limits_of(*entries, max_channels=1)


# --- timers --------------------------------------------------------------------------------------


def test_timers_go_off_in_order_and_not_when_cancelled() -> None:
    schedule = Schedule()
    calls: list[str] = []
    schedule.at(20, lambda: calls.append("late"))
    gone = schedule.at(5, lambda: calls.append("gone"))
    schedule.at(10, lambda: calls.append("first"))
    schedule.at(10, lambda: schedule.at(10, lambda: calls.append("again")))
    gone.cancel()
    assert schedule.next_ms == 10
    schedule.run(15)
    assert calls == ["first"]
    schedule.run(15)
    assert calls == ["first", "again"]
    schedule.run(30)
    assert calls == ["first", "again", "late"]
    assert schedule.next_ms is None


# --- a log in memory -----------------------------------------------------------------------------


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(b"foo", lambda log: None)


def fill(log: MemoryLog, count: int, size: int = 1, step_ns: int = 10) -> None:
    for _ in range(count):
        append_in(log, log.last_timestamp_ns + step_ns, b"", b"x" * size)
    log.end_commit(log.begin_commit())


def test_a_message_is_visible_once_it_is_committed(log: MemoryLog) -> None:
    assert append_in(log, 7, b"r", b"data") == 1
    assert found_in(log, 1) is None
    assert (log.appended, log.last, log.messages) == (1, 0, 0)
    log.end_commit(log.begin_commit())
    found = found_in(log, 0)
    assert found is not None
    assert found[:2] == (1, 7)
    assert pb.decode_message(found[2]) == (1, b"foo", b"r", b"data", 7)
    assert log.bytes == len(found[2])


def test_what_is_taken_back_is_given_again(log: MemoryLog) -> None:
    fill(log, 3)
    append_in(log, 100, b"", b"lost")
    log.take_back()
    assert append_in(log, 100, b"", b"kept") == 4
    log.end_commit(log.begin_commit())
    found = found_in(log, 4)
    assert found is not None
    assert b"kept" in found[2]


def test_limits_keep_the_newest(log: MemoryLog) -> None:
    fill(log, 100)
    log.set_limits(10, 0, 0)
    assert (log.first, log.last, log.messages) == (91, 100, 10)
    log.set_limits(0, 1, 0)
    assert (log.first, log.messages) == (100, 1)
    log.set_limits(0, 0, 0)
    fill(log, 50)
    assert (log.first, log.last, log.messages) == (100, 150, 51)


def test_age_may_take_everything_and_says_when_to_ask_again(log: MemoryLog) -> None:
    fill(log, 5)  # at 10, 20, 30, 40, 50
    assert log.expire(1000) == 0
    log.set_limits(0, 0, 100)
    assert log.expire(125) == 130
    assert log.first == 3
    assert log.expire(150) == 0
    assert (log.first, log.last, log.messages, log.bytes) == (6, 5, 0, 0)
    assert found_in(log, 1) is None


def test_times_are_found(log: MemoryLog) -> None:
    assert log.sequence_at(0) == 1
    fill(log, 5)
    assert [log.sequence_at(ns) for ns in (0, 10, 11, 50, 51)] == [1, 1, 2, 5, 6]
    log.drop_before(4)
    assert log.sequence_at(0) == 4


def test_a_memory_store_ends_its_commits_in_the_next_turn() -> None:
    turns: list = []
    results: list = []
    store = MemoryStore(turns.append)

    def state() -> tuple[bool, bool]:
        return store.has_changes, store.is_committing

    assert state() == (False, False)
    log = store.create_channel(b"foo")
    append_in(log, 1, b"", b"x")
    assert state() == (True, False)
    store.commit(results.append)
    assert state() == (False, True)
    append_in(log, 1, b"", b"y")
    assert state() == (True, True)
    turns.pop()()
    assert state() == (True, False)
    assert (log.last, log.appended, len(results)) == (1, 2, 1)
    store.forget_client("me")
    store.save_position(b"foo", 1, 1, ())
    store.delete_channel(b"foo")
    store.close()


# --- subjects that clients name ------------------------------------------------------------------


@pytest.mark.parametrize("subject", [b"a", b"_INBOX.x.y", b"a*b", b"\xff", b"$x"])
def test_literal_subjects(subject: bytes) -> None:
    assert is_literal(subject)


@pytest.mark.parametrize(
    "subject",
    [b"", b".", b"a.", b".a", b"a..b", b"a b", b"a\r\nb", b"*", b"a.>", b"a.*.b", b"\x00"],
)
def test_subjects_that_are_none_or_many(subject: bytes) -> None:
    assert not is_literal(subject)
