"""The streaming messages against Google's protobuf library, which gets their description from here.

The description is written down a second time, in the words of protobuf. The library is stricter
than the original server in one thing and laxer in another; both are said where they matter.
"""

import dataclasses
import enum
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Oracle
from hypothesis import given
from hypothesis import strategies as st

from shardd.streaming import messages, stored_messages
from shardd.streaming.protobuf import Message

# Where any byte may stand, the original says `string` and this says `bytes`: the same on the wire.
DESCRIPTIONS: Final = {
    messages.ConnectRequest: (
        "client_id string 1, heartbeat_inbox bytes 2, protocol int32 3, conn_id bytes 4, "
        "ping_interval int32 5, ping_max_out int32 6"
    ),
    messages.ConnectResponse: (
        "pub_prefix bytes 1, sub_requests bytes 2, unsub_requests bytes 3, close_requests bytes 4, "
        "error string 5, sub_close_requests bytes 6, ping_requests bytes 7, ping_interval int32 8, "
        "ping_max_out int32 9, protocol int32 10, public_key bytes 100"
    ),
    messages.ControlMessage: "kind int32 1, server_id string 2, data bytes 3, reference bytes 4",
    messages.Ping: "conn_id bytes 1",
    messages.PingResponse: "error string 1",
    messages.CloseRequest: "client_id string 1",
    messages.CloseResponse: "error string 1",
    messages.SubscriptionRequest: (
        "client_id string 1, subject bytes 2, queue_group string 3, inbox bytes 4, "
        "max_in_flight int32 5, ack_wait_s int32 6, durable_name string 7, "
        "start_position StartPosition 10, start_sequence uint64 11, start_time_delta_ns int64 12"
    ),
    messages.SubscriptionResponse: "ack_inbox bytes 2, error string 3",
    messages.UnsubscribeRequest: (
        "client_id string 1, subject bytes 2, inbox bytes 3, durable_name string 4"
    ),
    messages.PubMsg: (
        "client_id string 1, guid bytes 2, subject bytes 3, reply bytes 4, data bytes 5, "
        "conn_id bytes 6, sha256 bytes 10"
    ),
    messages.PubAck: "guid bytes 1, error string 2",
    messages.MsgProto: (
        "sequence uint64 1, subject bytes 2, reply bytes 3, data bytes 4, timestamp_ns int64 5, "
        "redelivered bool 6, redelivery_count uint32 7, crc32 uint32 10"
    ),
    messages.Ack: "subject bytes 1, sequence uint64 2",
    stored_messages.ServerInfo: (
        "cluster_id string 1, discover bytes 2, pub bytes 3, sub bytes 4, unsub bytes 5, "
        "close bytes 6, sub_close bytes 7, acks_subs bytes 8, node_id string 9"
    ),
    stored_messages.ClientInfo: (
        "client_id string 1, heartbeat_inbox bytes 2, conn_id bytes 3, protocol int32 4, "
        "ping_interval int32 5, ping_max_out int32 6"
    ),
    stored_messages.ClientDelete: "client_id string 1",
    stored_messages.SubState: (
        "id uint64 1, client_id string 2, queue_group string 3, inbox bytes 4, ack_inbox bytes 5, "
        "max_in_flight int32 6, ack_wait_s int32 7, durable_name string 8, last_sent uint64 9, "
        "is_durable bool 10, is_closed bool 11"
    ),
    stored_messages.SubStateDelete: "id uint64 1",
    stored_messages.SubStateUpdate: "id uint64 1, sequence uint64 2",
}

TYPES: Final = descriptor_pb2.FieldDescriptorProto.Type
LENGTH_TYPES: Final = ("string", "bytes")

VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "string": st.text(max_size=6),
    "bytes": st.binary(max_size=6),
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint32": st.integers(0, (1 << 32) - 1),
    "uint64": st.integers(0, (1 << 64) - 1),
    "bool": st.booleans(),
    "StartPosition": st.sampled_from(messages.StartPosition) | st.integers(5, (1 << 31) - 1),
}


@dataclasses.dataclass(frozen=True)
class Described:
    """A message class of ours, the library's twin, and the type of each field by its number."""

    ours: type[Message]
    theirs: type[Oracle]
    names: dict[str, str]
    types: dict[int, str]


def describe() -> list[Described]:
    file = descriptor_pb2.FileDescriptorProto(name="stan.proto", package="oracle", syntax="proto3")
    positions = file.enum_type.add(name="StartPosition")
    for member in messages.StartPosition:
        positions.value.add(name=member.name, number=member.value)
    parsed: dict[type[Message], list[list[str]]] = {}
    for ours, text in DESCRIPTIONS.items():
        parsed[ours] = [field.split() for field in text.split(", ")]
        message = file.message_type.add(name=ours.__name__)
        for name, kind, number in parsed[ours]:
            field = message.field.add(name=name, number=int(number))
            field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            if kind == "StartPosition":
                field.type = TYPES.TYPE_ENUM
                field.type_name = ".oracle.StartPosition"
            else:
                field.type = TYPES.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        Described(
            ours,
            message_factory.GetMessageClass(pool.FindMessageTypeByName(f"oracle.{ours.__name__}")),
            {name: kind for name, kind, _ in fields},
            {int(number): kind for _, kind, number in fields},
        )
        for ours, fields in parsed.items()
    ]


ALL: Final = describe()


def values_of(described: Described, oracle: Oracle) -> dict[str, Any]:
    return {name: getattr(oracle, name) for name in described.names}


def judge(described: Described, data: bytes) -> dict[str, Any] | None:
    """What the library reads in these bytes; None if nothing."""
    oracle = described.theirs()
    try:
        oracle.ParseFromString(data)
    except DecodeError:
        return None
    return values_of(described, oracle)


def read(described: Described, data: bytes) -> dict[str, Any] | None:
    """What we read."""
    try:
        message = described.ours.decode(data)
    except ValueError:
        return None
    return {name: getattr(message, name) for name in described.names}


def varint(value: int) -> bytes:
    out = []
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


@st.composite
def filled(draw: st.DrawFn) -> tuple[Described, dict[str, Any]]:
    """A message with some of its fields."""
    described = draw(st.sampled_from(ALL))
    fields = {name: VALUES[kind] for name, kind in described.names.items()}
    return described, draw(st.fixed_dictionaries({}, optional=fields))


@st.composite
def on_the_wire(draw: st.DrawFn) -> tuple[Described, bytes, bool]:
    """Fields in any order, again and again, known and unknown; whether a known one has a foreign
    wire type, which the original refuses and the library takes for an unknown field."""
    described = draw(st.sampled_from(ALL))
    out = b""
    is_foreign = False
    for _ in range(draw(st.integers(0, 6))):
        number = draw(st.sampled_from(sorted(described.types)) | st.integers(1, 3000))
        kind = described.types.get(number)
        usual = 2 if kind in LENGTH_TYPES else 0
        wire_type = draw(st.just(usual) | st.sampled_from([0, 1, 2, 3, 5]))
        is_foreign |= kind is not None and wire_type != usual
        tag = varint(number << 3 | wire_type)
        if wire_type == 0:
            out += tag + varint(draw(st.integers(0, (1 << 64) - 1)))
        elif wire_type == 2:
            payload = draw(st.binary(max_size=5))
            out += tag + varint(len(payload)) + payload
        elif wire_type == 3:
            out += tag + b"\x08\x01" + varint(number << 3 | 4)
        else:
            out += tag + draw(st.binary(min_size=8, max_size=8))[: 8 if wire_type == 1 else 4]
    return described, out, is_foreign


def test_every_message_is_described() -> None:
    declared = {
        item
        for module in (messages, stored_messages)
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Message) and item is not Message
    }
    assert declared == set(DESCRIPTIONS)
    for described in ALL:
        assert [field.name for field in dataclasses.fields(described.ours)] == [*described.names]


@given(filled())
def test_messages_are_written_as_the_library_writes_them(
    example: tuple[Described, dict[str, Any]],
) -> None:
    described, values = example
    ours = described.ours(**values)
    data = ours.encode()
    assert data == described.theirs(**values).SerializeToString(deterministic=True)
    assert described.ours.decode(data) == ours


@given(filled())
def test_every_truncation_is_judged_as_the_library_judges_it(
    example: tuple[Described, dict[str, Any]],
) -> None:
    described, values = example
    data = described.ours(**values).encode()
    for end in range(len(data) + 1):
        assert read(described, data[:end]) == judge(described, data[:end])


@given(on_the_wire())
def test_whatever_arrives_is_read_as_the_library_reads_it(
    example: tuple[Described, bytes, bool],
) -> None:
    described, data, is_foreign = example
    if is_foreign:
        with pytest.raises(ValueError, match=r".+"):
            described.ours.decode(data)
    else:
        assert read(described, data) == judge(described, data)


@given(st.sampled_from(ALL), st.binary(max_size=40))
def test_any_bytes_are_a_message_or_a_value_error(described: Described, data: bytes) -> None:
    values = read(described, data)
    if values is not None:
        again = described.ours(**values)
        assert described.ours.decode(again.encode()) == again


@given(st.integers(0, (1 << 64) - 1))
def test_known_start_positions_are_members_and_others_numbers(number: int) -> None:
    request = messages.SubscriptionRequest.decode(b"\x50" + varint(number))
    position = request.start_position
    low = number % (1 << 32)
    assert position == (low - (1 << 32) if low >> 31 else low)
    assert isinstance(position, enum.Enum) == (0 <= position <= 4)
