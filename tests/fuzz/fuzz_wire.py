"""Fuzzing the client protocol parser against its plain-Python twin.

`check` is what must hold for any input whatsoever; the unit tests replay the corpus with it. How to
run it stands in `runner.py`.
"""

import functools
import random
from typing import Final

from shardd import wire
from tests.fuzz import runner
from tests.support import wire_oracle
from tests.support.wire_oracle import Limits, Result, parse_in_pieces

CORPUS: Final = runner.CORPORA / "wire"
INPUT_BYTES_MAX: Final = 512

# The limits of a usual connection, and such that small inputs meet every one of them.
LIMITS: Final = (
    Limits(),
    Limits(control_line_max=24, payload_max=16, headers=False),
    Limits(control_line_max=32, payload_max=-1, headers=True),
)

PIECES: Final = (
    *(
        b"PUB ",
        b"HPUB ",
        b"SUB ",
        b"UNSUB ",
        b"PING\r\n",
        b"PONG",
        b"+OK\r\n",
        b"-ERR ",
        b"CONNECT",
    ),
    *(b"INFO ", b" ", b"\t", b"\r\n", b"\r", b"\n", b"0", b"3", b"07", b"999999999", b"1234567890"),
    *(b"foo", b"a.*", b"\x00", b"\x0b", b"\xff", b"\r\n\r\n", b" " * 30, b"a" * 30),
)


def parse(data: bytes, limits: Limits) -> Result:
    """The parser under test, in the oracle's terms."""
    answer = wire.parse(
        data,
        control_line_max=limits.control_line_max,
        payload_max=limits.payload_max,
        headers=limits.headers,
    )
    return Result(*answer)


def check(data: bytes) -> bool:
    """Whether it holds an operation; raises AssertionError unless parser and oracle agree on it,
    whole and split."""
    data = data[:INPUT_BYTES_MAX]
    for limits in LIMITS:
        parser = functools.partial(parse, limits=limits)
        whole = parser(data)
        expected = wire_oracle.parse(data, limits)
        assert whole == expected, f"{data!r} {limits}: {whole}, the oracle says {expected}"
        for position in range(1, len(data)):
            pieces = [data[:position], data[position:]]
            split = parse_in_pieces(parser, pieces)
            assert split == whole, f"{data!r} {limits} split at {position}: {split}, not {whole}"
    return bool(parse(data, LIMITS[0]).operations)


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """One seed, changed here and there."""
    return runner.mutate(seeds, PIECES, INPUT_BYTES_MAX, rng)


TARGET: Final = runner.Target("fuzz the client protocol parser", CORPUS, check, mutate)

if __name__ == "__main__":
    TARGET.main()
