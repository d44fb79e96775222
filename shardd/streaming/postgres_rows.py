"""The rows of the PostgreSQL store: how the core's rows stand in the tables, and are read again.

Names from clients are bytes in the tables, whatever they came as.
"""

from collections.abc import Sequence
from typing import Any

from shardd.errors import StoreError
from shardd.streaming.state_db import pack, unpack
from shardd.streaming.store import ClientRow, ServerRow, SubscriptionRow


def blob(text: str) -> bytes:
    """A name as it is stored."""
    return text.encode("utf-8", "surrogateescape")


def text_of(stored: bytes) -> str:
    """The name again."""
    return stored.decode("utf-8", "surrogateescape")


def server_values(row: ServerRow) -> tuple[object, ...]:
    """In the order of `shardd_server`, from `cluster_id` on."""
    subjects = (row.discover, row.pub, row.sub, row.unsub, row.sub_close, row.close)
    return (row.cluster_id, *subjects, row.inbox_prefix, row.key_check)


def server_of(row: Sequence[Any]) -> ServerRow:
    """The same backwards."""
    return ServerRow(*row)


def client_values(row: ClientRow) -> tuple[object, ...]:
    """In the order of `shardd_clients`."""
    return (
        blob(row.client_id),
        row.heartbeat_inbox,
        row.connection_id,
        row.protocol,
        row.ping_interval_s,
        row.ping_max_out,
    )


def client_of(row: Sequence[Any]) -> ClientRow:
    """The same backwards."""
    return ClientRow(text_of(row[0]), *row[1:])


def subscription_values(channel: int, row: SubscriptionRow) -> tuple[object, ...]:
    """In the order of `shardd_subscriptions`."""
    return (
        channel,
        row.id,
        blob(row.client_id),
        row.inbox,
        row.ack_inbox,
        row.max_in_flight,
        row.ack_wait_s,
        blob(row.durable_name),
        blob(row.queue_group),
        row.last_sent,
        row.is_durable,
        row.is_closed,
        pack(row.pending),
        row.owner,
    )


def subscription_of(row: Sequence[Any]) -> SubscriptionRow:
    """The same backwards, from `id` on.

    Raises:
        StoreError: somebody else has written into it.
    """
    number, client, inbox, ack_inbox, in_flight, wait_s, durable, group, *rest = row
    last_sent, is_durable, is_closed, pending, owner = rest
    try:
        sequences = unpack(pending)
    except ValueError as error:
        raise StoreError(f"shardd_subscriptions: id {number}: pending: {error}") from None
    return SubscriptionRow(
        id=number,
        client_id=text_of(client),
        inbox=inbox,
        ack_inbox=ack_inbox,
        max_in_flight=in_flight,
        ack_wait_s=wait_s,
        durable_name=text_of(durable),
        queue_group=text_of(group),
        last_sent=last_sent,
        is_durable=is_durable,
        is_closed=is_closed,
        pending=sequences,
        owner=owner,
    )
