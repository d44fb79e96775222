"""Fuzzing the client protocol parser against its plain-Python twin.

    python tests/fuzz/fuzz_wire.py [corpus folder] [--runs N] [--seed S]

With atheris installed this is a coverage-guided target; libFuzzer's own options may then follow
`--`. Without it a loop mutates the seeds of the corpus, and the printed seed repeats a run. Either
way `check` is what must hold for any input whatsoever; the unit tests replay the corpus with it.
"""

import argparse
import functools
import importlib
import random
import secrets
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shardd import wire
from tests.support import wire_oracle
from tests.support.wire_oracle import Limits, Result, parse_in_pieces

CORPUS: Final = Path(__file__).resolve().parent / "corpus" / "wire"
RUNS: Final = 20_000
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


def check(data: bytes) -> None:
    """Raises AssertionError unless parser and oracle agree, whole and split."""
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


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """One seed with a few bytes removed, changed, or taken from elsewhere."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 6)):
        position = rng.randint(0, len(data))
        removed = rng.choice((0, 0, 0, 1, 1, 2, rng.randint(0, 16)))
        other = rng.choice(seeds)
        start = rng.randint(0, len(other))
        added = rng.choice(
            (b"", rng.choice(PIECES), rng.choice(PIECES), rng.randbytes(1), other[start:][:20])
        )
        data[position : position + removed] = added
    return bytes(data[:INPUT_BYTES_MAX])


def run_mutations(seeds: list[bytes], runs: int, seed: int) -> None:
    """The loop that stands in for atheris."""
    rng = random.Random(seed)
    for data in seeds:
        check(data)
    for _ in range(runs):
        check(mutate(seeds, rng))


def read_corpus(folder: Path) -> list[bytes]:
    """Every seed in the folder, in the order of their names."""
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]


def run_atheris(target: Callable[[bytes], None], arguments: Iterable[str]) -> bool:
    """Hands over to libFuzzer; False when atheris is not installed."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        return False
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()
    return True


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description="fuzz the client protocol parser")
    parser.add_argument("corpus", nargs="?", type=Path, default=CORPUS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=None)
    options, more = parser.parse_known_args()
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.runs} runs", flush=True)
    own = [f"-runs={options.runs}", f"-seed={seed}", str(options.corpus)]
    if not run_atheris(check, [*own, *(argument for argument in more if argument != "--")]):
        run_mutations(read_corpus(options.corpus), options.runs, seed)
        print("atheris is not installed: mutated the corpus, found nothing")


if __name__ == "__main__":
    main()
