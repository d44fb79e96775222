"""Fault-tolerance groups of streaming servers as real processes: killed, frozen, cut off.

In all of them one client goes on with the connection that it had.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil
import pytest

from shardd.streaming.client.connection import Connection
from shardd.streaming.client.errors import StreamingError
from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import StartAt
from tests.faults.streaming_traffic import READY, Alone, Traffic, client_of, run
from tests.support.broker import Broker, free_port, make_broker
from tests.support.postgres import Cluster, make_cluster
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

STANDBY: Final = "STREAM: Starting in standby mode"
REFUSED: Final = "STREAM: ft: unable to get store lock at this time, going back to standby"
KEY: Final = "a-key-that-nobody-may-see"
TAKEOVER_S: Final = 20.0 * PATIENCE

pytestmark = pytest.mark.usefixtures("no_leaks")


@contextlib.contextmanager
def nats_server() -> Iterator[str]:
    server = make_broker("nats-server")
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextlib.contextmanager
def group_of(directory: Path, count: int, url: str, *words: str) -> Iterator[list[Alone]]:
    """So many servers of one group, standing by or active."""
    members: list[Alone] = []
    try:
        for number in range(count):
            home = directory / f"{words[-1]}-{number}"
            home.mkdir()
            member = Alone(home, "--nats", url, *words, awaited=STANDBY)
            members.append(member)
            member.start()
        yield members
    finally:
        for member in members:
            if member.process is not None and member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)
                member.end(signal.SIGKILL)


def active_of(members: Sequence[Alone], *, but: Alone | None = None) -> Alone:
    """The member that serves, once there is one, other than this one."""

    def serving() -> list[Alone]:
        return [each for each in members if each is not but and READY in each.log_text()]

    wait_until(serving, "one that serves", TAKEOVER_S)
    (found,) = serving()
    return found


async def active_of_async(members: Sequence[Alone], *, but: Alone | None = None) -> Alone:
    return await asyncio.to_thread(active_of, members, but=but)


def forget_log(member: Alone) -> None:
    """What it said before it was ended does not count for its next life."""
    member.log.write_text("")


def state_of(member: Alone) -> str:
    assert member.process is not None
    words = [sys.executable, "-m", "shardd", "stream", "stats", str(member.process.pid), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return str(json.loads(done.stdout)["state"])


def test_one_serves_and_when_it_is_killed_another_one_goes_on(tmp_path: Path) -> None:
    words = ("-st", "file", "--dir", str(tmp_path / "store"), "--ft_group", "g")
    with nats_server() as url, group_of(tmp_path, 2, url, *words) as members:
        first = active_of(members)
        (second,) = (each for each in members if each is not first)
        assert "is active" not in second.log_text()

        async def scenario() -> None:
            async with client_of(url) as connection:
                traffic = Traffic(connection, 3)
                await traffic.start()
                await traffic.more(50)
                first.end(signal.SIGKILL)
                await traffic.more(50)
                assert READY in second.log_text()
                await traffic.stop()
                await traffic.check()

        run(scenario)
        assert second.end(signal.SIGTERM) == 143


@pytest.mark.slow
def test_every_member_has_its_turn_and_a_frozen_one_keeps_it(tmp_path: Path) -> None:
    words = ("-st", "file", "--dir", str(tmp_path / "store"), "--ft_group", "g")
    with nats_server() as url, group_of(tmp_path, 3, url, *words) as members:
        active = active_of(members)
        states = [state_of(member) for member in members]
        assert sorted(states) == ["FT_ACTIVE", "FT_STANDBY", "FT_STANDBY"]
        assert states[members.index(active)] == "FT_ACTIVE"

        async def scenario() -> None:
            nonlocal active
            async with client_of(url) as connection:
                traffic = Traffic(connection, 3)
                await traffic.start()
                await traffic.more(50)
                for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                    active.end(number)
                    ended, active = active, await active_of_async(members, but=active)
                    await traffic.more(50)
                    forget_log(ended)
                    await asyncio.to_thread(ended.start)
                # Frozen, it has the lock still: nobody else serves, and nothing is acknowledged.
                assert active.process is not None
                others = [each for each in members if each is not active]
                said = [each.log_text().count(REFUSED) for each in others]
                active.process.send_signal(signal.SIGSTOP)
                await wait_until_async(
                    lambda: all(
                        each.log_text().count(REFUSED) > before
                        for each, before in zip(others, said, strict=True)
                    ),
                    "the others have tried",
                    TAKEOVER_S,
                )
                before = traffic.count
                with pytest.raises(StreamingError):
                    await connection.publish("frozen", b"x")
                assert traffic.count == before
                active.process.send_signal(signal.SIGCONT)
                await traffic.more(50)
                assert not any("is active" in each.log_text() for each in others)
                await traffic.stop()
                await traffic.check()

        run(scenario)


@pytest.mark.slow
def test_groups_share_channels_among_each_other(tmp_path: Path) -> None:
    """Partitioning: each of two servers with channels of its own is a group."""

    def words_of(name: str, entry: str) -> tuple[str, ...]:
        path = tmp_path / f"{name}.conf"
        path.write_text(
            f'partitioning: true\nstore_limits {{ channels {{ "{entry}": {{}} }} }}\n'
            f'dir: "{tmp_path / name}-store"\nft_group: {name}\n'
        )
        return ("-sc", str(path))

    def is_served(got: list[StreamingMessage], count: int) -> Callable[[], bool]:
        # What was acknowledged just before the kill may come again.
        return lambda: {each.sequence for each in got} == set(range(1, count + 1))

    with contextlib.ExitStack() as stack:
        url = stack.enter_context(nats_server())
        homes = {name: tmp_path / f"homes-{name}" for name in ("one", "two")}
        groups: dict[str, list[Alone]] = {}
        for name, entry in (("one", "one.*"), ("two", "two.>")):
            homes[name].mkdir()
            words = (*words_of(name, entry), "-cid", "test-cluster")
            groups[name] = stack.enter_context(group_of(homes[name], 2, url, *words))
        active = {name: active_of(members) for name, members in groups.items()}

        async def scenario() -> None:
            async with client_of(url) as connection:
                got: dict[str, list[StreamingMessage]] = {"one": [], "two": []}
                for name, arrived in got.items():
                    await connection.subscribe(f"{name}.a", arrived.append, ack_wait_s=60)
                    await connection.publish(f"{name}.a", b"1")
                    await wait_until_async(is_served(arrived, 1), name, TAKEOVER_S)
                active["one"].end(signal.SIGKILL)
                await connection.publish("two.a", b"2")  # the other group serves on
                await active_of_async(groups["one"], but=active["one"])
                await connection.publish("one.a", b"2")
                for name, arrived in got.items():
                    await wait_until_async(is_served(arrived, 2), name, TAKEOVER_S)

        run(scenario)


# --- inside the server ---------------------------------------------------------------------------


def host_text(name: str, port: int, seed: int, store: str) -> str:
    return f"""
        http: "127.0.0.1:-1"
        cluster {{ name: c, listen: "127.0.0.1:{port}", routes: ["nats://127.0.0.1:{seed}"] }}
        server_name: {name}
        streaming {{ workers: 2, ft_group: g, {store} }}
    """


def is_active(host: Broker) -> bool:
    with urllib.request.urlopen(f"{host.monitoring}/streaming/isFTActive", timeout=30) as answer:
        return {200: True, 204: False}[answer.status]


def lead_of(host: Broker) -> psutil.Process:
    """The first streaming worker: forked behind two workers and the router."""
    children = psutil.Process(host.pid).children()
    return sorted(children, key=lambda child: (child.create_time(), child.pid))[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = make_cluster()
    yield made
    made.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "kind"),
    [("host", "file"), ("lead", "file, encrypted"), ("host", "sql, encrypted"), ("lead", "sql")],
)
def test_a_pool_takes_over_from_the_pool_of_another_host(
    tmp_path: Path, request: pytest.FixtureRequest, victim: str, kind: str
) -> None:
    seed = free_port()
    store = f'dir: "{tmp_path / "store"}"'
    if "sql" in kind:
        database: Cluster = request.getfixturevalue("cluster")
        store = f'store: SQL, sql {{ source: "{database.source(database.schema())}" }}'
    if "encrypted" in kind:
        store += f', encryption_key: "{KEY}"'
    ports = {"one": seed, "two": free_port()}
    hosts: dict[str, Broker] = {}
    with contextlib.ExitStack() as stack:
        for name, port in ports.items():
            hosts[name] = make_broker("shardd-2")
            hosts[name].start_text(host_text(name, port, seed, store))
            stack.callback(hosts[name].stop)
            if name == "one":  # so that it is known who is active
                wait_until(lambda: READY in hosts["one"].log_text(), READY, TAKEOVER_S)
        one, two = hosts["one"], hosts["two"]
        assert (is_active(one), is_active(two)) == (True, False)
        assert "STREAM" in two.log_text()
        assert READY not in two.log_text()

        async def scenario() -> None:
            async with client_of(two.url) as connection:
                traffic = Traffic(connection, 8)
                await traffic.start()
                await traffic.more(100)
                if victim == "host":
                    one.kill()
                else:
                    lead_of(one).kill()
                await traffic.more(100)
                await traffic.stop()
                await traffic.check()

        run(scenario)
        if victim == "host":
            assert is_active(two)
            assert READY in two.log_text()
        else:
            assert "Streaming 1, pid" in one.log_text()  # ended with its lead
            assert is_active(one) != is_active(two)
        assert KEY not in one.log_text() + two.log_text()


# --- PostgreSQL ----------------------------------------------------------------------------------


async def replay_has(connection: Connection, channel: str, wanted: set[int]) -> None:
    """All of these are stored in the channel."""
    replayed: set[int] = set()

    def take(message: StreamingMessage) -> None:
        replayed.add(int(message.data))

    await connection.subscribe(channel, take, start=StartAt.all_available())
    await wait_until_async(lambda: wanted <= replayed, "a replay of all", TAKEOVER_S)


def sessions(cluster: Cluster) -> set[object]:
    """Processes of the database that own parts of the store."""
    rows = cluster.execute(
        "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
    )
    return {row[0] for row in rows}


@pytest.mark.slow
def test_one_that_lost_the_lock_while_it_was_frozen_acknowledges_nothing(
    tmp_path: Path, cluster: Cluster
) -> None:
    source = cluster.source(cluster.schema())
    words = ("-st", "sql", "--sql_source", source, "--ft_group", "g")
    with nats_server() as url, group_of(tmp_path, 2, url, *words) as members:
        old = active_of(members)
        (owner,) = sessions(cluster)
        (new,) = (each for each in members if each is not old)
        assert old.process is not None

        async def scenario() -> None:
            async with client_of(url) as connection:
                traffic = Traffic(connection, 3)
                await traffic.start()
                await traffic.more(50)
                assert old.process is not None
                old.process.send_signal(signal.SIGSTOP)
                cluster.execute(f"SELECT pg_terminate_backend({owner})")
                await active_of_async(members, but=old)
                await traffic.more(50)
                # What was published meanwhile lies in its socket: it reads and stores none of it.
                refusals = traffic.refusals
                old.process.send_signal(signal.SIGCONT)
                code = await asyncio.to_thread(old.process.wait, TAKEOVER_S)
                assert code == 5
                await traffic.more(50)
                assert traffic.refusals == refusals
                await traffic.stop()
                await traffic.check()
                for name in traffic.channels:
                    await replay_has(connection, name, set(traffic.acknowledged[name]))

        run(scenario)
        assert "another server has taken over; nothing is written" in old.log_text()
        assert READY in new.log_text()


@pytest.mark.slow
def test_an_active_one_ends_with_its_database_and_others_wait_for_it(
    tmp_path: Path, cluster: Cluster
) -> None:
    source = cluster.source(cluster.schema())
    words = ("-st", "sql", "--sql_source", source, "--ft_group", "g")
    with nats_server() as url, group_of(tmp_path, 2, url, *words) as members:
        first = active_of(members)
        (second,) = (each for each in members if each is not first)

        async def scenario() -> None:
            async with client_of(url) as connection:
                traffic = Traffic(connection, 3)
                await traffic.start()
                await traffic.more(50)
                await asyncio.to_thread(cluster.stop, signal.SIGQUIT)
                assert first.process is not None
                assert await asyncio.to_thread(first.process.wait, TAKEOVER_S) == 5
                await wait_until_async(
                    lambda: "error attempting to get the store lock" in second.log_text(),
                    "the other one tries",
                    TAKEOVER_S,
                )
                await asyncio.to_thread(cluster.start)
                await traffic.more(50)
                await traffic.stop()
                await traffic.check()

        run(scenario)
        assert "lost store lock, aborting" in first.log_text()
        assert READY in second.log_text()
