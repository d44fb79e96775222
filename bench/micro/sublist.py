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
WILDCARDS = (b"orders.*.000000001", b"orders.001.>", b"*.*.000000002", b"other.>")
HOT = 1_000  # subjects that are published to again and again
SAMPLE = 100_000  # operations timed at the most
ROUNDS = 20


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
    for pattern in WILDCARDS:
        owner.insert(0, pattern)
    # The cache is off, so that each match is a miss, and small results come from warm memory.
    uncached = Probe(Sublist(seed=1, cache_entries=0))
    for pattern in WILDCARDS:
        uncached.insert(0, pattern)
    uncached.insert_many(0, subjects, b"1234567")
    miss = timed_ns(lambda: uncached.match_many(0, subjects[:sample], 1), sample)
    owner.match_many(0, hot, 2)
    rounds = max(1, SAMPLE * 20 // len(hot))
    hit = timed_ns(lambda: owner.match_many(0, hot, rounds), rounds * len(hot))
    one = timed_ns(lambda: owner.match_many(0, hot[:1], SAMPLE * 20), SAMPLE * 20)
    fresh = [subject + b".x" for subject in hot]
    inboxes = [b"_INBOX.%022d.*" % number for number in range(len(hot))]
    literal = timed_ns(lambda: come_and_go(uncached, fresh), ROUNDS * len(hot))
    wildcard = timed_ns(lambda: come_and_go(uncached, inboxes), ROUNDS * len(hot))
    first = len(WILDCARDS)
    remove = timed_ns(lambda: uncached.remove_many(range(first, first + sample)), sample)
    print(
        f"{count:>9,} subjects: insert {insert:4.0f} ns, remove {remove:4.0f} ns;"
        f" come and go {literal:4.0f} ns, with a wildcard {wildcard:4.0f} ns;"
        f" miss {miss:4.0f} ns, hit {hit:5.1f} ns (one subject {one:5.1f});"
        f" owner {owner_bytes:4.0f} B, remote {remote_bytes:4.0f} B;"
        f" announce {changes:4.0f} ns, apply {apply:4.0f} ns",
        flush=True,
    )


def come_and_go(probe: Probe, subjects: list[bytes]) -> None:
    """Subscriptions that live for a moment, in an index that holds others."""
    for _ in range(ROUNDS):
        first = probe.insert(0, b"first")
        probe.insert_many(0, subjects, b"1234567")
        probe.remove_many(range(first, first + 1 + len(subjects)))


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
