"""The server's own PINGs: when the first comes, what answers them, what happens without answers."""

import select
import time

import pytest

from tests.support.broker import Setting
from tests.support.fixtures import Dial, ServerWith

STALE = b"-ERR 'Stale Connection'\r\n"

# For clients that answer: they are not stale at once if this process is held up for a while.
PINGS_MAX = 10
PATIENT: dict[str, Setting] = {"ping_interval": "100ms", "ping_max": PINGS_MAX}


def test_the_first_ping_comes_two_seconds_after_connect(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with()
    silent = dial(server, answers_pings=False)
    client = dial(server, answers_pings=False)
    start = time.monotonic()
    client.connect()
    client.expect(b"PING\r\n")
    assert time.monotonic() - start > 1.95
    client.send(b"PONG\r\n")
    client.expect_silence()
    silent.expect_silence()  # without CONNECT the full interval of two minutes holds


@pytest.mark.parametrize("pings_max", [1, 2, 3])
def test_a_connection_that_never_answers_is_stale(
    server_with: ServerWith, dial: Dial, pings_max: int
) -> None:
    client = dial(server_with(ping_interval="100ms", ping_max=pings_max), answers_pings=False)
    client.send(b'CONNECT {"verbose":false}\r\n')
    client.expect(b"PING\r\n" * pings_max, STALE)
    client.expect_closed()


def test_a_connection_that_never_sends_anything_is_stale(
    server_with: ServerWith, dial: Dial
) -> None:
    client = dial(server_with(ping_interval="100ms", ping_max=2), answers_pings=False)
    client.expect(b"PING\r\nPING\r\n", STALE)
    client.expect_closed()


def test_a_connection_that_answers_stays(server_with: ServerWith, dial: Dial) -> None:
    client = dial(server_with(**PATIENT), answers_pings=False).connect()
    for _ in range(6):
        client.expect(b"PING\r\n")
        client.send(b"PONG\r\n")
    client.send(b"SUB alive.a 1\r\nPUB alive.a 0\r\n\r\n")
    client.expect(b"MSG alive.a 1 0\r\n\r\n")


def test_one_pong_answers_all_pings_before_it(server_with: ServerWith, dial: Dial) -> None:
    client = dial(server_with(**PATIENT), answers_pings=False)
    client.send(b'CONNECT {"verbose":false}\r\n')
    client.expect(b"PING\r\nPING\r\n")
    client.send(b"PONG\r\n")
    # One more may have been under way before the PONG.
    assert client.read_to_end() in (
        b"PING\r\n" * PINGS_MAX + STALE,
        b"PING\r\n" * (PINGS_MAX + 1) + STALE,
    )


def test_messages_to_a_mute_subscriber_do_not_keep_it_alive(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(**PATIENT)
    mute, publisher = dial(server, answers_pings=False), dial(server).connect()
    mute.send(b'CONNECT {"verbose":false}\r\nSUB mute.a 1\r\n')
    seen: list[bytes] = []
    while STALE not in seen:
        publisher.publish(b"mute.a", b"")
        publisher.ping()
        line = mute.expect_line()
        if line == b"MSG mute.a 1 0\r\n":
            mute.expect(b"\r\n")
        else:
            seen.append(line)
    assert seen == [*[b"PING\r\n"] * PINGS_MAX, STALE]
    mute.expect_closed()


def test_a_busy_connection_is_not_pinged(server_with: ServerWith, dial: Dial) -> None:
    interval_s = 0.4
    client = dial(server_with(ping_interval="400ms", ping_max=2), answers_pings=False).connect()
    client.expect(b"PING\r\n")  # the first comes in any case
    client.send(b"PONG\r\n")
    quiet_since = last = time.monotonic()
    while last - quiet_since < 3 * interval_s:
        client.expect_silence()
        if select.select([client.socket], [], [], 0.02)[0]:
            client.expect(b"PING\r\n")
            # It was due only if this process itself was held up for too long.
            assert time.monotonic() - last > interval_s / 2
            client.send(b"PONG\r\n")
            quiet_since = time.monotonic()
        last = time.monotonic()
