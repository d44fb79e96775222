"""What a message costs in the file store: appended and synced in commits of 1000, and read again.

Run: ``python -m bench.micro.streaming_log [DIRECTORY]``. The store is made below the directory (the
current one unless given), so the figures are those of its disk. Also timed: closing it, opening it
again until something could be appended, after a close and after a crash, and one commit alone.
"""

import queue
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shardd.config.streaming import FileOptions
from shardd.streaming.file_store import FileStore
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import append_many, read_all
from shardd.streaming.store import CommitResult
from shardd.streaming.subjects import PARTITIONS

BATCH = 1000
SIZES = ((128, 1_000_000), (1024, 200_000))  # bytes of data, messages
SINGLE_COMMITS = 500
IDLE_CHANNELS = 10_000


class Driver:
    """A store, and an event loop that does nothing else."""

    def __init__(self, directory: Path) -> None:
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.store = FileStore(
            directory, range(PARTITIONS), FileOptions(), is_lead=True, call_soon=self.calls.put
        )
        start_s = time.perf_counter()
        self.recovered = self.store.recover()
        self.open_s = time.perf_counter() - start_s

    def commit(self) -> None:
        """One commit, which must succeed."""
        results: list[CommitResult] = []
        self.store.commit(results.append)
        while not results:
            self.calls.get()()
        assert results == [CommitResult()]


def rate_of_appends(driver: Driver, log: ChannelLog, size: int, count: int) -> float:
    """Messages a second, each commit on disk before the next one begins."""
    data = b"x" * size
    start_s = time.perf_counter()
    for _ in range(count // BATCH):
        append_many(log, time.time_ns(), data, BATCH)
        driver.commit()
    return count / (time.perf_counter() - start_s)


def rate_of_reads(driver: Driver, log: ChannelLog) -> float:
    """Messages a second, every one with its checksum compared."""
    start_s = time.perf_counter()
    for sequence in range(1, log.last, BATCH):
        read_all(log, sequence, BATCH)
        # As at the end of a pass of the loop: what was read ahead is let go.
        while not driver.calls.empty():
            driver.calls.get()()
    return log.last / (time.perf_counter() - start_s)


def single_commit_ms(driver: Driver, log: ChannelLog) -> float:
    """The median commit of one message."""
    times = []
    for _ in range(SINGLE_COMMITS):
        start_s = time.perf_counter()
        append_many(log, time.time_ns(), b"x" * 128, 1)
        driver.commit()
        times.append(time.perf_counter() - start_s)
    return sorted(times)[SINGLE_COMMITS // 2] * 1000


def measure(directory: Path, size: int, count: int) -> None:
    """One size: a store of its own."""
    driver = Driver(directory)
    log = driver.store.create_channel(b"bench")
    log.set_limits(0, 0, 0)
    print(f"{size:5d} B  appended  {rate_of_appends(driver, log, size, count):12,.0f}/s")
    print(f"{size:5d} B  read      {rate_of_reads(driver, log):12,.0f}/s")
    driver.store.close()
    driver = Driver(directory)
    opened_ms = driver.open_s * 1000
    print(f"{size:5d} B  opened    {opened_ms:12.1f} ms, {count:,} messages, closed well")
    driver.store.close()
    max(directory.glob("p*/bench/*.idx")).unlink()
    driver = Driver(directory)
    opened_ms = driver.open_s * 1000
    print(f"{size:5d} B  opened    {opened_ms:12.1f} ms, {count:,} messages, as after a crash")
    alone_ms = single_commit_ms(driver, driver.recovered.channels[0].log)
    print(f"{size:5d} B  one alone {alone_ms:12.3f} ms")
    driver.store.close()


def measure_idle(directory: Path) -> None:
    """Many channels with one message each."""
    driver = Driver(directory)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    logs = [driver.store.create_channel(b"idle.%d" % number) for number in range(IDLE_CHANNELS)]
    for log in logs:
        append_many(log, time.time_ns(), b"x" * 128, 1)
    start_s = time.perf_counter()
    driver.commit()
    print(f"{IDLE_CHANNELS:,} channels written at once {time.perf_counter() - start_s:9.1f} s")
    driver.store.close()
    driver = Driver(directory)
    print(f"{IDLE_CHANNELS:,} channels opened  {driver.open_s * 1000:12.1f} ms")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    print(f"{IDLE_CHANNELS:,} channels take    {grown_kib / IDLE_CHANNELS:12.2f} KiB each")
    driver.store.close()


def main() -> None:
    """All of it."""
    place = sys.argv[1] if len(sys.argv) > 1 else "."
    for size, count in SIZES:
        with tempfile.TemporaryDirectory(prefix="shardd-bench-", dir=place) as directory:
            measure(Path(directory), size, count)
    with tempfile.TemporaryDirectory(prefix="shardd-bench-", dir=place) as directory:
        measure_idle(Path(directory))


if __name__ == "__main__":
    main()
