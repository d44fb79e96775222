"""The files of the original server's FILE store, read (sheet 13). Nothing is written.

Every file begins with a version and holds records: size, CRC-32, protobuf. In some files the
topmost byte of the size is the kind of the record. Nothing is believed before its checksum agrees.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shardd.errors import StoreError
from shardd.streaming.msgproto import decode
from shardd.streaming.store import ClientRow, SubscriptionRow

SERVER_FILE: Final = "server.dat"
CLIENTS_FILE: Final = "clients.dat"
SUBSCRIPTIONS_FILE: Final = "subs.dat"

_VERSION: Final = 1
_HEADER_BYTES: Final = 8
_READ_BYTES: Final = 1 << 20
_ADDED, _FORGOTTEN = 1, 2  # in clients.dat
_NEW, _UPDATED, _DELETED, _ACKED, _SENT = 1, 2, 3, 4, 5  # in subs.dat

Fields = dict[int, int | bytes]


@dataclass(frozen=True, slots=True)
class ForeignServer:
    """What server.dat says."""

    cluster_id: str
    discover: bytes
    publish: bytes
    subscribe: bytes
    unsubscribe: bytes
    close: bytes
    sub_close: bytes


@dataclass(slots=True)
class ForeignMessage:
    """One stored message."""

    sequence: int
    reply: bytes
    data: bytes
    timestamp_ns: int


@dataclass(slots=True)
class _Subscription:
    state: Fields
    last_sent: int = 0
    pending: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Findings:
    """What was seen while reading, and what may be passed over."""

    is_cut_allowed: bool = False  # a file may end inside a record
    notes: list[str] = field(default_factory=list)

    def note_short(self, path: Path, offset: int) -> None:
        """A file ends inside a record.

        Raises:
            StoreError: that is not allowed.
        """
        if not self.is_cut_allowed:
            raise StoreError(
                f"{path}: ends inside the record at byte {offset}: restore the file from a copy, or"
                " allow to leave out what is behind that byte with --truncate-bad-eof"
            )
        self.notes.append(f"{path}: what is behind byte {offset} was left out")


def records(path: Path, findings: Findings, *, is_typed: bool) -> Iterator[tuple[int, bytes]]:
    """Kind (0 in files without) and content of each record. A run of zeros at the end, which is
    what a power failure may leave, is left out and noted.

    Raises:
        StoreError: another version, or damage.
    """
    size = path.stat().st_size
    with path.open("rb", buffering=_READ_BYTES) as file:
        version = int.from_bytes(file.read(4), "little")
        if version != _VERSION:
            raise StoreError(f"{path}: version {version} is not known")
        offset = 4
        while offset < size:
            header = file.read(_HEADER_BYTES)
            length = int.from_bytes(header[:4], "little")
            kind = 0
            if is_typed:
                kind, length = length >> 24, length & 0xFF_FFFF
            room = size - offset - _HEADER_BYTES
            if not any(header):
                findings.notes.append(f"{path}: zeros from byte {offset} on were left out")
                return
            if length > room:
                findings.note_short(path, offset)
                return
            content = file.read(length)
            if zlib.crc32(content) != int.from_bytes(header[4:], "little"):
                raise StoreError(
                    f"{path}: damaged at byte {offset}: the record there has another checksum"
                    " than when it was written; restore the file from a copy"
                )
            yield kind, content
            offset += _HEADER_BYTES + length


def fields_of(message: bytes) -> Fields:
    """The last value of each field of a protobuf message; ValueError: this is none."""
    found: Fields = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                found[key >> 3], at = _varint(message, at)
            case 2:
                length, at = _varint(message, at)
                if length > len(message) - at:
                    raise ValueError("a field is cut off")
                found[key >> 3] = message[at : at + length]
                at += length
            case kind:
                raise ValueError(f"a field of kind {kind}")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise ValueError("a number is cut off")


def _fields(path: Path, message: bytes) -> Fields:
    try:
        return fields_of(message)
    except ValueError as error:
        raise StoreError(f"{path}: not what this file should hold: {error}") from None


def number(found: Fields, key: int) -> int:
    """A number; 0 when it was left out."""
    value = found.get(key, 0)
    return value if isinstance(value, int) else 0


def blob(found: Fields, key: int) -> bytes:
    """Bytes; none when they were left out."""
    value = found.get(key, b"")
    return value if isinstance(value, bytes) else b""


def text(found: Fields, key: int) -> str:
    """Text, whatever bytes it is."""
    return blob(found, key).decode("utf-8", "surrogateescape")


# --- the files -------------------------------------------------------------------------------


def read_server(directory: Path, findings: Findings) -> ForeignServer:
    """Who the server is.

    Raises:
        StoreError: there is no such file, or it is damaged.
    """
    path = directory / SERVER_FILE
    if not path.is_file():
        raise StoreError(f"{directory}: not a FILE store of the original server: no {SERVER_FILE}")
    for _, content in records(path, findings, is_typed=False):
        found = _fields(path, content)
        return ForeignServer(text(found, 1), *(blob(found, key) for key in range(2, 8)))
    raise StoreError(f"{path}: it is empty")


def read_clients(directory: Path, findings: Findings) -> list[ClientRow]:
    """Those that were connected last."""
    path = directory / CLIENTS_FILE
    clients: dict[str, ClientRow] = {}
    if not path.is_file():
        return []
    for kind, content in records(path, findings, is_typed=True):
        found = _fields(path, content)
        name = text(found, 1)
        if kind == _ADDED:
            clients[name] = ClientRow(
                client_id=name,
                heartbeat_inbox=blob(found, 2),
                connection_id=blob(found, 3),
                protocol=number(found, 4),
                ping_interval_s=number(found, 5),
                ping_max_out=number(found, 6),
            )
        elif kind == _FORGOTTEN:
            clients.pop(name, None)
        else:
            raise StoreError(f"{path}: a record of kind {kind} is not known")
    return list(clients.values())


def channels_of(directory: Path) -> list[Path]:
    """The directories of channels: each has the channel's name."""
    return sorted(
        path
        for path in directory.iterdir()
        if path.is_dir() and ((path / SUBSCRIPTIONS_FILE).exists() or _message_files(path))
    )


def _message_files(channel: Path) -> list[Path]:
    """The slices of a channel, the oldest first."""
    found = []
    for path in channel.glob("msgs.*.dat"):
        middle = path.name.split(".")[1]
        if middle.isascii() and middle.isdigit():
            found.append((int(middle), path))
    return [path for _, path in sorted(found)]


def read_messages(channel: Path, findings: Findings) -> Iterator[ForeignMessage]:
    """All messages of a channel, the oldest first.

    Raises:
        StoreError: damage.
    """
    name = os.fsencode(channel.name)
    for path in _message_files(channel):
        for _, content in records(path, findings, is_typed=False):
            try:
                sequence, subject, reply, data, timestamp_ns = decode(content)
            except ValueError:
                raise StoreError(f"{path}: a record is not a message") from None
            if subject not in (name, b""):
                raise StoreError(f"{path}: message {sequence} belongs to another channel")
            yield ForeignMessage(sequence, reply, data, timestamp_ns)


def read_subscriptions(channel: Path, findings: Findings) -> list[SubscriptionRow]:
    """Those that were there last, offline durables included, each where it was.

    Raises:
        StoreError: damage.
    """
    path = channel / SUBSCRIPTIONS_FILE
    found: dict[int, _Subscription] = {}
    if not path.is_file():
        return []
    for kind, content in records(path, findings, is_typed=True):
        state = _fields(path, content)
        identity = number(state, 1)
        known = found.get(identity)
        if kind in (_NEW, _UPDATED):
            if known is None:
                known = found[identity] = _Subscription(state)
            known.state = state
            known.last_sent = max(known.last_sent, number(state, 9))
        elif kind == _DELETED:
            found.pop(identity, None)
        elif kind in (_ACKED, _SENT):
            if known is not None:
                _move(known, kind, number(state, 2))
        else:
            raise StoreError(f"{path}: a record of kind {kind} is not known")
    return [_row(identity, each) for identity, each in sorted(found.items())]


def _move(known: _Subscription, kind: int, sequence: int) -> None:
    if kind == _ACKED:
        known.pending.discard(sequence)
    else:
        known.pending.add(sequence)
        known.last_sent = max(known.last_sent, sequence)


def _row(identity: int, known: _Subscription) -> SubscriptionRow:
    state = known.state
    return SubscriptionRow(
        id=identity,
        client_id=text(state, 2),
        inbox=blob(state, 4),
        ack_inbox=blob(state, 5),
        max_in_flight=number(state, 6),
        ack_wait_s=number(state, 7),
        durable_name=text(state, 8),
        queue_group=text(state, 3),
        last_sent=known.last_sent,
        is_durable=bool(number(state, 10) or blob(state, 8)),
        is_closed=bool(number(state, 11)),
        pending=tuple(sorted(known.pending)),
    )
