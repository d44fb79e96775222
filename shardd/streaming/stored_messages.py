"""The protobuf rows of the original server's file store (its package `spb`), for the importer.

Messages themselves are stored as `messages.MsgProto`.
"""

from dataclasses import dataclass

from shardd.streaming.protobuf import Message, boolean, int32, octets, text, uint64


@dataclass(frozen=True, slots=True)
class ServerInfo(Message):
    """The one record of `server.dat`: who the server is and where it listens."""

    cluster_id: str = text(1)
    discover: bytes = octets(2)
    pub: bytes = octets(3)
    sub: bytes = octets(4)
    unsub: bytes = octets(5)
    close: bytes = octets(6)
    sub_close: bytes = octets(7)
    acks_subs: bytes = octets(8)
    node_id: str = text(9)


@dataclass(frozen=True, slots=True)
class ClientInfo(Message):
    """A record of `clients.dat`: a client came."""

    client_id: str = text(1)
    heartbeat_inbox: bytes = octets(2)
    conn_id: bytes = octets(3)
    protocol: int = int32(4)
    ping_interval: int = int32(5)  # seconds
    ping_max_out: int = int32(6)


@dataclass(frozen=True, slots=True)
class ClientDelete(Message):
    """A record of `clients.dat`: a client went."""

    client_id: str = text(1)


@dataclass(frozen=True, slots=True)
class SubState(Message):
    """A record of `subs.dat`: a subscription as it is now."""

    id: int = uint64(1)
    client_id: str = text(2)  # empty: a durable queue group without a member
    queue_group: str = text(3)  # `durable:queue` for a durable one
    inbox: bytes = octets(4)
    ack_inbox: bytes = octets(5)
    max_in_flight: int = int32(6)
    ack_wait_s: int = int32(7)
    durable_name: str = text(8)
    last_sent: int = uint64(9)
    is_durable: bool = boolean(10)
    is_closed: bool = boolean(11)


@dataclass(frozen=True, slots=True)
class SubStateDelete(Message):
    """A record of `subs.dat`: a subscription is gone."""

    id: int = uint64(1)


@dataclass(frozen=True, slots=True)
class SubStateUpdate(Message):
    """A record of `subs.dat`: a message was sent to a subscription, or acknowledged by it."""

    id: int = uint64(1)
    sequence: int = uint64(2)
