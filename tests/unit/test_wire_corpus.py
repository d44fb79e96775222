"""The fuzzing corpus of the client protocol parser, replayed: what was once found stays fixed."""

from pathlib import Path

import pytest

from tests.fuzz import fuzz_wire

SEEDS = sorted(path for path in fuzz_wire.CORPUS.iterdir() if path.is_file())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_parser_and_oracle_agree_on_the_corpus(path: Path) -> None:
    fuzz_wire.check(path.read_bytes())


def test_the_corpus_reaches_every_verb_and_every_trouble() -> None:
    results = [
        fuzz_wire.parse(path.read_bytes(), limits) for path in SEEDS for limits in fuzz_wire.LIMITS
    ]
    verbs = {operation[0] for result in results for operation in result.operations}
    assert verbs == {
        *("PUB", "HPUB", "SUB", "UNSUB", "PING", "PONG", "CONNECT", "INFO", "+OK", "-ERR")
    }
    assert {result.trouble for result in results} == {0, -1, -2, -3, -4, -5}


def test_a_parser_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fuzz_wire.parse
    monkeypatch.setattr(
        fuzz_wire, "parse", lambda data, limits: honest(data.replace(b"\t", b" "), limits)
    )
    with pytest.raises(AssertionError, match="the oracle says"):
        fuzz_wire.TARGET.run_mutations([b"PUB foo\t3\r\nabc\r\n"], runs=1, seed=1)
