"""What the original's generated code does with odd bytes, and what the codec refuses to write."""

import pytest

from shardd.streaming.messages import Ack, Ping, PubMsg, StartPosition, SubscriptionRequest


def test_a_message_without_bytes_has_all_defaults() -> None:
    assert PubMsg.decode(b"") == PubMsg()
    assert PubMsg().encode() == b""
    assert SubscriptionRequest.decode(b"").start_position is StartPosition.NEW_ONLY


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"\x0a\x01a\x0a\x01b", Ack(subject=b"b"), id="the last of a field counts"),
        pytest.param(b"\x8a\x00\x01a", Ack(subject=b"a"), id="a long tag"),
        pytest.param(
            b"\x8a\x80\x80\x80\x80\x01\x01a", Ack(subject=b"a"), id="a tag cut to 32 bits"
        ),
        pytest.param(b"\x10" + b"\xff" * 9 + b"\x7f", Ack(sequence=(1 << 64) - 1), id="70 bits"),
        pytest.param(b"\x23\x08\x01\x2b\x2c\x24\x10\x07", Ack(sequence=7), id="unknown groups"),
        pytest.param(b"\x23\x0c\x10\x07", Ack(sequence=7), id="a group that ends as another"),
        pytest.param(b"\x21" + b"12345678" + b"\x25" + b"1234", Ack(), id="unknown fixed numbers"),
        pytest.param(b"\x0a\x02\xff\xfe", Ack(subject=b"\xff\xfe"), id="a subject of any bytes"),
    ],
)
def test_odd_bytes_that_are_a_message(data: bytes, message: Ack) -> None:
    assert Ack.decode(data) == message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x08\x01", id="a number where bytes belong"),
        pytest.param(b"\x12\x01a", id="bytes where a number belongs"),
        pytest.param(b"\x0b\x0c", id="a known field as a group"),
        pytest.param(b"\x02\x01a", id="field zero"),
        pytest.param(b"\x24", id="the end of no group"),
        pytest.param(b"\x23\x08\x01", id="a group without end"),
        pytest.param(b"\x26", id="wire type 6"),
        pytest.param(b"\x27", id="wire type 7"),
        pytest.param(b"\x10" + b"\xff" * 10 + b"\x01", id="a number of 11 bytes"),
        pytest.param(b"\x0a" + b"\xff" * 9 + b"\x01", id="a negative length"),
        pytest.param(b"\x21" + b"1234567", id="half an unknown number"),
        pytest.param(b"\x22\x05abcd", id="half an unknown field"),
    ],
)
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Ack.decode(data)


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        SubscriptionRequest.decode(b"\x3a\x01\xff")


@pytest.mark.parametrize(
    "message",
    [
        SubscriptionRequest(max_in_flight=1 << 31),
        SubscriptionRequest(ack_wait_s=-(1 << 31) - 1),
        SubscriptionRequest(start_sequence=-1),
        SubscriptionRequest(start_time_delta_ns=1 << 63),
        Ack(sequence=1 << 64),
    ],
)
def test_a_number_that_does_not_fit_is_not_written(message: Ack | SubscriptionRequest) -> None:
    with pytest.raises(ValueError, match="is not a number of"):
        message.encode()


def test_messages_of_one_content_are_equal() -> None:
    assert Ping(b"a") == Ping(conn_id=b"a") != Ping(b"b")
