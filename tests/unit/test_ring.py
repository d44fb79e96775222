"""A ring in one process: who may write and read what, and the corners of the numbers."""

import struct

import pytest

from shardd.errors import BootError, InternalError
from shardd.router.ring import Consumer, Producer, Ring

SIZE = 4096
HEADER = 32  # bytes of a batch header
RECORD_MAX = SIZE // 8
FIRST, SECOND = 1 << 0, 1 << 1


@pytest.fixture
def ring() -> Ring:
    return Ring(SIZE, 4)


@pytest.fixture
def producer(ring: Ring) -> Producer:
    return Producer(ring, 1)


@pytest.fixture
def consumer(ring: Ring, producer: Producer) -> Consumer:
    return join(producer, 0)


def join(producer: Producer, slot: int, incarnation: int = 0) -> Consumer:
    """A consumer that the producer has attached and that has started."""
    producer.attach(slot, incarnation)
    consumer = Consumer(producer.ring, slot, producer.incarnation)
    consumer.start()
    return consumer


def records_of(consumer: Consumer) -> list[bytes]:
    return [records for records, *_ in consumer.read_all()]


def fill(producer: Producer, processes: int = FIRST, length: int = 96) -> list[bytes]:
    """Publishes one record a batch until the ring is full; returns the records."""
    written: list[bytes] = []
    while producer.write(record := bytes([len(written) + 1]) * length, processes):
        producer.publish(0)
        written.append(record)
    return written


# --- one batch --------------------------------------------------------------------------------


def test_batch_carries_records_destinations_interest_and_incarnation(
    producer: Producer, consumer: Consumer
):
    producer.write(b"one", FIRST)
    producer.write(b"second record", SECOND)
    assert producer.publish(interest_sequence=77) == FIRST | SECOND
    assert consumer.read_all() == [
        (b"one\0\0\0\0\0second record\0\0\0", FIRST | SECOND, 77, producer.incarnation)
    ]


def test_open_batch_is_invisible_until_it_is_published(producer: Producer, consumer: Consumer):
    producer.write(b"unfinished", FIRST)
    assert producer.open_bytes() == HEADER + 16
    assert not consumer.is_behind()
    assert consumer.read_all() == []
    producer.publish(0)
    assert producer.open_bytes() == 0
    assert consumer.is_behind()
    assert records_of(consumer) == [b"unfinished\0\0\0\0\0\0"]
    assert not consumer.is_behind()


def test_publishing_nothing_publishes_nothing(producer: Producer, ring: Ring):
    assert producer.publish(5) == 0
    assert ring.published == 0


def test_destinations_do_not_leak_into_the_next_batch(producer: Producer, consumer: Consumer):
    producer.publish_bytes([b"a"], SECOND)
    producer.publish_bytes([b"b"], FIRST)
    assert [processes for _, processes, *_ in consumer.read_all()] == [FIRST]


def test_every_record_starts_at_a_multiple_of_eight(producer: Producer, consumer: Consumer):
    lengths = list(range(18))
    producer.publish_bytes([b"x" * length for length in lengths], FIRST)
    expected = b"".join((b"x" * n).ljust((n + 7) // 8 * 8, b"\0") for n in lengths)
    assert records_of(consumer) == [expected]


def test_consumer_steps_over_the_batches_of_others(producer: Producer, consumer: Consumer):
    other = join(producer, 1)
    for number in range(6):
        producer.publish_bytes([b"%08d" % number], SECOND if number % 2 else FIRST)
    assert records_of(consumer) == [b"00000000", b"00000002", b"00000004"]
    assert records_of(other) == [b"00000001", b"00000003", b"00000005"]
    consumer.release()
    other.release()
    assert producer.consumed() == producer.published


# --- room -------------------------------------------------------------------------------------


def test_full_ring_refuses_claim_and_keeps_unread_records(producer: Producer, consumer: Consumer):
    written = fill(producer)
    assert len(written) == SIZE // (HEADER + 96)
    assert producer.open_bytes() == 0
    assert records_of(consumer) == written


def test_ring_can_be_filled_to_its_last_byte(producer: Producer, consumer: Consumer):
    """Eight batches of exactly an eighth, and not one byte more."""
    records = [bytes([n]) * (SIZE // 8 - HEADER) for n in range(8)]
    for record in records:
        assert producer.publish_bytes([record], FIRST) == 1
    assert producer.published == SIZE
    assert not producer.write(b"", FIRST)
    assert records_of(consumer) == records


def test_open_batch_counts_as_used_room(producer: Producer, consumer: Consumer):
    written = 0
    while producer.write(b"z" * 120, FIRST):
        written += 1
    assert written == (SIZE - HEADER) // 120
    assert producer.write(b"z" * (SIZE - HEADER - written * 120), FIRST)
    assert not producer.write(b"z", FIRST)
    assert producer.write(b"", FIRST)  # takes no room
    producer.publish(0)
    assert producer.published == SIZE
    assert records_of(consumer) == [b"z" * (SIZE - HEADER)]


def test_room_returns_when_the_consumer_releases_not_when_it_reads(
    producer: Producer, consumer: Consumer
):
    fill(producer)
    consumer.read_all()
    assert not producer.write(b"x", FIRST)
    consumer.release()
    assert producer.write(b"x", FIRST)


def test_free_space_ends_at_the_slowest_attached_consumer(producer: Producer, consumer: Consumer):
    slow = join(producer, 1)
    fill(producer)
    consumer.read_all()
    consumer.release()
    assert producer.consumed() == 0
    assert not producer.write(b"x", FIRST)
    slow.read_all()
    slow.release()
    assert producer.write(b"x", FIRST)


def test_detaching_a_dead_consumer_frees_the_producer(producer: Producer, consumer: Consumer):
    join(producer, 1)
    fill(producer)
    consumer.read_all()
    consumer.release()
    assert not producer.write(b"x", FIRST)
    producer.detach(1)
    assert producer.attached == FIRST
    assert producer.write(b"x", FIRST)


def test_producer_without_consumers_never_runs_out_of_room(producer: Producer):
    for _ in range(100):
        assert producer.publish_bytes([b"x" * RECORD_MAX], FIRST) == 1
    assert producer.consumed() == producer.published


def test_record_longer_than_an_eighth_is_refused_even_by_an_empty_ring(
    producer: Producer, consumer: Consumer
):
    assert producer.record_max == RECORD_MAX
    assert producer.write(b"x" * RECORD_MAX, FIRST)
    assert not producer.write(b"x" * (RECORD_MAX + 1), FIRST)
    producer.publish(0)
    assert records_of(consumer) == [b"x" * RECORD_MAX]


# --- positions --------------------------------------------------------------------------------


@pytest.mark.parametrize("before_end", [8, HEADER - 8, HEADER, HEADER + 8, HEADER + 64, 104])
def test_batch_is_whole_wherever_the_end_of_the_memory_cuts_it(before_end: int):
    """A record of 64 bytes that ends exactly at the wrap, or starts there, or lies across it."""
    ring = Ring(SIZE, 1)
    ring.poke(SIZE - before_end)
    producer = Producer(ring, 1)
    consumer = join(producer, 0)
    record = bytes(range(64))
    for _ in range(2 * SIZE // (HEADER + 64)):
        assert producer.publish_bytes([record], FIRST, 3) == 1
        assert consumer.read_all() == [(record, FIRST, 3, 1)]
        consumer.release()


@pytest.mark.parametrize("corner", [1 << 31, 1 << 32, 1 << 63, 1 << 64])
@pytest.mark.parametrize("before", [8, 64, SIZE])
def test_positions_pass_the_corners_of_their_numbers(corner: int, before: int):
    ring = Ring(SIZE, 2)
    ring.poke(corner - before)
    producer = Producer(ring, 1)
    fast, slow = join(producer, 0), join(producer, 1)
    for _ in range(3):
        written = fill(producer, FIRST | SECOND)
        assert len(written) == SIZE // (HEADER + 96)
        assert records_of(fast) == written
        fast.release()
        assert not producer.write(b"x", FIRST)
        assert records_of(slow) == written
        slow.release()
        assert producer.consumed() == producer.published
    assert producer.published == (corner - before + 3 * 32 * 128) % (1 << 64)


# --- waiting for room -------------------------------------------------------------------------


def test_consumer_rings_only_a_producer_that_asked(producer: Producer, consumer: Consumer):
    fill(producer)
    consumer.read_all()
    assert not consumer.release()

    fill(producer)
    assert not producer.wait_for_room(8)
    consumer.read_all()
    assert consumer.release()
    assert not producer.ring.is_waiting
    assert producer.write(b"x", FIRST)


def test_only_one_of_several_consumers_rings(producer: Producer, consumer: Consumer):
    other = join(producer, 1)
    fill(producer)
    assert not producer.wait_for_room(8)
    for reader in (consumer, other):
        reader.read_all()
    assert [consumer.release(), other.release()] == [True, False]


def test_release_of_nothing_rings_nobody(producer: Producer, consumer: Consumer):
    other = join(producer, 1)
    fill(producer)
    other.read_all()
    other.release()
    assert not producer.wait_for_room(8)
    assert not other.release()
    assert producer.ring.is_waiting


def test_room_that_appeared_before_the_last_look_is_found_by_it(
    producer: Producer, consumer: Consumer
):
    """The consumer saw no flag, so nobody rings: the last look has to find the room."""
    fill(producer)
    consumer.read_all()
    assert not consumer.release()
    assert producer.wait_for_room(8)
    assert not producer.ring.is_waiting


def test_waiting_is_over_only_when_there_is_room_for_all_that_was_asked(
    producer: Producer, consumer: Consumer
):
    for _ in range(8):
        producer.publish_bytes([b"x" * (SIZE // 8 - HEADER)], FIRST)
    consumer.read_all()
    consumer.release()
    producer.publish_bytes([b"x" * (SIZE // 8 - HEADER)], FIRST)
    room = SIZE - SIZE // 8 - HEADER
    assert not producer.wait_for_room(room + 1)
    assert producer.wait_for_room(room)


def test_wait_for_more_than_the_ring_holds_is_over_when_it_is_empty(
    producer: Producer, consumer: Consumer
):
    producer.publish_bytes([b"x"], FIRST)
    assert not producer.wait_for_room(100 * SIZE)
    consumer.read_all()
    assert consumer.release()
    assert producer.wait_for_room(100 * SIZE)


# --- joining, leaving, successors -------------------------------------------------------------


def test_consumer_starts_where_the_producer_attached_it(producer: Producer, consumer: Consumer):
    producer.publish_bytes([b"before"], FIRST | SECOND)
    producer.write(b"open", FIRST | SECOND)
    late = join(producer, 1)
    producer.publish(0)
    assert records_of(late) == [b"open\0\0\0\0"]
    assert len(records_of(consumer)) == 2


def test_consumer_that_has_not_started_reads_nothing(producer: Producer, ring: Ring):
    consumer = Consumer(ring, 0)
    producer.publish_bytes([b"x"], FIRST)
    assert not consumer.is_started
    assert not consumer.is_behind()
    assert consumer.read_all() == []
    assert not consumer.release()


def test_attaching_twice_is_an_internal_error(producer: Producer, consumer: Consumer):
    with pytest.raises(InternalError, match="attached already"):
        producer.attach(0)


def test_slot_that_is_not_there_is_refused(producer: Producer, ring: Ring):
    for call in (producer.attach, producer.detach, ring.cursor, lambda n: Consumer(ring, n)):
        with pytest.raises(IndexError, match="slot 4 of 4"):
            call(4)


def test_half_written_batch_of_a_dead_producer_is_never_seen_and_its_successor_continues(
    ring: Ring, producer: Producer, consumer: Consumer
):
    producer.publish_bytes([b"complete"], FIRST)
    producer.write(b"half written", FIRST)
    del producer

    successor = Producer(ring, 2)
    assert ring.incarnation == 2
    assert successor.published == HEADER + 8
    assert successor.attached == 0
    assert records_of(consumer) == [b"complete"]
    consumer.release()
    reader = join(successor, 0)
    successor.publish_bytes([b"from the successor"], FIRST)
    assert reader.read_all() == [(b"from the successor".ljust(24, b"\0"), FIRST, 0, 2)]


def test_successor_does_not_overwrite_what_a_live_consumer_has_not_read(ring: Ring):
    producer = Producer(ring, 1)
    consumer = join(producer, 0, incarnation=9)
    written = fill(producer)

    successor = Producer(ring, 2)
    successor.attach(0, incarnation=9)
    assert successor.consumed() == 0
    assert not successor.write(b"x", FIRST)
    assert records_of(consumer) == written
    consumer.release()
    assert successor.write(b"x", FIRST)


def test_consumer_reads_up_to_the_successor_and_the_next_one_from_there(ring: Ring):
    producer = Producer(ring, 1)
    consumer = join(producer, 0, incarnation=9)
    producer.publish_bytes([b"of one"], FIRST)
    successor = Producer(ring, 2)
    successor.attach(0, incarnation=9)
    successor.publish_bytes([b"of two"], FIRST)

    assert records_of(consumer) == [b"of one\0\0"]
    consumer.release()
    reader = Consumer(ring, 0, 2)
    reader.start()
    assert records_of(reader) == [b"of two\0\0"]


def test_what_the_dead_producer_left_unread_is_skipped_by_the_consumer_of_its_successor(
    ring: Ring,
):
    producer = Producer(ring, 1)
    join(producer, 0, incarnation=9)
    fill(producer)
    successor = Producer(ring, 2)
    successor.attach(0, incarnation=9)
    assert not successor.wait_for_room(8)

    reader = Consumer(ring, 0, 2)
    assert reader.start()  # the producer asked to be rung
    successor.publish_bytes([b"of two"], FIRST)
    assert records_of(reader) == [b"of two\0\0"]


def test_new_process_in_the_slot_of_a_dead_consumer_starts_at_the_published_position(ring: Ring):
    producer = Producer(ring, 1)
    join(producer, 0, incarnation=9)
    fill(producer)
    successor = Producer(ring, 2)
    reader = join(successor, 0, incarnation=10)
    assert successor.write(b"x", FIRST)
    assert records_of(reader) == []


def test_detached_consumer_does_not_keep_its_place(ring: Ring):
    producer = Producer(ring, 1)
    join(producer, 0, incarnation=9)
    fill(producer)
    producer.detach(0)
    producer.publish_bytes([b"x" * RECORD_MAX] * 4, SECOND)
    successor = Producer(ring, 2)
    successor.attach(0, incarnation=9)
    assert successor.consumed() == successor.published


def test_successor_forgets_that_its_predecessor_waited(ring: Ring, producer: Producer):
    join(producer, 0)
    fill(producer)
    producer.wait_for_room(8)
    assert ring.is_waiting
    Producer(ring, 2)
    assert not ring.is_waiting


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length",
    [0, 8, HEADER - 8, HEADER + 1, HEADER + 8 + 8, SIZE, SIZE + HEADER, (1 << 32) - 8],
    ids="empty below_header header_cut unaligned beyond_published ring huge wraps".split(),
)
def test_corrupted_batch_length_is_detected(
    ring: Ring, producer: Producer, consumer: Consumer, length: int
):
    producer.publish_bytes([b"x" * 8], FIRST)
    ring.poke_data(0, struct.pack("=I", length))
    with pytest.raises(InternalError, match=f"no batch at 0: length {length} of 40"):
        consumer.read_all()


def test_batch_that_was_overwritten_does_not_pass_for_one(producer: Producer, consumer: Consumer):
    """A consumer that was taken for dead and detached reads on in bytes that are not its own."""
    producer.publish_bytes([b"x" * 96], FIRST)
    producer.detach(0)
    for _ in range(SIZE // (HEADER + 96)):
        producer.publish_bytes([b"y" * 96], FIRST)
    with pytest.raises(InternalError, match="no batch at 0"):
        consumer.read_all()


def test_cursor_outside_the_ring_is_an_internal_error(ring: Ring):
    ring.poke(SIZE)
    producer = Producer(ring, 1)
    for _ in range(SIZE // (HEADER + 96)):
        producer.publish_bytes([b"x" * 96], FIRST)
    consumer = Consumer(ring, 0)
    consumer.start()
    producer.publish_bytes([b"one too many"], FIRST)
    with pytest.raises(InternalError, match=f"consumer 0 stands at {SIZE} of"):
        Consumer(ring, 0).start()


@pytest.mark.parametrize("damage", [{"magic": 1}, {"version": 99}])
def test_ring_of_another_layout_is_an_internal_error(
    ring: Ring, producer: Producer, consumer: Consumer, damage: dict[str, int]
):
    ring.poke_header(**damage)
    calls = [
        ring.check,
        consumer.start,
        lambda: producer.attach(1),
        lambda: Producer(ring, 2),
        lambda: Consumer(ring, 1),
    ]
    for call in calls:
        with pytest.raises(InternalError, match="damaged header"):
            call()


@pytest.mark.parametrize("size", [0, -1, SIZE + 1, 3 * SIZE, 1 << 32])
def test_size_must_be_a_power_of_two(size: int):
    with pytest.raises(BootError, match="power of two"):
        Ring(size, 1)


@pytest.mark.parametrize("slots", [0, 65, -1])
def test_number_of_processes_must_fit_the_mask(slots: int):
    with pytest.raises(BootError, match="between 1 and 64"):
        Ring(SIZE, slots)


def test_sixty_four_processes_have_cursors_of_their_own():
    ring = Ring(SIZE, 64)
    producer = Producer(ring, 1)
    consumers = [join(producer, slot) for slot in range(64)]
    assert producer.attached == (1 << 64) - 1
    producer.publish_bytes([b"for all!"], (1 << 64) - 1)
    for consumer in consumers:
        assert records_of(consumer) == [b"for all!"]
        assert producer.consumed() == 0
        consumer.release()
    assert producer.consumed() == producer.published
