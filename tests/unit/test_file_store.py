"""What the file store finds on disk after anything may have happened to it, and what it holds open.

Files are cut at every length and changed at every byte: what is found again is always the beginning
of what was written, and whatever lacks is said.
"""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shardd.config.streaming import FileOptions
from shardd.errors import StoreError
from shardd.streaming.batch import LogHome
from shardd.streaming.bus_probe import ProbeBus
from shardd.streaming.channel import Channel, deliver_ready
from shardd.streaming.file_log import FileLog
from shardd.streaming.file_recovery import directory_name, recover_channel
from shardd.streaming.file_store import FileStore
from shardd.streaming.log_probe import NOTHING, append, append_many, find
from shardd.streaming.msgproto import decode
from shardd.streaming.records import RECORD_SIZE
from shardd.streaming.store import ClientRow, SubscriptionRow
from shardd.streaming.subjects import partition_of
from shardd.streaming.subscription import Subscription
from shardd.streaming.traffic import Traffic
from tests.support.stores import FileHarness, encoded_messages, quick_directory

FIRST_SEGMENT = "00000000000000000001.log"


@pytest.fixture
def place() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


def harness_of(directory: Path, **options: object) -> FileHarness:
    """A store with one part, that of the channel `foo`."""
    harness = FileHarness(directory)
    harness.parts = (partition_of(b"foo"),)
    harness.options = replace(FileOptions(), **options)
    return harness


def written(place: Path, *, commits: int = 3, **options: object) -> tuple[Path, list[bytes]]:
    """The directory of a channel with three messages a commit, and these messages."""
    with harness_of(place / "store", **options) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        for turn in range(commits):
            for number in range(3):
                append(log, turn, b"%d" % number * (number + 1))
            harness.commit_well()
        messages = encoded_messages(log)
        assert isinstance(log, FileLog)
        return Path(log.directory), messages


def without_sidecars(directory: Path) -> Path:
    """As after a crash."""
    for path in directory.glob("*.idx"):
        path.unlink()
    return directory


def recovered(directory: Path, repairs: list[str], *, repair: bool = True) -> list[bytes]:
    """The messages that are found in a channel's directory."""
    found = recover_channel(str(directory), repairs, repair=repair)
    if found is None:
        return []
    log = FileLog(LogHome(FileOptions(), bool, bool), found.name, found.directory)
    log.recover(found.segments)
    try:
        return encoded_messages(log)
    finally:
        log.delete()


def ends_of(messages: list[bytes], start: int) -> list[int]:
    """Where each record ends, in a file whose header ends at `start`."""
    ends = []
    for message in messages:
        start += RECORD_SIZE + len(message)
        ends.append(start)
    return ends


# --- cut, changed, grown ---------------------------------------------------------------------


def test_of_a_file_cut_anywhere_every_whole_message_is_found(place):
    source, messages = written(place)
    path = without_sidecars(source) / FIRST_SEGMENT
    whole = path.read_bytes()
    header = len(whole) - sum(RECORD_SIZE + len(each) for each in messages)
    ends = ends_of(messages, header)
    assert ends[-1] == len(whole)
    for length in range(len(whole) + 1):
        source.mkdir(exist_ok=True)
        path.write_bytes(whole[:length])
        repairs: list[str] = []
        count = sum(end <= length for end in ends)
        assert recovered(source, repairs) == messages[:count], length
        is_sound = length in ends or length == header
        assert len(repairs) == (not is_sound), (length, repairs)
        if path.exists():
            assert path.stat().st_size == [header, *ends][count]
            assert recovered(source, repairs) == messages[:count]


def test_a_torn_file_is_left_alone_when_it_is_not_to_be_mended(place):
    source, _ = written(place)
    path = without_sidecars(source) / FIRST_SEGMENT
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    with pytest.raises(StoreError, match=r"byte \d+: the last write was not finished.*truncate -s"):
        recovered(source, [], repair=False)
    assert path.read_bytes() == torn


@pytest.mark.parametrize("bits", [0x01, 0xFF])
def test_a_byte_that_changed_anywhere_is_never_read_as_a_message(place, bits):
    source, messages = written(place)
    path = without_sidecars(source) / FIRST_SEGMENT
    whole = path.read_bytes()
    ends = ends_of(messages, len(whole) - sum(RECORD_SIZE + len(each) for each in messages))
    for place_ in range(len(whole)):
        path.write_bytes(whole[:place_] + bytes([whole[place_] ^ bits]) + whole[place_ + 1 :])
        repairs: list[str] = []
        # Commits of three messages: behind the last commit nobody knows that it was on disk.
        if place_ < ends[-4]:
            with pytest.raises(StoreError, match=r"damaged|version"):
                recovered(source, repairs)
            assert not repairs
        else:
            count = sum(end <= place_ for end in ends)
            assert recovered(source, repairs) == messages[:count]
            assert len(repairs) == 1
            assert f"message {count + 1} and what may follow" in repairs[0]


def test_zeros_at_the_end_are_cut_off(place):
    source, messages = written(place)
    path = without_sidecars(source) / FIRST_SEGMENT
    whole = path.read_bytes()
    for count in (1, 27, 28, 4096, 3_000_000):
        path.write_bytes(whole + bytes(count))
        repairs: list[str] = []
        assert recovered(source, repairs) == messages
        assert f"cut {count} bytes" in repairs[0]
        assert path.read_bytes() == whole


def test_the_rest_of_a_write_is_cut_off_even_where_later_parts_of_it_arrived(place):
    source, messages = written(place)
    path = without_sidecars(source) / FIRST_SEGMENT
    whole = bytearray(path.read_bytes())
    # The first record of the last commit did not arrive, the other two did.
    start = len(whole) - sum(RECORD_SIZE + len(each) for each in messages[6:])
    whole[start : start + 20] = bytes(20)
    path.write_bytes(whole)
    repairs: list[str] = []
    assert recovered(source, repairs) == messages[:6]
    assert len(repairs) == 1


def test_a_file_that_is_shorter_than_its_sidecar_says_is_refused(place):
    source, messages = written(place)
    path = source / FIRST_SEGMENT
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"messages 9 to 9 are lost.*run: rm .*\.idx") as error:
        recovered(source, [])
    os.unlink(str(error.value).rsplit(" ", maxsplit=1)[-1])
    assert recovered(source, []) == messages[:-1]


# --- several segments ------------------------------------------------------------------------


def segments_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"))


def test_a_segment_that_lacks_or_is_cut_is_refused_with_what_is_lost(place):
    source, messages = written(place, commits=20, segment_messages=9)
    segments = segments_of(without_sidecars(source))
    assert [int(path.stem) for path in segments] == list(range(1, 61, 9))
    whole = segments[2].read_bytes()
    segments[2].write_bytes(whole[:-10])
    lost = r"messages 27 to 27 are lost.*all messages before 28, move this file and older ones"
    with pytest.raises(StoreError, match=lost):
        recovered(source, [])
    segments[2].unlink()
    with pytest.raises(StoreError, match=r"messages 19 to 27 are lost"):
        recovered(source, [])
    # What the text says can be done.
    segments[0].unlink()
    segments[1].unlink()
    assert recovered(source, []) == messages[27:]


def test_segments_in_the_wrong_place_are_refused(place):
    source, messages = written(place, commits=20, segment_messages=9)
    segments = segments_of(source)
    moved = segments[-1].with_name(f"{999:020d}.log")
    segments[-1].rename(moved)
    with pytest.raises(StoreError, match=f"once called {segments[-1].name}"):
        recovered(source, [])
    moved.rename(segments[-1])
    assert recovered(source, []) == messages
    with harness_of(place / "store") as harness:
        harness.open()
        log = harness.opened.create_channel(channels_of_part(1)[0])
        append(log, 1, b"x")
        harness.commit_well()
        assert isinstance(log, FileLog)
        other = Path(log.directory) / FIRST_SEGMENT
    shutil.copy(segments[0], other.with_name(f"{2:020d}.log"))
    with pytest.raises(StoreError, match=f"once called {FIRST_SEGMENT}"):
        recovered(other.parent, [])
    other.with_name(f"{2:020d}.log").unlink()
    shutil.copy(segments[1], other.parent)
    with pytest.raises(StoreError, match="belongs to the channel foo"):
        recovered(other.parent, [])


def test_a_segment_that_was_being_made_is_removed(place):
    source, messages = written(place, commits=20, segment_messages=9)
    for torn in (b"", b"shard", bytes(44), bytes(4096)):
        (source / f"{61:020d}.log").write_bytes(torn)
        with pytest.raises(StoreError, match="repair: true"):
            recovered(source, [], repair=False)
        repairs: list[str] = []
        assert recovered(source, repairs) == messages
        assert "removed" in repairs[0]


def test_a_damaged_sidecar_is_made_again(place):
    source, messages = written(place, commits=20, segment_messages=9)
    sidecar = source / FIRST_SEGMENT.replace(".log", ".idx")
    whole = sidecar.read_bytes()
    for place_ in range(len(whole)):
        sidecar.write_bytes(whole[:place_] + bytes([whole[place_] ^ 0x10]) + whole[place_ + 1 :])
        assert recovered(source, []) == messages
    for length in range(0, len(whole), 7):
        sidecar.write_bytes(whole[:length])
        assert recovered(source, []) == messages
    recovered(source, [])
    assert sidecar.read_bytes() == whole


def test_a_sidecar_that_covers_the_older_part_is_as_good(place):
    source, _ = written(place)
    kept = (source / FIRST_SEGMENT.replace(".log", ".idx")).read_bytes()
    with harness_of(place / "store") as harness:
        log = harness.open().channels[0].log
        append_many(log, 100, b"more", 5)
        harness.commit_well()
        messages = encoded_messages(log)
    (source / FIRST_SEGMENT.replace(".log", ".idx")).write_bytes(kept)
    assert recovered(source, []) == messages
    path = source / FIRST_SEGMENT
    path.write_bytes(path.read_bytes()[:-1])
    (source / FIRST_SEGMENT.replace(".log", ".idx")).write_bytes(kept)
    assert recovered(source, []) == messages[:-1]


# --- damage that is found later --------------------------------------------------------------


def damage(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_damaged_message_is_passed_over_and_told_once(place, caplog):
    source, messages = written(place)
    path = source / FIRST_SEGMENT
    damage(path, path.read_bytes().index(messages[4]) + len(messages[4]) - 1)
    damage(path, -3)
    with harness_of(place / "store") as harness:
        log = harness.open().channels[0].log
        for _ in range(2):
            assert [find(log, sequence)[1] for sequence in (4, 5, 6)] == [4, 6, 6]
            assert find(log, 9) == (NOTHING, 0, 0, b"")
        assert len(caplog.records) == 1
        assert re.search(r"damaged at byte \d+: message 5 of the channel", caplog.text)
        append_many(log, 100, b"more", 1)
        harness.commit_well()
        assert find(log, 9)[1] == 10


def test_limits_hold_where_the_oldest_segment_cannot_be_read(place):
    source, _ = written(place, commits=20, segment_messages=9)
    damage(source / FIRST_SEGMENT, -3)
    with harness_of(place / "store", segment_messages=9) as harness:
        log = harness.open().channels[0].log
        (source / FIRST_SEGMENT.replace(".log", ".idx")).unlink()
        last = log.last
        log.set_limits(last - 3, 0, 0)
        assert (log.first, log.messages) == (4, last - 3)
        assert find(log, 4)[1] == 10  # without offsets none of the segment is found
        log.set_limits(0, 1, 0)
        assert (log.first, log.bytes > 0) == (last, True)
        log.set_limits(0, 0, 1)
        assert log.expire(2**62) == 0
        assert log.messages == 0


@pytest.mark.parametrize("pending", [(), (1, 2)])
def test_deliveries_wait_while_a_file_cannot_be_read(place, pending):
    source, messages = written(place)
    path = source / FIRST_SEGMENT
    whole = path.read_bytes()
    waits: list[str] = []
    with harness_of(place / "store") as harness:
        log = harness.open().channels[0].log
        traffic = Traffic(bus := ProbeBus())
        traffic.on_unreadable = lambda _, text: waits.append(text)
        channel = Channel(b"foo", log, traffic)
        subscription = Subscription(traffic, SubscriptionRow(1, "me", b"in", b"ack", 100, 1))
        channel.add(subscription)
        for sequence in pending:
            subscription.hold(sequence, 0)
            subscription.last_sent = len(messages)
        subscription.is_started = True
        path.write_bytes(whole[:100])
        channel.redeliver(subscription)
        channel.wake()
        deliver_ready(traffic)
        deliver_ready(traffic)
        assert len(waits) == 1
        assert "cannot be read at byte" in waits[0]
        assert bus.sent == []
        path.write_bytes(whole)
        channel.loaded()
        deliver_ready(traffic)
        sent = [payload for _, _, payload in bus.sent]
        assert len(sent) == (len(pending) or len(messages))
        assert all(each.startswith(message) for each, message in zip(sent, messages, strict=False))


def test_a_damaged_database_is_refused_with_what_to_do(place):
    source, messages = written(place)
    database = source.parent / "state.db"
    whole = database.read_bytes()
    for damage in (b"x" * len(whole), whole[: len(whole) // 2], b"\0" * 64 + whole[64:]):
        database.write_bytes(damage)
        advice = r"state\.db: .*move it away.*messages are kept"
        with harness_of(place / "store") as harness, pytest.raises(StoreError, match=advice):
            harness.open()
    for path in source.parent.glob("state.db*"):
        path.unlink()
    with harness_of(place / "store") as harness:
        assert encoded_messages(harness.open().channels[0].log) == messages


def test_a_store_of_a_later_version_is_refused(place):
    source, _ = written(place)
    with sqlite3.connect(source.parent / "state.db") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with harness_of(place / "store") as harness, pytest.raises(StoreError, match="version 9"):
        harness.open()


def test_a_store_of_the_original_server_is_refused(place):
    (place / "store").mkdir()
    (place / "store" / "server.dat").write_bytes(b"\1\0\0\0")
    advice = "shardd stream import"
    with harness_of(place / "store") as harness, pytest.raises(StoreError, match=advice):
        harness.open()


def test_rows_of_channels_that_are_gone_go_with_the_next_commit(place):
    source, _ = written(place)
    with harness_of(place / "store") as harness:
        harness.open()
        row = SubscriptionRow(1, "me", b"in", b"ack", 1, 1)
        harness.opened.save_subscription(b"foo", row)
        harness.commit_well()
    shutil.rmtree(source)
    with harness_of(place / "store") as harness:
        assert harness.open().channels == ()
        harness.commit_well()
        harness.opened.create_channel(b"foo")
        harness.commit_well()
        assert harness.reopen().channels[0].subscriptions == ()


def test_whose_connection_made_a_subscription_is_kept(place):
    written(place)
    with harness_of(place / "store") as harness:
        harness.open()
        row = SubscriptionRow(1, "me", b"in", b"ack", 1, 1, owner=b"_INBOX.hb")
        harness.opened.save_subscription(b"foo", row)
        harness.commit_well()
        assert harness.reopen().channels[0].subscriptions == (row,)


def test_names_of_directories_are_never_the_same_for_two_channels():
    names = [b"a", b"A", b"a.b", b"a%2Eb", b".", b"..", b"~", b"a~1", b"x.deleted", b"y" * 300]
    names += [b"y" * 301, b"lock", b"state.db", "é".encode(), b"\xe9"]
    directories = [directory_name(name) for name in names]
    assert len(set(directories)) == len(names)
    assert not any("/" in each or each in {"", ".", ".."} for each in directories)
    assert max(map(len, directories)) < 250


# --- what it holds open ----------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_idle_channel_holds_no_descriptor(place):
    with harness_of(place / "store") as harness:
        harness.open()
        before = descriptors()
        logs = [harness.opened.create_channel(name) for name in channels_of_part(20)]
        for log in logs:
            append_many(log, 1, b"x", 100)
        harness.commit_well()
        assert descriptors() >= before + 20
        assert isinstance(harness.opened, FileStore)
        for _ in range(3):
            harness.opened._tick()
        assert descriptors() == before
        for log in logs:
            assert len(encoded_messages(log)) == 100
            append(log, 1, b"y")
        harness.commit_well()
        assert {len(encoded_messages(log)) for log in logs} == {101}


def channels_of_part(count: int) -> list[bytes]:
    """Names of channels in the part of `foo`."""
    names = (b"c%d" % number for number in range(100 * count))
    return [name for name in names if partition_of(name) == partition_of(b"foo")][:count]


def test_there_are_never_more_descriptors_than_allowed(place):
    with harness_of(place / "store", descriptors_max=8, segment_messages=3) as harness:
        harness.open()
        before = descriptors()
        logs = [harness.opened.create_channel(name) for name in channels_of_part(30)]
        for _ in range(4):
            for log in logs:
                append_many(log, 1, b"x", 2)
            harness.commit_well()
            assert descriptors() <= before + 9
        for log in logs:
            assert len(encoded_messages(log)) == 8
            assert descriptors() <= before + 9


def test_what_was_dropped_on_demand_stays_away_after_a_crash(place):
    harness = harness_of(place / "store")
    harness.open()
    log = harness.opened.create_channel(b"foo")
    append_many(log, 1, b"x", 10)
    harness.commit_well()
    log.drop_before(8)
    harness.commit_well()
    append(log, 1, b"y")
    harness.commit_well()
    shutil.copytree(place / "store", place / "copy")
    harness.close()
    with harness_of(place / "copy") as other:
        log = other.open().channels[0].log
        assert [decode(each)[0] for each in encoded_messages(log)] == [8, 9, 10, 11]
        assert log.bytes == sum(map(len, encoded_messages(log)))


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_purge_of_everything_gives_the_space_back(place, is_busy):
    harness = harness_of(place / "store")
    harness.open()
    log = harness.opened.create_channel(b"foo")
    assert isinstance(log, FileLog)
    append_many(log, 1, b"x" * 1000, 100)
    harness.commit_well()
    if is_busy:  # one more is on its way to the same segment
        append(log, 1, b"y")
    log.drop_before(101)
    harness.commit_well()
    append(log, 1, b"z")
    shutil.copytree(place / "store", place / "copy")
    for _ in range(2):
        harness.commit_well()

    last = 102 if is_busy else 101
    names = [path.name for path in Path(log.directory).glob("*.log")]
    if not is_busy:
        assert names == [f"{101:020d}.log"]
    assert (log.last, [decode(each)[0] for each in encoded_messages(log)][-1]) == (last, last)
    log.drop_before(last + 1)
    for _ in range(2):
        harness.commit_well()
    assert sum(path.stat().st_size for path in Path(log.directory).iterdir()) < 1000
    append(log, 1, b"again")
    harness.commit_well()
    harness.close()
    with harness_of(place / "copy") as other:
        log = other.open().channels[0].log
        assert (log.first, log.last) == (101, last - 1)
    with harness_of(place / "store") as other:
        log = other.open().channels[0].log
        assert [decode(each)[0] for each in encoded_messages(log)] == [last + 1]


def test_a_directory_that_cannot_be_written_is_named(place):
    path, _ = written(place)
    store = path.parent
    while not (store / "clients.db").exists():
        store = store.parent
    store.chmod(0o500)
    if os.access(store, os.W_OK):
        pytest.skip("nothing is forbidden to this user")
    with pytest.raises(StoreError, match=f"^{re.escape(str(store))}: cannot be written: "):
        harness_of(store).open()


def test_a_store_that_was_not_closed_is_recovered(place):
    harness = harness_of(place / "store")
    harness.open()
    log = harness.opened.create_channel(b"foo")
    append_many(log, 1, b"x", 10)
    harness.opened.save_client(ClientRow("c", b"hb"))
    harness.commit_well()
    copy = place / "copy"
    shutil.copytree(place / "store", copy)
    messages = encoded_messages(log)
    harness.close()
    with harness_of(copy) as other:
        found = other.open()
        assert found.repairs == ()
        assert encoded_messages(found.channels[0].log) == messages
        assert found.clients == (ClientRow("c", b"hb"),)


# --- what waits ------------------------------------------------------------------------------


def test_what_was_written_without_a_sync_is_synced_a_little_later(place):
    with harness_of(place / "store", sync=False, auto_sync_s=1e-9) as harness:
        harness.open()
        store, log = harness.opened, harness.opened.create_channel(b"foo")
        assert isinstance(store, FileStore)
        assert isinstance(log, FileLog)
        append_many(log, 1, b"x", 100)
        harness.commit_well()
        assert [segment.durable for segment in log.unsynced()] == [0]
        store._tick()
        harness.turn_until(lambda: not log.unsynced())


def test_a_new_channel_that_could_not_be_written_is_made_later(place):
    with harness_of(place / "store") as harness:
        harness.open()
        store, log = harness.opened, harness.opened.create_channel(b"foo")
        assert isinstance(store, FileStore)
        assert isinstance(log, FileLog)
        in_the_way = Path(log.directory) / FIRST_SEGMENT
        in_the_way.symlink_to("/dev/full")
        text = "the message could not be stored: no space left on device"
        assert harness.commit().failed_channels == {b"foo": text}
        assert not harness.opened.has_changes
        assert not in_the_way.is_symlink()
        store._tick()
        assert store.has_changes
        harness.commit_well()
        assert [each.log.name for each in harness.reopen().channels] == [b"foo"]
