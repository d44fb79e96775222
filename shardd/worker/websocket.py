"""WebSocket between socket and protocol: the HTTP upgrade, then frames (RFC 6455).

The protocol itself is the `websockets` library's, without its IO. What is decided here is who may
come (origins), what of the request counts as credentials (cookies), and that what the server has to
say at once goes in one frame.
"""

from collections import deque
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import InvalidState
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from shardd import limits
from shardd.config.model import Websocket
from shardd.errors import CloseReason
from shardd.layer import Cookies, Layer, LayerError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_NOT_SERVED: Final = ("/mqtt", "/leafnode")  # where nats-server's listener speaks other protocols
_DATA: Final = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)
# Where the plaintext of TLS stands until WebSocket has taken it, one after the other: one place for
# all connections of a process.
_ROOM: Final = memoryview(bytearray(65_536))


class WebsocketLayer:
    """The server's side of one WebSocket (`layer.Layer`).

    Args:
        websocket: the listener's configuration.
        is_tls: whether TLS lies below, which says what the same origin is.
    """

    def __init__(self, websocket: Websocket, *, is_tls: bool) -> None:
        self._websocket = websocket
        self._is_tls = is_tls
        self._protocol = ServerProtocol(
            extensions=[_deflate()] if websocket.compression else [],
            max_size=limits.WEBSOCKET_STRANGER_BYTES_MAX,
        )
        self._plain: deque[memoryview] = deque()
        self._is_closing = False
        self.is_ended = False
        self.cookies: Cookies | None = None
        self.client_ip = ""
        self.peer_certificate: bytes | None = None

    @property
    def is_open(self) -> bool:
        """Whether the upgrade is done."""
        return self._protocol.state is State.OPEN and not self._is_closing

    def facts(self) -> dict[str, Any]:
        """Monitoring tells nothing of it but that it is there."""
        return {}

    def receive(self, data: memoryview) -> None:
        """Bytes of the peer, borrowed. Raises LayerError."""
        self._protocol.receive_data(bytes(data))
        events = self._protocol.events_received()
        for event in events:
            if isinstance(event, Request):
                if len(events) > 1:
                    raise LayerError(
                        CloseReason.PROTOCOL_VIOLATION,
                        "websocket handshake error: frames before the handshake was complete",
                    )
                self._upgrade(event)
            elif isinstance(event, Frame) and event.opcode in _DATA:
                if len(event.data):
                    self._plain.append(memoryview(event.data))
            elif isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                self.is_ended = True
        fault = self._protocol.handshake_exc
        if fault is not None:
            raise LayerError(CloseReason.PROTOCOL_VIOLATION, f"websocket handshake error: {fault}")
        if self._protocol.parser_exc is not None:
            raise LayerError(
                CloseReason.PROTOCOL_VIOLATION, f"websocket: {self._protocol.parser_exc}"
            )

    def read_into(self, room: memoryview) -> int:
        """Moves plaintext into `room`; 0 when there is none for now."""
        total = 0
        while self._plain and total < len(room):
            piece = self._plain[0]
            part = min(len(piece), len(room) - total)
            room[total : total + part] = piece[:part]
            total += part
            if part == len(piece):
                self._plain.popleft()
            else:
                self._plain[0] = piece[part:]
        return total

    def send(self, data: memoryview) -> None:
        """One frame for the peer."""
        try:
            self._protocol.send_binary(bytes(data))
        except InvalidState as error:
            raise LayerError(CloseReason.WRITE_ERROR, f"websocket: {error}") from None

    def trust(self) -> None:
        """It is known who the peer is: its messages may be large."""
        self._protocol.max_message_size = limits.WEBSOCKET_MESSAGE_BYTES_MAX

    def take(self) -> bytes:
        """The bytes that wait to be written."""
        return b"".join(self._protocol.data_to_send())

    def close(self) -> None:
        """Says goodbye: a close frame."""
        if self.is_open:
            self._is_closing = True
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)

    # --- the upgrade ---------------------------------------------------------------------------

    def _upgrade(self, request: Request) -> None:
        """Answers the request that a WebSocket begins with."""
        if not self._is_origin_allowed(request.headers):
            self._protocol.send_response(self._protocol.reject(403, "origin not allowed\n"))
            raise LayerError(
                CloseReason.PROTOCOL_VIOLATION, "websocket handshake error: origin not allowed"
            )
        if request.path.partition("?")[0] in _NOT_SERVED:
            self._protocol.send_response(self._protocol.reject(404, "not served here\n"))
            raise LayerError(
                CloseReason.PROTOCOL_VIOLATION,
                f"websocket handshake error: {request.path.partition('?')[0]} is not served",
            )
        response = self._protocol.accept(request)
        if response.status_code == 101:
            for name, value in self._websocket.headers:
                response.headers[name] = value
            self._read_cookies(request.headers)
            forwarded = request.headers.get("X-Forwarded-For", "")
            self.client_ip = forwarded.split(",")[0].strip()[: limits.ADDRESS_CHARACTERS_MAX]
        self._protocol.send_response(response)

    def _is_origin_allowed(self, headers: Headers) -> bool:
        """Whether a browser may connect from where its page came (RFC 6455, section 10.2)."""
        websocket = self._websocket
        if not (websocket.same_origin or websocket.allowed_origins):
            return True
        given = headers.get("Origin") or headers.get("Sec-WebSocket-Origin")
        if not given:
            return True  # no browser
        origin = _origin(given)
        if websocket.same_origin:
            scheme = "https" if self._is_tls else "http"
            here = _origin(f"{scheme}://{headers.get('Host', '')}")
            if origin is None or here is None or origin[1:] != here[1:]:
                return False
        allowed = [_origin(each) for each in websocket.allowed_origins]
        return not allowed or (origin is not None and origin in allowed)

    def _read_cookies(self, headers: Headers) -> None:
        """What the cookies say of who it is."""
        websocket = self._websocket
        names = (
            websocket.username_cookie,
            websocket.password_cookie,
            websocket.token_cookie,
            websocket.jwt_cookie,
        )
        if not any(names):
            return
        found: dict[str, str] = {}
        for header in headers.get_all("Cookie"):
            # One by one: what others have put beside ours may be nothing that a parser likes.
            for pair in header.split(";"):
                name, _, value = pair.strip().partition("=")
                found.setdefault(name, value.strip().removeprefix('"').removesuffix('"'))
        values = [found.get(name, "") if name else "" for name in names]
        self.cookies = Cookies(user=values[0], password=values[1], token=values[2], jwt=values[3])


class Stacked:
    """One layer above another: WebSocket over TLS (`layer.Layer`)."""

    def __init__(self, outer: Layer, inner: Layer) -> None:
        self._outer = outer
        self._inner = inner

    @property
    def is_open(self) -> bool:
        """Whether both handshakes are done."""
        return self._inner.is_open

    @property
    def is_ended(self) -> bool:
        """Whether the peer has said goodbye on either."""
        return self._outer.is_ended or self._inner.is_ended

    @property
    def peer_certificate(self) -> bytes | None:
        """The outer layer's."""
        return self._outer.peer_certificate

    @property
    def client_ip(self) -> str:
        """The inner layer's."""
        return self._inner.client_ip

    @property
    def cookies(self) -> Cookies | None:
        """The inner layer's."""
        return self._inner.cookies

    def facts(self) -> dict[str, Any]:
        """What monitoring tells of both."""
        return self._outer.facts() | self._inner.facts()

    def receive(self, data: memoryview) -> None:
        """Bytes of the peer, borrowed. Raises LayerError."""
        self._outer.receive(data)
        while self._outer.is_open and (got := self._outer.read_into(_ROOM)):
            try:
                self._inner.receive(_ROOM[:got])
            finally:
                self._pass_on()

    def read_into(self, room: memoryview) -> int:
        """Moves plaintext into `room`; 0 when there is none for now."""
        return self._inner.read_into(room)

    def send(self, data: memoryview) -> None:
        """Encodes plaintext for the peer."""
        self._inner.send(data)
        self._pass_on()

    def trust(self) -> None:
        """It is known who the peer is."""
        self._outer.trust()
        self._inner.trust()

    def take(self) -> bytes:
        """The bytes that wait to be written."""
        self._pass_on()
        return self._outer.take()

    def close(self) -> None:
        """Says goodbye on both."""
        self._inner.close()
        self._pass_on()
        self._outer.close()

    def _pass_on(self) -> None:
        encoded = self._inner.take()
        if encoded and self._outer.is_open:
            self._outer.send(memoryview(encoded))


def _deflate() -> ServerPerMessageDeflateFactory:
    """Compression that keeps nothing from one message to the next, as nats-server's."""
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True
    )


def _origin(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin; None when it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if not parts.hostname:
        return None
    return parts.scheme.lower(), parts.hostname.lower(), port
