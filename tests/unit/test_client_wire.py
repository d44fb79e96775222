"""What a NATS server says to a client: whole, in pieces, and when it makes no sense."""

import random

import pytest

from shardd.streaming.client_wire import read_operations

MSG, INFO, PING, PONG, OK, ERR = range(1, 7)
TEXT = (
    b'INFO {"server_id":"x"} \r\n'
    b"PING\r\npong\r\n+OK\r\n-ERR 'Unknown Protocol Operation'\r\n"
    b"MSG a.b 7 5\r\nhello\r\n"
    b"MSG a.b 18446744073709551615 _INBOX.x 0\r\n\r\n"
    b"HMSG a 1 12 17\r\nNATS/1.0\r\n\r\nworld\r\n"
    b"HMSG _INBOX.1 2 reply 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"MSG  a\t 3   4 \r\n\r\n\r\n\r\n"
)
WANTED = [
    (INFO, 0, b"", b"", b"", b"", b'{"server_id":"x"}'),
    (PING, 0, b"", b"", b"", b"", b""),
    (PONG, 0, b"", b"", b"", b"", b""),
    (OK, 0, b"", b"", b"", b"", b""),
    (ERR, 0, b"", b"", b"", b"", b"'Unknown Protocol Operation'"),
    (MSG, 7, b"a.b", b"", b"", b"hello", b""),
    (MSG, 18446744073709551615, b"a.b", b"_INBOX.x", b"", b"", b""),
    (MSG, 1, b"a", b"", b"NATS/1.0\r\n\r\n", b"world", b""),
    (MSG, 2, b"_INBOX.1", b"reply", b"NATS/1.0 503\r\n\r\n", b"", b""),
    (MSG, 3, b"a", b"", b"", b"\r\n\r\n", b""),
]


def test_every_operation_is_read() -> None:
    assert read_operations(TEXT) == (WANTED, 0)


def test_input_split_anywhere_gives_the_same() -> None:
    for at in range(len(TEXT)):
        first, left = read_operations(TEXT[:at])
        assert left >= 0
        second, rest = read_operations(TEXT[at - left :])
        assert rest == 0
        assert first + second == WANTED


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"MSG a\r\n",
        b"MSG a x 1\r\n1\r\n",
        b"MSG a 18446744073709551616 1\r\n1\r\n",
        b"MSG a 1 -1\r\n\r\n",
        b"MSG a 1 99999999999999999999\r\n",
        b"MSG a 1 1073741825\r\n",
        b"MSG a 1 b c 1\r\n1\r\n",
        b"MSG a 1 1\r\nxyz\r\n",
        b"HMSG a 1 5 4\r\nabcd\r\n",
        b"HMSG a 1 4\r\nabcd\r\n",
        b"PINGS\r\n",
        b"\r\n",
        b"x" * (1 << 20),
    ],
)
def test_what_no_server_says_is_refused(text: bytes) -> None:
    assert read_operations(text)[1] == -1


def test_random_bytes_never_hang_or_crash() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(2000):
        text = bytearray(TEXT)
        for _ in range(source.randrange(1, 6)):
            text[source.randrange(len(text))] = source.randrange(256)
        found, left = read_operations(bytes(text))
        assert -1 <= left <= len(text)
        assert len(found) <= len(WANTED) + 10
