"""What the PostgreSQL store finds when it is opened: channels, subscriptions, clients, server.

Of messages only times and sizes are read. They come in packed groups, because a row for each would
cost more than all the rest.
"""

from dataclasses import dataclass, field
from typing import Final

from shardd.streaming.file_recovery import clamp
from shardd.streaming.postgres_commit import Grave
from shardd.streaming.postgres_log import PostgresHome, PostgresLog
from shardd.streaming.postgres_rows import client_of, server_of, subscription_of
from shardd.streaming.postgres_session import LEAD_PART, Cursor, Session
from shardd.streaming.store import ClientRow, RecoveredChannel, ServerRow, SubscriptionRow
from shardd.streaming.subjects import shown

_CHANNELS: Final = """
SELECT c.id, c.name, c.part, c.is_deleted, c.first, c.last, c.last_ns,
    coalesce((SELECT min(sequence) FROM shardd_messages WHERE channel = c.id), 0),
    coalesce((SELECT max(sequence) FROM shardd_messages WHERE channel = c.id), 0)
FROM shardd_channels AS c WHERE c.part = ANY(%s) ORDER BY c.id
"""
_MESSAGES: Final = """
SELECT m.channel, string_agg(
    int8send(m.sequence) || int8send(m.time_ns) || int4send(octet_length(m.data)), ''::bytea)
FROM shardd_messages AS m JOIN shardd_channels AS c ON c.id = m.channel
WHERE c.part = ANY(%s) AND NOT c.is_deleted AND m.sequence >= c.first
GROUP BY m.channel, m.sequence / 4096
"""
_SUBSCRIPTIONS: Final = """
SELECT s.* FROM shardd_subscriptions AS s JOIN shardd_channels AS c ON c.id = s.channel
WHERE c.part = ANY(%s) AND NOT c.is_deleted ORDER BY s.channel, s.id
"""
_FETCHED: Final = 64  # groups at once


@dataclass(slots=True)
class Found:
    """All of it."""

    server: ServerRow | None = None
    clients: tuple[ClientRow, ...] = ()
    channels: list[RecoveredChannel] = field(default_factory=list)
    graves: list[Grave] = field(default_factory=list)
    last_ids: dict[int, int] = field(default_factory=dict)  # of subscriptions, by part
    channel_ids: dict[int, int] = field(default_factory=dict)  # highest, by part
    repairs: list[str] = field(default_factory=list)


def read_all(session: Session, parts: list[int], home: PostgresHome, *, is_lead: bool) -> Found:
    """Everything of these parts. Raises as `Session.reading`, and StoreError for what cannot be
    read."""
    found = Found()
    numbers = [part for part in parts if part != LEAD_PART]
    with session.reading(is_long=True) as cursor:
        cursor.execute("SELECT part, last_id FROM shardd_parts WHERE part = ANY(%s)", (numbers,))
        found.last_ids = dict(cursor.fetchall())
        logs = _channels(cursor, numbers, home, found)
        _messages(cursor, numbers, logs)
        rows = _subscriptions(cursor, numbers)
        if is_lead:
            cursor.execute("SELECT * FROM shardd_server")
            found.server = next((server_of(row[1:]) for row in cursor.fetchall()), None)
            cursor.execute("SELECT * FROM shardd_clients ORDER BY client_id")
            found.clients = tuple(client_of(row) for row in cursor.fetchall())
    for log in logs.values():
        missing = log.end_restore()
        if missing:
            found.repairs.append(
                f"channel {shown(log.name)}: {missing} of its messages are not in the database"
            )
        subscriptions = tuple(
            clamp(log.name, log.last, row, found.repairs) for row in rows.get(log.id, ())
        )
        found.channels.append(RecoveredChannel(log, subscriptions))
    return found


def _channels(
    cursor: Cursor, parts: list[int], home: PostgresHome, found: Found
) -> dict[int, PostgresLog]:
    logs = {}
    cursor.execute(_CHANNELS, (parts,))
    for number, name, part, is_deleted, kept, end, last_ns, lowest, highest in cursor.fetchall():
        found.channel_ids[part] = max(found.channel_ids.get(part, 0), number)
        if is_deleted:
            found.graves.append(Grave(number, part, lowest, highest))
            continue
        log = PostgresLog(home, name, number)
        last = max(end, highest)
        # Everything may be gone: what comes next still has a sequence of its own.
        first = min(max(kept, lowest), last + 1) if highest else last + 1
        log.restore(lowest or first, first, last, last_ns)
        logs[number] = log
    return logs


def _messages(cursor: Cursor, parts: list[int], logs: dict[int, PostgresLog]) -> None:
    with cursor.connection.transaction(), cursor.connection.cursor("index", binary=True) as index:
        index.execute(_MESSAGES, (parts,))
        while groups := index.fetchmany(_FETCHED):
            for channel, records in groups:
                logs[channel].restore_messages(records)


def _subscriptions(cursor: Cursor, parts: list[int]) -> dict[int, list[SubscriptionRow]]:
    rows: dict[int, list[SubscriptionRow]] = {}
    cursor.execute(_SUBSCRIPTIONS, (parts,))
    for row in cursor.fetchall():
        rows.setdefault(row[0], []).append(subscription_of(row[1:]))
    return rows
