"""Three hosts in one cluster: shardd alone, and with real nats-servers on either side.

On ports of the loopback interface, and as hosts of a network with an address each. One seed is
enough: the second and the third host are only told of the first.
"""

import asyncio
import collections
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from tests.support.cluster import Hosts, hosts_of
from tests.support.machines import machines_of
from tests.support.waiting import wait_until_async

FORMATIONS = {
    "three shardd": ("shardd-2", "shardd-2", "shardd-2"),
    "two shardd": ("shardd-2", "shardd-2", "nats-server"),
    "one shardd": ("nats-server", "shardd-2", "nats-server"),
    "joined by shardd": ("nats-server", "nats-server", "shardd-2"),
}


PLACES: dict[str, Callable[[Sequence[str]], AbstractContextManager[Hosts]]] = {
    "loopback": hosts_of,
    "network": machines_of,
}
# Each formation in one place; in both of them in the long run only.
QUICK = {
    ("network", "three shardd"),
    ("loopback", "two shardd"),
    ("network", "one shardd"),
    ("loopback", "joined by shardd"),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((place, name), marks=() if (place, name) in QUICK else pytest.mark.slow)
        for place in PLACES
        for name in FORMATIONS
    ],
    ids=lambda param: "-".join(param).replace(" ", "-"),
)
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """A cluster that is settled: every host tells its clients of all three."""
    place, name = request.param
    with PLACES[place](FORMATIONS[name]) as hosts:
        yield hosts


async def connect_each(hosts: Hosts) -> list[Client]:
    return [await nats.connect(broker.url, max_reconnect_attempts=0) for broker in hosts.brokers]


async def close_all(clients: list[Client]) -> None:
    for client in clients:
        await client.close()


async def until_heard(subject: str, publisher: Client, messages: list[bytes]) -> None:
    """Publish until the subscription behind `messages` hears it: interest travels by itself."""
    for _ in range(1000):
        await publisher.publish(subject, b"hello")
        await publisher.flush()
        await asyncio.sleep(0.01)
        if messages:
            return
    raise AssertionError(f"nobody hears {subject}")


def has_all(messages: list[bytes], count: int) -> bool:
    return len(messages) >= count


async def all_to_all(hosts: Hosts) -> None:
    clients = await connect_each(hosts)
    heard: list[dict[str, list[bytes]]] = [collections.defaultdict(list) for _ in clients]
    for to, client in enumerate(clients):
        for origin in range(len(clients)):

            async def take(message: Msg, to: int = to) -> None:
                heard[to][message.subject].append(message.data)
                if message.headers:
                    assert message.headers == {"Kind": "test"}

            await client.subscribe(f"from.{origin}.>", cb=take)
    for origin, client in enumerate(clients):
        for to in range(len(clients)):
            await until_heard(
                f"from.{origin}.probe.{to}", client, heard[to][f"from.{origin}.probe.{to}"]
            )
    for origin, client in enumerate(clients):
        for number in range(500):
            headers = {"Kind": "test"} if number % 2 else None
            await client.publish(f"from.{origin}.count", b"%d" % number, headers=headers)
    wanted = [b"%d" % number for number in range(500)]
    for to in range(len(clients)):
        for origin in range(len(clients)):
            messages = heard[to][f"from.{origin}.count"]
            await wait_until_async(partial(has_all, messages, 500), "all messages")
            assert messages == wanted
    await close_all(clients)


def test_everybody_hears_everybody_in_order_and_once(hosts: Hosts) -> None:
    asyncio.run(all_to_all(hosts))


async def requests(hosts: Hosts) -> None:
    clients = await connect_each(hosts)
    for number, client in enumerate(clients):

        async def answer(message: Msg, number: int = number) -> None:
            await message.respond(b"%d:" % number + message.data)

        await client.subscribe(f"service.{number}", cb=answer)
        await client.flush()
    for client in clients:
        for number in range(len(clients)):
            await answered(client, f"service.{number}")
            for call in range(50):
                response = await client.request(f"service.{number}", b"%d" % call, timeout=5)
                assert response.data == b"%d:%d" % (number, call)
        with pytest.raises(NoRespondersError):
            await client.request("service.none", b"", timeout=5)
    await close_all(clients)


async def answered(client: Client, subject: str) -> None:
    """Ask until somebody is known to answer."""
    for _ in range(1000):
        try:
            await client.request(subject, b"0", timeout=5)
        except NoRespondersError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError(f"nobody answers {subject}")


def test_requests_are_answered_wherever_the_service_is(hosts: Hosts) -> None:
    asyncio.run(requests(hosts))


async def shared_work(hosts: Hosts) -> None:
    clients = await connect_each(hosts)
    members = (1, 2, 3)  # on the first, the second and the third host
    done: collections.Counter[tuple[int, int]] = collections.Counter()
    for host, (client, count) in enumerate(zip(clients, members, strict=True)):
        for member in range(count):

            async def work(message: Msg, who: tuple[int, int] = (host, member)) -> None:
                done[who] += 1

            await client.subscribe("work", "group", cb=work)
        await client.flush()
    for client in clients:
        await known_everywhere(clients, client)
        await known_everywhere(clients, client)
    done.clear()
    total = 0
    for client in clients:
        for _ in range(1200):
            await client.publish("work", b"x")
        total += 1200
    await wait_until_async(lambda: done.total() >= total, "all the work to be done")
    assert done.total() == total
    # Of 3,600 messages each of six members has 600 on average; the standard deviation is 22.
    assert len(done) == 6
    assert all(400 < count < 800 for count in done.values()), done
    await close_all(clients)


async def known_everywhere(clients: list[Client], publisher: Client) -> None:
    """Wait until interest that is told now has reached the host of `publisher`: what was told
    before it has as well, since it travels in order."""
    for client in clients:
        if client is not publisher:
            heard: list[bytes] = []

            async def take(message: Msg, heard: list[bytes] = heard) -> None:
                heard.append(message.data)

            subject = client.new_inbox()
            subscription = await client.subscribe(subject, cb=take)
            await until_heard(subject, publisher, heard)
            await subscription.unsubscribe()


def test_a_group_shares_its_work_over_hosts_by_weight(hosts: Hosts) -> None:
    asyncio.run(shared_work(hosts))
