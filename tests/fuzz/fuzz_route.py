"""Fuzzing the route protocol parser: whole input and split input give the same operations, and what
may be delivered as it came reads as it would have been built.

How to run it stands in `runner.py`; the unit tests replay the corpus.
"""

import functools
import random
from typing import Any, Final

from shardd.routes import wire
from tests.fuzz import runner
from tests.support.wire_oracle import Result, parse_in_pieces

CORPUS: Final = runner.CORPORA / "route"
INPUT_BYTES_MAX: Final = 400

# The limits of a route, and such that small inputs meet every one of them.
LIMITS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"control_line_max": 40, "payload_max": 16},
    {"has_account": False},
)

PIECES: Final = (
    *(
        b"RMSG ",
        b"HMSG ",
        b"LMSG ",
        b"RS+ ",
        b"RS- ",
        b"LS+ ",
        b"LS- ",
        b"PING\r\n",
        b"PONG",
        b"A+",
    ),
    *(b"INFO ", b"CONNECT ", b"+OK\r\n", b"-ERR ", b"SUB ", b"UNSUB ", b" | ", b" + ", b"$G "),
    *(b" ", b"\t", b"\r\n", b"\r", b"\n", b"0", b"3", b"07", b"999999999", b"1234567890", b"-1"),
    *(b"foo", b"a.*", b"\x00", b"\xff", b"\r\n\r\n", b" " * 30, b"a" * 30, b"q1 q2 ", b"A+ "),
)


def parse(data: bytes, limits: dict[str, Any]) -> Result:
    """The parser under test; what is needed is no promise about operations."""
    operations, consumed, trouble, _ = wire.parse(data, **limits)
    return Result(operations, consumed, 0, trouble)


def check(data: bytes) -> bool:
    """Whether it holds an operation; raises AssertionError for what must not be."""
    data = data[:INPUT_BYTES_MAX]
    whole = Result([], 0, 0, 0)
    for limits in LIMITS:
        parser = functools.partial(parse, limits=limits)
        whole = parser(data)
        for operation in whole.operations:
            check_tail(operation)
        for position in range(1, len(data)):
            split = parse_in_pieces(parser, [data[:position], data[position:]])
            assert split == whole, f"{data!r} {limits} split at {position}: {split}, not {whole}"
    return bool(whole.operations)


def check_tail(operation: tuple[Any, ...]) -> None:
    """A tail that is delivered as it came is the one that would have been built."""
    if operation[0] != "message" or operation[7] is None:
        return
    _, _, _, reply, queues, header_len, payload, tail = operation
    assert queues is None, "a subscriber would read the names of queue groups"
    sizes = b"%d" % len(payload) if header_len is None else b"%d %d" % (header_len, len(payload))
    words = [word for word in (b"", reply, sizes) if word is not None]
    assert tail == b" ".join(words) + b"\r\n" + payload + b"\r\n", operation


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """One seed, changed here and there."""
    return runner.mutate(seeds, PIECES, INPUT_BYTES_MAX, rng)


TARGET: Final = runner.Target("fuzz the route protocol parser", CORPUS, check, mutate)

if __name__ == "__main__":
    TARGET.main()
