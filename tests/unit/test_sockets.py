"""Addresses as words, and the socket in the file system. What the others do is tested in
tests/faults/test_supervision."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardd.errors import BootError
from shardd.sockets import (
    error_text,
    join_address,
    open_listeners,
    open_unix_listener,
    plain_address,
    remove_unix_socket,
)


@pytest.mark.parametrize(
    ("host", "joined"),
    [("127.0.0.1", "127.0.0.1:4222"), ("::", "[::]:4222"), ("localhost", "localhost:4222")],
)
def test_only_a_host_with_colons_gets_brackets(host: str, joined: str) -> None:
    assert join_address(host, 4222) == joined


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("::ffff:0:1", "::ffff:0:1"),
    ],
)
def test_ipv4_client_of_a_dual_stack_socket_is_shown_as_ipv4(host: str, plain: str) -> None:
    assert plain_address(host) == plain


def test_errors_are_spelled_as_nats_server_spells_them() -> None:
    assert error_text(OSError(errno.EADDRINUSE, "?")) == "address already in use"
    assert error_text(OSError("no number")) == "no number"


def test_port_beyond_the_last_one_is_refused_before_the_kernel_is_asked() -> None:
    with pytest.raises(BootError) as refusal:
        open_listeners("127.0.0.1", 70_000, 1)
    assert str(refusal.value) == (
        'Error listening on port: 127.0.0.1:70000, "listen tcp: address 70000: invalid port"'
    )


# --- the socket in the file system ---------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    place = Path("/tmp", f"un{os.getpid()}")
    place.mkdir()
    yield place
    for path in place.iterdir():
        path.unlink()
    place.rmdir()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_socket_has_the_mode_asked_for_whatever_the_umask(place: Path, mode: int) -> None:
    old = os.umask(0o077)
    try:
        with open_unix_listener(str(place / "s"), mode):
            assert stat.S_IMODE((place / "s").stat().st_mode) == mode
    finally:
        os.umask(old)


def test_socket_takes_connections_without_blocking_its_owner(place: Path) -> None:
    with open_unix_listener(str(place / "s"), 0o600) as listener:
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place / "s"))
            listener.accept()[0].close()


def test_socket_of_a_server_that_is_gone_is_replaced(place: Path) -> None:
    open_unix_listener(str(place / "s"), 0o600).close()
    assert (place / "s").exists()
    with (
        open_unix_listener(str(place / "s"), 0o600) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(place / "s"))
        listener.accept()[0].close()


@pytest.mark.parametrize("waiting", [0, 1])
def test_socket_that_somebody_listens_on_is_left_alone(place: Path, waiting: int) -> None:
    """Also while so many wait there that it takes no more."""
    path = str(place / "s")
    with socket.socket(socket.AF_UNIX) as owner, socket.socket(socket.AF_UNIX) as client:
        owner.bind(path)
        owner.listen(0)
        if waiting:
            client.connect(path)
        with pytest.raises(BootError) as refusal:
            open_unix_listener(path, 0o600)
        assert str(refusal.value) == f"Error listening on {path}: address already in use"
        assert os.path.exists(path)


def test_file_in_the_way_of_the_socket_stays(place: Path) -> None:
    (place / "s").write_text("precious")
    with pytest.raises(BootError, match="address already in use"):
        open_unix_listener(str(place / "s"), 0o600)
    assert (place / "s").read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/no/such/s", "no such file or directory"),
        ("/dev/null/s", "not a directory"),
        ("/" + 200 * "x", "AF_UNIX path too long"),
        ("/a\0b", "embedded null"),
    ],
)
def test_socket_that_cannot_be_is_one_line(path: str, reason: str) -> None:
    with pytest.raises(BootError, match=reason):
        open_unix_listener(path, 0o600)


def test_server_that_ends_takes_its_own_socket_away_and_no_other(place: Path) -> None:
    path = place / "s"
    with open_unix_listener(str(path), 0o600):
        inode = path.stat().st_ino
        remove_unix_socket(str(path), inode + 1)
        assert path.exists()
        remove_unix_socket(str(path), inode)
        assert not path.exists()
        remove_unix_socket(str(path), inode)
