"""Everything that can go wrong between hosts, at random, for minutes; then all has to be well.

`SHARDD_TESTS_ROUNDS` says how many rounds a formation has; `SHARDD_TESTS_SEED` repeats a schedule.
"""

import os
import random
from typing import Final

import pytest

from tests.support.machines import machines_of
from tests.support.turmoil import Turmoil, tls_of

FORMATIONS = {
    "three-shardd": ("shardd-2", "shardd-2", "shardd-2"),
    "two-shardd": ("shardd-2", "shardd-2", "nats-server"),
    "one-shardd": ("nats-server", "shardd-2", "nats-server"),
}
ROUNDS: Final = int(os.environ.get("SHARDD_TESTS_ROUNDS", "12"))
STEPS: Final = (8, 24)


formations = pytest.mark.parametrize("kinds", FORMATIONS.values(), ids=FORMATIONS)


def run(kinds: tuple[str, ...], rng: random.Random, rounds: int) -> None:
    with machines_of(
        kinds, routes=range(len(kinds)), block=tls_of(len(kinds)), is_watched=True
    ) as machines:
        turmoil = Turmoil(machines, rng)
        try:
            turmoil.check()
            for number in range(rounds):
                print(f"round {number + 1}")
                turmoil.trouble(rng.randrange(*STEPS))
                turmoil.recover()
                turmoil.check()
        finally:
            turmoil.close()


@pytest.mark.slow
@formations
def test_a_round_in_which_everything_goes_wrong(
    kinds: tuple[str, ...], rng: random.Random, no_leaks: None
) -> None:
    run(kinds, rng, 1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@formations
def test_a_cluster_in_which_everything_goes_wrong(
    kinds: tuple[str, ...], rng: random.Random, no_leaks: None
) -> None:
    run(kinds, rng, ROUNDS)
