"""A socket in the file system: the same protocol, and the kernel's word for who it is."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Broker, make_broker
from tests.support.fixtures import Dial


@pytest.fixture
def start(no_leaks: None, tmp_path: Path) -> Iterator:
    """`start(text)`: a server whose configuration names the socket SOCKET."""
    brokers: list[Broker] = []
    path = tmp_path / "nats.sock"

    def open_server(text: str) -> tuple[Broker, Path]:
        broker = make_broker("shardd-2")
        brokers.append(broker)
        broker.start_text(text.replace("SOCKET", str(path)))
        return broker, path

    yield open_server
    for broker in brokers:
        broker.stop()
    assert not path.exists()


def talk(path: Path, *parts: bytes, until: bytes = b"PONG\r\n") -> bytes:
    """What the server says to one client until it has answered a PING, or has said this."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        data = client.recv(4096)
        client.sendall(b"".join(parts) + b"PING\r\n")
        while until not in data and (more := client.recv(65_536)):
            data += more
        return data


def test_clients_come_in_by_the_socket_and_by_tcp(start, dial: Dial) -> None:
    server, path = start("listen_unix: 'SOCKET'")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    far = dial(server).connect()
    far.subscribe(b"a", b"1")
    answer = talk(
        path, b'CONNECT {"verbose":false}\r\nSUB b 1\r\nPUB a 2\r\nhi\r\nPUB b 2\r\nho\r\n'
    )
    assert answer.startswith(b"INFO {")
    assert b'"client_ip":"unix"' in answer
    assert b"MSG b 1 2\r\nho\r\n" in answer
    far.expect_msg(b"a", b"1", b"hi")


def test_many_clients_spread_over_the_workers(start) -> None:
    server, path = start("listen_unix: {path: 'SOCKET', mode: 0600}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for _ in range(30):
        assert talk(path, b'CONNECT {"verbose":false}\r\n').endswith(b"PONG\r\n")
    assert server.is_alive()


def test_the_kernel_says_which_user_it_is(start) -> None:
    uid = os.getuid()
    _, path = start(f"""
listen_unix {{ path: 'SOCKET', users {{ {uid}: me, "*": others }} }}
accounts {{ MINE {{ users: [ {{user: me, password: x}} ] }}
           THEIRS {{ users: [ {{user: others, password: x}} ] }} }}
""")
    account = b'"remote_account":"MINE"'
    assert account in talk(path, b'CONNECT {"verbose":false,"protocol":1}\r\n', until=account)
    named = talk(path, b'CONNECT {"verbose":false,"user":"me","pass":"no"}\r\n')
    assert b"-ERR 'Authorization Violation'" in named


def test_without_its_uid_it_has_to_prove_itself(start) -> None:
    _, path = start(f"""
listen_unix {{ path: 'SOCKET', users {{ {os.getuid() + 1}: me }} }}
authorization {{ users: [ {{user: me, password: x}} ] }}
""")
    assert b"-ERR 'Authorization Violation'" in talk(path, b"CONNECT {}\r\n")


def test_a_socket_that_nobody_listens_on_is_replaced(start, tmp_path: Path) -> None:
    path = tmp_path / "nats.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    _, path = start("listen_unix: 'SOCKET'")
    assert talk(path).endswith(b"PONG\r\n")


def test_what_is_no_socket_is_left_alone(start, tmp_path: Path) -> None:
    path = tmp_path / "nats.sock"
    path.write_text("precious")
    with pytest.raises(AssertionError, match="address already in use"):
        start("listen_unix: 'SOCKET'")
    assert path.read_text() == "precious"
    path.unlink()
