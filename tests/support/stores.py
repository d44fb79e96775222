"""The stores of NATS Streaming as the contract's tests see them: opened, committed, opened again.

A store that is not in `STORES` fails a test of `tests/unit/test_store_contract.py`.
"""

import contextlib
import os
import queue
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from shardd.config.streaming import FileOptions
from shardd.streaming.file_store import FileStore
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import MESSAGE, append, find
from shardd.streaming.memory_store import MemoryStore
from shardd.streaming.store import CommitResult, Recovered, Store
from shardd.streaming.subjects import PARTITIONS
from tests.support.waiting import PATIENCE

_WAIT_S: Final = 20.0 * PATIENCE


class StoreHarness(ABC):
    """One store with an event loop that does nothing else. Used as a context manager."""

    name: str  # of the store's class
    is_durable = True  # what it holds is there when it is opened again

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.store: Store | None = None

    @abstractmethod
    def make(self) -> Store:
        """The store, not yet recovered; each time with the same data."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> Recovered:
        """Opens it."""
        assert self.store is None
        store = self.make()
        recovered = store.recover()
        self.store = store
        return recovered

    def close(self) -> None:
        """Closes it, if it is open."""
        if self.store is not None:
            self.store.close()
            self.store = None
        while not self.calls.empty():
            self.calls.get()()

    def reopen(self) -> Recovered:
        """Closes it and opens it again."""
        self.close()
        return self.open()

    @property
    def opened(self) -> Store:
        """The store, which is open."""
        assert self.store is not None
        return self.store

    def start_commit(self) -> list[CommitResult]:
        """Begins a commit; the result is appended to the list when it has ended."""
        results: list[CommitResult] = []
        self.opened.commit(results.append)
        assert not results, "called back from within `commit`"
        assert self.opened.is_committing
        return results

    def turn_until(self, condition: Callable[[], object]) -> None:
        """Runs the event loop until something is so."""
        while not condition():
            self.calls.get(timeout=_WAIT_S)()

    def finish(self, results: list[CommitResult]) -> CommitResult:
        """Runs the event loop until a commit has ended."""
        self.turn_until(lambda: results)
        assert not self.opened.is_committing
        return results[0]

    def commit(self) -> CommitResult:
        """A whole commit."""
        return self.finish(self.start_commit())

    def commit_well(self) -> None:
        """A whole commit that must succeed."""
        assert self.commit() == CommitResult()


class FileHarness(StoreHarness):
    """The file store."""

    name = "FileStore"
    # Small segments: what concerns several of them happens in every test.
    options = FileOptions(segment_bytes=2048)
    parts: Sequence[int] = range(PARTITIONS)

    def make(self) -> Store:
        """The store, not yet recovered."""
        return FileStore(
            self.directory, self.parts, self.options, is_lead=True, call_soon=self.calls.put
        )


class UnsyncedFileHarness(FileHarness):
    """The same when it does not wait for the disk."""

    options = FileOptions(segment_bytes=2048, sync=False, auto_sync_s=0.001)


class MemoryHarness(StoreHarness):
    """The store that keeps nothing."""

    name = "MemoryStore"
    is_durable = False

    def make(self) -> Store:
        """The store."""
        return MemoryStore(self.calls.put)


STORES: Final[tuple[type[StoreHarness], ...]] = (FileHarness, UnsyncedFileHarness, MemoryHarness)


@contextlib.contextmanager
def quick_directory() -> Iterator[Path]:
    """A directory in memory, where there is one: a sync costs nothing there."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="shardd-test-", dir=place) as directory:
        yield Path(directory)


def append_all(log: ChannelLog, messages: Sequence[bytes], now_ns: int = 1) -> list[int]:
    """The sequences of messages that are appended at one time."""
    return [append(log, now_ns, data) for data in messages]


def encoded_messages(log: ChannelLog) -> list[bytes]:
    """Every message that can be found, oldest first."""
    found = []
    kind, sequence, _, encoded = find(log, 0)
    while kind == MESSAGE:
        found.append(encoded)
        kind, sequence, _, encoded = find(log, sequence + 1)
    return found
