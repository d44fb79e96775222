"""What the supervisor orders arrives at its worker whole, in order, and at no other process."""

import contextlib
import os
import pickle
import select
import socket
from collections.abc import Iterator

import pytest

from shardd.config.core import Config
from shardd.config.model import User
from shardd.errors import InternalError
from shardd.orders import LameDuck, OrderBody, OrderChannel, OrderReceiver, Reload, Shed


@pytest.fixture
def channel() -> Iterator[OrderChannel]:
    channel = OrderChannel()
    with contextlib.closing(channel):
        yield channel


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def is_readable(end: OrderChannel | OrderReceiver) -> bool:
    return bool(select.select([end], [], [], 0)[0])


def test_orders_arrive_whole_and_in_the_order_given(channel: OrderChannel) -> None:
    receiver = channel.receiver()
    orders = [Reload(1, Config(max_payload=7), {"$G": 0, "A": 3}), Shed(4), LameDuck(2)]
    assert receiver.take() == []
    assert all(channel.send(order) for order in orders)
    assert is_readable(receiver)
    assert receiver.take() == orders
    assert not is_readable(receiver)


def test_a_configuration_larger_than_any_socket_buffer_arrives(channel: OrderChannel) -> None:
    users = tuple(User(name=f"user-{number}", password="x" * 60) for number in range(20_000))
    order = Reload(1, Config(users=users), {})
    assert channel.send(order)
    assert channel.receiver().take() == [order]


def test_one_body_serves_many_workers_and_each_reads_all_of_it() -> None:
    order = Reload(1, Config(server_name="name"), {"$G": 0})
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(contextlib.closing(OrderChannel())) for _ in range(3)]
        with OrderBody(order) as body:
            assert all(channel.send_body(body) for channel in channels)
        assert [channel.receiver().take() for channel in channels] == [[order]] * 3


def test_answers_come_back_in_order(channel: OrderChannel) -> None:
    receiver = channel.receiver()
    assert channel.answers() == []
    receiver.answer(1)
    receiver.answer(2**40)
    assert is_readable(channel)
    assert channel.answers() == [1, 2**40]
    assert channel.answers() == []


def test_a_worker_that_takes_nothing_is_noticed_and_blocks_nobody(channel: OrderChannel) -> None:
    count = 0
    while channel.send(Shed(count)):
        count += 1
    assert channel.receiver().take() == [Shed(number) for number in range(count)]
    assert channel.send(Shed(0))


def test_a_supervisor_that_reads_no_answer_blocks_no_worker(channel: OrderChannel) -> None:
    receiver = channel.receiver()
    for number in range(10_000):
        receiver.answer(number)
    assert channel.answers()[:2] == [0, 1]


def test_what_a_dead_worker_left_is_no_business_of_its_successor(channel: OrderChannel) -> None:
    before = open_descriptors()
    channel.receiver().answer(1)
    for number in range(3):
        channel.send(LameDuck(number))
    channel.discard()
    assert channel.answers() == []
    assert channel.receiver().take() == []
    assert open_descriptors() == before


def test_orders_leave_no_descriptor_open(channel: OrderChannel) -> None:
    before = open_descriptors()
    for number in range(3):
        channel.send(LameDuck(number))
    channel.receiver().take()
    assert open_descriptors() == before


def body_of(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (b"order", b""),
        (b"order", b"no pickle"),
        (b"order", pickle.dumps(LameDuck(1))[:-3]),
        (b"order", pickle.dumps("a text")),
        (b"other", pickle.dumps(LameDuck(1))),
        (b"order", None),
    ],
)
def test_what_is_no_order_is_our_own_fault(message: bytes, data: bytes | None) -> None:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own, other:
        other.setblocking(False)
        descriptors = [] if data is None else [body_of(data)]
        socket.send_fds(own, [message], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        before = open_descriptors()
        with pytest.raises(InternalError):
            OrderReceiver(other).take()
        assert open_descriptors() - before == 0


def test_an_order_cannot_be_changed_once_it_is_given() -> None:
    with OrderBody(LameDuck(1)) as body, pytest.raises(OSError, match="not permitted"):
        os.pwrite(body.descriptor, b"x", 0)
