"""Control messages between processes: their order, late peers, and dead ones."""

import asyncio
import os
import stat
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardd.router.control import Control
from shardd.runfiles import RuntimeDirectory
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="ipc-") as path:
        yield path


class Process:
    """One process's control, and what it was told."""

    def __init__(self, directory, slot, incarnation=1, start=True):
        self.control = Control(directory, slot, incarnation, asyncio.get_running_loop())
        self.messages: list[tuple[Any, ...]] = []
        self.batches: list[int] = []
        self.stalls: list[tuple[int, int]] = []
        if start:
            self.start()

    def start(self):
        self.control.start(
            self.messages.append,
            lambda: self.batches.append(len(self.messages)),
            lambda client, milliseconds: self.stalls.append((client, milliseconds)),
        )

    async def wait_for(self, count):
        await wait_until_async(lambda: len(self.messages) >= count, f"{count} control messages")


def in_loop(
    test: Callable[[str], Coroutine[Any, Any, None]],
) -> Callable[[str], None]:
    """A test that runs in an event loop."""

    def run(directory: str) -> None:
        asyncio.run(test(directory))

    run.__name__ = test.__name__
    return run


@in_loop
async def test_messages_arrive_in_the_order_sent_however_many_they_are(directory):
    one, two = Process(directory, 1), Process(directory, 2)
    one.control.connect(2, 1)
    two.control.connect(1, 1)
    for number in range(2000):
        one.control.send(1 << 2, ("down", number))
        if number % 2:
            two.control.send(1 << 1, ("up", number))
    await two.wait_for(2000)
    await one.wait_for(1000)
    assert two.messages == [("down", number) for number in range(2000)]
    assert one.messages == [("up", number) for number in range(1, 2000, 2)]
    one.control.close()
    two.control.close()


@in_loop
async def test_many_messages_are_taken_in_turns_that_let_others_in(directory):
    one, two = Process(directory, 1), Process(directory, 2, start=False)
    one.control.connect(2, 1)
    for number in range(1000):
        one.control.send(1 << 2, (number,))
    two.start()
    await two.wait_for(1000)
    assert [message[0] for message in two.messages] == list(range(1000))
    # `after` has been called behind each turn, and no turn took more than its share.
    assert two.batches[-1] == 1000
    turns = [later - sooner for sooner, later in zip([0, *two.batches], two.batches, strict=False)]
    assert max(turns) <= 256
    one.control.close()
    two.control.close()


@in_loop
async def test_a_message_keeps_the_types_of_its_parts(directory):
    one, two = Process(directory, 1), Process(directory, 2)
    one.control.connect(2, 1)
    message = (2, 0, 2**64 - 1, None, ((b"\xff\x00", b"queue", 7), ("text", True, -1, 0.5), ()))
    one.control.send(1 << 2, message)
    one.control.send(1 << 2, (3, b"x" * 3_000_000))
    await two.wait_for(2)
    assert two.messages == [message, (3, b"x" * 3_000_000)]
    one.control.close()
    two.control.close()


@in_loop
async def test_a_peer_that_binds_late_gets_what_was_sent_before(directory):
    one = Process(directory, 1)
    one.control.connect(2, 1)
    for number in range(100):
        one.control.send(1 << 2, ("early", number))
    two = Process(directory, 2)
    one.control.send(1 << 2, ("late", 100))
    await two.wait_for(101)
    assert two.messages == [*(("early", number) for number in range(100)), ("late", 100)]
    one.control.close()
    two.control.close()


@in_loop
async def test_messages_that_came_before_the_start_are_not_forgotten(directory):
    one, two = Process(directory, 1), Process(directory, 2, start=False)
    one.control.connect(2, 1)
    one.control.send(1 << 2, ("first",))
    # The descriptor tells of changes only, and this one is over when it is first watched.
    await wait_until_async(lambda: is_readable(two), "something at the socket")
    two.start()
    await two.wait_for(1)
    assert two.messages == [("first",)]
    one.control.close()
    two.control.close()


def is_readable(process):
    """Whether the library has a message for a process that has not started to read."""
    return process.control._pull.poll(0) != 0


@in_loop
async def test_only_the_processes_that_are_meant_get_a_message(directory):
    processes = {slot: Process(directory, slot) for slot in (0, 1, 5, 63)}
    for slot in (1, 5, 63):
        processes[0].control.connect(slot, 1)
    processes[0].control.send(1 << 5 | 1 << 63, ("some",))
    processes[0].control.send(1 << 9, ("nobody",))
    processes[0].control.send(0, ("nobody",))
    processes[0].control.send(2**64 - 1, ("all",))
    for slot in (1, 5, 63):
        await processes[slot].wait_for(1 if slot == 1 else 2)
    assert [processes[slot].messages for slot in (0, 1, 5, 63)] == [
        [],
        [("all",)],
        [("some",), ("all",)],
        [("some",), ("all",)],
    ]
    for process in processes.values():
        process.control.close()


@in_loop
async def test_what_was_meant_for_a_dead_process_never_reaches_its_successor(directory):
    one, two = Process(directory, 1), Process(directory, 2, incarnation=7, start=False)
    one.control.connect(2, 7)
    one.control.send(1 << 2, ("for seven",))
    two.control.close()
    one.control.send(1 << 2, ("for seven too",))

    successor = Process(directory, 2, incarnation=8)
    one.control.send(1 << 2, ("still for seven",))
    one.control.connect(2, 8)
    one.control.send(1 << 2, ("for eight",))
    await successor.wait_for(1)
    # Order is kept, so that anything older would have come before the last of many.
    for number in range(100):
        one.control.send(1 << 2, (number,))
    await successor.wait_for(101)
    assert successor.messages == [("for eight",), *((number,) for number in range(100))]
    one.control.close()
    successor.control.close()


@in_loop
async def test_a_process_killed_before_it_could_remove_its_name_does_not_harm_its_successor(
    directory,
):
    (Path(directory) / "2.1").write_bytes(b"")
    one, successor = Process(directory, 1), Process(directory, 2, incarnation=2)
    one.control.connect(2, 1)
    one.control.send(1 << 2, ("into the void",))
    one.control.connect(2, 2)
    one.control.send(1 << 2, ("here",))
    await successor.wait_for(1)
    assert successor.messages == [("here",)]
    one.control.close()
    successor.control.close()


@in_loop
async def test_a_peer_that_was_disconnected_gets_nothing_more(directory):
    one, two, three = (Process(directory, slot) for slot in (1, 2, 3))
    one.control.connect(2, 1)
    one.control.connect(3, 1)
    one.control.send(1 << 2, ("before",))
    await two.wait_for(1)
    one.control.disconnect(2)
    one.control.disconnect(2)
    one.control.send(1 << 2 | 1 << 3, ("after",))
    await three.wait_for(1)
    assert two.messages == [("before",)]
    one.control.connect(2, 1)
    one.control.send(1 << 2, ("again",))
    await two.wait_for(2)
    assert two.messages == [("before",), ("again",)]
    for process in (one, two, three):
        process.control.close()


@in_loop
async def test_sending_never_waits_for_a_peer_that_does_not_read(directory):
    one, two = Process(directory, 1), Process(directory, 2, start=False)
    one.control.connect(2, 1)
    body = b"x" * 100_000
    for number in range(300):
        one.control.send(1 << 2, (number, body))
    two.start()
    await two.wait_for(300)
    assert two.messages == [(number, body) for number in range(300)]
    one.control.close()
    two.control.close()


@in_loop
async def test_a_stall_is_told_and_a_callback_waits_for_its_turn(directory):
    one = Process(directory, 1, start=False)
    one.control.stall(7, 2)
    one.start()
    one.control.stall(2**40, 2)
    assert one.stalls == [(2**40, 2)]
    called: list[str] = []
    one.control.later(lambda: called.append("later"))
    assert called == []
    await wait_until_async(lambda: called, "the callback")
    one.control.close()


@in_loop
async def test_a_closed_control_leaves_no_name_and_ends_with_messages_still_queued(directory):
    one = Process(directory, 1)
    assert os.listdir(directory) == ["1.1"]
    one.control.connect(2, 1)
    one.control.send(1 << 2, ("for nobody",))
    one.control.close()
    assert os.listdir(directory) == []


@in_loop
async def test_the_callback_that_was_due_when_it_closed_finds_nothing_to_do(directory):
    one, two = Process(directory, 1), Process(directory, 2, start=False)
    one.control.connect(2, 1)
    for number in range(300):
        one.control.send(1 << 2, (number,))
    two.start()  # its first turn is due
    two.control.close()
    one.control.close()
    await asyncio.sleep(0)
    assert two.messages == []


def test_the_sockets_stand_where_only_the_servers_user_can_go(
    monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    runtime = RuntimeDirectory.create()

    async def talk() -> None:
        one, two = (Process(str(runtime.path), slot, incarnation=2**32 - 1) for slot in (62, 63))
        sockets = {path.name: path.stat().st_mode for path in runtime.path.iterdir()}
        assert {"62.4294967295", "63.4294967295"} <= sockets.keys()
        assert stat.S_ISSOCK(sockets["63.4294967295"])
        one.control.connect(63, 2**32 - 1)
        one.control.send(1 << 63, ("hello",))
        await two.wait_for(1)
        one.control.close()
        two.control.close()

    try:
        assert runtime.path.parent == Path(directory)
        assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o700
        asyncio.run(talk())
    finally:
        runtime.close()
    assert os.listdir(directory) == []
