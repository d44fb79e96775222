"""Protobuf for messages that are described field by field: what NATS Streaming needs of it.

A message is a frozen dataclass whose fields are declared with the functions below, which give
number and kind: that one description serves decoding and encoding. It is for the messages that
come once per client or subscription; those that come by the million have a parser of their own.

Input is judged as the generated Go code of the original server judges it, not as protobuf
libraries do: a known field with a foreign wire type is an error, numbers are cut to their width,
unknown fields are skipped. One thing is stricter: text must be UTF-8, because nothing that keeps
it could hold it otherwise. Subjects are bytes, in which anything may stand.
"""

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self, cast

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_GROUP: Final = 3
_GROUP_END: Final = 4
_FIXED32: Final = 5

_KIND: Final = "kind"
_NUMBER: Final = "number"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of one type travel. `read` gets the bytes or the unsigned 64 bits of the wire."""

    wire_type: int
    read: Callable[[Any], Any]
    write: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    name: str
    prefix: bytes  # the tag as it is written
    default: object
    kind: _Kind


@dataclass(frozen=True, slots=True)
class Message:
    """A protobuf message; the subclasses name its fields, in rising order of their numbers."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The message in these bytes. Raises ValueError if they are not one."""
        fields = _fields_of(cls)
        values: dict[str, object] = {}
        at = 0
        while at < len(data):
            start = at
            tag, at = _read_varint(data, at)
            field = fields.get(tag) or _odd_field(cls, tag)
            if field is None:
                at = _skip(data, start)
            elif field.kind.wire_type == _VARINT:
                raw, at = _read_varint(data, at)
                values[field.name] = field.kind.read(raw)
            else:
                end, at = _read_length(data, at)
                values[field.name] = field.kind.read(data[at:end])
                at = end
        return cls(**values)

    def encode(self) -> bytes:
        """The message as bytes, fields in order, without those that have their default.

        Raises ValueError for a number that does not fit its field.
        """
        pieces: list[bytes] = []
        for field in _fields_of(type(self)).values():
            value = getattr(self, field.name)
            if value != field.default:
                pieces += field.prefix, field.kind.write(value)
        return b"".join(pieces)


# --- declaring fields ----------------------------------------------------------------------------


def text(number: int) -> str:
    """A string: names and texts for people."""
    return cast(str, _declare(number, "", _Kind(_LENGTH, _read_text, _write_text)))


def octets(number: int) -> bytes:
    """Bytes, or a string in which anything may stand: payloads, subjects, inboxes, ids."""
    return cast(bytes, _declare(number, b"", _Kind(_LENGTH, bytes, _write_bytes)))


def int32(number: int) -> int:
    """A signed number of 32 bits."""
    return cast(int, _declare(number, 0, _number_kind(32, signed=True)))


def int64(number: int) -> int:
    """A signed number of 64 bits."""
    return cast(int, _declare(number, 0, _number_kind(64, signed=True)))


def uint32(number: int) -> int:
    """An unsigned number of 32 bits."""
    return cast(int, _declare(number, 0, _number_kind(32, signed=False)))


def uint64(number: int) -> int:
    """An unsigned number of 64 bits."""
    return cast(int, _declare(number, 0, _number_kind(64, signed=False)))


def boolean(number: int) -> bool:
    """A flag."""
    kind = _Kind(_VARINT, bool, lambda value: _varint(int(value)))
    return cast(bool, _declare(number, False, kind))


def enumeration(number: int, members: type[enum.IntEnum]) -> int:
    """A member of an enumeration whose first member is 0, or the bare number of an unknown one."""
    plain = _number_kind(32, signed=True)

    def read(raw: int) -> int:
        value = cast(int, plain.read(raw))
        return members(value) if value in members.__members__.values() else value

    return cast(int, _declare(number, members(0), _Kind(_VARINT, read, plain.write)))


def _declare(number: int, default: object, kind: _Kind) -> object:
    return dataclasses.field(default=default, metadata={_NUMBER: number, _KIND: kind})


_TABLES: Final[dict[type[Message], dict[int, _Field]]] = {}


def _fields_of(message: type[Message]) -> dict[int, _Field]:
    """The fields of a message class by tag, from what was declared; put together at first use."""
    if message in _TABLES:
        return _TABLES[message]
    fields: dict[int, _Field] = {}
    for declared in dataclasses.fields(message):
        number, kind = declared.metadata[_NUMBER], declared.metadata[_KIND]
        tag = number << 3 | kind.wire_type
        fields[tag] = _Field(number, declared.name, _varint(tag), declared.default, kind)
    _TABLES[message] = fields
    return fields


def _odd_field(message: type[Message], tag: int) -> _Field | None:
    """The field of a tag that is not written as ours are; None if there is no such field.

    Raises ValueError if the tag is none, or a known field's with a foreign wire type.
    """
    number = _signed(tag >> 3, 32)
    wire_type = tag & 7
    if wire_type == _GROUP_END or number <= 0:
        raise ValueError(f"{message.__name__}: bad tag {tag}")
    for field in _fields_of(message).values():
        if field.number == number:
            if wire_type != field.kind.wire_type:
                raise ValueError(f"{message.__name__}.{field.name}: wire type {wire_type}")
            return field
    return None


# --- values --------------------------------------------------------------------------------------


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _number_kind(bits: int, *, signed: bool) -> _Kind:
    lowest = -(1 << (bits - 1)) if signed else 0
    highest = lowest + (1 << bits) - 1

    def read(raw: int) -> int:
        return _signed(raw, bits) if signed else raw & highest

    def write(value: int) -> bytes:
        if not lowest <= value <= highest:
            raise ValueError(f"{value} is not a number of {bits} bits")
        return _varint(value & 0xFFFF_FFFF_FFFF_FFFF)

    return _Kind(_VARINT, read, write)


def _read_text(raw: bytes) -> str:
    return raw.decode()


def _write_text(value: str) -> bytes:
    return _write_bytes(value.encode())


def _write_bytes(value: bytes) -> bytes:
    return _varint(len(value)) + value


# --- the wire ------------------------------------------------------------------------------------


_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))


def _varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte, the lowest first."""
    if value <= 0x7F:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place and the place behind it; bits above the 64th are dropped."""
    if at < len(data) and data[at] <= 0x7F:
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("message ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("number of more than 64 bits")


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    """Where the bytes whose length stands here end, and where they begin."""
    length, at = _read_varint(data, at)
    if length > len(data) - at:
        raise ValueError("message ends within a field")
    return at + length, at


def _skip(data: bytes, at: int) -> int:
    """The place behind the unknown field whose tag stands here, groups with all that is in them."""
    depth = 0
    while True:
        tag, at = _read_varint(data, at)
        match tag & 7:
            case 0:
                _, at = _read_varint(data, at)
            case 1:
                at += 8
            case 2:
                at, _ = _read_length(data, at)
            case 3:
                depth += 1
            case 4:
                depth -= 1
            case 5:
                at += 4
            case wire_type:
                raise ValueError(f"unknown wire type {wire_type}")
        if at > len(data):
            raise ValueError("message ends within a field")
        if depth == 0:
            return at
