"""The small state of the file store: SQLite databases, and what is queued for them.

Each part has a database with its subscriptions and their positions; the lead's has the server and
the clients. Changes are queued in the event loop, where a later one replaces an earlier one, and
written in one transaction by the thread that commits. A transaction with rows is on disk when it
ends; one with positions only may be lost with the power, and nothing else of it may.
"""

import contextlib
import os
import sqlite3
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shardd.errors import StoreError
from shardd.streaming.store import ClientRow, ServerRow, SubscriptionRow

VERSION: Final = 1
_CACHE_KIB: Final = 256
_PLAIN, _PACKED = b"\x00", b"\x01"
_PACKED_FROM: Final = 64  # sequences; fewer are not worth it

_PART_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('last_id', 0), ('token', 0);
CREATE TABLE channels (
    name BLOB PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE subscriptions (
    channel BLOB NOT NULL, id INTEGER NOT NULL, client_id BLOB NOT NULL, inbox BLOB NOT NULL,
    ack_inbox BLOB NOT NULL, max_in_flight INTEGER NOT NULL, ack_wait_s INTEGER NOT NULL,
    durable_name BLOB NOT NULL, queue_group BLOB NOT NULL, last_sent INTEGER NOT NULL,
    is_durable INTEGER NOT NULL, is_closed INTEGER NOT NULL, pending BLOB NOT NULL,
    owner BLOB NOT NULL,
    PRIMARY KEY (channel, id)
) WITHOUT ROWID;
"""
_LEAD_TABLES: Final = """
CREATE TABLE server (
    one INTEGER PRIMARY KEY CHECK (one = 1), cluster_id TEXT NOT NULL, discover BLOB NOT NULL,
    pub BLOB NOT NULL, sub BLOB NOT NULL, unsub BLOB NOT NULL, sub_close BLOB NOT NULL,
    close BLOB NOT NULL, inbox_prefix BLOB NOT NULL, key_check BLOB NOT NULL
);
CREATE TABLE clients (
    client_id BLOB PRIMARY KEY, heartbeat_inbox BLOB NOT NULL, connection_id BLOB NOT NULL,
    protocol INTEGER NOT NULL, ping_interval_s INTEGER NOT NULL, ping_max_out INTEGER NOT NULL
) WITHOUT ROWID;
"""
# Stores that were made before there was encryption lack it.
_ADD_KEY_CHECK: Final = "ALTER TABLE server ADD COLUMN key_check BLOB NOT NULL DEFAULT x''"
_SAVE_SUBSCRIPTION: Final = f"INSERT OR REPLACE INTO subscriptions VALUES ({'?, ' * 13}?)"
_SAVE_POSITION: Final = (
    "UPDATE subscriptions SET last_sent = ?, pending = ? WHERE channel = ? AND id = ?"
)

Key = tuple[bytes, int]  # channel and subscription id


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a channel was kept when the store was closed: its segments may hold more."""

    first: int
    last: int
    bytes: int


@dataclass(slots=True)
class PartChanges:
    """What is queued for the database of one part."""

    deleted: set[bytes] = field(default_factory=set)
    rows: dict[Key, SubscriptionRow | None] = field(default_factory=dict)
    positions: dict[Key, tuple[int, Sequence[int]]] = field(default_factory=dict)
    firsts: dict[bytes, int] = field(default_factory=dict)  # of channels that were purged
    last_id: int = 0

    def __bool__(self) -> bool:
        return bool(self.deleted or self.rows or self.positions or self.firsts)

    @property
    def has_rows(self) -> bool:
        """Whether there is more than positions."""
        return bool(self.deleted or self.rows or self.firsts)

    def save(self, channel: bytes, row: SubscriptionRow) -> None:
        """Adds or replaces; the row has its position."""
        self.rows[channel, row.id] = row
        self.positions.pop((channel, row.id), None)
        self.last_id = max(self.last_id, row.id)

    def forget(self, key: Key) -> None:
        """Removes."""
        self.rows[key] = None
        self.positions.pop(key, None)

    def move(self, key: Key, last_sent: int, pending: Sequence[int]) -> None:
        """Another position of a subscription."""
        self.positions[key] = last_sent, pending

    def delete(self, channel: bytes) -> None:
        """Removes all of a channel, what is queued for it included."""
        self.rows = {key: row for key, row in self.rows.items() if key[0] != channel}
        self.positions = {key: at for key, at in self.positions.items() if key[0] != channel}
        self.firsts.pop(channel, None)
        self.deleted.add(channel)

    def put_back(self, older: "PartChanges") -> None:
        """Queue again what could not be written: what has been queued since replaces it."""
        gone = self.deleted
        kept = {
            key: position
            for key, position in older.positions.items()
            if key[0] not in gone and key not in self.rows
        }
        self.positions = kept | self.positions
        rows = {key: row for key, row in older.rows.items() if key[0] not in gone}
        self.rows = rows | self.rows
        firsts = {name: first for name, first in older.firsts.items() if name not in gone}
        self.firsts = firsts | self.firsts
        self.deleted = older.deleted | gone
        self.last_id = max(self.last_id, older.last_id)


@dataclass(slots=True)
class LeadChanges:
    """What is queued for the lead's database."""

    server: ServerRow | None = None
    clients: dict[str, ClientRow | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.server or self.clients)

    def put_back(self, older: "LeadChanges") -> None:
        """Queue again what could not be written."""
        self.server = self.server or older.server
        self.clients = older.clients | self.clients


def _free_bytes(path: Path) -> int:
    """How much more may be written where this file is."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize


class Database:
    """One SQLite database. Opened by the event loop, then used by one thread at a time."""

    def __init__(self, path: Path, tables: str, what: str, *, is_read_only: bool = False) -> None:
        self.path = path
        self._what = what
        self._is_full = True
        with self._explained():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if is_read_only else 'rwc'}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=32,
            )
        try:
            with self._explained():
                self._prepare(tables, is_read_only=is_read_only)
        except StoreError:
            self._connection.close()
            raise

    def _prepare(self, tables: str, *, is_read_only: bool) -> None:
        execute = self._connection.execute
        execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        version = execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise StoreError(
                f"{self.path}: has version {version}, and this is a server for version {VERSION}"
            )
        if not is_read_only:
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = FULL")
        problem = execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        if version == 0 and not is_read_only:
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {tables} PRAGMA user_version = {VERSION}; COMMIT;"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors while opening and reading, with what to do about them."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            advice = ""
            if not isinstance(error, sqlite3.OperationalError) or "malformed" in str(error):
                advice = (
                    f". Restore it from a copy; or move it away, with its -wal and -shm files, to"
                    f" go on without {self._what}: messages are kept"
                )
            elif "I/O error" in str(error):  # SQLite's word for a full disk, where it maps files
                advice = f". Its file system has {_free_bytes(self.path) >> 10} KiB left"
            raise StoreError(f"{self.path}: {error}{advice}") from None

    @contextlib.contextmanager
    def _transaction(self, *, is_synced: bool) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """All or nothing; on disk at the end if so asked."""
        execute = self._connection.execute
        if is_synced != self._is_full:
            execute(f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}")
            self._is_full = is_synced
        execute("BEGIN IMMEDIATE")
        try:
            yield execute
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()


class PartDatabase(Database):
    """Subscriptions and positions of one part."""

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        what = "the subscriptions and positions of this part's channels"
        super().__init__(path, _PART_TABLES, what, is_read_only=is_read_only)

    def take_token(self) -> int:
        """The next fencing token: higher than that of everybody who had the part before.

        Raises:
            StoreError: the database cannot be written.
        """
        with self._explained(), self._transaction(is_synced=False) as execute:
            execute("UPDATE meta SET value = value + 1 WHERE key = 'token'")
            return int(execute("SELECT value FROM meta WHERE key = 'token'").fetchone()[0])

    def kept(self) -> dict[bytes, Kept]:
        """What was kept of channels when the store was closed, if it was."""
        with self._explained():
            rows = self._connection.execute("SELECT * FROM channels").fetchall()
        return {row[0]: Kept(*row[1:]) for row in rows}

    def save_kept(self, kept: Mapping[bytes, Kept]) -> None:
        """Replaces all of them; sqlite3.Error: nothing was written."""
        with self._transaction(is_synced=False) as execute:
            execute("DELETE FROM channels")
            self._connection.executemany(
                "INSERT INTO channels VALUES (?, ?, ?, ?)",
                [(name, each.first, each.last, each.bytes) for name, each in kept.items()],
            )

    def last_id(self) -> int:
        """The highest subscription id ever given."""
        with self._explained():
            execute = self._connection.execute
            return int(execute("SELECT value FROM meta WHERE key = 'last_id'").fetchone()[0])

    def subscriptions(self) -> dict[bytes, list[SubscriptionRow]]:
        """All of them by channel, in the order of their ids."""
        found: dict[bytes, list[SubscriptionRow]] = {}
        with self._explained():
            for row in self._connection.execute("SELECT * FROM subscriptions ORDER BY channel, id"):
                found.setdefault(row[0], []).append(_subscription(row[1:]))
        return found

    def write(self, changes: PartChanges, *, is_synced: bool) -> None:
        """Write what was queued; sqlite3.Error: nothing of it was written."""
        saved = [(key, row) for key, row in changes.rows.items() if row is not None]
        with self._transaction(is_synced=is_synced and changes.has_rows) as execute:
            many = self._connection.executemany
            deleted = [(channel,) for channel in changes.deleted]
            many("DELETE FROM subscriptions WHERE channel = ?", deleted)
            many("DELETE FROM channels WHERE name = ?", deleted)
            many(
                "DELETE FROM subscriptions WHERE channel = ? AND id = ?",
                [key for key, row in changes.rows.items() if row is None],
            )
            many(_SAVE_SUBSCRIPTION, [_values(key[0], row) for key, row in saved])
            many(
                _SAVE_POSITION,
                [
                    (last_sent, pack(pending), *key)
                    for key, (last_sent, pending) in changes.positions.items()
                ],
            )
            # Of what the channel will hold until it is recovered, only this is certain.
            many(
                "INSERT OR REPLACE INTO channels VALUES (?, ?, 0, 0)",
                list(changes.firsts.items()),
            )
            if changes.last_id:
                execute(
                    "UPDATE meta SET value = max(value, ?) WHERE key = 'last_id'",
                    (changes.last_id,),
                )


class LeadDatabase(Database):
    """Who the server is, and its clients."""

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        what = "the clients, who must connect again"
        super().__init__(path, _LEAD_TABLES, what, is_read_only=is_read_only)

    def _prepare(self, tables: str, *, is_read_only: bool) -> None:
        super()._prepare(tables, is_read_only=is_read_only)
        execute = self._connection.execute
        columns = {row[1] for row in execute("PRAGMA table_info(server)")}
        if columns and "key_check" not in columns and not is_read_only:
            execute(_ADD_KEY_CHECK)

    def server(self) -> ServerRow | None:
        """The server's row, once there is one."""
        with self._explained():
            row = self._connection.execute("SELECT * FROM server").fetchone()
        return ServerRow(*row[1:]) if row else None

    def clients(self) -> list[ClientRow]:
        """All of them."""
        with self._explained():
            rows = self._connection.execute("SELECT * FROM clients ORDER BY client_id").fetchall()
        return [ClientRow(_text(row[0]), *row[1:]) for row in rows]

    def write(self, changes: LeadChanges, *, is_synced: bool) -> None:
        """Write what was queued; sqlite3.Error: nothing of it was written."""
        with self._transaction(is_synced=is_synced) as execute:
            row = changes.server
            if row is not None:
                subjects = (row.discover, row.pub, row.sub, row.unsub, row.sub_close, row.close)
                execute(
                    f"INSERT OR REPLACE INTO server VALUES (1, {'?, ' * 8}?)",
                    (row.cluster_id, *subjects, row.inbox_prefix, row.key_check),
                )
            for client_id, client in changes.clients.items():
                if client is None:
                    execute("DELETE FROM clients WHERE client_id = ?", (_blob(client_id),))
                    continue
                execute(
                    "INSERT OR REPLACE INTO clients VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        _blob(client.client_id),
                        client.heartbeat_inbox,
                        client.connection_id,
                        client.protocol,
                        client.ping_interval_s,
                        client.ping_max_out,
                    ),
                )


def pack(pending: Sequence[int]) -> bytes:
    """Sequences as they stand in the database."""
    plain = array("Q", pending).tobytes()
    if len(pending) < _PACKED_FROM:
        return _PLAIN + plain
    return _PACKED + zlib.compress(plain, 1)


def unpack(packed: bytes) -> tuple[int, ...]:
    """The sequences again; ValueError: these are none."""
    plain = packed[1:]
    if packed[:1] == _PACKED:
        try:
            plain = zlib.decompress(plain)
        except zlib.error as error:
            raise ValueError(str(error)) from None
    elif packed[:1] != _PLAIN:
        raise ValueError("not a list of sequences")
    if len(plain) % 8:
        raise ValueError("not a list of sequences")
    return tuple(array("Q", plain))


# Names from clients are stored as the bytes they came as, whatever these are.
def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogateescape")


def _values(channel: bytes, row: SubscriptionRow) -> tuple[object, ...]:
    return (
        channel,
        row.id,
        _blob(row.client_id),
        row.inbox,
        row.ack_inbox,
        row.max_in_flight,
        row.ack_wait_s,
        _blob(row.durable_name),
        _blob(row.queue_group),
        row.last_sent,
        row.is_durable,
        row.is_closed,
        pack(row.pending),
        row.owner,
    )


def _subscription(row: Sequence[Any]) -> SubscriptionRow:
    identity, client, inbox, ack_inbox, in_flight, wait, durable, group, *rest = row
    last_sent, is_durable, is_closed, pending, owner = rest
    try:
        sequences = unpack(pending)
    except ValueError as error:
        raise sqlite3.DatabaseError(f"subscription {identity}: {error}") from None
    return SubscriptionRow(
        id=identity,
        client_id=_text(client),
        inbox=inbox,
        ack_inbox=ack_inbox,
        max_in_flight=in_flight,
        ack_wait_s=wait,
        durable_name=_text(durable),
        queue_group=_text(group),
        last_sent=last_sent,
        is_durable=bool(is_durable),
        is_closed=bool(is_closed),
        pending=sequences,
        owner=owner,
    )
