"""The fuzzing corpus of ring records, replayed: what was once found stays fixed."""

from pathlib import Path

import pytest

from shardd.router import frame_probe
from tests.fuzz import fuzz_frame
from tests.fuzz.runner import read_corpus

SEEDS = sorted(path for path in fuzz_frame.CORPUS.iterdir() if path.is_file())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_reader_and_oracle_agree_on_the_corpus(path: Path) -> None:
    fuzz_frame.check(path.read_bytes())


def test_the_corpus_has_records_with_targets_and_records_that_are_refused() -> None:
    records = read_corpus(fuzz_frame.CORPUS)
    taken = [record for record in records if frame_probe.read(record) is not None]
    assert 0 < len(taken) < len(records)
    first = [frame_probe.read_target_at(record, 0) for record in taken]
    assert any(target is None for target in first)
    assert any(target is not None for target in first)


def test_mutations_are_often_enough_still_records() -> None:
    taken = fuzz_frame.TARGET.run_mutations(read_corpus(fuzz_frame.CORPUS), runs=500, seed=1)
    assert 25 < taken < 475


def test_a_reader_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = frame_probe.read_target_at
    monkeypatch.setattr(
        frame_probe,
        "read_target_at",
        lambda record, offset: honest(record, offset) if offset else None,
    )
    seed = fuzz_frame.CORPUS / "one_target"
    with pytest.raises(AssertionError, match="the oracle says"):
        fuzz_frame.check(seed.read_bytes())
