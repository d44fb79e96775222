"""The epoll set of one worker: who gets a turn, and who does no longer."""

import gc
import os
import select
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from shardd.poller import Poller
from shardd.source_probe import Probe, add_source, dispatch, remove_source, watch_source
from tests.support.leaks import open_descriptors


@pytest.fixture
def poller() -> Poller:
    return Poller()


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    """Three pipes as (read end, write end)."""
    made = [os.pipe() for _ in range(3)]
    yield made
    for ends in made:
        for fd in ends:
            os.close(fd)


def test_a_source_with_nothing_to_report_is_not_called(poller, pipes):
    (source_fd, _), *_ = pipes
    called: list[int] = []
    add_source(poller, probe := Probe(source_fd, called.append), select.EPOLLIN)
    assert dispatch(poller) == 0
    assert called == []
    remove_source(poller, probe)


def test_a_source_that_did_not_read_all_is_called_again(poller, pipes):
    (source_fd, writer), *_ = pipes
    read = []
    probe = Probe(source_fd, lambda events: read.append((events, os.read(source_fd, 2))))
    add_source(poller, probe, select.EPOLLIN)
    os.write(writer, b"abcde")
    assert [dispatch(poller) for _ in range(4)] == [1, 1, 1, 0]
    assert read == [(select.EPOLLIN, part) for part in (b"ab", b"cd", b"e")]
    remove_source(poller, probe)


def test_the_set_itself_is_readable_when_a_source_is_ready(poller, pipes):
    (source_fd, writer), *_ = pipes
    add_source(poller, probe := Probe(source_fd, lambda events: None), select.EPOLLIN)
    assert select.select([poller.fd], [], [], 0)[0] == []
    os.write(writer, b"x")
    assert select.select([poller.fd], [], [], 0)[0] == [poller.fd]
    remove_source(poller, probe)


def test_the_set_goes_with_its_poller():
    poller = Poller()
    fd = poller.fd
    assert open_descriptors()[fd] == "anon_inode:[eventpoll]"
    del poller
    assert fd not in open_descriptors()


def test_a_pass_takes_the_time(poller):
    poller.now_ms = 0
    dispatch(poller)
    assert poller.now_ms > 0


def test_a_source_is_told_what_it_is_watched_for_and_nothing_else(poller):
    left, right = socket.socketpair()
    with left, right:
        called: list[int] = []
        probe = Probe(left.fileno(), called.append)
        add_source(poller, probe, select.EPOLLIN)
        assert (dispatch(poller), called) == (0, [])
        watch_source(poller, probe, select.EPOLLIN | select.EPOLLOUT)
        assert probe.watched_events == select.EPOLLIN | select.EPOLLOUT
        dispatch(poller)
        right.send(b"x")
        dispatch(poller)
        watch_source(poller, probe, select.EPOLLIN)
        dispatch(poller)
        assert called == [select.EPOLLOUT, select.EPOLLIN | select.EPOLLOUT, select.EPOLLIN]
        remove_source(poller, probe)


def test_a_source_removed_by_an_earlier_one_of_the_same_pass_is_not_called(poller, pipes):
    called = []
    probes: list[Probe] = []

    def remove_the_others(me, events):
        called.append(me)
        for number, probe in enumerate(probes):
            if number != me:
                remove_source(poller, probe)

    for number, (source_fd, writer) in enumerate(pipes):
        probe = Probe(source_fd, partial(remove_the_others, number))
        probes.append(probe)
        add_source(poller, probe, select.EPOLLIN)
        os.write(writer, b"x")

    assert dispatch(poller) == 3  # that many were ready when the pass began
    assert len(called) == 1
    survivor = called[0]
    assert [probe.is_registered for probe in probes] == [number == survivor for number in range(3)]
    assert dispatch(poller) == 1
    assert called == [survivor, survivor]
    remove_source(poller, probes[survivor])


def count_probes():
    """Sources alive in this process."""
    return sum(type(item) is Probe for item in gc.get_objects())


def test_a_removed_source_lives_until_the_pass_is_over_even_if_nobody_else_holds_it(poller, pipes):
    probes: list[Probe] = []
    alive_in_pass = []

    def drop_all(events):
        for probe in probes:
            remove_source(poller, probe)
        probes.clear()
        gc.collect()
        alive_in_pass.append(count_probes())

    for source_fd, writer in pipes:
        probes.append(Probe(source_fd, drop_all))
        add_source(poller, probes[-1], select.EPOLLIN)
        os.write(writer, b"x")
    dispatch(poller)
    gc.collect()
    assert alive_in_pass == [3]
    assert count_probes() == 0


def test_a_new_source_on_the_number_of_a_closed_descriptor_gets_no_stale_event(poller):
    called: list[str] = []
    pairs = [socket.socketpair() for _ in range(2)]
    newcomers: list[tuple[Probe, tuple[socket.socket, socket.socket]]] = []

    def replace_the_other(me, events):
        called.append(f"old {me}")
        other = 1 - me
        remove_source(poller, probes[other])
        number = pairs[other][0].fileno()
        pairs[other][0].close()
        fresh = socket.socketpair()
        assert fresh[0].fileno() == number
        newcomer = Probe(number, lambda events: called.append("new"))
        add_source(poller, newcomer, select.EPOLLIN)
        newcomers.append((newcomer, fresh))

    probes = [
        Probe(pair[0].fileno(), partial(replace_the_other, me)) for me, pair in enumerate(pairs)
    ]
    for probe, pair in zip(probes, pairs, strict=True):
        add_source(poller, probe, select.EPOLLIN)
        pair[1].send(b"x")
    dispatch(poller)
    assert len(called) == 1
    assert "new" not in called
    for sockets in (*pairs, *(fresh for _, fresh in newcomers)):
        for each in sockets:
            each.close()


def test_removing_twice_and_watching_what_is_gone_does_nothing(poller, pipes):
    (source_fd, writer), *_ = pipes
    called: list[int] = []
    add_source(poller, probe := Probe(source_fd, called.append), select.EPOLLIN)
    remove_source(poller, probe)
    remove_source(poller, probe)
    watch_source(poller, probe, select.EPOLLIN)
    os.write(writer, b"x")
    assert dispatch(poller) == 0
    assert (called, probe.watched_events) == ([], 0)


def test_a_source_may_come_back(poller, pipes):
    (source_fd, writer), *_ = pipes
    called: list[int] = []
    probe = Probe(source_fd, called.append)
    os.write(writer, b"x")
    for _ in range(2):
        add_source(poller, probe, select.EPOLLIN)
        assert dispatch(poller) == 1
        remove_source(poller, probe)
    assert called == [select.EPOLLIN] * 2


def tell(called, number, events):
    """What a numbered source does with its events."""
    called.append((number, events))


def test_more_ready_sources_than_one_pass_takes_all_get_their_turn(poller):
    called: list[tuple[int, int]] = []
    pairs = [os.pipe() for _ in range(300)]
    probes = [
        Probe(source_fd, partial(tell, called, number))
        for number, (source_fd, _) in enumerate(pairs)
    ]
    for probe, (_, writer) in zip(probes, pairs, strict=True):
        add_source(poller, probe, select.EPOLLIN)
        os.write(writer, b"x")
    counts = [dispatch(poller) for _ in range(3)]
    assert all(0 < count < 300 for count in counts)
    assert {number for number, _ in called} == set(range(300))
    for probe, ends in zip(probes, pairs, strict=True):
        remove_source(poller, probe)
        for fd in ends:
            os.close(fd)


def test_the_kernels_refusal_is_an_error(poller, pipes):
    (source_fd, _), *_ = pipes
    with pytest.raises(OSError, match="epoll_ctl"):
        add_source(poller, closed := Probe(-1), select.EPOLLIN)
    assert not closed.is_registered
    add_source(poller, probe := Probe(source_fd), select.EPOLLIN)
    with pytest.raises(OSError, match="epoll_ctl"):
        add_source(poller, Probe(source_fd), select.EPOLLIN)
    remove_source(poller, probe)


def test_an_exception_of_a_source_ends_the_pass_and_the_next_one_goes_on(poller, pipes):
    called = []

    def fail_once(events):
        called.append(events)
        if len(called) == 1:
            raise LookupError("mine")

    probes = [Probe(source_fd, fail_once) for source_fd, _ in pipes]
    for probe, (_, writer) in zip(probes, pipes, strict=True):
        add_source(poller, probe, select.EPOLLIN)
        os.write(writer, b"x")
    with pytest.raises(LookupError, match="mine"):
        dispatch(poller)
    assert dispatch(poller) == 3
    assert len(called) == 4
    for probe in probes:
        remove_source(poller, probe)
