"""What the subject index costs: ns for each operation, bytes for each subscription.

`python -m bench.micro.sublist [COUNT...]` prints one line per number of distinct literal subjects.
Each number runs in a child of its own, because memory is measured as growth of the resident set.
Nothing here is a verdict; the goals are in the design.
"""

import argparse
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from shardd.router.sublist import Sublist
from shardd.router.sublist_probe import Probe

COUNTS = (1_000, 100_000, 1_000_000)
HOT = 1_000  # subjects that are published to again and again
SAMPLE = 100_000  # operations timed at the most


def resident_bytes() -> int:
    """The resident set of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def timed_ns(call: Callable[[], object], operations: int) -> float:
    """Nanoseconds of processor time for one of the operations in the call."""
    begin = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - begin) / operations


def subjects_of(count: int) -> list[bytes]:
    """Distinct literals of three tokens and 20 bytes, in no order."""
    subjects = [b"orders.%03d.%09d" % (number % 251, number) for number in range(count)]
    random.Random(7).shuffle(subjects)
    return subjects


def measure(count: int) -> None:
    """Prints the line for so many subscriptions."""
    subjects = subjects_of(count)
    entries = [(0, subject, None, 1) for subject in subjects]
    handles = list(range(count))
    sample = min(count, SAMPLE)
    hot = subjects[:: max(1, count // HOT)][:HOT]

    before = resident_bytes()
    owner = Probe(Sublist(seed=1))
    insert = timed_ns(lambda: owner.insert_many(0, subjects, b"1234567"), count)
    owner_bytes = (resident_bytes() - before) / count - 8  # the probe's own array of handles

    before = resident_bytes()
    remote = Sublist(seed=1)
    apply = timed_ns(lambda: remote.set_remote_many(1, entries), count)
    remote_bytes = (resident_bytes() - before) / count

    changes = timed_ns(owner.index.take_changes, count)
    for pattern in (b"orders.*.000000001", b"orders.001.>", b"*.*.000000002", b"other.>"):
        owner.insert(0, pattern)
    cold = timed_ns(lambda: owner.match_many(0, subjects[:sample], 1), sample)
    owner.match_many(0, hot, 2)
    rounds = max(1, SAMPLE * 20 // len(hot))
    hit = timed_ns(lambda: owner.match_many(0, hot, rounds), rounds * len(hot))
    one = timed_ns(lambda: owner.match_many(0, hot[:1], SAMPLE * 20), SAMPLE * 20)
    warm = Probe(Sublist(seed=2))
    pair = timed_ns(lambda: insert_and_remove(warm, hot), 20 * len(hot))
    remove = timed_ns(lambda: owner.remove_many(handles[:sample]), sample)
    print(
        f"{count:>9,} subjects: insert {insert:5.0f} ns, remove {remove:5.0f} ns, both on a small"
        f" index {pair:5.0f} ns; miss {cold:5.0f} ns, hit {hit:5.1f} ns (one subject {one:5.1f});"
        f" owner {owner_bytes:5.0f} B, remote {remote_bytes:5.0f} B;"
        f" announce {changes:5.0f} ns, apply {apply:5.0f} ns",
        flush=True,
    )


def insert_and_remove(probe: Probe, subjects: list[bytes]) -> None:
    """The life of short-lived subscriptions."""
    for round_number in range(20):
        first = round_number * len(subjects)
        probe.insert_many(0, subjects, b"1234567")
        probe.remove_many(range(first, first + len(subjects)))


def main() -> None:
    """Measures each number of subscriptions in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=COUNTS)
    for count in parser.parse_args().counts:
        child = multiprocessing.get_context("spawn").Process(target=measure, args=(count,))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
