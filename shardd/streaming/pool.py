"""What the workers of one streaming pool tell each other: data, its encoding, and its subjects.

Worker 0 is the lead. It alone says who is a client; the others follow. A worker that boots says
hello and is sent every client before it serves. A client's close reaches all workers directly, so
that it is behind the client's own publishes at each of them; each then says that it is done.

Each message travels as msgpack, in subjects that no client can reach.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from shardd.streaming.subjects import is_literal

LEAD: Final = 0

# The bus keeps subjects that begin like this from everybody but the workers of the pool.
PREFIX: Final = b"_SHARDD.streaming."
ALL: Final = PREFIX + b"all"


def is_inbox(subject: bytes) -> bool:
    """Whether the server may publish where a client says: one subject, and none of the pool's."""
    return is_literal(subject) and not subject.startswith(PREFIX)


# So many clients or channels travel in one message: it stays far below the largest payload.
ENTRIES_MAX: Final = 500
# How long the lead waits for the others before it answers a client without them.
WAIT_MS: Final = 1000
# How long a close may take elsewhere: a commit is under way, and its own comes behind it.
CLOSE_WAIT_MS: Final = 5000
# How often a worker says hello until the lead answers.
HELLO_MS: Final = 250


def subject_of(worker: int) -> bytes:
    """Where this worker alone is told something."""
    return b"%bworker.%d" % (PREFIX, worker)


def publish_subject_of(worker: int) -> bytes:
    """Where this worker takes publishes that others received for it: a PubMsg as it came."""
    return b"%bpublish.%d" % (PREFIX, worker)


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """A client as the lead knows it. The row stands field by field, as msgpack takes it."""

    number: int
    client_id: str
    heartbeat_inbox: bytes
    connection_id: bytes
    protocol: int
    ping_interval_s: int
    ping_max_out: int
    is_failing: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """A follower to the lead: it needs to know who is a client."""

    worker: int


@dataclass(frozen=True, slots=True)
class LeadUp:
    """The lead to all: it has been started; say hello."""

    worker: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The lead to one follower: the server, and every client. It comes in parts."""

    server: tuple[Any, ...]  # the fields of a ServerRow
    clients: tuple[tuple[Any, ...], ...]  # the fields of ClientFacts
    closed: tuple[str, ...]  # clients that ended while this worker was away
    is_first: bool
    is_last: bool


@dataclass(frozen=True, slots=True)
class ClientAdded:
    """The lead to all: somebody connected."""

    client: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ClientClosed:
    """The lead to all: somebody is gone who did not say so (replaced, or without heartbeat)."""

    number: int
    client_id: str


@dataclass(frozen=True, slots=True)
class ClientFailing:
    """The lead to all: whether a client answers heartbeats."""

    number: int
    client_id: str
    is_failing: bool


@dataclass(frozen=True, slots=True)
class Done:
    """A follower to the lead: it has added or closed that client, and what that changed is
    stored."""

    worker: int
    number: int
    what: str  # "added" or "closed"


@dataclass(frozen=True, slots=True)
class ChannelNames:
    """A worker to all or to one: which channels it has, or which came and went."""

    worker: int
    added: tuple[bytes, ...]
    removed: tuple[bytes, ...]
    is_all: bool  # these are the first of all of them
    wants_answer: bool  # tell me yours


@dataclass(frozen=True, slots=True)
class Bury:
    """A worker to the owner of the dead-letter channel: a message that was sent too often."""

    worker: int
    channel: bytes
    subscription: int
    sequence: int
    reply: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Buried:
    """And back: it is stored there."""

    channel: bytes
    subscription: int
    sequence: int


@dataclass(frozen=True, slots=True)
class GroupHello:
    """A follower to the lead, in a fault-tolerance group: is this server the active one?"""

    worker: int


@dataclass(frozen=True, slots=True)
class GroupActive:
    """The lead to all: it has the lock of the store. Open your parts of it."""

    worker: int


@dataclass(frozen=True, slots=True)
class GroupServing:
    """A follower to the lead: it serves."""

    worker: int


Message = (
    Hello
    | LeadUp
    | Snapshot
    | ClientAdded
    | ClientClosed
    | ClientFailing
    | Done
    | ChannelNames
    | Bury
    | Buried
    | GroupHello
    | GroupActive
    | GroupServing
)

_KINDS: Final[dict[str, type[Message]]] = {
    kind.__name__: kind
    for kind in (
        Hello,
        LeadUp,
        Snapshot,
        ClientAdded,
        ClientClosed,
        ClientFailing,
        Done,
        ChannelNames,
        Bury,
        Buried,
        GroupHello,
        GroupActive,
        GroupServing,
    )
}


def encode(message: Message) -> bytes:
    """For the bus."""
    packed: bytes = msgpack.packb(
        [type(message).__name__, *(getattr(message, f.name) for f in dataclasses.fields(message))]
    )
    return packed


def decode(data: bytes) -> Message:
    """From the bus.

    Raises:
        ValueError: it is none of these messages. Workers of one pool are of one version, so this
            is an error of ours.
    """
    kind, *values = msgpack.unpackb(data, use_list=False)
    if kind not in _KINDS:
        raise ValueError(f"unknown pool message {kind!r}")
    return _KINDS[kind](*values)


def facts_of(number: int, row: Any, is_failing: bool) -> ClientFacts:
    """A ClientRow with what else is to be known."""
    return ClientFacts(
        number,
        row.client_id,
        row.heartbeat_inbox,
        row.connection_id,
        row.protocol,
        row.ping_interval_s,
        row.ping_max_out,
        is_failing,
    )
