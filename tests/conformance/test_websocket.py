"""NATS in WebSocket frames: the official transports' way in from browsers."""

import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.support import certificates
from tests.support.broker import Broker, free_port
from tests.support.fixtures import Dial, Serve

USERS = "authorization { users: [ {user: a, password: x} ] }\n"


@pytest.fixture
def listen(serve: Serve):
    """`listen(settings, more)`: a server with a `websocket` block, and its address."""

    def start(settings: str, more: str = "") -> tuple[Broker, str]:
        port = free_port()
        broker = serve(f"websocket {{ listen: '127.0.0.1:{port}', {settings} }}\n{more}")
        scheme = "ws" if "no_tls" in settings else "wss"
        return broker, f"{scheme}://127.0.0.1:{port}"

    return start


@contextlib.contextmanager
def joined(url: str, options: bytes = b"{}", **more: Any) -> Iterator[ClientConnection]:
    """A WebSocket past CONNECT."""
    with connect(url, **more) as client:
        assert client.recv().startswith(b"INFO {")
        client.send(b"CONNECT " + options + b"\r\nPING\r\n")
        assert read(client, 6).endswith(b"PONG\r\n")
        yield client


def read(client: ClientConnection, count: int) -> bytes:
    """At least so many bytes, without the server's own pings."""
    data = b""
    while len(data) < count:
        data += bytes(client.recv(timeout=10, decode=False)).replace(b"PING\r\n", b"")
    return data


QUIET = b'{"verbose":false}'


def test_messages_travel_in_frames(listen, dial: Dial) -> None:
    server, url = listen("no_tls: true")
    plain = dial(server).connect()
    plain.subscribe(b"up", b"1")
    with joined(url, QUIET) as client:
        client.send(b"SUB down 1\r\nPING\r\n")
        assert read(client, 6) == b"PONG\r\n"
        big = b"x" * 500_000
        client.send(b"PUB up 500000\r\n" + big + b"\r\n")
        plain.expect_msg(b"up", b"1", big)
        plain.publish(b"down", big)
        wanted = b"MSG down 1 500000\r\n" + big + b"\r\n"
        assert read(client, len(wanted)) == wanted


def test_frames_and_operations_need_not_agree(listen) -> None:
    _, url = listen("no_tls: true")
    with joined(url, QUIET) as client:
        client.send([b"SUB a", b" 1\r\nPUB a 2\r", b"\nhi\r\n"])  # one message in fragments
        assert read(client, 15) == b"MSG a 1 2\r\nhi\r\n"
        client.send(b"PUB a ")
        client.send(b"2\r\nho\r\nPING\r\n")
        assert read(client, 21) == b"MSG a 1 2\r\nho\r\nPONG\r\n"


def test_encrypted_and_compressed(listen) -> None:
    issued = certificates.server()
    files = f"cert_file: '{issued.certificate}', key_file: '{issued.key}'"
    _, url = listen(f"tls {{ {files} }}, compression: true")
    context = certificates.client_context()
    for compression in ("deflate", None):
        with joined(url, QUIET, ssl=context, compression=compression) as client:
            client.send(b"SUB a 1\r\nPUB a 5000\r\n" + b"y" * 5000 + b"\r\n")
            assert read(client, 5014) == b"MSG a 1 5000\r\n" + b"y" * 5000 + b"\r\n"
    with pytest.raises((ssl.SSLError, OSError)):
        connect(url, ssl=ssl.create_default_context())


def test_only_known_pages_may_connect(listen) -> None:
    _, url = listen("no_tls: true, allowed_origins: ['http://good.example']")
    with joined(url, QUIET, origin="http://good.example"), joined(url, QUIET):
        pass
    with pytest.raises(InvalidStatus) as caught:
        connect(url, origin=Origin("http://evil.example"))
    assert caught.value.response.status_code == 403


def test_only_the_same_page_may_connect(listen) -> None:
    _, url = listen("no_tls: true, same_origin: true")
    with joined(url, QUIET, origin=url.replace("ws://", "http://")):
        pass
    with pytest.raises(InvalidStatus):
        connect(url, origin=Origin("http://127.0.0.1:1"))


def test_users_prove_themselves_as_everywhere(listen) -> None:
    _, url = listen("no_tls: true", USERS)
    with joined(url, b'{"user":"a","pass":"x","verbose":false}'):
        pass
    with connect(url) as client:
        assert b'"auth_required":true' in client.recv()
        client.send(b'CONNECT {"user":"a","pass":"no"}\r\n')
        assert client.recv(timeout=10) == b"-ERR 'Authorization Violation'\r\n"


def test_it_may_have_a_user_of_its_own_for_who_says_nothing(listen, dial: Dial) -> None:
    server, url = listen("no_tls: true, no_auth_user: a", USERS)
    with joined(url, QUIET):
        pass
    client = dial(server)
    client.send(b"CONNECT {}\r\n")
    client.expect_fatal(b"Authorization Violation")


def test_what_is_no_websocket_is_answered_in_http(listen) -> None:
    _, url = listen("no_tls: true")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("ws://", "http://"), timeout=10)
    assert 400 <= caught.value.code < 500
    caught.value.close()


def test_a_header_does_not_change_where_a_client_is(listen) -> None:
    _, url = listen("no_tls: true")
    with connect(url, additional_headers={"X-Forwarded-For": "10.1.2.3"}) as client:
        assert b'"client_ip":"127.0.0.1"' in bytes(client.recv(decode=False))


def test_a_cookie_is_found_among_those_that_make_no_sense(listen) -> None:
    _, url = listen('no_tls: true, token_cookie: "tok"', "authorization { token: s3cret }")
    headers = {"Cookie": 'foo={"a":1}; tok=s3cret; other'}
    with joined(url, QUIET, additional_headers=headers) as client:
        client.send(b"PING\r\n")
        assert read(client, 6).endswith(b"PONG\r\n")
