"""Header blocks: relayed as bytes, removed for subscribers that cannot take them."""

import pytest

from tests.support.fixtures import Dial, Join, ServerWith

BLOCK = b"NATS/1.0\r\nA: b\r\n\r\n"

BLOCKS = [
    b"NATS/1.0\r\n\r\n",
    BLOCK,
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\nX: 1\r\nX: 2\r\nx: 3\r\n\r\n",
    b"garbage",
    b"\r\n",
    b"\x00\xff",
    b"NATS/1.0\r\nno end",
    "NATS/1.0\r\nSchlüssel: größe\r\n\r\n".encode(),
    b"NATS/1.0\r\n" + b"".join(b"K%d: v\r\n" % n for n in range(1000)) + b"\r\n",
]


@pytest.mark.parametrize("payload", [b"", b"hi", b"\r\n\r\n"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_header_block_is_relayed_as_bytes(join: Join, block: bytes, payload: bytes) -> None:
    subscriber, publisher = join(headers=True), join(headers=True)
    subscriber.subscribe(b"head.a", b"1")
    lengths = b"%d %d\r\n" % (len(block), len(block) + len(payload))
    publisher.send(b"HPUB head.a ", lengths, block, payload, b"\r\n")
    publisher.send(b"HPUB head.a reply.to ", lengths, block, payload, b"\r\n")
    subscriber.expect(b"HMSG head.a 1 ", lengths, block, payload, b"\r\n")
    subscriber.expect(b"HMSG head.a 1 reply.to ", lengths, block, payload, b"\r\n")
    subscriber.expect_silence()


@pytest.mark.parametrize("payload", [b"", b"hi"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_subscriber_without_headers_gets_the_payload_only(
    join: Join, block: bytes, payload: bytes
) -> None:
    subscriber, publisher = join(), join(headers=True)
    subscriber.subscribe(b"strip.a", b"1")
    lengths = b"%d %d\r\n" % (len(block), len(block) + len(payload))
    publisher.send(b"HPUB strip.a ", lengths, block, payload, b"\r\n")
    publisher.send(b"HPUB strip.a reply.to ", lengths, block, payload, b"\r\n")
    subscriber.expect_msg(b"strip.a", b"1", payload)
    subscriber.expect_msg(b"strip.a", b"1", payload, b"reply.to")
    subscriber.expect_silence()


def test_both_kinds_of_subscriber_get_the_same_message(join: Join) -> None:
    able, unable, publisher = join(headers=True), join(), join(headers=True)
    able.subscribe(b"both.a", b"1")
    unable.subscribe(b"both.a", b"1")
    publisher.send(b"HPUB both.a 18 20\r\n", BLOCK, b"hi\r\n")
    able.expect(b"HMSG both.a 1 18 20\r\n", BLOCK, b"hi\r\n")
    unable.expect_msg(b"both.a", b"1", b"hi")


def test_a_message_without_headers_is_a_msg_for_everyone(join: Join) -> None:
    able, publisher = join(headers=True), join(headers=True)
    able.subscribe(b"plain.a", b"1")
    publisher.publish(b"plain.a", b"hi")
    able.expect_msg(b"plain.a", b"1", b"hi")


def test_a_header_length_of_zero_makes_a_plain_message(join: Join) -> None:
    subscriber, publisher = join(headers=True), join(headers=True)
    subscriber.subscribe(b"zero.head", b"1")
    publisher.send(b"HPUB zero.head 0 2\r\nhi\r\nHPUB zero.head re.ply 0 0\r\n\r\n")
    subscriber.expect_msg(b"zero.head", b"1", b"hi")
    subscriber.expect_msg(b"zero.head", b"1", b"", b"re.ply")


def test_hpub_takes_blanks_and_tabs_between_its_arguments(join: Join) -> None:
    client = join(headers=True)
    client.send(b"SUB hblank.a 1\r\nHPUB\t hblank.a \t r  18\t 20 \r\n", BLOCK, b"hi\r\n")
    client.expect(b"HMSG hblank.a 1 r 18 20\r\n", BLOCK, b"hi\r\n")


def test_a_header_block_must_be_followed_by_cr_lf_like_any_payload(join: Join) -> None:
    client = join(headers=True)
    client.send(b"HPUB hend.a 18 20\r\n", BLOCK, b"hiXX\r\n")
    client.expect_fatal(b"Unknown Protocol Operation")


def test_the_limit_on_payloads_counts_the_header_block(server_with: ServerWith, dial: Dial) -> None:
    server = server_with(max_payload=100)
    client = dial(server).connect(headers=True)
    client.send(b"SUB hlimit.a 1\r\nHPUB hlimit.a 18 100\r\n", BLOCK, b"x" * 82, b"\r\n")
    client.expect(b"HMSG hlimit.a 1 18 100\r\n", BLOCK, b"x" * 82, b"\r\n")
    client.send(b"HPUB hlimit.a 18 101\r\n")
    client.expect_fatal(b"Maximum Payload Violation")


def test_a_header_block_of_the_largest_size_crosses(join: Join) -> None:
    subscriber, publisher = join(headers=True), join(headers=True)
    subscriber.subscribe(b"hbig.a", b"1")
    block = b"NATS/1.0\r\n" + b"k: v\r\n" * ((1_048_576 - 12) // 6)
    block += b"x" * (1_048_576 - 2 - len(block)) + b"\r\n"
    lengths = b"1048576 1048576\r\n"
    publisher.send(b"HPUB hbig.a ", lengths, block, b"\r\n")
    subscriber.expect(b"HMSG hbig.a 1 ", lengths, block, b"\r\n")


def test_without_header_support_hpub_closes_silently(server_with: ServerWith, dial: Dial) -> None:
    client = dial(server_with(no_header_support=True)).connect(headers=True)
    client.send(b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n")
    client.expect_closed()
