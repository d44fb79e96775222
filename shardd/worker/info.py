"""INFO out, CONNECT in: the two JSON messages of a connection's first line each.

INFO is written once per worker but for what belongs to one connection, so that a new connection
costs a few joined bytes. Its fields stand in nats-server's order and its text is escaped as Go
does it. CONNECT is read the way Go's decoder reads it into a struct: keys in any case, the last
of two wins, null changes nothing, unknown keys are ignored, and a wrong type in a known key is
an error. No IO, no policy: whether the options are allowed is the session's business.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, Final

from shardd.config.core import Config
from shardd.errors import CloseReason, ProtocolError
from shardd.topology import Topology
from shardd.version import NATS_VERSION, SHARDD_VERSION

PROTOCOL: Final = 1  # INFO's `proto`: INFO may come again at any time
GLOBAL_ACCOUNT: Final = "$G"

_HTML_ESCAPES: Final = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"


def json_string(text: str) -> bytes:
    """A JSON string as Go's encoder writes it, quotes included."""
    escaped = encode_basestring(text).translate(_HTML_ESCAPES)
    return _SURROGATES.sub(_REPLACEMENT, escaped).encode("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What INFO says of one way into the server: plain, TLS, WebSocket."""

    auth_required: bool = False
    tls_required: bool = False
    tls_verify: bool = False
    tls_available: bool = False


class InfoTemplate:
    """The INFO lines of one way in. Built once per worker and configuration; host and port are
    those listened on."""

    __slots__ = ("_cluster", "_end", "_head", "_is_lame_duck", "_max_payload", "_show")

    def __init__(
        self,
        config: Config,
        server_id: str,
        server_name: str,
        host: str,
        port: int,
        way: Way | None = None,
    ) -> None:
        host, port = config.advertised(host, port)
        fields: list[tuple[str, str | int | bool]] = [
            ("server_id", server_id),
            ("server_name", server_name),
            ("version", NATS_VERSION),
            ("proto", PROTOCOL),
            ("go", "python{}.{}.{}".format(*sys.version_info[:3])),  # clients only show it
            ("host", host),
            ("port", port),
            ("headers", not config.no_header_support),
        ]
        if way is not None:
            fields += [(name, True) for name, is_set in dataclasses.asdict(way).items() if is_set]
        self._max_payload = config.max_payload
        self._head = b"INFO {" + b"".join(_member(name, value) for name, value in fields)
        self._cluster = b""  # what only a server in a cluster, or about to leave, says
        self._show = (Topology(), False)
        self._is_lame_duck = False
        self._end = _member("shardd", SHARDD_VERSION)[:-1] + b"} \r\n"

    def start_lame_duck(self) -> None:
        """From now on every line says that the server is about to leave."""
        self._is_lame_duck = True
        self._render()

    def set_topology(self, topology: Topology, *, is_websocket: bool) -> None:
        """From now on every line tells of this cluster."""
        self._show = (topology, is_websocket)
        self._render()

    def _render(self) -> None:
        topology, is_websocket = self._show
        urls = topology.for_clients(is_websocket=is_websocket, is_lame_duck=self._is_lame_duck)
        self._cluster = _member("cluster", topology.cluster) if topology.cluster else b""
        if urls:
            self._cluster += b'"connect_urls":[%b],' % b",".join(map(json_string, urls))
        if self._is_lame_duck:
            self._cluster += _member("ldm", True)

    def first(self, client_id: int, client_ip: str, nonce: str = "") -> bytes:
        """The line that opens a connection; `nonce` is what the client may sign."""
        return self._line(client_id, client_ip, _member("nonce", nonce) if nonce else b"")

    def again(self, client_id: int, client_ip: str) -> bytes:
        """The line that tells a connected client what has changed."""
        return self._line(client_id, client_ip, b"")

    def connect_info(
        self,
        client_id: int,
        client_ip: str,
        account: str = GLOBAL_ACCOUNT,
        is_system: bool = False,
        max_payload: int | None = None,
    ) -> bytes:
        """The line that follows the first PONG of a client with protocol 1."""
        more = _member("connect_info", True) + _member("remote_account", account)
        if is_system:
            more += _member("acc_is_sys", True)
        return self._line(client_id, client_ip, more, max_payload)

    def _line(
        self, client_id: int, client_ip: str, more: bytes, max_payload: int | None = None
    ) -> bytes:
        return b'%b"max_payload":%d,"client_id":%d,"client_ip":%b,%b%b%b' % (
            self._head,
            self._max_payload if max_payload is None else max_payload,
            client_id,
            json_string(client_ip),
            more,
            self._cluster,
            self._end,
        )


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What a client said in CONNECT; the defaults are those before its first one."""

    verbose: bool = True
    pedantic: bool = True
    echo: bool = True
    headers: bool = False
    no_responders: bool = False
    protocol: int = 0
    # who it is
    name: str = ""
    lang: str = ""
    version: str = ""
    # credentials: kept out of every log line
    user: str = ""
    password: str = field(default="", repr=False)
    auth_token: str = field(default="", repr=False)
    nkey: str = ""
    sig: str = field(default="", repr=False)
    jwt: str = field(default="", repr=False)
    # accepted because clients send them; any account named here is refused
    tls_required: bool = False
    account: str = ""
    new_account: bool = False


DEFAULT_OPTIONS: Final = ConnectOptions()


def parse_connect(data: bytes, previous: ConnectOptions = DEFAULT_OPTIONS) -> ConnectOptions:
    """The options after a CONNECT with this JSON; what it does not name stays as it was.

    Raises ProtocolError, and nothing else, for anything that nats-server closes the connection for.
    A value nested about a thousand deep is refused too; nats-server allows ten thousand.
    """
    try:
        document = _DECODER.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise _refusal(f"CONNECT is not JSON: {error}") from None
    if document is None:
        return previous
    if not isinstance(document, _Members):
        raise _refusal("CONNECT is not a JSON object")
    changes: dict[str, Any] = {}
    for key, value in document:
        if value is None:
            continue
        known = _FIELDS.get(key) or _FIELDS.get(key.replace("\u017f", "s").lower())
        if known is None:
            continue
        option, expected = known
        if not _has_type(value, expected):
            raise _refusal(f'CONNECT: wrong JSON type in "{key}"')
        if option is not None:
            changes[option] = _SURROGATES.sub(_REPLACEMENT, value) if expected is str else value
    return dataclasses.replace(previous, **changes) if changes else previous


class _Members(list[tuple[str, Any]]):
    """The members of one JSON object in their order, so that a repeated key is not lost."""


class _Permission:
    """The type of `import` and `export`: an object with lists of subjects. Routes use them."""


def _integer(digits: str) -> float:
    """An int, or infinity beyond 64 bits: fine where it is ignored, no integer where it counts."""
    value = int(digits) if len(digits) <= 20 else float("inf")
    return value if -(2**63) <= value < 2**63 else float("inf")


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_Members, parse_int=_integer, parse_constant=_constant
)


def _has_type(value: object, expected: type) -> bool:
    if expected is _Permission:
        return isinstance(value, _Members) and all(
            _is_subject_list(subjects)
            for key, subjects in value
            if key.lower() in ("allow", "deny") and subjects is not None
        )
    return type(value) is expected  # not isinstance: a boolean is no integer here


def _is_subject_list(value: object) -> bool:
    return type(value) is list and all(item is None or type(item) is str for item in value)


def _refusal(detail: str) -> ProtocolError:
    return ProtocolError(CloseReason.PROTOCOL_VIOLATION, None, detail)


def _member(name: str, value: str | int | bool) -> bytes:
    """One member of an object with its comma."""
    text = json_string(value) if isinstance(value, str) else json.dumps(value).encode("ascii")
    return b'"%b":%b,' % (name.encode("ascii"), text)


# JSON keys to the option and its type. None: the type is checked, the value is not used.
_FIELDS: Final[Mapping[str, tuple[str | None, type]]] = {
    **{
        option.name: (option.name, type(option.default))
        for option in dataclasses.fields(ConnectOptions)
        if option.name != "password"
    },
    "pass": ("password", str),
    "remote_account": (None, str),
    "proxy_sig": (None, str),
    "import": (None, _Permission),
    "export": (None, _Permission),
}
