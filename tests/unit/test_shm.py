"""Shared memory: sizes, the doubled view, inheritance by fork, and errors that operators read."""

import gc
import mmap
import os
import resource

import pytest

from shardd.errors import BootError
from shardd.shm import Segment
from tests.support.leaks import open_descriptors


def test_size_is_rounded_up_to_whole_pages_and_memory_is_zeroed():
    segment = Segment(mmap.PAGESIZE + 1)
    assert segment.size == 2 * mmap.PAGESIZE
    assert not segment.is_doubled
    assert segment.read(0, segment.size) == bytes(segment.size)


def test_doubled_segment_shows_its_first_byte_again_after_its_last():
    segment = Segment(mmap.PAGESIZE, doubled=True)
    segment.write(segment.size - 2, b"abcd")
    assert segment.is_doubled
    assert segment.read(0, 2) == b"cd"
    assert segment.read(2 * segment.size - 2, 2) == b"ab"


def test_plain_segment_ends_where_its_size_says():
    segment = Segment(mmap.PAGESIZE)
    for offset, length in ((segment.size, 1), (segment.size - 1, 2), (-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="outside the segment"):
            segment.read(offset, length)
    with pytest.raises(ValueError, match="outside the segment"):
        segment.write(segment.size - 1, b"ab")


def test_child_sees_what_the_parent_writes_and_the_other_way_round():
    segment = Segment(100)
    segment.write(0, b"from parent")
    pid = os.fork()
    if pid == 0:
        ok = segment.read(0, 11) == b"from parent"
        segment.write(50, b"from child")
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert segment.read(50, 10) == b"from child"


def test_segment_keeps_no_descriptor_and_no_mapping_behind():
    # Segments of other tests may still wait for the collector, and would change the counts.
    gc.collect()
    before, mapped = open_descriptors(), _mappings()
    segment = Segment(mmap.PAGESIZE, doubled=True)
    assert open_descriptors() == before
    assert _mappings() == mapped + 2
    del segment
    assert _mappings() == mapped


@pytest.mark.parametrize("size", [0, -1, (1 << 40) + 1, 1 << 64])
def test_size_without_sense_is_a_boot_error(size: int):
    with pytest.raises(BootError, match=f"cannot map {size} bytes"):
        Segment(size)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (resource.RLIMIT_NOFILE, "Too many open files"),
        (resource.RLIMIT_FSIZE, "File too large"),
        (resource.RLIMIT_AS, "Cannot allocate memory"),
    ],
)
@pytest.mark.parametrize("doubled", [False, True])
def test_refusal_of_the_kernel_is_a_boot_error_with_its_reason(
    limit: int, text: str, doubled: bool
):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(limit, (0, 0))
            try:
                Segment(1 << 32, doubled=doubled)
            except BootError as error:
                status = 0 if text in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _mappings() -> int:
    """Mappings of shardd's shared memory in this process, of one page each."""
    with open("/proc/self/maps") as maps:
        names = [line for line in maps if "memfd:shardd" in line]
    return sum(_pages(line) == 1 for line in names)


def _pages(line: str) -> int:
    start, end = line.split(maxsplit=1)[0].split("-")
    return (int(end, 16) - int(start, 16)) // mmap.PAGESIZE
