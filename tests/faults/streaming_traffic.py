"""Clients at work while a streaming server comes and goes, and a pool that runs alone."""

import asyncio
import contextlib
import itertools
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from shardd.streaming.client.connection import Connection, connect
from shardd.streaming.client.errors import StreamingError
from shardd.streaming.client.message import StreamingMessage
from tests.support.waiting import PATIENCE, WAIT_S, wait_until, wait_until_async

SCENARIO_S: Final = 50.0 * PATIENCE
READY: Final = "STREAM: Streaming Server is ready"


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def watched() -> None:
        async with asyncio.timeout(SCENARIO_S):
            await scenario()

    asyncio.run(watched())


@contextlib.asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[Connection]:
    async def be_silent(_: Exception) -> None:
        """That NATS is away for a while is what these tests are about."""

    connection = await connect(
        "test-cluster",
        f"client-{uuid.uuid4().hex}",
        servers=url,
        nats_options={
            "reconnect_time_wait": 0.05,
            "max_reconnect_attempts": -1,
            "error_cb": be_silent,
        },
        publish_wait_s=2.0,
        connect_wait_s=WAIT_S,
        **options,
    )
    try:
        yield connection
    finally:
        with contextlib.suppress(StreamingError):
            await connection.close()


class Traffic:
    """A publisher and a subscriber of some channels, and what each of them knows."""

    def __init__(self, connection: Connection, channels: int = 8) -> None:
        self.channels = [f"traffic.{uuid.uuid4().hex}.{n}" for n in range(channels)]
        self.acknowledged: dict[str, list[int]] = {name: [] for name in self.channels}
        self.got: dict[str, list[int]] = {name: [] for name in self.channels}
        self.refusals = 0
        self._connection = connection
        self._numbers = itertools.count()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for name in self.channels:
            await self._connection.subscribe(name, self._take, durable_name="d", ack_wait_s=1)
        self._task = asyncio.create_task(self._publish())

    def _take(self, message: StreamingMessage) -> None:
        self.got[message.channel].append(int(message.data))

    async def _publish(self) -> None:
        for name in itertools.cycle(self.channels):
            number = next(self._numbers)
            try:
                await self._connection.publish(name, b"%d" % number)
            except StreamingError:
                self.refusals += 1
                await asyncio.sleep(0)  # one that comes at once must not keep the loop busy
                continue
            self.acknowledged[name].append(number)

    @property
    def count(self) -> int:
        """Messages acknowledged so far."""
        return sum(map(len, self.acknowledged.values()))

    async def more(self, count: int) -> None:
        """So many more have been acknowledged."""
        goal = self.count + count
        await wait_until_async(lambda: self.count >= goal, f"{count} more acks", 20.0 * PATIENCE)

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))

    def _has_arrived(self, name: str) -> bool:
        return set(self.acknowledged[name]) <= set(self.got[name])

    async def check(self) -> None:
        """Everything acknowledged arrives; first arrivals are in order."""
        for name in self.channels:
            await wait_until_async(
                partial(self._has_arrived, name),
                f"what was acknowledged on {name}",
                20.0 * PATIENCE,
            )
            first = list(dict.fromkeys(self.got[name]))
            assert first == sorted(first)


class Alone:
    """`shardd streaming`, a client of NATS servers."""

    def __init__(self, directory: Path, *words: str, awaited: str = READY) -> None:
        """`awaited` is the line of the log that a start waits for."""
        self.log = directory / "alone.log"
        self._awaited = awaited
        self._words = words
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        before = self.log_text().count(self._awaited)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shardd", "streaming", *self._words],
                stdout=log,
                stderr=log,
            )
        wait_until(
            lambda: self.log_text().count(self._awaited) > before,
            f"{self._awaited}: {self.log_text()}",
        )

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20 * PATIENCE)


@contextlib.contextmanager
def alone_with(directory: Path, *words: str) -> Iterator[Alone]:
    alone = Alone(directory, *words)
    alone.start()
    try:
        yield alone
    finally:
        if alone.process is not None and alone.process.poll() is None:
            alone.end(signal.SIGKILL)
