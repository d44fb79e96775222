"""The WebSocket layer by itself: what an idle client costs, and what a bad upgrade says."""

import contextlib
import dataclasses
import gc
import ssl
import tracemalloc

import pytest

from shardd.config.model import Tls, Websocket
from shardd.errors import CloseReason
from shardd.layer import LayerError
from shardd.tls import TlsLayer, server_context
from shardd.worker.websocket import Stacked, WebsocketLayer
from tests.support import certificates

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)
PING = b"\x89\x80abcd"  # a masked frame without a payload
IDLE_BYTES_MAX = 16_384
CLIENTS = 100


def layer(**cookies: str) -> WebsocketLayer:
    return WebsocketLayer(
        dataclasses.replace(Websocket(port=1, is_plain=True), **cookies), is_tls=False
    )


def stacked(context: ssl.SSLContext, tls: Tls) -> Stacked:
    """WebSocket over TLS, past both handshakes."""
    one = Stacked(TlsLayer(context, tls), WebsocketLayer(Websocket(port=1, tls=tls), is_tls=True))
    to_client, from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(to_client, from_client)
    for _ in range(10):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        one.receive(memoryview(from_client.read()))
        to_client.write(one.take())
    client.write(REQUEST % b"")
    one.receive(memoryview(from_client.read()))
    to_client.write(one.take())
    assert client.read(10_000).startswith(b"HTTP/1.1 101 ")
    assert one.is_open
    return one


def test_an_idle_client_over_tls_is_small() -> None:
    issued = certificates.server()
    tls = Tls(certificates=((issued.certificate.read_bytes(), issued.key.read_bytes()),))
    context = server_context(tls)
    stacked(context, tls)
    gc.collect()
    tracemalloc.start()
    try:
        kept = [stacked(context, tls) for _ in range(CLIENTS)]
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / len(kept) < IDLE_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("more", [PING, PING * 3], ids=["one", "three"])
def test_frames_before_the_upgrade_is_answered_are_refused(more: bytes) -> None:
    with pytest.raises(LayerError, match="before the handshake was complete") as caught:
        layer().receive(memoryview(REQUEST % b"" + more))
    assert caught.value.reason is CloseReason.PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    "header",
    [b"Cookie: tok=s3cret\x01\r\n", b"Cookie tok=s3cret\r\n", b"Cookie: tok=s3cret\r\n" * 500],
    ids=["control-byte", "no-colon", "too-many"],
)
def test_a_bad_upgrade_is_not_repeated_with_what_is_secret_in_it(header: bytes) -> None:
    with pytest.raises(LayerError) as caught:
        layer(token_cookie="tok").receive(memoryview(REQUEST % header))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("path", [b"/mqtt", b"/leafnode", b"/mqtt?a=b"])
def test_what_speaks_another_protocol_is_not_found(path: bytes) -> None:
    one = layer()
    with pytest.raises(LayerError, match="is not served"):
        one.receive(memoryview((REQUEST % b"").replace(b" / ", b" %b " % path)))
    assert one.take().startswith(b"HTTP/1.1 404 ")


def test_cookies_are_credentials_and_do_not_show() -> None:
    one = layer(token_cookie="tok", username_cookie="u", password_cookie="p")
    one.receive(memoryview(REQUEST % b"Cookie: a=1; tok=s3cret; u=me; p=pw\r\n"))
    assert one.cookies is not None
    assert (one.cookies.user, one.cookies.password, one.cookies.token) == ("me", "pw", "s3cret")
    assert "s3cret" not in repr(one.cookies)
    assert "pw" not in repr(one.cookies)
