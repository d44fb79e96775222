"""The ways into a worker: what stands between the socket and the protocol on each.

A `Door` is made once per listener and configuration. Its connections ask it for their INFO lines
and their layer.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from shardd.config.core import Config
from shardd.config.model import ConnectionType, Tls, Websocket
from shardd.layer import Layer
from shardd.tls import TlsLayer, server_context
from shardd.topology import Topology
from shardd.worker.info import InfoTemplate, Way


class Throttle:
    """How many TLS handshakes may begin in one second on this worker (sheet 6)."""

    __slots__ = ("_begun", "_second", "_share")

    def __init__(self, limit: int, workers: int) -> None:
        self._share = -(-limit // workers)  # 0: no limit
        self._second = -1
        self._begun = 0

    def admits(self, now_ms: int) -> bool:
        """Counts one more, if there is room for it now."""
        if not self._share:
            return True
        if now_ms // 1000 != self._second:
            self._second = now_ms // 1000
            self._begun = 0
        self._begun += 1
        return self._begun <= self._share


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One way in. The same object for all its connections until a reload."""

    kind: ConnectionType
    info: InfoTemplate
    tls: Tls | None = None
    context: ssl.SSLContext | None = None
    throttle: Throttle
    allows_plain: bool = False  # allow_non_tls
    websocket: Websocket | None = None
    unix_users: Mapping[int, str] | None = None  # set: a socket in the file system
    auth_timeout_ms: int
    requires_authentication: bool
    needs_nonce: bool

    def show(self, topology: Topology) -> None:
        """What INFO says of the cluster from now on."""
        self.info.set_topology(topology, is_websocket=self.kind is ConnectionType.WEBSOCKET)

    def tls_layer(self) -> TlsLayer:
        """A new server side of TLS."""
        assert self.tls is not None
        assert self.context is not None
        return TlsLayer(self.context, self.tls)

    def websocket_layer(self) -> Layer:
        """A new WebSocket, over TLS if the door has it."""
        # Imported before the fork where there is such a door.
        from shardd.worker.websocket import Stacked, WebsocketLayer

        assert self.websocket is not None
        inner = WebsocketLayer(self.websocket, is_tls=self.tls is not None)
        return Stacked(self.tls_layer(), inner) if self.tls is not None else inner


def client_door(config: Config, server_id: str, server_name: str, host: str, port: int) -> Door:
    """The way in over TCP, with or without TLS."""
    tls = config.tls
    needs_auth = _says_auth_required(config, config.no_auth_user)
    way = Way(
        auth_required=needs_auth,
        tls_required=tls is not None and not config.allow_non_tls,
        tls_verify=tls is not None and (tls.verify or tls.verify_and_map),
        tls_available=tls is not None and config.allow_non_tls,
    )
    return Door(
        kind=ConnectionType.STANDARD,
        info=InfoTemplate(config, server_id, server_name, host, port, way),
        tls=tls,
        throttle=Throttle(tls.rate_limit if tls is not None else 0, config.worker_count),
        context=server_context(tls) if tls is not None else None,
        allows_plain=config.allow_non_tls,
        auth_timeout_ms=int(config.auth_timeout_s * 1000),
        requires_authentication=config.requires_authentication,
        needs_nonce=config.needs_nonce,
    )


def websocket_door(config: Config, server_id: str, server_name: str, host: str, port: int) -> Door:
    """The way in over WebSocket."""
    websocket = config.websocket
    assert websocket is not None
    tls = websocket.tls
    own = bool(websocket.user or websocket.token)
    required = config.requires_authentication or own
    timeout_s = (
        config.auth_timeout_s if websocket.auth_timeout_s is None else websocket.auth_timeout_s
    )
    way = Way(
        auth_required=required and not (websocket.no_auth_user or config.no_auth_user),
        tls_required=tls is not None,
        tls_verify=tls is not None and (tls.verify or tls.verify_and_map),
    )
    return Door(
        kind=ConnectionType.WEBSOCKET,
        info=InfoTemplate(config, server_id, server_name, host, port, way),
        tls=tls,
        throttle=Throttle(tls.rate_limit if tls is not None else 0, config.worker_count),
        context=server_context(tls) if tls is not None else None,
        websocket=websocket,
        auth_timeout_ms=int(timeout_s * 1000),
        requires_authentication=required,
        needs_nonce=config.needs_nonce,
    )


def unix_door(config: Config, server_id: str, server_name: str, host: str, port: int) -> Door:
    """The way in through a socket in the file system: never TLS, the kernel says who it is."""
    assert config.unix is not None
    way = Way(auth_required=_says_auth_required(config, config.no_auth_user))
    return Door(
        kind=ConnectionType.STANDARD,
        info=InfoTemplate(config, server_id, server_name, host, port, way),
        throttle=Throttle(0, 1),
        unix_users=config.unix.users,
        auth_timeout_ms=int(config.auth_timeout_s * 1000),
        requires_authentication=config.requires_authentication,
        needs_nonce=config.needs_nonce,
    )


def _says_auth_required(config: Config, no_auth_user: str) -> bool:
    return config.requires_authentication and not no_auth_user
