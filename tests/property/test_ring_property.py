"""A ring against a list: one producer, three consumers, any order of steps, successors included.

The model is the list of published batches with their positions. A consumer must read exactly the
batches for it from where it was attached on, in order, and the producer must be refused exactly
when the slowest attached consumer leaves no room.
"""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shardd.router.ring import Consumer, Producer, Ring

SIZE = 4096
HEADER = 32
CONSUMERS = 3
PROCESS = 7  # the incarnation of every consumer's process

Batch = tuple[bytes, int, int, int]

slots = st.integers(0, CONSUMERS - 1)
masks = st.integers(0, (1 << CONSUMERS) - 1)
# Most records are small; some are at and beyond the limit of an eighth.
lengths = st.one_of(st.integers(0, 40), st.integers(400, SIZE // 8), st.just(SIZE // 8 + 1))


def padded(length: int) -> int:
    return (length + 7) // 8 * 8


@dataclass
class Reader:
    """A consumer and what the model knows of it."""

    consumer: Consumer
    read: int  # batches of the model's list that it has stepped over
    released: int  # position


class RingMachine(RuleBasedStateMachine):
    """Drives one ring in one process."""

    @initialize(
        start=st.sampled_from([0, SIZE - 8, (1 << 32) - 64, (1 << 63) - 264, (1 << 64) - 8])
    )
    def make(self, start: int) -> None:
        self.ring = Ring(SIZE, CONSUMERS)
        self.ring.poke(start)
        self.start = start
        self.incarnation = 1
        self.producer = Producer(self.ring, 1)
        self.batches: list[Batch] = []
        self.position = 0  # published, counted from `start`
        self.open = b""
        self.open_mask = 0
        self.is_open = False
        self.readers: dict[int, Reader] = {}
        self.has_asked = False
        self.writes = 0

    def _used(self) -> int:
        lag = max((self.position - reader.released for reader in self.readers.values()), default=0)
        return lag + (HEADER + len(self.open) if self.is_open else 0)

    def _fits(self, length: int) -> bool:
        header = 0 if self.is_open else HEADER
        return self._used() + header + padded(length) <= SIZE

    @rule(length=lengths, mask=masks)
    def write(self, length: int, mask: int) -> None:
        self.writes += 1
        record = bytes([self.writes & 0xFF]) * length
        granted = self.producer.write(record, mask)
        assert granted == (length <= SIZE // 8 and self._fits(length))
        if granted:
            self.open += record.ljust(padded(length), b"\0")
            self.open_mask |= mask
            self.is_open = True

    @rule(sequence=st.integers(0, (1 << 64) - 1))
    def publish(self, sequence: int) -> None:
        assert self.producer.publish(sequence) == self.open_mask
        if self.is_open:
            self.batches.append((self.open, self.open_mask, sequence, self.incarnation))
            self.position += HEADER + len(self.open)
        self.open, self.open_mask, self.is_open = b"", 0, False

    @precondition(lambda self: not self.is_open)
    @rule(length=st.integers(0, 2 * SIZE))
    def wait_for_room(self, length: int) -> None:
        fits = self._fits(min(length, SIZE - HEADER))
        assert self.producer.wait_for_room(length) == fits
        self.has_asked = not fits

    @rule(slot=slots)
    def attach(self, slot: int) -> None:
        if slot not in self.readers:
            self.producer.attach(slot, PROCESS)
            consumer = Consumer(self.ring, slot, self.incarnation)
            assert not consumer.start()
            self.readers[slot] = Reader(consumer, len(self.batches), self.position)

    @rule(slot=slots)
    def detach(self, slot: int) -> None:
        self.producer.detach(slot)
        self.readers.pop(slot, None)

    @rule(slot=slots)
    def read(self, slot: int) -> None:
        if reader := self.readers.get(slot):
            expected = [b for b in self.batches[reader.read :] if b[1] >> slot & 1]
            assert reader.consumer.is_behind() == (reader.read < len(self.batches))
            assert reader.consumer.read_all() == expected
            assert not reader.consumer.is_behind()
            reader.read = len(self.batches)

    @rule(slot=slots)
    def release(self, slot: int) -> None:
        if reader := self.readers.get(slot):
            position = (reader.consumer.position - self.start) % (1 << 64)
            has_moved = position != reader.released
            assert reader.consumer.release() == (has_moved and self.has_asked)
            if has_moved:
                self.has_asked = False
            reader.released = position

    @rule(drains=st.lists(st.booleans(), min_size=CONSUMERS, max_size=CONSUMERS))
    def succeed(self, drains: list[bool]) -> None:
        """The producer dies with its open batch. Consumers go on under the next one, some after
        they have read all that was left, and none may be overwritten before."""
        self.incarnation += 1
        self.producer = Producer(self.ring, self.incarnation)
        self.open, self.open_mask, self.is_open = b"", 0, False
        self.has_asked = False
        for slot, reader in self.readers.items():
            self.producer.attach(slot, PROCESS)
            assert self._lag_of_producer() >= self.position - reader.released
        for slot, reader in self.readers.items():
            if drains[slot]:
                self.read(slot)
            consumer = Consumer(self.ring, slot, self.incarnation)
            if drains[slot]:
                reader.consumer.release()
            assert not consumer.start()
            self.readers[slot] = Reader(consumer, len(self.batches), self.position)

    def _lag_of_producer(self) -> int:
        return self.producer.published - self.producer.consumed() & (1 << 64) - 1

    @invariant()
    def positions_agree(self) -> None:
        if not hasattr(self, "ring"):
            return
        lowest = min((r.released for r in self.readers.values()), default=self.position)
        assert self.ring.published == (self.start + self.position) % (1 << 64)
        assert self.producer.consumed() == (self.start + lowest) % (1 << 64)
        assert self.producer.open_bytes() == (HEADER + len(self.open) if self.is_open else 0)
        assert self.ring.is_waiting == self.has_asked


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
