"""What the thread of the PostgreSQL store does: commits, reads, and removals.

Everything of one commit is one transaction: messages by COPY, then channels, subscriptions and
positions, then the server and its clients. A task is handed to the thread by the event loop, which
does not touch it until the thread has handed it back with how it went.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shardd.streaming.postgres_log import COPY_HEADER, COPY_TRAILER, Chunk, PostgresLog
from shardd.streaming.postgres_rows import blob, client_values, server_values, subscription_values
from shardd.streaming.postgres_session import LEAD_PART, Cursor, Session
from shardd.streaming.state_db import LeadChanges, PartChanges, pack
from shardd.streaming.store import CommitResult
from shardd.streaming.subjects import partition_of

OnDone = Callable[[CommitResult], None]

CLEAN_MAX: Final = 10_000  # messages that one transaction removes

_COPY: Final = "COPY shardd_messages (channel, sequence, time_ns, data) FROM STDIN (FORMAT BINARY)"
_UNDO: Final = "DELETE FROM shardd_messages WHERE channel = %s AND sequence > %s"
_CREATE: Final = (
    "INSERT INTO shardd_channels (id, part, name) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING"
)
_DELETE: Final = (
    "UPDATE shardd_channels SET is_deleted = true, last = greatest(last, %s) WHERE id = %s"
)
_DELETE_SUBSCRIPTIONS: Final = "DELETE FROM shardd_subscriptions WHERE channel = ANY(%s)"
_MOVE_FIRST: Final = (
    "UPDATE shardd_channels SET first = greatest(first, %s), last = greatest(last, %s),"
    " last_ns = greatest(last_ns, %s) WHERE id = %s"
)
_CLEAN: Final = (
    "DELETE FROM shardd_messages WHERE channel = %s AND sequence >= %s AND sequence < %s"
)
_FORGET_CHANNEL: Final = "DELETE FROM shardd_channels WHERE id = %s AND is_deleted"
_FORGET: Final = "DELETE FROM shardd_subscriptions WHERE channel = %s AND id = %s"
_SAVE: Final = (
    "INSERT INTO shardd_subscriptions VALUES"
    " (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (channel, id) DO UPDATE SET"
    " (client_id, inbox, ack_inbox, max_in_flight, ack_wait_s, durable_name, queue_group,"
    " last_sent, is_durable, is_closed, pending, owner) = (excluded.client_id, excluded.inbox,"
    " excluded.ack_inbox, excluded.max_in_flight, excluded.ack_wait_s, excluded.durable_name,"
    " excluded.queue_group, excluded.last_sent, excluded.is_durable, excluded.is_closed,"
    " excluded.pending, excluded.owner)"
)
_MOVE: Final = (
    "UPDATE shardd_subscriptions AS old SET last_sent = new.last_sent, pending = new.pending"
    " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[])"
    " AS new (channel, id, last_sent, pending)"
    " WHERE old.channel = new.channel AND old.id = new.id"
)
_LAST_ID: Final = "UPDATE shardd_parts SET last_id = greatest(last_id, %s) WHERE part = %s"
_SAVE_SERVER: Final = (
    "INSERT INTO shardd_server VALUES (true, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (one) DO UPDATE SET (cluster_id, discover, pub, sub, unsub, sub_close, close,"
    " inbox_prefix, key_check) = (excluded.cluster_id, excluded.discover, excluded.pub,"
    " excluded.sub, excluded.unsub, excluded.sub_close, excluded.close, excluded.inbox_prefix,"
    " excluded.key_check)"
)
_FORGET_CLIENTS: Final = (
    "DELETE FROM shardd_clients WHERE sha256(client_id) IN"
    " (SELECT sha256(gone) FROM unnest(%s::bytea[]) AS gone)"
)
_SAVE_CLIENT: Final = "INSERT INTO shardd_clients VALUES (%s, %s, %s, %s, %s, %s)"
_LOAD: Final = (
    "SELECT sequence, data FROM shardd_messages"
    " WHERE channel = %s AND sequence BETWEEN %s AND %s ORDER BY sequence"
)


@dataclass(frozen=True, slots=True)
class First:
    """From where on a channel is kept."""

    log: PostgresLog
    first: int
    last: int
    last_ns: int


@dataclass(slots=True)
class Commit:
    """What one commit does; the thread fills in how it went."""

    on_done: OnDone | None
    writes: list[tuple[PostgresLog, int, list[Chunk]]]
    created: list[PostgresLog]
    deleted: list[PostgresLog]
    firsts: list[First]
    # Channels of which the database may have more than it should, and their last good sequences.
    undo: dict[PostgresLog, int]
    parts: dict[int, PartChanges]
    lead: LeadChanges
    ids: Mapping[bytes, int]  # of the channels that `parts` names
    error: str = ""
    is_doubtful: bool = False  # it failed, and may be in the database all the same

    @property
    def has_state(self) -> bool:
        """Whether there is more than messages."""
        changed = self.created or self.deleted or self.firsts or self.parts or self.lead
        return bool(changed)

    @property
    def is_synced(self) -> bool:
        """Whether it must be on disk when it ends: there is more than positions."""
        has_rows = any(changes.has_rows for changes in self.parts.values())
        return bool(self.writes or self.created or self.deleted or self.lead or has_rows)

    def numbers(self) -> set[int]:
        """The parts that it touches."""
        logs = [*self.created, *self.deleted, *self.undo, *(each[0] for each in self.writes)]
        logs += [each.log for each in self.firsts]
        found = {partition_of(log.name) for log in logs} | self.parts.keys()
        if self.lead:
            found.add(LEAD_PART)
        return found


@dataclass(slots=True)
class Load:
    """Messages to fetch."""

    log: PostgresLog
    first: int
    last: int
    rows: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Grave:
    """A deleted channel whose messages are still there."""

    id: int
    part: int
    first: int
    last: int


@dataclass(slots=True)
class Clean:
    """Messages to remove which nobody will read any more."""

    firsts: list[First] = field(default_factory=list)
    graves: list[Grave] = field(default_factory=list)
    # What has been removed: up to where, of each channel.
    done: list[tuple[PostgresLog, int]] = field(default_factory=list)

    @property
    def is_large(self) -> bool:
        """Whether there will be more to remove afterwards."""
        return bool(self.graves) or any(
            each.first - each.log.stored_first >= CLEAN_MAX for each in self.firsts
        )


def write(session: Session, commit: Commit) -> None:
    """Writes it all, or raises as `Session.transaction`."""
    with session.transaction(commit.numbers(), is_synced=commit.is_synced) as cursor:
        _many(cursor, _UNDO, [(log.id, last) for log, last in commit.undo.items()])
        if commit.deleted:
            _many(cursor, _DELETE, [(log.appended, log.id) for log in commit.deleted])
            cursor.execute(_DELETE_SUBSCRIPTIONS, ([log.id for log in commit.deleted],))
        created = [(log.id, partition_of(log.name), log.name) for log in commit.created]
        _many(cursor, _CREATE, created)
        session.note_answer()
        if commit.writes:
            with cursor.copy(_COPY) as copy:
                copy.write(COPY_HEADER)
                for _, _, chunks in commit.writes:
                    for chunk in chunks:
                        for piece in chunk.pieces():
                            copy.write(piece)
                copy.write(COPY_TRAILER)
        _move_firsts(cursor, commit.firsts)
        for part, changes in commit.parts.items():
            session.note_answer()
            _write_part(cursor, part, changes, commit.ids)
        session.note_answer()
        if commit.lead:
            _write_lead(cursor, commit.lead)


def _many(cursor: Cursor, query: str, rows: Sequence[Sequence[Any]]) -> None:
    if len(rows) == 1:
        cursor.execute(query, rows[0])
    elif rows:
        cursor.executemany(query, rows)


def _move_firsts(cursor: Cursor, firsts: Iterable[First]) -> None:
    _many(
        cursor,
        _MOVE_FIRST,
        [(each.first, each.last, each.last_ns, each.log.id) for each in firsts],
    )


def _write_part(cursor: Cursor, part: int, changes: PartChanges, ids: Mapping[bytes, int]) -> None:
    rows = [(ids.get(key[0], 0), key[1], row) for key, row in changes.rows.items()]
    _many(cursor, _FORGET, [(channel, number) for channel, number, row in rows if row is None])
    saved = [
        subscription_values(channel, row) for channel, _, row in rows if row is not None and channel
    ]
    _many(cursor, _SAVE, saved)
    if changes.positions:
        moved = [
            (ids.get(channel, 0), number, last_sent, pack(pending))
            for (channel, number), (last_sent, pending) in changes.positions.items()
        ]
        cursor.execute(_MOVE, [list(column) for column in zip(*moved, strict=True)])
    if changes.last_id:
        cursor.execute(_LAST_ID, (changes.last_id, part))


def _write_lead(cursor: Cursor, changes: LeadChanges) -> None:
    if changes.server is not None:
        cursor.execute(_SAVE_SERVER, server_values(changes.server))
    if changes.clients:
        cursor.execute(_FORGET_CLIENTS, ([blob(each) for each in changes.clients],))
        saved = [client_values(row) for row in changes.clients.values() if row is not None]
        _many(cursor, _SAVE_CLIENT, saved)


def load(session: Session, task: Load) -> None:
    """Fetches it, or raises as `Session.reading`."""
    with session.reading() as cursor:
        cursor.execute(_LOAD, (task.log.id, task.first, task.last))
        task.rows = cursor.fetchall()


def clean(session: Session, task: Clean) -> None:
    """Removes a bounded number of messages of each channel, or raises as `Session.transaction`."""
    for each in task.firsts:
        start = each.log.stored_first
        end = min(each.first, start + CLEAN_MAX)
        with session.transaction({partition_of(each.log.name)}, is_synced=False) as cursor:
            _move_firsts(cursor, [each])
            cursor.execute(_CLEAN, (each.log.id, start, end))
        task.done.append((each.log, end))
    for grave in task.graves:
        end = min(grave.last + 1, grave.first + CLEAN_MAX)
        with session.transaction({grave.part}, is_synced=False) as cursor:
            cursor.execute(_CLEAN, (grave.id, grave.first, end))
            if end > grave.last:
                cursor.execute(_FORGET_CHANNEL, (grave.id,))
        grave.first = end
