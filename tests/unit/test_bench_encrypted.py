"""The benchmark's loops over TLS, with the test as the server."""

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from socket import socketpair

import pytest

from bench import encrypted, generator
from bench.certificate import make_certificate
from bench.frames import encode_msg_header, payload, sid, subject
from bench.placement import Address, await_pong, encrypt

BODY = payload(16) + b"\r\n"
HEADER = encode_msg_header(subject(7), sid(1), 16)
FRAME = HEADER + BODY
PATIENCE_S = 30.0
IMPATIENCE_S = 0.05


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Two ends of a stream: the server's and the generator's."""
    host = "127.0.0.1"
    certificate = make_certificate(tmp_path, host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    left, right = socketpair()
    left.settimeout(PATIENCE_S)
    right.settimeout(PATIENCE_S)
    server = context.wrap_socket(left, server_side=True, do_handshake_on_connect=False)
    shaking = threading.Thread(target=server.do_handshake)
    shaking.start()
    client = encrypt(right, Address(host, 0, 0, PATIENCE_S, str(certificate.chain)))
    shaking.join()
    with server, client:
        yield server, client


def shared_page(expected: int | None = None) -> memoryview:
    """The page of both sides; with `expected`, as a publisher that has finished leaves it."""
    page = memoryview(bytearray(generator.SHARED_BYTES))
    if expected is not None:
        slots = page.cast("Q")
        slots[8], slots[16] = expected, 1
    return page


def test_frames_are_counted_and_pings_answered_wherever_records_end(
    pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    server, client = pair
    stream = FRAME * 3 + b"PING\r\n" + FRAME * 2
    for place in range(0, len(stream), 7):
        server.sendall(stream[place : place + 7])
    page = shared_page(5 * len(FRAME))
    counted = encrypted.count([client], len(HEADER), BODY, page, PATIENCE_S)
    assert counted.received == [5 * len(FRAME)]
    assert counted.first_headers == counted.last_headers == [HEADER]
    await_pong(server)


def test_bytes_that_are_foreign_missing_or_too_many_are_reported(
    pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    server, client = pair
    for sent, expected, failure in (
        (FRAME, 2 * len(FRAME), TimeoutError),
        (FRAME * 2, len(FRAME), ValueError),
        (HEADER + b"X" * 16 + b"\r\n", len(FRAME), ValueError),
        (FRAME + b"x" + FRAME, 2 * len(FRAME), ValueError),
    ):
        server.sendall(sent)
        with pytest.raises(failure):
            encrypted.count([client], len(HEADER), BODY, shared_page(expected), IMPATIENCE_S)


def test_last_word_of_a_server_that_closes_is_reported(
    pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    server, client = pair
    server.sendall(FRAME + b"-ERR 'Slow'\r\n")
    server.close()
    with pytest.raises(ConnectionError, match="-ERR 'Slow'"):
        encrypted.count([client], len(HEADER), BODY, shared_page(), PATIENCE_S)


def test_publisher_sends_whole_blocks_and_says_what_must_arrive(
    pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    server, client = pair
    page = shared_page()
    done = encrypted.publish([client], [b"block"], [7], page, 9.0, 3, 1000, PATIENCE_S)
    assert b"".join(server.recv(100) for _ in range(3)) == b"block" * 3
    assert done.blocks == [3]
    slots = page.cast("Q")
    assert (slots[8], slots[16]) == (21, 1)


def test_publisher_never_gets_further_ahead_than_its_credit(
    pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    server, client = pair
    with pytest.raises(TimeoutError):
        encrypted.publish([client], [b"block"], [40], shared_page(), 9.0, 5, 100, IMPATIENCE_S)
    assert b"".join(server.recv(100) for _ in range(2)) == b"block" * 2


def test_side_that_waits_ends_when_the_other_has_failed(
    pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    _, client = pair
    page = shared_page()
    generator.abort(page)
    with pytest.raises(InterruptedError):
        encrypted.count([client], len(HEADER), BODY, page, PATIENCE_S)
    with pytest.raises(InterruptedError):
        encrypted.publish([client], [b"block"], [40], page, 9.0, 5, 60, PATIENCE_S)
