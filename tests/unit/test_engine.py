"""The driver of a streaming server: when passes are made, and how it stops."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from shardd.streaming.engine import Engine
from shardd.streaming.store import Recovered, Store

WAIT_S = 30.0
NOTHING = Recovered(None, (), (), {})


class FakeBus:
    """A bus whose passes the test makes."""

    def __init__(self) -> None:
        self.begin_pass: Callable[[], object] | None = None
        self.end_pass: Callable[[], object] | None = None
        self.on_room: Callable[[], object] | None = None

    def finish(self) -> None:
        if self.end_pass is not None:
            self.end_pass()


class FakeStore:
    """A store that commits when the test says so."""

    def __init__(self, said: list[str]) -> None:
        self.is_committing = False
        self.has_changes = False
        self._said = said

    def close(self) -> None:
        self._said.append("closed")


class FakeServer:
    """A server that notes what it is told."""

    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.deadline_ms: int | None = None
        self.clocks: list[tuple[int, int]] = []
        self.passes = 0
        self.during_pass: Callable[[], object] = lambda: None

    def start(
        self, recovered: Recovered, now_ms: int, now_ns: int, on_ready: Callable[[str], object]
    ) -> None:
        assert recovered is NOTHING
        self.clocks.append((now_ms, now_ns))
        self.said.append("started")
        on_ready("")

    def tick(self, now_ms: int, now_ns: int) -> None:
        self.clocks.append((now_ms, now_ns))

    def end_pass(self) -> None:
        self.passes += 1
        self.during_pass()

    def next_deadline_ms(self) -> int | None:
        return self.deadline_ms

    def stop(self) -> None:
        self.said.append("stopped")


class Rig:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.bus = FakeBus()
        self.store = FakeStore(self.said)
        self.server = FakeServer(self.said)
        self.engine = Engine(
            asyncio.get_running_loop(),
            self.bus,
            cast(Store, self.store),
            self.server,
            self.bus.finish,
        )

    def start(self) -> None:
        self.engine.start(NOTHING, lambda error: self.said.append(f"ready{error}"))

    async def passes(self, count: int) -> None:
        goal = self.server.passes + count
        while self.server.passes < goal:  # noqa: ASYNC110 (a pass has no event)
            await asyncio.sleep(0)

    async def stop(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self.engine.stop(lambda: done.set_result(None))
        await done


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), WAIT_S))


def test_a_start_makes_the_first_pass_and_tells_when_it_is_ready() -> None:
    async def body() -> None:
        rig = Rig()
        rig.start()
        assert rig.said == ["started", "ready"]
        assert rig.server.passes == 1
        await rig.stop()

    run(body)


def test_a_pass_is_made_at_the_deadline_and_not_before() -> None:
    async def body() -> None:
        rig = Rig()
        rig.start()
        now_ms = rig.server.clocks[-1][0]
        rig.server.deadline_ms = now_ms + 30
        rig.bus.finish()
        # An earlier one comes: it holds. A later one: a pass too many does no harm.
        rig.server.deadline_ms = now_ms + 20
        rig.bus.finish()
        count = rig.server.passes
        rig.server.during_pass = lambda: setattr(rig.server, "deadline_ms", None)
        await rig.passes(1)
        assert rig.server.clocks[-1][0] >= now_ms + 20
        assert rig.server.passes == count + 1
        await rig.stop()

    run(body)


def test_what_ends_in_another_turn_makes_one_pass() -> None:
    async def body() -> None:
        rig = Rig()
        rig.start()
        before = rig.server.passes
        rig.engine.wake()
        rig.engine.wake()
        assert rig.bus.on_room is not None
        rig.bus.on_room()
        await rig.passes(1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert rig.server.passes == before + 1
        rig.engine.wake()
        await rig.passes(1)
        await rig.stop()

    run(body)


def test_a_stop_waits_for_the_commit_and_for_what_came_meanwhile() -> None:
    async def body() -> None:
        rig = Rig()
        rig.start()
        rig.store.is_committing = rig.store.has_changes = True
        task = asyncio.ensure_future(rig.stop())
        await rig.passes(3)
        assert rig.said[-1] == "stopped"
        rig.store.is_committing = False
        await rig.passes(2)
        assert not task.done()
        rig.store.has_changes = False
        await task
        assert rig.said == ["started", "ready", "stopped", "closed"]
        assert rig.bus.end_pass is None
        passes = rig.server.passes
        rig.engine.wake()
        await asyncio.sleep(0.01)
        assert rig.server.passes == passes

    run(body)


def test_a_stop_before_the_start_closes_the_store() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.stop()
        assert rig.said == ["closed"]

    run(body)
