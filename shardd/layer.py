"""What may stand between a socket and the NATS protocol: TLS, WebSocket, or one above the other.

A layer is sans-IO. The connection reads the socket and hands the bytes to `receive`, takes
plaintext out by `read_into` until there is none, and writes to the socket what `take` returns.
Any call may have produced bytes for the peer (a handshake, an alert, a pong), so whoever calls
asks `take` afterwards.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from shardd.errors import CloseReason, ShardError


class LayerError(ShardError):
    """The peer broke the layer's own protocol: the connection ends, without a NATS error.

    What `take` still returns (an alert, an HTTP answer, a close frame) is sent before the end.
    """

    def __init__(self, reason: CloseReason, detail: str) -> None:
        super().__init__(detail)  # for the log
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookies:
    """Credentials in cookies, as the configuration names them."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    jwt: str = field(default="", repr=False)


class Layer(Protocol):
    """One encoding of a byte stream in both directions. Belongs to one connection."""

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done, so that plaintext flows both ways."""

    @property
    def is_ended(self) -> bool:
        """Whether the peer has said that nothing more will come."""

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate in DER, verified; None where there is none."""

    @property
    def client_ip(self) -> str:
        """Where the client is, if a proxy in front said so; else empty."""

    @property
    def cookies(self) -> "Cookies | None":
        """Credentials that came with a browser's request; None where there are none."""

    def facts(self) -> dict[str, Any]:
        """What monitoring tells of it, by the names that a connection's entry has (sheet 12.2)."""

    def receive(self, data: memoryview) -> None:
        """Bytes of the peer, borrowed. Raises LayerError."""

    def read_into(self, room: memoryview) -> int:
        """Moves plaintext into `room`; 0 when there is none for now. Raises LayerError."""

    def send(self, data: memoryview) -> None:
        """Encodes plaintext for the peer, borrowed. Only while open."""

    def trust(self) -> None:
        """It is known who the peer is: it may hand in more at once than a stranger may."""

    def take(self) -> bytes:
        """The encoded bytes that wait to be written; empty when there are none."""

    def close(self) -> None:
        """Says goodbye in the layer's own words, into `take`. Never raises."""
