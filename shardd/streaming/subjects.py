"""The NATS subjects of NATS Streaming, and which part of a store a channel belongs to (sheet 1).

Subjects and channels are bytes: any byte but a line end may stand in them.
"""

import zlib
from dataclasses import dataclass
from typing import Final

from shardd.errors import printable

# A store has this many parts; each belongs to one streaming worker at a time. The number is part
# of the layout on disk: a channel's part must not change.
PARTITIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Subjects:
    """Where a streaming server listens; `pub` is a prefix, the channel follows it."""

    discover: bytes
    pings: bytes
    pub: bytes
    sub: bytes
    unsub: bytes
    sub_close: bytes
    close: bytes


def subjects_of(cluster_id: str, discover_prefix: str = "_STAN.discover") -> Subjects:
    """The subjects of a cluster that starts with an empty store; a store keeps those it has."""
    cluster = cluster_id.encode()
    discover = b"%s.%s" % (discover_prefix.encode(), cluster)
    return Subjects(
        discover=discover,
        pings=discover + b".pings",
        pub=b"_STAN.pub." + cluster,
        sub=b"_STAN.sub." + cluster,
        unsub=b"_STAN.unsub." + cluster,
        sub_close=b"_STAN.subclose." + cluster,
        close=b"_STAN.close." + cluster,
    )


def partition_of(channel: bytes) -> int:
    """The part of a store that holds the channel: 0 to PARTITIONS - 1."""
    return zlib.crc32(channel) % PARTITIONS


def partitions_of(index: int, workers: int) -> tuple[int, ...]:
    """The parts that belong to one of so many streaming workers."""
    return tuple(part for part in range(PARTITIONS) if part % workers == index)


def is_channel(name: bytes) -> bool:
    """Whether a channel may have this name (sheet 4)."""
    if not name or name[:1] == b"." or name[-1:] == b"." or b".." in name:
        return False
    return not any(sign in name for sign in (b"/", b"*", b">"))


def is_literal(subject: bytes) -> bool:
    """Whether messages can be published to this subject: an inbox that a client names must not
    be a pattern, nor something that would read as more than one word on a wire."""
    tokens = subject.split(b".")
    return all(tokens) and not (
        b"*" in tokens or b">" in tokens or any(byte <= 0x20 or byte == 0x7F for byte in subject)
    )


def shown(channel: bytes) -> str:
    """A channel's name as it can stand in a line of text."""
    return printable(channel.decode("utf-8", "backslashreplace"))
