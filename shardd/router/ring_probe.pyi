"""A door to the C face of rings and doorbells, for tests and the micro-benchmark."""

from shardd.router.doorbell import Doorbell
from shardd.router.ring import Consumer, Producer
from shardd.shm import Segment

def write_numbered(
    producer: Producer,
    first: int,
    end: int,
    length: int,
    spread: int,
    batch_bytes: int,
    processes: int,
) -> int: ...
def read_numbered(consumer: Consumer, expected: int) -> int: ...
def race_for_room(
    producer: Producer | None, consumer: Consumer | None, words: Segment, rounds: int
) -> int: ...
def race_for_sleep(bell: Doorbell, words: Segment, rounds: int, sleeps: bool) -> int: ...
