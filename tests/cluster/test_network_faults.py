"""What goes wrong between the hosts of a network, and that nothing is left of it afterwards.

After every fault each host believes of each other what is true, and every message arrives once.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.broker import NATS_SERVER
from tests.support.crew import Crew
from tests.support.fixtures import Dial
from tests.support.machines import Machines, kill_router, machines_of, wait_replaced
from tests.support.waiting import PATIENCE, wait_until

Form = Callable[..., Machines]

FORMATIONS = {
    "three-shardd": ("shardd-2", "shardd-2", "shardd-2"),
    "two-shardd": ("shardd-2", "shardd-2", "nats-server"),
    "one-shardd": ("nats-server", "shardd-2", "nats-server"),
}
ALL = tuple(FORMATIONS.values())
OURS, MIXED, THEIRS = ALL
NOTICE_S = 10.0 * PATIENCE
slow = pytest.mark.slow


def formations(*quick: str) -> pytest.MarkDecorator:
    """Every formation; those that are not named in the long run only."""
    return pytest.mark.parametrize(
        "kinds",
        [
            pytest.param(kinds, id=name, marks=() if name in quick else slow)
            for name, kinds in FORMATIONS.items()
        ],
    )


@pytest.fixture
def form(no_leaks: None) -> Iterator[Form]:
    """``form(*kinds)``: a settled cluster; every server is told of all, itself included."""
    with ExitStack() as stack:

        def start(*kinds: str, more: str = "", block: str = "") -> Machines:
            routes = range(len(kinds))
            return stack.enter_context(machines_of(kinds, routes=routes, more=more, block=block))

        yield start


def wait_lost(machines: Machines, here: int, there: int) -> None:
    """This one has noticed that it does not reach that one."""
    name = f"host{there + 1}"
    wait_until(lambda: name not in machines.peers(here), f"the loss of {name}", NOTICE_S)


def wait_parted(machines: Machines, one: int, other: int) -> None:
    """Both have noticed that they do not reach each other."""
    wait_lost(machines, one, other)
    wait_lost(machines, other, one)


@pytest.mark.parametrize(
    "pair",
    [(1, 2), pytest.param((0, 1), marks=slow), pytest.param((0, 2), marks=slow)],
    ids=lambda pair: f"{pair[0] + 1}-{pair[1] + 1}",
)
@formations("two-shardd")
def test_a_link_that_is_cut_and_healed(
    form: Form, dial: Dial, kinds: tuple[str, ...], pair: tuple[int, int]
) -> None:
    machines = form(*kinds)
    crew = Crew(machines, dial)
    one, other = pair
    third = 3 - one - other
    crew.want(one, 1)
    crew.check()
    machines.network.cut(one, other)
    # What changes meanwhile is told when they meet again.
    crew.unwant(one, 1)
    crew.want(other, 1)
    wait_parted(machines, one, other)
    crew.check(only=[one, third])
    crew.check(only=[other, third])
    machines.network.heal(one, other)
    crew.check()


@formations()
def test_packets_get_lost_in_one_direction(form: Form, dial: Dial, kinds: tuple[str, ...]) -> None:
    machines = form(*kinds)
    crew = Crew(machines, dial)
    for one, other in ((0, 1), (1, 0), (2, 1)):
        machines.network.cut_one_way(one, other)
        crew.want(one, 7)
        crew.want(other, 8)
        wait_parted(machines, one, other)
        machines.network.heal(one, other)
        crew.check()
        crew.unwant(one, 7)
        crew.unwant(other, 8)


@formations()
def test_a_host_loses_its_network_for_a_while(
    form: Form, dial: Dial, kinds: tuple[str, ...]
) -> None:
    machines = form(*kinds)
    crew = Crew(machines, dial)
    crew.want(0, 1)
    machines.network.unplug(1)
    wait_parted(machines, 0, 1)
    wait_parted(machines, 2, 1)
    crew.want(2, 2)
    crew.unwant(0, 1)
    crew.check(only=[0, 2])
    machines.plug(1)
    crew.replace(1)  # its client may have been given up as well
    crew.check()


@formations()
def test_a_host_loses_its_power(form: Form, dial: Dial, kinds: tuple[str, ...]) -> None:
    machines = form(*kinds)
    crew = Crew(machines, dial)
    for index in range(len(kinds)):
        others = [other for other in range(len(kinds)) if other != index]
        crew.want(index, 1)
        crew.check()
        machines.power_off(index)
        for other in others:
            wait_lost(machines, other, index)
        crew.check(only=others)
        machines.network.plug(index)
        machines.start(index)
        crew.replace(index)
        crew.check()


@formations("two-shardd")
def test_a_router_dies(form: Form, dial: Dial, kinds: tuple[str, ...]) -> None:
    machines = form(*kinds)
    crew = Crew(machines, dial)
    for index, kind in enumerate(kinds):
        if kind != NATS_SERVER:
            crew.want(index, 1)
            crew.check()
            old = kill_router(machines[index])
            crew.unwant(index, 1)
            crew.want(index, 2)
            wait_replaced(machines[index], old)
            crew.check()


@formations("one-shardd")
def test_servers_are_restarted(form: Form, dial: Dial, kinds: tuple[str, ...]) -> None:
    machines = form(*kinds)
    crew = Crew(machines, dial)
    for index in range(len(kinds)):
        machines[index].stop()
        machines.start(index)
        crew.replace(index)
        crew.check()


@formations("two-shardd")
def test_a_server_that_reads_no_more_for_a_while(
    form: Form, dial: Dial, kinds: tuple[str, ...]
) -> None:
    machines = form(*kinds)
    crew = Crew(machines, dial)
    crew.want(0, 1)
    crew.check()
    frozen = machines[2]
    pids = [process.pid for process in frozen.processes()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for other in (0, 1):
            wait_lost(machines, other, 2)
        crew.unwant(0, 1)
        crew.want(1, 2)
        crew.check(only=[0, 1])
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    if kinds[2] != NATS_SERVER:
        crew.replace(2)  # workers that were frozen may have been replaced
    crew.check()


@formations("two-shardd")
def test_a_pause_that_nobody_notices_loses_nothing(
    form: Form, dial: Dial, kinds: tuple[str, ...]
) -> None:
    machines = form(*kinds, block="ping_interval: 60s")
    crew = Crew(machines, dial)
    crew.check()
    for pair in ((0, 2), (1, 2), (0, 1)):
        machines.network.cut(*pair)
        for client in crew.clients:
            client.ping()
        crew.send(50)
        machines.network.heal(*pair)
        crew.expect()
        crew.check()
