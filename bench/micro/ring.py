"""What a record costs in a ring: written and read in one process, and across two.

Run: ``python -m bench.micro.ring``. Each record is filled by the producer and every byte of it is
compared by the consumer, both in C loops, so the figures include touching the memory twice. Across
processes the consumer sleeps when it has nothing to read and the producer when the ring is full,
with doorbells; on fewer than two free cores the two take turns.
"""

import os
import select
import time
from collections.abc import Callable

from shardd.limits import BATCH_BYTES, RING_BYTES
from shardd.router.doorbell import Doorbell
from shardd.router.ring import Consumer, Producer, Ring
from shardd.router.ring_probe import read_numbered, write_numbered
from shardd.slots import Slots

LENGTHS = (64, 1024)
BYTES = 1 << 30  # moved in each measurement
REPEATS = 3
READER = 1


def same_process(length: int, count: int) -> float:
    """Seconds to write and read `count` records by turns, a batch each."""
    ring = Ring(RING_BYTES, 2)
    producer = Producer(ring, 1)
    producer.attach(READER)
    consumer = Consumer(ring, READER, 1)
    consumer.start()
    per_batch = BATCH_BYTES // length
    done = 0
    start_s = time.perf_counter()
    while done < count:
        end = min(done + per_batch, count)
        write_numbered(producer, done, end, length, 1, BATCH_BYTES, 1 << READER)
        done = read_numbered(consumer, done)
        consumer.release()
    return time.perf_counter() - start_s


def two_processes(length: int, count: int) -> float:
    """Seconds until a second process has read `count` records."""
    slots = Slots(2)
    ring = Ring(RING_BYTES, 2)
    bells = [Doorbell(slots, index) for index in range(2)]
    producer = Producer(ring, 1)
    producer.attach(READER)
    start_s = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _consume(ring, bells, count)
            status = 0
        finally:
            os._exit(status)
    written = 0
    while written < count:
        # A few batches a turn, as a worker that reads its sockets in between.
        end = min(count, written + 4 * BATCH_BYTES // length)
        written = write_numbered(producer, written, end, length, 1, BATCH_BYTES, 1 << READER)
        bells[READER].ring()
        if written < end:
            _sleep(bells[0], lambda: producer.wait_for_room(RING_BYTES // 4))
    _, code = os.waitpid(pid, 0)
    if code:
        raise RuntimeError(f"the consumer ended with status {code}")
    return time.perf_counter() - start_s


def _consume(ring: Ring, bells: list[Doorbell], count: int) -> None:
    consumer = Consumer(ring, READER, 1)
    consumer.start()
    expected = 0
    while expected < count:
        expected = read_numbered(consumer, expected)
        if consumer.release():
            bells[0].ring()
        if expected < count and not consumer.is_behind():
            _sleep(bells[READER], consumer.is_behind)


def _sleep(bell: Doorbell, has_work: Callable[[], bool]) -> None:
    bell.fall_asleep()
    if not has_work():
        select.select([bell.fd], [], [])
    bell.clear()
    bell.wake_up()


def main() -> None:
    """Prints nanoseconds a record, the best of a few runs of each."""
    print(f"ring of {RING_BYTES} bytes, batches of {BATCH_BYTES} bytes, {os.cpu_count()} cores")
    for length in LENGTHS:
        count = BYTES // length // 4
        for measure in (same_process, two_processes):
            best_s = min(measure(length, count) for _ in range(REPEATS))
            print(
                f"{length:5d} B  {measure.__name__.replace('_', ' '):14}"
                f"{best_s / count * 1e9:8.1f} ns/record {count * length / best_s / 1e9:7.2f} GB/s"
            )


if __name__ == "__main__":
    main()
