"""Encryption at rest in real servers: over restarts and kills, another cipher, another key."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shardd.config.streaming import KEY_VARIABLE
from shardd.streaming.client.connection import Connection, connect
from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import StartAt
from tests.support.broker import Broker, make_broker
from tests.support.waiting import PATIENCE, wait_until_async

SECRET: Final = b"nobody but the subscriber reads this"
KEY: Final = "a-key-that-nobody-may-see"
CHANNELS: Final = ("one", "two", "three")
SCENARIO_S: Final = 60.0 * PATIENCE

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def text_of(data: Path, more: str) -> str:
    return f'streaming {{ workers: 2, dir: "{data}"\n{more}\n}}\n'


@contextlib.contextmanager
def pool_of(data: Path, more: str, end: signal.Signals = signal.SIGTERM) -> Iterator[Broker]:
    broker = make_broker("shardd-2")
    broker.start_text(text_of(data, more))
    try:
        yield broker
    finally:
        log = broker.log_text()
        if end == signal.SIGKILL:
            broker.kill()
        else:
            assert broker.stop() in (0, 143)
        assert KEY not in log
        assert SECRET not in log.encode()


async def read_all(client: Connection, channel: str, count: int) -> list[bytes]:
    """The first messages of a channel."""
    found: list[bytes] = []

    async def take(message: StreamingMessage) -> None:
        found.append(message.data)

    subscription = await client.subscribe(channel, take, start=StartAt.all_available())
    await wait_until_async(lambda: len(found) >= count, f"{count} messages of {channel}")
    await subscription.close()
    return found


def batch(name: str, count: int) -> list[bytes]:
    return [b"%s %s %d" % (SECRET, name.encode(), number) for number in range(count)]


def use(broker: Broker, name: str, before: list[bytes], count: int) -> list[bytes]:
    """Publishes more, and reads everything, in each channel; all there is afterwards."""

    async def scenario() -> None:
        async with asyncio.timeout(SCENARIO_S):
            client = await connect("test-cluster", f"me-{name}", servers=broker.url)
            for channel in CHANNELS:
                assert await read_all(client, channel, len(before)) == before
                for each in batch(name, count):
                    await client.publish(channel, each)
                assert await read_all(client, channel, len(before) + count) == (
                    before + batch(name, count)
                )
            await client.close()

    asyncio.run(scenario())
    return before + batch(name, count)


def stored(data: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file())


def refusal(data: Path, more: str, tmp_path: Path) -> str:
    """What a server says that does not start."""
    file = tmp_path / "refused.conf"
    file.write_text(f'listen: "127.0.0.1:-1"\n{text_of(data, more)}')
    command = [sys.executable, "-m", "shardd", "start", "-c", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 * PATIENCE, check=False
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_messages_survive_restarts_kills_and_a_change_of_the_cipher(tmp_path):
    data = tmp_path / "store"
    with pool_of(data, "") as broker:
        kept = use(broker, "plain", [], 5)
    assert SECRET in stored(data)
    with pool_of(
        data, f'encryption_key: "{KEY}", encryption_cipher: AES', signal.SIGKILL
    ) as broker:
        assert "STREAM: Messages are stored encrypted" in broker.log_text()
        kept = use(broker, "aes", kept, 20)
    with pool_of(data, f'encryption_key: "{KEY}", encryption_cipher: CHACHA') as broker:
        kept = use(broker, "chacha", kept, 20)
    with pool_of(data, f'encrypt: true, encryption_key: "{KEY}"') as broker:
        use(broker, "again", kept, 5)
    found = stored(data)
    assert found.count(SECRET + b" plain") == 5 * len(CHANNELS)
    assert found.count(SECRET) == 5 * len(CHANNELS)
    assert KEY.encode() not in found


def test_without_the_key_nothing_is_served_and_nothing_is_lost(tmp_path, monkeypatch):
    data = tmp_path / "store"
    with pool_of(data, f'encryption_key: "{KEY}"') as broker:
        kept = use(broker, "first", [], 5)
    said = refusal(data, 'encryption_key: "some-other-key"', tmp_path)
    assert "the store was encrypted with another key" in said
    assert "some-other-key" not in said
    assert "the store holds encrypted messages" in refusal(data, "", tmp_path)
    assert "encryption key required" in refusal(data, "encrypt: true", tmp_path)
    # The environment's key wins.
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with pool_of(data, 'encryption_key: "some-other-key"') as broker:
        use(broker, "second", kept, 5)
    assert SECRET not in stored(data)
