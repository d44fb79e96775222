"""The protobuf messages between clients and servers of NATS Streaming.

Names follow the house's style, numbers and types the original's package `pb`. Names of clients,
durables and queue groups and error texts are str; subjects, inboxes and opaque ids are bytes.
A message that carries nothing is encoded as no bytes at all; every field is then its default.
"""

import enum
from dataclasses import dataclass
from typing import Final

from shardd.streaming.protobuf import (
    Message,
    boolean,
    enumeration,
    int32,
    int64,
    octets,
    text,
    uint32,
    uint64,
)


class StartPosition(enum.IntEnum):
    """Where in a channel a new subscription begins."""

    NEW_ONLY = 0
    LAST_RECEIVED = 1
    TIME_DELTA = 2
    SEQUENCE = 3
    FIRST = 4


# --- connections ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectRequest(Message):
    """Asks for a connection. Protocol 1 has connection ids and pings, 0 has not."""

    client_id: str = text(1)
    heartbeat_inbox: bytes = octets(2)
    protocol: int = int32(3)
    conn_id: bytes = octets(4)
    ping_interval: int = int32(5)  # seconds
    ping_max_out: int = int32(6)


@dataclass(frozen=True, slots=True)
class ConnectResponse(Message):
    """Which subjects to use from now on, or why there is no connection."""

    pub_prefix: bytes = octets(1)
    sub_requests: bytes = octets(2)
    unsub_requests: bytes = octets(3)
    close_requests: bytes = octets(4)
    error: str = text(5)
    sub_close_requests: bytes = octets(6)
    ping_requests: bytes = octets(7)
    ping_interval: int = int32(8)  # seconds
    ping_max_out: int = int32(9)
    protocol: int = int32(10)
    public_key: bytes = octets(100)


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """A client asks whether its connection is still known."""

    conn_id: bytes = octets(1)


@dataclass(frozen=True, slots=True)
class PingResponse(Message):
    """Empty: it is."""

    error: str = text(1)


@dataclass(frozen=True, slots=True)
class CloseRequest(Message):
    """Ends a connection and all its subscriptions."""

    client_id: str = text(1)


@dataclass(frozen=True, slots=True)
class CloseResponse(Message):
    """Empty: it has ended."""

    error: str = text(1)


# --- subscriptions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubscriptionRequest(Message):
    """Asks for a subscription to a channel, or for a durable one to go on."""

    client_id: str = text(1)
    subject: bytes = octets(2)
    queue_group: str = text(3)
    inbox: bytes = octets(4)
    max_in_flight: int = int32(5)
    ack_wait_s: int = int32(6)
    durable_name: str = text(7)
    start_position: int = enumeration(10, StartPosition)
    start_sequence: int = uint64(11)
    start_time_delta_ns: int = int64(12)  # before now, by the server's clock


@dataclass(frozen=True, slots=True)
class SubscriptionResponse(Message):
    """Where acks go, or why there is no subscription. Empty after an unsubscribe or a close."""

    ack_inbox: bytes = octets(2)
    error: str = text(3)


@dataclass(frozen=True, slots=True)
class UnsubscribeRequest(Message):
    """Ends a subscription; which of the two ways, is in the NATS subject of the request."""

    client_id: str = text(1)
    subject: bytes = octets(2)
    inbox: bytes = octets(3)  # the ack inbox; the inbox for messages is accepted too
    durable_name: str = text(4)


# --- messages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PubMsg(Message):
    """A message from its publisher."""

    client_id: str = text(1)
    guid: bytes = octets(2)
    subject: bytes = octets(3)
    reply: bytes = octets(4)
    data: bytes = octets(5)
    conn_id: bytes = octets(6)
    sha256: bytes = octets(10)


@dataclass(frozen=True, slots=True)
class PubAck(Message):
    """A message is stored; with an error, it is not."""

    guid: bytes = octets(1)
    error: str = text(2)


@dataclass(frozen=True, slots=True)
class MsgProto(Message):
    """A message to a subscriber, and as it is stored."""

    sequence: int = uint64(1)
    subject: bytes = octets(2)
    reply: bytes = octets(3)
    data: bytes = octets(4)
    timestamp_ns: int = int64(5)
    redelivered: bool = boolean(6)
    redelivery_count: int = uint32(7)
    crc32: int = uint32(10)


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """A subscriber has dealt with a message."""

    subject: bytes = octets(1)
    sequence: int = uint64(2)


# The kinds of ControlMessage.
FT_HEARTBEAT: Final = 3
PARTITIONING: Final = 4


@dataclass(frozen=True, slots=True)
class ControlMessage(Message):
    """What servers say to each other (streaming sheet 14, 15)."""

    kind: int = int32(1)
    server_id: str = text(2)
    data: bytes = octets(3)
    reference: bytes = octets(4)
