"""The files of a running server: who may clear whose runtime directory, and what is written how."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardd.errors import BootError
from shardd.runfiles import PortsFile, RuntimeDirectory, directory_of, write_pid_file

DEAD_PID = 2**22 + 1  # beyond the largest pid that Linux gives


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where runtime directories go: a path short enough for a socket."""
    place = Path("/tmp", f"rt{os.getpid()}")
    place.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    yield place
    for path in place.iterdir():
        path.rmdir()
    place.rmdir()


def test_runtime_directory_is_private_and_goes_with_what_is_in_it(place: Path) -> None:
    runtime = RuntimeDirectory.create()
    assert runtime.path.parent == place
    assert runtime.path.stat().st_mode & 0o777 == 0o700
    (runtime.path / "control-0").touch()
    runtime.close()
    assert list(place.iterdir()) == []


def test_directory_of_a_dead_supervisor_is_cleared(place: Path) -> None:
    stale = place / f"shardd-{DEAD_PID}-00000000"
    stale.mkdir()
    (stale / "control-0").touch()
    runtime = RuntimeDirectory.create()
    assert list(place.iterdir()) == [runtime.path]
    runtime.close()


def test_directory_of_a_living_supervisor_stays(place: Path) -> None:
    first = RuntimeDirectory.create()
    second = RuntimeDirectory.create()
    assert sorted(place.iterdir()) == sorted([first.path, second.path])
    first.close()
    second.close()


def test_locked_directory_stays_though_its_pid_is_unknown_here(place: Path) -> None:
    """Its supervisor may live in another pid namespace."""
    elsewhere = RuntimeDirectory.create()
    path = elsewhere.path.rename(place / f"shardd-{DEAD_PID}-00000000")
    here = RuntimeDirectory.create()
    assert path in list(place.iterdir())
    here.close()
    elsewhere.leave_in_child()


@pytest.mark.parametrize(
    "name",
    ["shardd-notes", "shardd-", f"shardd-{DEAD_PID}", f"shardd-{DEAD_PID}-x", "other-1-00000000"],
)
def test_directory_with_another_kind_of_name_stays(place: Path, name: str) -> None:
    (place / name).mkdir()
    RuntimeDirectory.create().close()
    assert [path.name for path in place.iterdir()] == [name]


def test_link_that_looks_like_a_runtime_directory_is_not_followed(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").touch()
    link = place / f"shardd-{DEAD_PID}-00000000"
    link.symlink_to(tmp_path)
    RuntimeDirectory.create().close()
    assert (tmp_path / "precious").exists()
    link.unlink()


def test_place_whose_path_is_too_long_for_a_socket_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long_place = tmp_path / ("x" * 80)
    long_place.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long_place))
    runtime = RuntimeDirectory.create()
    assert len(os.fsencode(runtime.path)) <= 107 - 41
    assert list(long_place.iterdir()) == []
    runtime.close()


def test_place_that_does_not_exist_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "missing"))
    runtime = RuntimeDirectory.create()
    assert runtime.path.is_dir()
    runtime.close()


def test_pid_file_is_replaced_whole_and_has_no_newline(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("a much longer text from before")
    write_pid_file(str(path))
    assert path.read_text() == str(os.getpid())


def test_pid_file_that_cannot_be_written_is_named_in_the_error(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "pid")
    with pytest.raises(BootError) as refusal:
        write_pid_file(path)
    assert str(refusal.value) == (
        f"Could not write pidfile: open {path}: no such file or directory"
    )


def test_ports_file_lists_the_urls_and_leaves_no_draft(tmp_path: Path) -> None:
    ports_file = PortsFile(str(tmp_path))
    ports_file.check()
    urls = {"nats": ["nats://127.0.0.1:4222", "nats://[::1]:4222"], "websocket": ["ws://[::1]:1"]}
    ports_file.write(urls)
    (path,) = tmp_path.iterdir()
    assert path.name == f"shardd_{os.getpid()}.ports"
    assert json.loads(path.read_text()) == urls
    ports_file.remove()
    ports_file.remove()
    assert list(tmp_path.iterdir()) == []


def test_ports_file_that_could_not_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="no such directory"):
        PortsFile(str(tmp_path / "missing")).check()


def test_a_server_is_asked_in_the_directory_that_it_has_locked(place: Path) -> None:
    assert directory_of(os.getpid()) is None
    runtime = RuntimeDirectory.create()
    (runtime.path / "here").touch()
    way = directory_of(os.getpid())
    assert way is not None
    assert os.listdir(way) == ["here"]
    runtime.close()
    assert directory_of(os.getpid()) is None


def test_a_process_that_is_not_there_has_no_directory() -> None:
    with pytest.raises(FileNotFoundError):
        directory_of(DEAD_PID)
