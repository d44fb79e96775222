"""Fuzzing the reader of ring records against its plain-Python twin.

    python tests/fuzz/fuzz_frame.py [corpus folder] [--runs N] [--seed S]

The same command line as the parser's target beside it. The reader gets every input in memory of
exactly its size, so that a build with sanitizers finds a read beyond it; `check` is what must hold
for any input whatsoever.
"""

import argparse
import random
import secrets
import struct
import sys
from pathlib import Path
from typing import Final

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shardd.router import frame_probe
from tests.fuzz.fuzz_wire import read_corpus, run_atheris
from tests.support import frame_oracle

CORPUS: Final = Path(__file__).resolve().parent / "corpus" / "frame"
RUNS: Final = 20_000
INPUT_BYTES_MAX: Final = 512

_LENGTHS: Final = ("length", "subject_len", "tail_len", "reply_len", "header_len", "total_len")
_TARGETS: Final = frame_oracle.HEADER.size


def check(data: bytes) -> None:
    """Raises AssertionError unless reader and oracle agree on the record and on its targets."""
    data = data[:INPUT_BYTES_MAX]
    message = frame_probe.read(data)
    expected = frame_oracle.read(data)
    assert message == expected, f"{data!r}: {message}, the oracle says {expected}"
    if message is None:
        return
    header = frame_oracle.header_of(data)
    assert header is not None
    # One after the other as a consumer reads them, then from where no target begins.
    offset = check_target(data, 0)
    while offset:
        offset = check_target(data, offset)
    for back in range(12):
        check_target(data, max(header.targets_len - back, 0))


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


def run_mutations(seeds: list[bytes], runs: int, seed: int) -> int:
    """The loop that stands in for atheris; returns how many inputs were taken as records."""
    rng = random.Random(seed)
    taken = 0
    for data in seeds:
        check(data)
    for _ in range(runs):
        data = mutate(seeds, rng)
        check(data)
        taken += frame_oracle.read(data) is not None
    return taken


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description="fuzz the reader of ring records")
    parser.add_argument("corpus", nargs="?", type=Path, default=CORPUS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=None)
    options, more = parser.parse_known_args()
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.runs} runs", flush=True)
    own = [f"-runs={options.runs}", f"-seed={seed}", str(options.corpus)]
    if not run_atheris(check, [*own, *(argument for argument in more if argument != "--")]):
        taken = run_mutations(read_corpus(options.corpus), options.runs, seed)
        print(
            "atheris is not installed: mutated the corpus, found nothing;"
            f" {taken} inputs were records"
        )


if __name__ == "__main__":
    main()
