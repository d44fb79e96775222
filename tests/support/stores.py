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
from typing import ClassVar, Final, Self

from shardd.config.streaming import FileOptions, SqlOptions
from shardd.streaming import log_probe
from shardd.streaming.encrypted_store import EncryptedStore, Keys
from shardd.streaming.file_store import FileStore
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import LATER, MESSAGE, append
from shardd.streaming.memory_store import MemoryStore
from shardd.streaming.msgproto import decode, encode
from shardd.streaming.postgres_store import PostgresStore
from shardd.streaming.seal import OVERHEAD
from shardd.streaming.store import CommitResult, Recovered, Store
from shardd.streaming.subjects import PARTITIONS
from tests.support.postgres import shared_cluster
from tests.support.waiting import PATIENCE

KEY: Final = b"the key of the tests"  # of stores that are encrypted

_WAIT_S: Final = 20.0 * PATIENCE


class StoreHarness(ABC):
    """One store with an event loop that does nothing else. Used as a context manager."""

    name: str  # of the store's class
    overhead = 0  # bytes that it adds to a payload
    key_check = b""
    is_durable = True  # what it holds is there when it is opened again
    current: ClassVar["StoreHarness | None"] = None  # whose loop is turned when a log must fetch

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.store: Store | None = None

    @abstractmethod
    def make(self) -> Store:
        """The store, not yet recovered; each time with the same data."""

    def __enter__(self) -> Self:
        StoreHarness.current = self
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

    def turn_until_loaded(self, log: ChannelLog) -> None:
        """Runs the event loop until a log has fetched something."""
        loaded: list[bool] = []
        log.on_loaded = lambda: loaded.append(True)
        self.turn_until(lambda: loaded)

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


class MemoryHarness(StoreHarness):
    """The memory store."""

    name = "MemoryStore"
    is_durable = False

    def make(self) -> Store:
        """A new one: it keeps nothing."""
        return MemoryStore(self.calls.put)


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


class PostgresHarness(StoreHarness):
    """The PostgreSQL store, in a schema of its own."""

    name = "PostgresStore"
    parts: Sequence[int] = range(PARTITIONS)
    cached_bytes = 4096  # what is a little older has to be fetched

    def __init__(self, directory: Path, source: str = "") -> None:
        super().__init__(directory)
        cluster = shared_cluster() if not source else None
        self.source = cluster.source(cluster.schema()) if cluster else source

    def make(self) -> Store:
        """The store, not yet recovered."""
        return PostgresStore(
            SqlOptions(self.source),
            self.parts,
            is_lead=True,
            call_soon=self.calls.put,
            cached_bytes=self.cached_bytes,
            lock_s=1.0,
        )


class EncryptedFileHarness(FileHarness):
    """The file store with its payloads encrypted."""

    name = "EncryptedStore"
    overhead = OVERHEAD
    cipher = "AES"
    key_check = Keys(KEY, "", print).check

    def make(self) -> Store:
        """The store, not yet recovered."""
        return EncryptedStore(super().make(), Keys(KEY, self.cipher, self.calls.put))


class EncryptedMemoryHarness(MemoryHarness):
    """The memory store with its payloads encrypted."""

    name = "EncryptedStore"
    overhead = OVERHEAD

    def make(self) -> Store:
        """A new one: it keeps nothing."""
        return EncryptedStore(super().make(), Keys(KEY, "CHACHA", self.calls.put))


class EncryptedPostgresHarness(PostgresHarness):
    """The PostgreSQL store with its payloads encrypted."""

    name = "EncryptedStore"
    overhead = OVERHEAD
    key_check = EncryptedFileHarness.key_check

    def make(self) -> Store:
        """The store, not yet recovered."""
        return EncryptedStore(super().make(), Keys(KEY, "CHACHA", self.calls.put))


STORES: Final[tuple[type[StoreHarness], ...]] = (
    MemoryHarness,
    FileHarness,
    UnsyncedFileHarness,
    PostgresHarness,
    EncryptedMemoryHarness,
    EncryptedFileHarness,
    EncryptedPostgresHarness,
)


def find(log: ChannelLog, sequence: int) -> tuple[int, int, int, bytes]:
    """As `log_probe.find`, waiting for what has to be fetched."""
    while (found := log_probe.find(log, sequence))[0] == LATER:
        assert StoreHarness.current is not None
        StoreHarness.current.turn_until_loaded(log)
    return found


def kept_bytes(delivered: Sequence[bytes]) -> int:
    """What encoded messages take as they are kept."""
    assert StoreHarness.current is not None
    more = bytes(StoreHarness.current.overhead)
    total = 0
    for each in delivered:
        sequence, subject, reply, data, timestamp_ns = decode(each)
        kept = encode(sequence, subject, reply, data + more if data else b"", timestamp_ns)
        total += len(kept)
    return total


def read_all(log: ChannelLog, sequence: int) -> tuple[int, int]:
    """As `log_probe.read_all`, waiting for what has to be fetched."""
    count = total = 0
    while (found := find(log, sequence))[0] == MESSAGE:
        count += 1
        total += kept_bytes([found[3]])
        sequence = found[1] + 1
    return count, total


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
