"""The doorbell: rung only for a sleeper, and every step of the race between them."""

import os
import select

import pytest

from shardd.errors import BootError
from shardd.router.doorbell import Doorbell
from shardd.router.ring import Consumer, Producer, Ring
from shardd.slots import Slots
from tests.support.leaks import open_descriptors


@pytest.fixture
def slots() -> Slots:
    return Slots(4)


@pytest.fixture(params=[False, True], ids=["eventfd", "socketpair"])
def bell(slots: Slots, request: pytest.FixtureRequest) -> Doorbell:
    return Doorbell(slots, 2, as_socket=request.param)


def is_rung(bell: Doorbell) -> bool:
    return bool(select.select([bell.fd], [], [], 0)[0])


def test_awake_process_is_not_rung(bell: Doorbell):
    assert not bell.ring()
    assert not is_rung(bell)


def test_sleeper_is_rung_once_however_much_is_published(bell: Doorbell):
    bell.fall_asleep()
    assert bell.is_asleep
    assert [bell.ring() for _ in range(3)] == [True, False, False]
    assert is_rung(bell)
    assert not bell.is_asleep


def test_clearing_makes_ready_for_the_next_sleep(bell: Doorbell):
    for _ in range(3):
        bell.fall_asleep()
        assert bell.ring()
        assert is_rung(bell)
        bell.clear()
        bell.wake_up()
        assert not is_rung(bell)


def test_clearing_a_silent_doorbell_does_not_block(bell: Doorbell):
    bell.clear()
    assert not is_rung(bell)


def test_process_that_changed_its_mind_is_not_rung(bell: Doorbell):
    bell.fall_asleep()
    bell.wake_up()
    assert not bell.ring()
    assert not is_rung(bell)


def test_ring_always_wakes_even_who_did_not_ask(bell: Doorbell):
    assert bell.ring_always()
    assert is_rung(bell)


def test_one_clear_empties_a_doorbell_that_was_rung_a_hundred_times(bell: Doorbell):
    for _ in range(100):
        bell.ring_always()
    bell.clear()
    assert not is_rung(bell)


def test_full_doorbell_stays_rung_and_does_not_block(slots: Slots):
    bell = Doorbell(slots, 0, as_socket=True)
    rings = 0
    while bell.ring_always():
        rings += 1
        assert rings < 10_000_000
    assert is_rung(bell)
    bell.fall_asleep()
    assert bell.ring()
    bell.clear()
    assert not is_rung(bell)


def test_publishing_before_the_last_look_is_found_by_it(bell: Doorbell):
    """The producer saw no flag, so nobody rings: the last look has to find the batch."""
    ring = Ring(4096, 4)
    producer, consumer = Producer(ring, 1), Consumer(ring, 2)
    producer.attach(2)
    consumer.start()
    assert consumer.read_all() == []
    producer.publish_bytes([b"just in time"], 1 << 2)
    assert not bell.ring()
    bell.fall_asleep()
    assert not is_rung(bell)
    assert consumer.is_behind()


def test_publishing_after_the_last_look_rings(bell: Doorbell):
    ring = Ring(4096, 4)
    producer, consumer = Producer(ring, 1), Consumer(ring, 2)
    producer.attach(2)
    consumer.start()
    bell.fall_asleep()
    assert not consumer.is_behind()
    producer.publish_bytes([b"just too late"], 1 << 2)
    assert bell.ring()
    assert is_rung(bell)


def test_doorbells_of_two_slots_are_strangers(slots: Slots):
    mine, other = Doorbell(slots, 0), Doorbell(slots, 1)
    mine.fall_asleep()
    assert not other.ring()
    assert mine.ring()
    assert is_rung(mine)
    assert not is_rung(other)


def test_successor_in_a_slot_is_awake_until_it_says_otherwise(slots: Slots, bell: Doorbell):
    bell.fall_asleep()
    slots.reset(2, 1)
    assert not bell.ring()
    bell.fall_asleep()
    slots.clear(2)
    assert not bell.ring()


def test_closing_gives_every_descriptor_back(slots: Slots):
    before = open_descriptors()
    bells = [Doorbell(slots, 0), Doorbell(slots, 0, as_socket=True)]
    assert [bell.is_eventfd for bell in bells] == [True, False]
    assert len(open_descriptors()) == len(before) + 3
    bells[0].close()
    bells[0].close()
    del bells
    assert open_descriptors() == before


def test_eventfd_of_the_caller_is_taken_over(slots: Slots):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    bell = Doorbell(slots, 0, fd)
    bell.ring_always()
    assert os.eventfd_read(fd) == 1
    bell.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_missing_eventfd_falls_back_to_sockets(slots: Slots, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "eventfd")
    bell = Doorbell(slots, 0)
    assert not bell.is_eventfd
    bell.fall_asleep()
    assert bell.ring()
    assert is_rung(bell)


def test_no_descriptor_left_is_a_boot_error(slots: Slots, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "eventfd", refuse)
    with pytest.raises(BootError, match="cannot make a doorbell: Too many open files"):
        Doorbell(slots, 0)


def test_slot_that_is_not_there_has_no_doorbell(slots: Slots):
    with pytest.raises(IndexError, match="slot 4 of 4"):
        Doorbell(slots, 4)
