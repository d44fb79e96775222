"""One deadline for each of many items: due ones are called, whatever they change on the way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.source_probe import Probe, add_deadline, move_deadline, remove_deadline
from shardd.timers import Deadlines


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines()


def recorder(called, name):
    """A probe that says when it was called."""
    return Probe(on_deadline=lambda now_ms: called.append((name, now_ms)))


def test_only_items_whose_time_has_come_are_called(deadlines):
    called: list[tuple[str, int]] = []
    early, late = recorder(called, "early"), recorder(called, "late")
    add_deadline(deadlines, early, 100)
    add_deadline(deadlines, late, 101)

    assert deadlines.sweep(99) == 0
    assert deadlines.sweep(100) == 1

    assert called == [("early", 100)]
    assert len(deadlines) == 2


def test_an_item_that_sets_no_new_deadline_is_called_at_every_sweep(deadlines):
    called: list[tuple[str, int]] = []
    item = recorder(called, "it")
    add_deadline(deadlines, item, 5)
    assert [deadlines.sweep(now_ms) for now_ms in (5, 6)] == [1, 1]
    assert called == [("it", 5), ("it", 6)]


def test_a_moved_deadline_counts_from_then_on(deadlines):
    called: list[tuple[str, int]] = []
    item = recorder(called, "it")
    add_deadline(deadlines, item, 10)
    move_deadline(deadlines, item, 20)
    assert deadlines.sweep(19) == 0
    move_deadline(deadlines, item, 3)
    assert deadlines.sweep(4) == 1


def test_times_have_sixty_four_bits(deadlines):
    called: list[tuple[str, int]] = []
    item = recorder(called, "it")
    add_deadline(deadlines, item, 2**64 - 1)
    assert deadlines.sweep(2**64 - 2) == 0
    assert deadlines.sweep(2**64 - 1) == 1


def test_what_is_not_timed_may_be_moved_and_removed_without_effect(deadlines):
    item = Probe()
    move_deadline(deadlines, item, 1)
    remove_deadline(deadlines, item)
    add_deadline(deadlines, item, 1)
    remove_deadline(deadlines, item)
    remove_deadline(deadlines, item)
    move_deadline(deadlines, item, 0)
    assert len(deadlines) == 0
    assert deadlines.sweep(10) == 0


@pytest.mark.parametrize("gone", [0, 1, 500, 998, 999])
def test_removing_one_of_many_leaves_every_other_one_its_deadline(deadlines, gone):
    called: list[tuple[int, int]] = []
    items = [recorder(called, number) for number in range(1000)]
    for number, item in enumerate(items):
        add_deadline(deadlines, item, number)

    remove_deadline(deadlines, items[gone])

    assert len(deadlines) == 999
    assert deadlines.sweep(999) == 999
    assert sorted(number for number, _ in called) == sorted({*range(1000)} - {gone})
    # Whoever took the free place is still found when its own deadline moves.
    called.clear()
    for item in items:
        move_deadline(deadlines, item, 5000)
    assert deadlines.sweep(4999) == 0
    assert deadlines.sweep(5000) == 999


def test_an_item_may_remove_itself_during_a_sweep(deadlines):
    called = []

    def leave(now_ms):
        called.append(now_ms)
        remove_deadline(deadlines, items[len(called) - 1])

    items = [Probe(on_deadline=leave) for _ in range(3)]
    for item in items:
        add_deadline(deadlines, item, 1)
    assert deadlines.sweep(1) == 3
    assert len(deadlines) == 0
    assert called == [1, 1, 1]


def test_an_item_that_an_earlier_one_removed_is_not_called(deadlines):
    called: list[tuple[str, int]] = []
    victims = [recorder(called, "victim") for _ in range(100)]

    def remove_all(now_ms):
        for victim in victims:
            remove_deadline(deadlines, victim)

    add_deadline(deadlines, killer := Probe(on_deadline=remove_all), 1)
    for victim in victims:
        add_deadline(deadlines, victim, 1)
    deadlines.sweep(2**63)
    assert called == []
    assert len(deadlines) == 1
    remove_deadline(deadlines, killer)


def test_an_item_that_an_earlier_one_gave_more_time_is_not_called(deadlines):
    called: list[tuple[str, int]] = []
    moved, returned = recorder(called, "moved"), recorder(called, "returned")

    def give_time(now_ms):
        move_deadline(deadlines, moved, now_ms + 10)
        remove_deadline(deadlines, returned)
        add_deadline(deadlines, returned, now_ms + 10)

    add_deadline(deadlines, giver := Probe(on_deadline=give_time), 1)
    add_deadline(deadlines, moved, 1)
    add_deadline(deadlines, returned, 1)
    deadlines.sweep(1)
    assert called == []
    remove_deadline(deadlines, giver)
    assert deadlines.sweep(11) == 2


def test_an_item_may_add_others_during_a_sweep_which_wait_for_the_next(deadlines):
    called: list[tuple[int, int]] = []
    born = [recorder(called, number) for number in range(200)]

    def add_many(now_ms):
        remove_deadline(deadlines, parent)
        for item in born:
            add_deadline(deadlines, item, 0)

    parent = Probe(on_deadline=add_many)
    add_deadline(deadlines, parent, 1)
    assert deadlines.sweep(1) == 1
    assert called == []
    assert deadlines.sweep(1) == 200
    assert [number for number, _ in called] == list(range(200))


def test_an_item_may_let_go_of_others_that_are_due(deadlines):
    called: list[tuple[str, int]] = []
    doomed = [recorder(called, "doomed")]

    def drop(now_ms):
        remove_deadline(deadlines, doomed[0])
        doomed.clear()

    add_deadline(deadlines, killer := Probe(on_deadline=drop), 1)
    add_deadline(deadlines, doomed[0], 1)
    assert deadlines.sweep(1) == 2
    assert called == []
    remove_deadline(deadlines, killer)


def test_an_exception_of_an_item_reaches_whoever_sweeps(deadlines):
    def fail(now_ms):
        raise LookupError("mine")

    item = Probe(on_deadline=fail)
    add_deadline(deadlines, item, 1)
    with pytest.raises(LookupError, match="mine"):
        deadlines.sweep(1)
    remove_deadline(deadlines, item)


steps = st.tuples(
    st.sampled_from(["add", "add", "move", "remove", "sweep"]),
    st.integers(0, 9),
    st.integers(0, 40),
)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 150), st.lists(steps, max_size=200))
def test_deadlines_are_a_mapping_from_item_to_time(count, script):
    deadlines = Deadlines()
    called: list[tuple[int, int]] = []
    items = [recorder(called, number) for number in range(max(count, 10))]
    model = {number: number % 41 for number in range(count)}
    for number, time_ms in model.items():
        add_deadline(deadlines, items[number], time_ms)
    for verb, number, time_ms in script:
        if verb == "add" and number not in model:
            add_deadline(deadlines, items[number], time_ms)
            model[number] = time_ms
        elif verb == "move":
            move_deadline(deadlines, items[number], time_ms)
            if number in model:
                model[number] = time_ms
        elif verb == "remove":
            remove_deadline(deadlines, items[number])
            model.pop(number, None)
        elif verb == "sweep":
            called.clear()
            due = {item for item, deadline in model.items() if deadline <= time_ms}
            assert deadlines.sweep(time_ms) == len(due)
            assert sorted(called) == [(item, time_ms) for item in sorted(due)]
        assert len(deadlines) == len(model)
