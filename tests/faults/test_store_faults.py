"""The file store when the disk is full, when it may not write, and when its process is killed.

Publishers of what could not be written are told, it is taken back, and the store goes on by itself
as soon as it can. What was reported as committed is there, whatever happens.
"""

import logging
import os
import random
import resource
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from shardd.config.streaming import FileOptions
from shardd.errors import StoreError
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import append, append_many
from shardd.streaming.msgproto import decode
from shardd.streaming.state_db import PartChanges
from shardd.streaming.store import ClientRow, CommitResult, Recovered, SubscriptionRow
from shardd.streaming.subjects import partition_of
from tests.support.stores import FileHarness, encoded_messages, quick_directory

NOBODY: Final = 65_534
ROW: Final = SubscriptionRow(1, "me", b"in", b"ack", 10, 30, "dur", is_durable=True)


class LargeSegments(FileHarness):
    options = FileOptions()


def sequences(log: ChannelLog) -> list[int]:
    return [decode(each)[0] for each in encoded_messages(log)]


def log_of(recovered: Recovered, name: bytes) -> ChannelLog:
    return next(channel.log for channel in recovered.channels if channel.log.name == name)


# --- no room ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "shardd-test", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False, text=True)
    except OSError as error:
        pytest.skip(f"no small file system can be mounted: {error}")
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_refuses_messages_and_rows_until_there_is_room_again(small_disk, caplog):
    caplog.set_level(logging.INFO, "shardd.streaming")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    with LargeSegments(small_disk / "store") as harness:
        harness.open()
        store = harness.opened
        log, other = store.create_channel(b"foo"), store.create_channel(b"bar")
        store.save_subscription(b"foo", ROW)
        append(other, 1, b"early")
        harness.commit_well()
        committed = 0
        while True:
            append_many(log, 1, b"x" * 10_000, 20)
            results = harness.start_commit()
            append(log, 1, b"appended meanwhile")
            harness.finish(results)
            if results[0].failed_channels:
                break
            committed = log.last
        text = "the message could not be stored: no space left on device"
        assert results[0].failed_channels == {b"foo": text}
        assert (log.last, log.appended) == (committed, committed)
        assert sequences(log) == list(range(1, committed + 1))
        # Rows that find no room stay queued, and are counted as changes a little later.
        fill(small_disk)
        for number in range(2000):
            store.save_client(ClientRow(f"client-{number}", b"hb" * 100))
        assert "could not be stored" in harness.commit().state_error
        assert not store.has_changes
        assert sum("cannot be written" in line for line in caplog.messages) == 1

        ballast.unlink()
        (small_disk / "filler").unlink()
        assert append(log, 1, b"again") == committed + 1
        append(other, 1, b"late")
        harness.commit_well()
        assert any("can be written again" in line for line in caplog.messages)
        recovered = harness.reopen()
        assert len(recovered.clients) == 2000
        assert sequences(log_of(recovered, b"foo")) == list(range(1, committed + 2))
        assert sequences(log_of(recovered, b"bar")) == [1, 2]


def fill(disk: Path) -> None:
    """Leave no room at all."""
    with (disk / "filler").open("wb", buffering=0) as file:
        size = 65_536
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def test_a_file_that_may_not_grow_is_cut_back_to_what_was_committed():
    with quick_directory() as place, LargeSegments(place / "store") as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        append_many(log, 1, b"x" * 1000, 100)
        harness.commit_well()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
        try:
            append_many(log, 1, b"y" * 1000, 100)
            failed = harness.commit().failed_channels
            assert failed == {b"foo": "the message could not be stored: file too large"}
            (path,) = place.rglob("p*/foo/*.log")
            assert path.stat().st_size < 110_000
            # Less than that fits.
            append_many(log, 1, b"z" * 1000, 10)
            harness.commit_well()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        append(log, 1, b"more")
        harness.commit_well()
        kinds = [decode(each)[3][:1] for each in encoded_messages(log)]
        assert kinds == [b"x"] * 100 + [b"z"] * 10 + [b"m"]
        assert sequences(log_of(harness.reopen(), b"foo")) == list(range(1, 112))


def test_rows_that_failed_are_written_later_as_what_they_have_become():
    changes, older = PartChanges(), PartChanges()
    older.save(b"foo", ROW)
    older.move((b"foo", 1), 5, (5,))
    older.move((b"bar", 1), 5, (5,))
    older.save(b"gone", ROW)
    older.delete(b"dead")
    changes.delete(b"gone")
    changes.move((b"bar", 1), 6, (6,))
    changes.put_back(older)
    assert changes.rows == {(b"foo", 1): ROW}
    assert changes.positions == {(b"foo", 1): (5, (5,)), (b"bar", 1): (6, (6,))}
    assert changes.deleted == {b"gone", b"dead"}


# --- no right --------------------------------------------------------------------------------


@contextmanager
def as_nobody(place: Path) -> Iterator[None]:
    """Without the rights of root, which may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(place, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def beside(channel: bytes) -> bytes:
    """Another channel of the same part."""
    names = (b"c%d" % number for number in range(1000))
    return next(name for name in names if partition_of(name) == partition_of(channel))


def test_a_directory_that_cannot_be_written_refuses_until_it_can():
    with quick_directory() as place, as_nobody(place), FileHarness(place / "store") as harness:
        harness.open()
        store = harness.opened
        log = store.create_channel(b"foo")
        append(log, 1, b"x" * 2000)
        harness.commit_well()
        (directory,) = (place / "store").glob("p*/foo")
        for path in (directory, directory.parent):
            path.chmod(0o500)
        with pytest.raises(StoreError, match="could not be created: permission denied"):
            store.create_channel(beside(b"foo"))
        # The segment is full, and a new one cannot be made.
        append_many(log, 1, b"y" * 2000, 3)
        text = "the message could not be stored: permission denied"
        assert harness.commit() == CommitResult({b"foo": text})
        assert sequences(log) == [1]
        for path in (directory, directory.parent):
            path.chmod(0o700)
        append_many(log, 1, b"z" * 2000, 3)
        harness.commit_well()
        assert sequences(log) == [1, 2, 3, 4]
        assert sequences(log_of(harness.reopen(), b"foo")) == [1, 2, 3, 4]


def test_a_store_that_cannot_be_written_at_all_does_not_open():
    with quick_directory() as place, as_nobody(place):
        place.chmod(0o500)
        said = pytest.raises(StoreError, match="store: Permission denied")
        with FileHarness(place / "store") as harness, said:
            harness.open()
        place.chmod(0o700)


# --- killed ----------------------------------------------------------------------------------


class Writer(FileHarness):
    """Small segments, and everything has to be on disk."""

    options = FileOptions(segment_messages=40)


CHANNELS: Final = (b"a", b"b", b"c")


def data_of(channel: bytes, sequence: int) -> bytes:
    """What message a channel has at a sequence, whoever writes it."""
    size = random.Random(f"{channel!r} {sequence}").choice([0, 10, 300, 5000])
    return b"%s %d " % (channel, sequence) + b"." * size


def write_until_killed(directory: Path, seed: str, out: int) -> None:
    """Appends and commits, and says what was committed."""
    random_ = random.Random(seed)
    harness = Writer(directory)
    logs = {channel.log.name: channel.log for channel in harness.open().channels}
    for name in CHANNELS:
        if name not in logs:
            logs[name] = harness.opened.create_channel(name)
            harness.opened.save_subscription(name, ROW)
        logs[name].set_limits(500, 0, 0)
    while True:
        for name, log in logs.items():
            for _ in range(random_.choice([0, 1, 3, 30])):
                append(log, 1, data_of(name, log.appended + 1))
            harness.opened.save_position(name, 1, log.last, [log.last] if log.last else [])
        harness.commit_well()
        report = " ".join(f"{logs[name].last}" for name in CHANNELS)
        os.write(out, f"{report}\n".encode())


def run_and_kill(directory: Path, seed: str, random_: random.Random) -> list[int]:
    """The last sequences of the channels that a writer reported before it was killed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            write_until_killed(directory, seed, write_end)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as reports:
        lines = [reports.readline() for _ in range(random_.randint(1, 25))]
        select.select([], [], [], random_.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "the writer ended by itself"
        lines += [line for line in reports.readlines() if line.endswith(b"\n")]
    return [int(last) for last in lines[-1].split()]


def check_killed(directory: Path, reported: list[int]) -> None:
    """Whether all that was reported is there, and nothing that was not written."""
    with Writer(directory) as harness:
        found = {channel.log.name: channel for channel in harness.open().channels}
        assert found.keys() == set(CHANNELS)
        for name, last in zip(CHANNELS, reported, strict=True):
            log = found[name].log
            assert log.last >= last
            messages = [decode(each) for each in encoded_messages(log)]
            assert [each[0] for each in messages] == list(range(log.first, log.last + 1))
            assert [each[3] for each in messages] == [data_of(name, each[0]) for each in messages]
            (row,) = found[name].subscriptions
            assert row.last_sent <= log.last


def rounds(seed: int, count: int) -> None:
    print(f"seed {seed}")
    random_ = random.Random(seed)
    with quick_directory() as place:
        for number in range(count):
            reported = run_and_kill(place / "store", f"{seed} {number}", random_)
            check_killed(place / "store", reported)


def test_what_was_committed_survives_a_kill(seed):
    rounds(seed, 8)


@pytest.mark.soak
def test_what_was_committed_survives_a_hundred_kills(seed):
    rounds(seed, 100)
