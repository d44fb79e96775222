"""Records of a ring in plain Python: the twin of `shardd.router.frame`, slow and easy to check.

A record is a header of fixed fields, the targets, the subject and the tail, padded to 8. A target
is process, length and name, the name padded to 4.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

HEADER: Final = struct.Struct("=IIQQIIIIIHBBII")
TARGET: Final = struct.Struct("=II")


@dataclass(frozen=True)
class Header:
    """The fields of a record's header, in their order."""

    length: int
    account: int
    processes: int
    publisher: int
    subject_len: int
    tail_len: int
    reply_len: int
    header_len: int
    total_len: int
    flags: int
    hops: int
    kind: int
    target_count: int
    targets_len: int

    def packed(self) -> bytes:
        """The header as bytes."""
        return HEADER.pack(*(getattr(self, field.name) for field in fields(self)))


def offset_of(name: str) -> int:
    """Where a header field begins."""
    names = [field.name for field in fields(Header)]
    codes = HEADER.format.lstrip("=")
    return struct.calcsize("=" + codes[: names.index(name)])


def padded(length: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-length // unit) * unit


def encode(
    header: Header, targets: Sequence[tuple[int, bytes]], subject: bytes, tail: bytes
) -> bytes:
    """A record with the lengths that its parts have; the other fields are those of `header`."""
    packed = b"".join(
        TARGET.pack(process, len(name)) + name.ljust(padded(len(name), 4), b"\0")
        for process, name in targets
    )
    body = packed + subject + tail
    length = padded(HEADER.size + len(body), 8)
    values = {field.name: getattr(header, field.name) for field in fields(Header)} | {
        "length": length,
        "subject_len": len(subject),
        "tail_len": len(tail),
        "target_count": len(targets),
        "targets_len": len(packed),
    }
    return (Header(**values).packed() + body).ljust(length, b"\0")


def header_of(record: bytes) -> Header | None:
    """The header, or None when there is none."""
    if len(record) < HEADER.size:
        return None
    return Header(*HEADER.unpack_from(record))


def contradictions(header: Header, available: int) -> Iterator[str]:
    """What is wrong with the lengths of a record of which so many bytes are there."""
    if header.length > available:
        yield "longer than what is there"
    if header.length % 8:
        yield "not padded"
    if header.length < HEADER.size:
        yield "shorter than its header"
    if HEADER.size + header.targets_len + header.subject_len + header.tail_len > header.length:
        yield "parts longer than the whole"
    # A blank, the reply, and at least the two bytes that end a payload.
    if 1 + header.reply_len + header.total_len + 2 > header.tail_len:
        yield "reply and payload longer than the tail"
    if header.header_len > header.total_len:
        yield "header block longer than the message"


def read(record: bytes) -> tuple[int, int, int, bytes, bytes, int, int, int] | None:
    """What `frame_probe.read` should say."""
    header = header_of(record)
    if header is None or any(contradictions(header, len(record))):
        return None
    start = HEADER.size + header.targets_len
    middle = start + header.subject_len
    return (
        header.account,
        header.flags,
        header.publisher,
        record[start:middle],
        record[middle : middle + header.tail_len],
        header.reply_len,
        header.header_len,
        header.total_len,
    )


def read_target_at(record: bytes, offset: int) -> tuple[int, bytes, int] | None:
    """What `frame_probe.read_target_at` should say of a record that `read` takes."""
    header = header_of(record)
    assert header is not None
    targets = record[HEADER.size : HEADER.size + header.targets_len]
    if offset + TARGET.size > len(targets):
        return None
    process, name_len = TARGET.unpack_from(targets, offset)
    end = offset + TARGET.size + padded(name_len, 4)
    if end > len(targets):
        return None
    start = offset + TARGET.size
    return process, targets[start : start + name_len], end
