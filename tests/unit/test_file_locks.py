"""Who may open a file store: one process a part, and one server of a group."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardd.config.streaming import FileOptions
from shardd.errors import StoreError
from shardd.streaming.file_store import FileStore
from tests.support.stores import FileHarness, quick_directory


@pytest.fixture
def place() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


def test_two_processes_cannot_have_one_part(place):
    with FileHarness(place / "store") as first:
        first.open()
        other, said = FileHarness(place / "store"), "another process uses this store"
        with other as second, pytest.raises(StoreError, match=said):
            second.open()
        follower = FileStore(
            place / "store", first.parts, FileOptions(), is_lead=False, call_soon=bool
        )
        with pytest.raises(StoreError, match="another process uses this part"):
            follower.recover()
    with FileHarness(place / "store") as third:
        third.open()


def test_the_lock_of_a_group_is_for_one_process_and_ends_with_it(place):
    path = place / "store" / ".rootdir.lck"
    path.parent.mkdir()
    # Another program that takes the lock as the original does, and holds it until it is ended.
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'w');"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print('held', flush=True); input()"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as owner,
        FileHarness(place / "store") as harness,
    ):
        store = harness.make()
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        assert not store.try_lock()
        owner.kill()
        owner.wait()
        assert store.try_lock()
        store.recover()
        store.close()
    (place / "file").write_text("")
    with (
        FileHarness(place / "file" / "store") as harness,
        pytest.raises(StoreError, match="Not a directory"),
    ):
        harness.make().try_lock()
