"""The streaming pool as real processes: killed, stopped, started twice, run alone."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import pytest

from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import StartAt
from tests.faults.streaming_traffic import READY, Traffic, alone_with, client_of, run
from tests.support.broker import Broker, free_port, make_broker
from tests.support.cluster import cluster_text
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

WORKERS: Final = 2
POOL: Final = 2

pytestmark = pytest.mark.usefixtures("no_leaks")

Scenario = Callable[[], Awaitable[None]]


def pool_text(data: Path | None, more: str = "") -> str:
    """A configuration file of a server with a pool."""
    store = f'dir: "{data}"' if data is not None else ""
    return f"streaming {{ workers: {POOL}, {store}\n{more} }}\n"


@contextlib.contextmanager
def pool_of(text: str, *flags: str) -> Iterator[Broker]:
    """A server with this configuration, started and ended."""
    broker = make_broker(f"shardd-{WORKERS}")
    broker.start_text(text, *flags)
    try:
        yield broker
    finally:
        broker.stop()


def streaming_pids(broker: Broker) -> list[int]:
    """The streaming workers' processes, as the log names them; the last ones forked."""
    children = psutil.Process(broker.pid).children()
    ordered = sorted(children, key=lambda child: (child.create_time(), child.pid))
    return [child.pid for child in ordered[WORKERS : WORKERS + POOL]]


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_streaming_worker_is_replaced_and_clients_go_on(
    tmp_path: Path, victim: int
) -> None:
    with pool_of(pool_text(tmp_path / "store")) as broker:

        async def scenario() -> None:
            async with client_of(broker.url) as connection:
                traffic = Traffic(connection)
                await traffic.start()
                await traffic.more(50)
                os.kill(streaming_pids(broker)[victim], signal.SIGKILL)
                text = f"Streaming {victim} is ready"
                await wait_until_async(lambda: text in broker.log_text(), text)
                await traffic.more(200)
                await traffic.stop()
                await traffic.check()

        run(scenario)
        assert f"Streaming {victim}, pid" in broker.log_text()
        assert f"Streaming {1 - victim}, pid" not in broker.log_text()


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    text = "shardd { heartbeat_silence: 1 }\n" + pool_text(tmp_path / "store")
    with pool_of(text) as broker:

        async def scenario() -> None:
            async with client_of(broker.url) as connection:
                traffic = Traffic(connection)
                await traffic.start()
                await traffic.more(20)
                os.kill(streaming_pids(broker)[1], signal.SIGSTOP)
                await wait_until_async(
                    lambda: "Streaming 1 is ready" in broker.log_text(), "the next one"
                )
                await traffic.more(100)
                await traffic.stop()
                await traffic.check()

        run(scenario)


def test_a_killed_server_goes_on_where_it_was(tmp_path: Path) -> None:
    port = free_port()
    text = pool_text(tmp_path / "store")
    broker = make_broker(f"shardd-{WORKERS}")
    broker.start_text(text, "-p", str(port))

    async def scenario() -> None:
        nonlocal broker
        async with client_of(f"nats://127.0.0.1:{port}") as connection:
            traffic = Traffic(connection)
            await traffic.start()
            await traffic.more(100)
            broker.kill()
            broker = make_broker(f"shardd-{WORKERS}")
            await asyncio.to_thread(broker.start_text, text, "-p", str(port))
            await traffic.more(100)
            await traffic.stop()
            await traffic.check()

    try:
        run(scenario)
    finally:
        broker.stop()


def test_an_orderly_stop_answers_what_it_took_and_forgets_no_position(tmp_path: Path) -> None:
    text = pool_text(tmp_path / "store")
    channel = uuid.uuid4().hex
    broker = make_broker("shardd-2")
    broker.start_text(text)

    async def first() -> None:
        async with client_of(broker.url) as connection:
            got: list[int] = []
            await connection.subscribe(
                channel, lambda m: got.append(m.sequence), durable_name="d", queue_group="q"
            )
            for _ in range(100):
                await connection.publish(channel, b"x")
            await wait_until_async(lambda: len(got) == 100, "100 messages")
            await connection.publish("another", b"")  # behind the acks

    run(first)
    assert READY in broker.log_text()
    assert broker.stop() == 143
    broker = make_broker("shardd-2")
    broker.start_text(text)

    async def second() -> None:
        async with client_of(broker.url) as connection:
            got: list[StreamingMessage] = []
            await connection.subscribe(channel, got.append, durable_name="d", queue_group="q")
            await connection.publish(channel, b"101")
            await wait_until_async(lambda: got, "message 101")
            assert [message.sequence for message in got] == [101]

    try:
        run(second)
    finally:
        broker.stop()


@pytest.mark.slow
def test_a_store_in_memory_is_lost_as_a_whole_and_clients_are_told() -> None:
    with pool_of(pool_text(None)) as broker:

        async def scenario() -> None:
            lost: list[object] = []
            async with client_of(
                broker.url, ping_interval_s=1, connection_lost_cb=lambda *why: lost.extend(why)
            ) as connection:
                await connection.publish("a", b"x")
                os.kill(streaming_pids(broker)[1], signal.SIGKILL)
                await wait_until_async(lambda: lost, "the loss", 20.0 * PATIENCE)

        run(scenario)
        wait_until(lambda: broker.log_text().count(" is ready, pid ") == POOL, "both to be back")
        assert "Store is MEMORY, messages are lost when the server ends" in broker.log_text()


# --- what is refused ------------------------------------------------------------------------------


def refused(*words: str) -> str:
    """What a command that ends with 1 wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "shardd", *words],
        capture_output=True,
        text=True,
        timeout=30 * PATIENCE,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_a_second_server_of_a_cluster_id_is_refused(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    text = cluster_text("one", ports[0], more=pool_text(tmp_path / "store"))
    with pool_of(text) as broker:
        expected = 'STREAM: discovered another streaming server with cluster ID "test-cluster"'
        # through a route
        second = tmp_path / "second.conf"
        second.write_text(cluster_text("two", ports[1], ports[:1], pool_text(None)))
        assert expected in refused("start", "-a", "127.0.0.1", "-p", "-1", "-c", str(second))
        # as a client
        assert expected in refused("streaming", "--nats", broker.url)
        # another cluster id is none of the first one's business
        second.write_text(cluster_text("two", ports[1], ports[:1], pool_text(None, "cid: other")))
        with pool_of(second.read_text()):
            pass

        async def scenario() -> None:
            async with client_of(broker.url) as connection:
                await connection.publish("a", b"x")

        run(scenario)


def test_a_store_is_for_one_server_and_one_cluster_id(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    start = ("start", "-a", "127.0.0.1", "-p", "-1", "--workers", "1", "--dir", store)
    with pool_of(pool_text(Path(store))):
        assert "another process uses this store" in refused(*start, "-cid", "other")
    assert 'cluster ID "other" does not match recovered value of "test-cluster"' in refused(
        *start, "-cid", "other"
    )


def test_streaming_options_do_not_reload_and_the_rest_does(tmp_path: Path) -> None:
    text = pool_text(tmp_path / "store")
    with pool_of(text) as broker:
        answer = broker.reload(text.replace("workers: 2", "workers: 1"))
        assert "config reload not supported for streaming" in answer
        assert "Reloaded server configuration" in broker.reload("max_payload: 2000000\n" + text)

        async def scenario() -> None:
            async with client_of(broker.url) as connection:
                await connection.publish("a", b"x")

        run(scenario)


# --- questions ----------------------------------------------------------------------------------


def stats(pid: int, *words: str, code: int = 0) -> str:
    """What `shardd stream stats` prints of a server."""
    done = subprocess.run(
        [sys.executable, "-m", "shardd", "stream", "stats", str(pid), *words],
        capture_output=True,
        text=True,
        timeout=30 * PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_running_pool_tells_of_itself_over_all_workers(tmp_path: Path) -> None:
    with pool_of(pool_text(tmp_path / "store")) as broker:

        async def scenario() -> None:
            async with client_of(broker.url) as connection:
                for number in range(6):
                    await connection.publish(f"c{number}", b"x")
                await connection.subscribe("c1", print, durable_name="d")
                document = json.loads(await asyncio.to_thread(stats, broker.pid, "--json"))
                counts = [document[key] for key in ("clients", "channels", "total_msgs")]
                assert (document["cluster_id"], counts) == ("test-cluster", [1, 6, 6])
                text = await asyncio.to_thread(stats, broker.pid, "--of", "channelsz")
                assert all(f"  c{number}" in text for number in range(6))
                words = ("--of", "channelsz", "--channel", "c1", "--subs", "--json")
                document = json.loads(await asyncio.to_thread(stats, broker.pid, *words))
                assert document["subscriptions"][0]["durable_name"] == "d"

        run(scenario)
        words = ("--of", "channelsz", "--channel", "nope")
        assert "Channel nope not found" in stats(broker.pid, *words, code=1)
    with pool_of("") as broker:
        assert "it serves no streaming" in stats(broker.pid, code=1)


# --- alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nats-server", pytest.param("shardd-2", marks=pytest.mark.slow)])
def test_the_pool_runs_alone_with_any_server_and_outlives_it(tmp_path: Path, kind: str) -> None:
    port = free_port()
    server = make_broker(kind)
    server.start_text("", "-p", str(port))
    url = f"nats://127.0.0.1:{server.port}"
    file = tmp_path / "streaming.conf"
    file.write_text("colour: blue\n")
    words = ("--nats", url, "--dir", str(tmp_path / "store"), "-sc", str(file))
    with alone_with(tmp_path, *words) as alone:
        assert alone.process is not None
        assert "[INF] STREAM: Store is FILE" in alone.log_text()
        assert f'[WRN] {file}:1: streaming: unknown field "colour"' in alone.log_text()
        assert "test-cluster" in stats(alone.process.pid)

        async def scenario() -> None:
            nonlocal server
            async with client_of(url) as connection:
                traffic = Traffic(connection, 3)
                await traffic.start()
                await traffic.more(50)
                server.kill()
                server = make_broker(kind)
                await asyncio.to_thread(server.start_text, "", "-p", str(port))
                await traffic.more(50)
                alone.end(signal.SIGKILL)
                await asyncio.to_thread(alone.start)
                await traffic.more(50)
                await traffic.stop()
                await traffic.check()

        try:
            run(scenario)
            assert alone.end(signal.SIGTERM) == 143
            assert alone.log_text().count("Connected to NATS") == 3
        finally:
            server.stop()


@pytest.mark.slow
def test_replay_over_tcp_is_complete_and_in_order(tmp_path: Path) -> None:
    server = make_broker("nats-server")
    server.start()
    try:
        with alone_with(tmp_path, "--nats", server.url):

            async def scenario() -> None:
                async with client_of(server.url) as connection:
                    sent = [await connection.publish_async("log", b"%d" % n) for n in range(5000)]
                    await asyncio.gather(*sent)
                    got: list[int] = []
                    await connection.subscribe(
                        "log", lambda m: got.append(int(m.data)), start=StartAt.all_available()
                    )
                    await wait_until_async(lambda: len(got) == 5000, "all of it", 20 * PATIENCE)
                    assert got == list(range(5000))

            run(scenario)
    finally:
        server.stop()


def is_long(got: list[StreamingMessage]) -> bool:
    return len(got) == 3


@pytest.mark.slow
def test_two_pools_share_the_channels_of_one_cluster_id(tmp_path: Path) -> None:
    def file_of(name: str, *entries: str) -> str:
        path = tmp_path / f"{name}.conf"
        channels = ", ".join(f'"{entry}": {{}}' for entry in entries)
        path.write_text(f"partitioning: true\nstore_limits {{ channels {{ {channels} }} }}\n")
        return str(path)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    server = make_broker("nats-server")
    server.start()
    nats = ("--nats", server.url)
    try:
        with (
            alone_with(tmp_path / "one", *nats, "-sc", file_of("first", "foo.*", "bar")),
            alone_with(tmp_path / "two", *nats, "-sc", file_of("second", "more.>")),
        ):
            text = 'channel "foo.baz" causes conflict with channels on server "'
            assert text in refused("streaming", *nats, "-sc", file_of("third", "x", "foo.baz"))

            async def scenario() -> None:
                async with client_of(server.url) as connection:
                    for channel in ("foo.a", "more.a.b", "bar"):
                        got: list[StreamingMessage] = []
                        await connection.subscribe(channel, got.append)
                        for _ in range(3):
                            await connection.publish(channel, b"x")
                        await wait_until_async(partial(is_long, got), channel)
                        assert [message.sequence for message in got] == [1, 2, 3]

            run(scenario)
    finally:
        server.stop()
