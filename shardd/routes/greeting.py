"""INFO and CONNECT between servers: what this one says, what it makes of what others say.

Sans-IO. Facts: sheet 10.2 and 10.3.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from shardd import errors
from shardd.config.model import Permissions, SubjectRules
from shardd.errors import CloseReason, ProtocolError
from shardd.values import RouteUrl, parse_route_url
from shardd.version import NATS_VERSION, SHARDD_VERSION

# Accounts on every line, INFO at any time; no message tracing (which would be 3).
PROTOCOL: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """Who a server says it is, in its INFO. Unknown fields are kept, for gossip."""

    server_id: str
    server_name: str = ""
    version: str = ""
    protocol: int = 0
    cluster: str = ""
    is_dynamic: bool = False
    host: str = ""
    port: int = 0
    ip: str = ""
    needs_auth: bool = False
    needs_tls: bool = False
    connect_urls: tuple[str, ...] = ()
    websocket_urls: tuple[str, ...] = ()
    is_lame_duck: bool = False
    pool_size: int = 0
    pool_index: int = 0
    account: str = ""
    compression: str = ""
    nonce: str = ""
    tells_handed_on: bool = False  # of shardd: lines for queue groups only
    permissions: Permissions | None = None  # what it lets in (`publish`) and out (`subscribe`)
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def url_seen_from(self, observed_ip: str) -> RouteUrl | None:
        """Where others can dial this server: what it advertises, else where it was seen."""
        if self.ip:
            try:
                return parse_route_url(self.ip)
            except ValueError:
                return None
        host = self.host if self.host not in ("", "0.0.0.0", "::") else observed_ip
        return RouteUrl(host, self.port) if self.port > 0 and host else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the CONNECT of a dialing server says."""

    server_id: str = ""
    cluster: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    lang: str = ""
    gateway: str = ""
    is_dynamic: bool = False


def read_introduction(text: bytes) -> Introduction:
    """An INFO. Raises ProtocolError when it is none of a server."""
    fields = _object(text, "INFO")
    return Introduction(
        server_id=_text(fields, "server_id"),
        server_name=_text(fields, "server_name"),
        version=_text(fields, "version"),
        protocol=_integer(fields, "proto"),
        cluster=_text(fields, "cluster"),
        is_dynamic=fields.get("cluster_dynamic") is True,
        host=_text(fields, "host"),
        port=_integer(fields, "port"),
        ip=_text(fields, "ip"),
        needs_auth=fields.get("auth_required") is True,
        needs_tls=fields.get("tls_required") is True,
        connect_urls=_texts(fields, "connect_urls"),
        websocket_urls=_texts(fields, "ws_connect_urls"),
        is_lame_duck=fields.get("ldm") is True,
        pool_size=_integer(fields, "route_pool_size"),
        pool_index=_integer(fields, "route_pool_idx"),
        account=_text(fields, "route_account"),
        compression=_text(fields, "compression"),
        nonce=_text(fields, "nonce"),
        tells_handed_on=fields.get("shardd_handed_on") is True,
        permissions=_permissions(fields),
        fields=fields,
    )


def read_credentials(text: bytes) -> Credentials:
    """A CONNECT. Raises ProtocolError when it is none."""
    fields = _object(text, "CONNECT")
    return Credentials(
        server_id=_text(fields, "name"),
        cluster=_text(fields, "cluster"),
        user=_text(fields, "user"),
        password=_text(fields, "pass"),
        lang=_text(fields, "lang"),
        gateway=_text(fields, "gateway"),
        is_dynamic=fields.get("cluster_dynamic") is True,
    )


def _object(text: bytes, verb: str) -> dict[str, Any]:
    try:
        document = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise _refusal(f"{verb} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _refusal(f"{verb} is not a JSON object")
    return document


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise _refusal(f"{name} is not a text")
    return value


def _integer(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refusal(f"{name} is not a number")
    return value


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _refusal(f"{name} is not a list of texts")
    return tuple(value)


def _permissions(fields: Mapping[str, Any]) -> Permissions | None:
    """`import` and `export`, each an object with `allow` and `deny`."""
    permissions = Permissions(_rules(fields, "import"), _rules(fields, "export"))
    return permissions if permissions.publish or permissions.subscribe else None


def _rules(fields: Mapping[str, Any], name: str) -> SubjectRules:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise _refusal(f"{name} is not an object")
    return SubjectRules(_texts(value, "allow"), _texts(value, "deny"))


def _refusal(detail: str) -> ProtocolError:
    return ProtocolError(CloseReason.PROTOCOL_VIOLATION, None, detail)


# --- what this server says ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """This server as its peers are to see it."""

    server_id: str
    server_name: str
    cluster: str
    is_dynamic: bool = False
    host: str = ""
    port: int = 0
    advertise: str = ""  # host:port that others shall dial instead
    max_payload: int = 0
    has_headers: bool = True
    needs_auth: bool = False
    needs_tls: bool = False
    verifies_tls: bool = False
    connect_urls: Sequence[str] = ()
    websocket_urls: Sequence[str] = ()
    is_lame_duck: bool = False
    permissions: Permissions | None = None
    pool_size: int = 0  # 0: one connection per server, for everything

    def in_cluster(self, name: str) -> "Self":
        """The same server after it took over a cluster's name."""
        return replace(self, cluster=name)

    def info(self, pool_index: int = 0, account: str = "") -> bytes:
        """The INFO line, for this connection of a pool or for the one of this account."""
        permissions = self.permissions or Permissions()
        fields: dict[str, Any] = {
            "server_id": self.server_id,
            "server_name": self.server_name,
            "version": NATS_VERSION,
            "proto": PROTOCOL,
            "go": "python{}.{}.{}".format(*sys.version_info[:3]),
            "host": self.host,
            "port": self.port,
            "headers": self.has_headers,
            "max_payload": self.max_payload,
            "cluster": self.cluster,
        }
        optional: dict[str, Any] = {
            "auth_required": self.needs_auth,
            "tls_required": self.needs_tls,
            "tls_verify": self.verifies_tls,
            "cluster_dynamic": self.is_dynamic,
            "ip": f"nats-route://{self.advertise}/" if self.advertise else "",
            "connect_urls": list(self.connect_urls),
            "ws_connect_urls": list(self.websocket_urls),
            "ldm": self.is_lame_duck,
            "import": rules_text(permissions.publish),
            "export": rules_text(permissions.subscribe),
            "route_pool_size": self.pool_size,
            "route_pool_idx": pool_index,
            "route_account": account,
        }
        fields.update({name: value for name, value in optional.items() if value})
        fields["shardd"] = SHARDD_VERSION
        fields["shardd_handed_on"] = True
        return _line("INFO", fields)

    def connect(self, user: str, password: str) -> bytes:
        """The CONNECT line of a route that this server dials."""
        fields: dict[str, Any] = {
            "echo": True,
            "verbose": False,
            "pedantic": False,
            "tls_required": self.needs_tls,
            "headers": self.has_headers,
            "name": self.server_id,
            "cluster": self.cluster,
        }
        if user:
            fields["user"] = user
            fields["pass"] = password
        if self.is_dynamic:
            fields["cluster_dynamic"] = True
        return _line("CONNECT", fields)


def gossip(peer: Introduction, url: RouteUrl) -> bytes:
    """The INFO that tells other servers of one that has joined, and where to dial it."""
    own = ("nonce", "route_pool_idx")  # of the connection that it was said on
    fields = {name: value for name, value in peer.fields.items() if name not in own}
    fields["ip"] = f"nats-route://{url}/"
    return _line("INFO", fields)


def rules_text(rules: SubjectRules) -> dict[str, list[str]]:
    """Permissions of one direction as INFO and `/routez` have them; empty when there are none."""
    lists = {"allow": list(rules.allow), "deny": list(rules.deny)}
    return {name: subjects for name, subjects in lists.items() if subjects}


def check_credentials(told: Credentials, cluster: str, *, is_dynamic: bool) -> None:
    """Whether a server that dials may come in, apart from its password. Raises ProtocolError."""
    if told.lang:
        raise ProtocolError(
            CloseReason.WRONG_PORT, errors.ERR_CLIENT_ON_ROUTE_PORT, "a client on the route port"
        )
    if told.gateway:
        raise ProtocolError(CloseReason.WRONG_PORT, None, "a gateway on the route port")
    if told.cluster and told.cluster != cluster and not is_dynamic and not told.is_dynamic:
        text = errors.ERR_CLUSTER_NAME.format(theirs=told.cluster, ours=cluster)
        raise ProtocolError(CloseReason.CLUSTER_NAME_CONFLICT, text, text)


def merged_name(own: Self, peer: Introduction) -> str | None:
    """The cluster's name once these two have met; None when they cannot be one cluster."""
    if peer.cluster == own.cluster:
        return own.cluster
    if own.is_dynamic and peer.is_dynamic:
        return max(own.cluster, peer.cluster)
    if own.is_dynamic:
        return peer.cluster
    return own.cluster if peer.is_dynamic else None


def _line(verb: str, fields: Mapping[str, Any]) -> bytes:
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    blank = " " if verb == "INFO" else ""  # as nats-server writes it
    return f"{verb} {text}{blank}\r\n".encode("utf-8", "replace")
