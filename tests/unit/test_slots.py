"""The shared page of the processes: life of a slot, interest numbers, counters, totals."""

import pytest

from shardd.errors import BootError, InternalError
from shardd.slots import COUNTER_NAMES, Slots, State


@pytest.fixture
def slots() -> Slots:
    return Slots(4)


def test_new_page_is_empty(slots: Slots):
    assert slots.count == 4
    assert slots.epoch == 0
    assert [slots.state(index) for index in range(4)] == [State.EMPTY] * 4
    assert slots.ready() == 0
    assert slots.totals() == dict.fromkeys(COUNTER_NAMES, 0)


@pytest.mark.parametrize("count", [0, -1, 65])
def test_number_of_processes_must_fit_the_mask(count: int):
    with pytest.raises(BootError, match="between 1 and 64"):
        Slots(count)


def test_last_of_sixty_four_slots_has_the_highest_bit_and_memory_of_its_own():
    slots = Slots(64)
    slots.set_state(63, State.READY)
    slots.set_applied(63, 63, (1 << 64) - 1)
    slots.set_applied(62, 63, 7)
    assert slots.ready() == 1 << 63
    assert slots.applied(63, 63) == (1 << 64) - 1
    assert slots.applied(63, 62) == 0
    assert slots.lagging(0, 1) == 1 << 63


@pytest.mark.parametrize("index", [4, 1 << 31])
def test_slot_that_is_not_there_is_refused(slots: Slots, index: int):
    calls = [
        lambda: slots.state(index),
        lambda: slots.set_state(index, State.READY),
        lambda: slots.incarnation(index),
        lambda: slots.pid(index),
        lambda: slots.set_pid(index, 1),
        lambda: slots.heartbeat(index),
        lambda: slots.beat(index),
        lambda: slots.reset(index, 1),
        lambda: slots.clear(index),
        lambda: slots.announced(index),
        lambda: slots.set_announced(index, 1),
        lambda: slots.applied(index, 0),
        lambda: slots.applied(0, index),
        lambda: slots.set_applied(index, 0, 1),
        lambda: slots.set_applied(0, index, 1),
        lambda: slots.counters(index),
        lambda: slots.add(index, "connections", 1),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=f"slot {index} of 4"):
            call()
    assert slots.lagging(index, 1) == 0


def test_state_that_is_not_there_is_refused(slots: Slots):
    with pytest.raises(ValueError, match="9 is not a valid State"):
        slots.set_state(0, 9)
    assert slots.state(0) is State.EMPTY


def test_every_change_of_state_moves_the_epoch(slots: Slots):
    epochs = [slots.epoch]
    for state in (State.BOOTING, State.JOINED, State.READY, State.STOPPING):
        slots.set_state(2, state)
        assert slots.state(2) is state
        epochs.append(slots.epoch)
    slots.reset(2, 77)
    epochs.append(slots.epoch)
    slots.clear(2)
    epochs.append(slots.epoch)
    assert slots.bump_epoch() > epochs[-1]
    assert epochs == sorted(set(epochs))


def test_fork_into_a_slot_starts_a_new_incarnation_and_forgets_the_life_before(slots: Slots):
    assert slots.reset(1, 100) == 1
    slots.set_state(1, State.READY)
    slots.beat(1)
    slots.set_announced(1, 500)
    slots.set_applied(1, 2, 9)
    slots.add(1, "connections", 3)
    slots.add(1, "subscriptions", 5)
    slots.add(1, "messages_in", 11)

    assert slots.reset(1, 200) == 2

    assert slots.incarnation(1) == 2
    assert slots.pid(1) == 200
    assert slots.state(1) is State.BOOTING
    assert slots.heartbeat(1) == 0
    assert slots.applied(1, 2) == 0
    assert slots.counters(1)["connections"] == 0
    assert slots.counters(1)["subscriptions"] == 0
    assert slots.counters(1)["messages_in"] == 11


def test_interest_number_goes_on_over_incarnations_so_that_peers_need_not_forget(slots: Slots):
    slots.set_state(0, State.READY)
    slots.reset(1, 100)
    slots.set_announced(1, 500)
    slots.set_applied(0, 1, 500)

    slots.clear(1)
    slots.reset(1, 200)

    assert slots.announced(1) == 500
    assert slots.lagging(1, slots.announced(1) + 1) == 1 << 0


def test_reaped_process_leaves_what_it_did_but_not_what_it_had(slots: Slots):
    slots.reset(1, 100)
    slots.add(1, "connections", 2)
    slots.add(1, "connections_total", 4)
    slots.add(1, "subscriptions", 7)
    slots.add(0, "connections", 1)
    slots.add(0, "connections_total", 1)

    slots.clear(1)

    assert slots.state(1) is State.EMPTY
    assert slots.pid(1) == 0
    totals = {name: total for name, total in slots.totals().items() if total}
    assert totals == {"connections": 1, "connections_total": 5}


def test_counter_is_known_by_its_name_and_counts_down_too(slots: Slots):
    for number, name in enumerate(COUNTER_NAMES):
        slots.add(3, name, number + 10)
    slots.add(3, "redirected", -3)
    expected = {name: number + 10 for number, name in enumerate(COUNTER_NAMES)}
    expected["redirected"] -= 3
    assert slots.counters(3) == expected
    assert slots.heartbeat(3) == 0
    assert slots.applied(3, 0) == 0
    with pytest.raises(ValueError, match="not in tuple"):
        slots.add(3, "no such counter", 1)


def test_heartbeat_grows_with_every_beat(slots: Slots):
    for _ in range(3):
        slots.beat(0)
    assert slots.heartbeat(0) == 3


def test_announcer_waits_for_those_who_are_ready_and_have_not_applied_yet(slots: Slots):
    for index, state in enumerate((State.READY, State.READY, State.JOINED, State.READY)):
        slots.set_state(index, state)
    slots.set_announced(0, 5)
    slots.set_applied(1, 0, 5)
    slots.set_applied(3, 0, 4)
    assert slots.lagging(0, 5) == 1 << 3  # not itself, not the one that has it, not the joiner
    slots.set_applied(3, 0, 6)
    assert slots.lagging(0, 5) == 0


def test_damaged_page_is_an_internal_error(slots: Slots):
    slots.check()
    slots.poke(magic=1)
    with pytest.raises(InternalError, match="damaged header"):
        slots.check()
