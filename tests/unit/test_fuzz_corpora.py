"""The fuzzing corpora of configuration files and of the route protocol, replayed."""

from pathlib import Path

import pytest

from tests.fuzz import fuzz_config, fuzz_route

ROUTES = sorted(path for path in fuzz_route.CORPUS.iterdir() if path.is_file())
FILES = sorted(path for path in fuzz_config.CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: path.name)
def test_route_lines_are_the_same_whole_and_split(path: Path) -> None:
    fuzz_route.check(path.read_bytes())


def test_the_corpus_of_routes_reaches_every_verb_and_every_trouble() -> None:
    results = [
        fuzz_route.parse(path.read_bytes(), limits)
        for path in ROUTES
        for limits in fuzz_route.LIMITS
    ]
    verbs = {operation[0] for result in results for operation in result.operations}
    assert verbs == {"message", "interest", "no interest", *range(4, 11)}
    assert {result.trouble for result in results} == {0, -1, -2, -3, -4}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_configuration_files_are_read_or_refused_in_one_line(path: Path) -> None:
    fuzz_config.check(path.read_bytes())


def test_some_files_are_read_and_some_refused() -> None:
    read = [fuzz_config.check(path.read_bytes()) for path in FILES]
    assert 0 < sum(read) < len(read)
