"""What all fuzz targets share: the corpus, the command line, and the loop that stands in for
atheris.

    python -m tests.fuzz.fuzz_... [corpus folder] [--runs N] [--seed S]

With atheris installed a target is coverage-guided; libFuzzer's own options may then follow `--`.
Without it a loop mutates the seeds of the corpus, and the printed seed repeats a run.
"""

import argparse
import importlib
import random
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPORA: Final = Path(__file__).resolve().parent / "corpus"
RUNS: Final = 20_000


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    `check` raises AssertionError for what must not be; `mutate` makes an input of the seeds.
    """

    description: str
    corpus: Path
    check: Callable[[bytes], object]
    mutate: Callable[[list[bytes], random.Random], bytes]

    def run_mutations(self, seeds: list[bytes], runs: int, seed: int) -> int:
        """Checks every seed and so many mutations; returns for how many `check` was true: of
        those that the reader under test took."""
        rng = random.Random(seed)
        taken = 0
        for data in seeds:
            self.check(data)
        for _ in range(runs):
            taken += bool(self.check(self.mutate(seeds, rng)))
        return taken

    def main(self) -> None:
        """Runs from the command line."""
        parser = argparse.ArgumentParser(description=self.description)
        parser.add_argument("corpus", nargs="?", type=Path, default=self.corpus)
        parser.add_argument("--runs", type=int, default=RUNS)
        parser.add_argument("--seed", type=int, default=None)
        options, more = parser.parse_known_args()
        seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
        print(f"seed {seed}, {options.runs} runs", flush=True)
        own = [f"-runs={options.runs}", f"-seed={seed}", str(options.corpus)]
        if not _run_atheris(self.check, [*own, *(each for each in more if each != "--")]):
            taken = self.run_mutations(read_corpus(options.corpus), options.runs, seed)
            print(
                "atheris is not installed: mutated the corpus, found nothing;"
                f" {taken} inputs were taken"
            )


def read_corpus(folder: Path) -> list[bytes]:
    """Every seed in the folder, in the order of their names."""
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


def mutate(
    seeds: Sequence[bytes], pieces: Sequence[bytes], length_max: int, rng: random.Random
) -> bytes:
    """One seed with a few bytes removed, changed, or taken from elsewhere."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 6)):
        position = rng.randint(0, len(data))
        removed = rng.choice((0, 0, 0, 1, 1, 2, rng.randint(0, 16)))
        other = rng.choice(seeds)
        start = rng.randint(0, len(other))
        added = rng.choice(
            (b"", rng.choice(pieces), rng.choice(pieces), rng.randbytes(1), other[start:][:20])
        )
        data[position : position + removed] = added
    return bytes(data[:length_max])


def _run_atheris(target: Callable[[bytes], object], arguments: Iterable[str]) -> bool:
    """Hands over to libFuzzer; False when atheris is not installed."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        return False
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()
    return True
