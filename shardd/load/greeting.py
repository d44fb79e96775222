"""Opening a connection to a NATS server: INFO, TLS where it is wanted, CONNECT, the first PONG.

Blocking sockets, one at a time; the loops take them over afterwards.
"""

import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final

from shardd.errors import ShardError, printable
from shardd.load.plan import Plan
from shardd.login import Identity, NatsUrl, parse_nats_url, tls_context, why_unreachable
from shardd.version import SHARDD_VERSION

_LINE_BYTES_MAX: Final = 1 << 20


class LoadError(ShardError):
    """The load could not be made, or did not come out as it must; one line says why."""


class Refused(Exception):
    """The server said no, or what no server says; the text says what."""


@dataclass(slots=True)
class Greeted:
    """A connection that is ready for use."""

    connection: socket.socket
    info: dict[str, Any]
    held: bytes  # what was read behind the PONG


class Greeter:
    """Opens connections to the first of the servers that answered. Raises BootError, LoadError."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        try:
            self._urls = [parse_nats_url(text) for text in plan.nats.urls]
        except ValueError as error:
            raise LoadError(f"--server: {error}") from None
        self._identity = Identity(plan.nats)
        self._context = tls_context(plan.nats)

    def find(self) -> Greeted:
        """Keep to the first server that lets us in; a connection to it."""
        failures = []
        for url in self._urls:
            try:
                greeted = self._open(url)
            except (OSError, Refused) as error:
                failures.append(f"could not connect to {url}: {why_unreachable(error)}")
                continue
            self._urls = [url]
            return greeted
        raise LoadError("; ".join(failures) or "no server given")

    @property
    def address(self) -> str:
        """Where the server is that was found."""
        return str(self._urls[0])

    def open(self) -> Greeted:
        """One more connection to it."""
        return self.find()

    def _open(self, url: NatsUrl) -> Greeted:
        plan = self._plan
        connection = socket.create_connection((url.host, url.port), plan.patience_s)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = plan.nats.tls_server_name or url.host
            if plan.is_tls_first:
                connection = self._context.wrap_socket(connection, server_hostname=name)
            line, held = _read_line(connection, b"")
            info = _parse_info(line)
            wants_tls = plan.nats.tls_required or url.is_encrypted or bool(info.get("tls_required"))
            if wants_tls and not isinstance(connection, ssl.SSLSocket):
                if not (info.get("tls_required") or info.get("tls_available")):
                    raise Refused("the server does not offer TLS")
                if held:
                    raise Refused("the server goes on in the clear where TLS was to begin")
                connection = self._context.wrap_socket(connection, server_hostname=name)
            connection.sendall(self._connect_line(url, info, wants_tls) + b"PING\r\n")
            while line != b"PONG\r\n":
                line, held = _read_line(connection, held)
                if line.startswith(b"-ERR"):
                    raise Refused(printable(line[4:].decode("utf-8", "replace").strip(" '\r\n")))
                if line == b"PING\r\n":
                    connection.sendall(b"PONG\r\n")
        except BaseException:
            connection.close()
            raise
        return Greeted(connection, info, held)

    def _connect_line(self, url: NatsUrl, info: dict[str, Any], is_encrypted: bool) -> bytes:
        has_headers = bool(info.get("headers"))
        fields = {
            "verbose": False,
            "pedantic": False,
            "tls_required": is_encrypted,
            "name": "shardd bench",
            "lang": "python",
            "version": SHARDD_VERSION,
            "protocol": 1,
            "echo": True,
            "headers": has_headers,
            "no_responders": has_headers,
            **self._identity.fields(url, str(info.get("nonce", ""))),
        }
        return b"CONNECT " + json.dumps(fields).encode() + b"\r\n"


def _read_line(connection: socket.socket, held: bytes) -> tuple[bytes, bytes]:
    """The next line, and what was read behind it."""
    while b"\n" not in held:
        if len(held) > _LINE_BYTES_MAX:
            raise Refused("this is no NATS server")
        if not (got := connection.recv(65536)):
            raise Refused("the server closed the connection")
        held += got
    line, _, rest = held.partition(b"\n")
    return line + b"\n", rest


def _parse_info(line: bytes) -> dict[str, Any]:
    word, _, text = line.partition(b" ")
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        info = None
    if word.upper() != b"INFO" or not isinstance(info, dict):
        raise Refused("this is no NATS server")
    return info
