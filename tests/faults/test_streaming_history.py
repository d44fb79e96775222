"""Streaming servers killed at random instants: nothing acknowledged is lost, whatever dies.

Each round kills the whole server or, of shardd, one worker: of streaming or of clients, as chance
has it. The seed is printed.
"""

import asyncio
import contextlib
import gc
import random
import warnings
from pathlib import Path

import psutil
import pytest

from tests.faults.streaming_history import Stored, check
from tests.faults.streaming_load import Campaign
from tests.support.streaming_server import (
    JUDGED_KINDS,
    ORIGINAL,
    SHARDD_POOL,
    StreamingServer,
    make_streaming_server,
)

ROUNDS = 2
ROUNDS_SOAK = 100
ROUNDS_OF_A_HISTORY = 10
PROBLEMS_SHOWN = 20


def kill_one(server: StreamingServer, rng: random.Random) -> None:
    """SIGKILL one worker; the supervisor puts another in its place."""
    children = psutil.Process(server.pid).children()
    with contextlib.suppress(psutil.NoSuchProcess):
        rng.choice(children).kill()


def kill_everything(server: StreamingServer) -> None:
    """SIGKILL the whole server and start it again."""
    server.kill_all()
    server.start()


async def live_through(server: StreamingServer, rng: random.Random, rounds: int) -> None:
    """One history with so many kills, checked at its end."""
    campaign = Campaign(server.url, rng)
    await campaign.start()
    for _ in range(rounds):
        await asyncio.sleep(rng.uniform(0.1, 0.8))
        if server.kind == ORIGINAL or rng.random() < 0.3:
            await campaign.survive(lambda: kill_everything(server))
        else:
            await campaign.survive(lambda: kill_one(server, rng))
    await campaign.finish()
    for channel in campaign.channels:
        problems = check(channel.history, keeps_positions=server.kind != ORIGINAL)
        assert not problems, "\n".join([*problems[:PROBLEMS_SHOWN], server.log_text()[-2000:]])
        assert sum(isinstance(event, Stored) for event in channel.history) > rounds


def run(kind: str, directory: Path, rng: random.Random, rounds: int) -> None:
    """One history against a server of this kind."""
    server = make_streaming_server(kind, "", directory / "store")
    server.start()
    try:
        with warnings.catch_warnings():
            # The client library leaves sockets of failed attempts to reconnect to the collector.
            warnings.simplefilter("ignore", ResourceWarning)
            asyncio.run(live_through(server, rng, rounds))
            gc.collect()
    finally:
        if server.is_alive():
            server.stop()


@pytest.mark.parametrize(
    "kind", [each if each == SHARDD_POOL else pytest.param(each, marks=pytest.mark.slow)
             for each in JUDGED_KINDS],
)  # fmt: skip
def test_a_few_kills(kind: str, tmp_path: Path, rng: random.Random) -> None:
    run(kind, tmp_path, rng, ROUNDS)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [SHARDD_POOL])
@pytest.mark.parametrize("part", range(ROUNDS_SOAK // ROUNDS_OF_A_HISTORY))
def test_many_kills(kind: str, part: int, tmp_path: Path, rng: random.Random) -> None:
    run(kind, tmp_path, rng, ROUNDS_OF_A_HISTORY)
