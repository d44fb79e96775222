"""Fuzzing the reader of ring records against its plain-Python twin.

The reader gets every input in memory of exactly its size, so that a build with sanitizers finds a
read beyond it; `check` is what must hold for any input whatsoever. How to run it stands in
`runner.py`.
"""

import random
import struct
from typing import Final

from shardd.router import frame_probe
from tests.fuzz import runner
from tests.support import frame_oracle

CORPUS: Final = runner.CORPORA / "frame"
INPUT_BYTES_MAX: Final = 512

_LENGTHS: Final = ("length", "subject_len", "tail_len", "reply_len", "header_len", "total_len")
_TARGETS: Final = frame_oracle.HEADER.size


def check(data: bytes) -> bool:
    """Whether it is taken as a record; raises AssertionError unless reader and oracle agree on the
    record and on its targets."""
    data = data[:INPUT_BYTES_MAX]
    message = frame_probe.read(data)
    expected = frame_oracle.read(data)
    assert message == expected, f"{data!r}: {message}, the oracle says {expected}"
    if message is None:
        return False
    header = frame_oracle.header_of(data)
    assert header is not None
    # One after the other as a consumer reads them, then from where no target begins.
    offset = check_target(data, 0)
    while offset:
        offset = check_target(data, offset)
    for back in range(12):
        check_target(data, max(header.targets_len - back, 0))
    return True


def check_target(data: bytes, offset: int) -> int:
    """Raises AssertionError unless both agree on the target there; 0 when it is refused."""
    target = frame_probe.read_target_at(data, offset)
    expected = frame_oracle.read_target_at(data, offset)
    assert target == expected, f"{data!r} at {offset}: {target}, the oracle says {expected}"
    return 0 if target is None else target[2]


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """One seed with lengths changed, bytes changed, or its end cut off."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(8)
        if kind < 4:
            field = rng.choice((*_LENGTHS, "targets_len"))
            change_number(data, frame_oracle.offset_of(field), rng)
        elif kind == 4:
            change_number(data, _TARGETS + rng.choice((0, 4, 8, 12, 16, 20)), rng)
        elif kind == 5 and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 6:
            del data[rng.randint(0, len(data)) :]
        else:
            data += rng.randbytes(rng.choice((1, 7, 8, 16)))
    return bytes(data[:INPUT_BYTES_MAX])


def change_number(data: bytearray, offset: int, rng: random.Random) -> None:
    """Another value for the 32-bit number there: near the old one, or at an end of the range."""
    if offset + 4 > len(data):
        return
    (value,) = struct.unpack_from("=I", data, offset)
    other = rng.choice(
        (
            value + rng.choice((-8, -4, -3, -2, -1, 1, 2, 3, 4, 8)),
            rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 4, 2**32 - 1)),
            rng.randint(0, 64),
            len(data) + rng.randint(-9, 9),
        )
    )
    struct.pack_into("=I", data, offset, other % 2**32)


TARGET: Final = runner.Target("fuzz the reader of ring records", CORPUS, check, mutate)

if __name__ == "__main__":
    TARGET.main()
