"""What is in flight, beside a dictionary that is sorted anew each time."""

from hypothesis import given
from hypothesis import strategies as st

from shardd.streaming.inflight import InFlight

sequences = st.one_of(st.integers(1, 40), st.integers(1, 2**64 - 1))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), sequences, st.integers(0, 30)),
        st.tuples(st.just("discard"), sequences, st.none()),
        st.tuples(st.just("expire"), st.none(), st.integers(0, 30)),
    ),
    max_size=120,
)


@given(steps)
def test_it_is_a_dictionary_in_the_order_of_expiry(life: list[tuple]) -> None:
    in_flight = InFlight()
    model: dict[int, tuple[int, int]] = {}
    for kind, sequence, time in life:
        if kind == "add":
            count = model.get(sequence, (0, -1))[1] + 1
            in_flight.add(sequence, time, count)
            model[sequence] = time, count
        elif kind == "discard":
            assert in_flight.discard(sequence) == (model.pop(sequence, None) is not None)
        else:
            in_flight.expire_all(time)
            model = {each: (time, count) for each, (_, count) in model.items()}
        assert in_flight.count == len(model)
        ordered = sorted((expiry, each, count) for each, (expiry, count) in model.items())
        assert in_flight.entries() == [(each, expiry, count) for expiry, each, count in ordered]
        assert in_flight.sequences() == tuple(sorted(model))
        if sequence is not None:
            assert in_flight.find(sequence) == model.get(sequence)


@given(st.integers(1, 5000), st.integers(1, 2**63))
def test_many_come_and_go(count: int, start: int) -> None:
    in_flight = InFlight()
    for sequence in range(start, start + count):
        in_flight.add(sequence, sequence - start)
    assert in_flight.count == count
    for sequence in range(start, start + count):
        assert in_flight.discard(sequence)
    assert in_flight.entries() == []
    in_flight.add(start, 1)
    assert in_flight.entries() == [(start, 1, 0)]
