"""The fuzzing corpus of the streaming server, replayed."""

from pathlib import Path

import pytest

from tests.fuzz import fuzz_streaming

SEEDS = sorted(path for path in fuzz_streaming.CORPUS.iterdir() if path.is_file())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_the_server_survives_the_corpus(path: Path) -> None:
    fuzz_streaming.check(path.read_bytes())


def test_the_corpus_sends_to_every_subject_and_most_of_it_is_served() -> None:
    kinds = {kind for path in SEEDS for kind, _ in fuzz_streaming.split(path.read_bytes())}
    assert kinds >= {*fuzz_streaming.SUBJECTS, b"a", b"t", b"r"} - {b"q"}
    assert sum(fuzz_streaming.check(path.read_bytes()) for path in SEEDS) >= len(SEEDS) - 1


def test_mutations_find_nothing() -> None:
    seeds = [path.read_bytes() for path in SEEDS]
    assert fuzz_streaming.TARGET.run_mutations(seeds, runs=100, seed=1) > 0
