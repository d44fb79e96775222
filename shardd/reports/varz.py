"""The server as a whole: `/varz` (sheet 12.1). Sans-IO; the facts are handed in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shardd import limits
from shardd.auth.certificates import end_of
from shardd.config.core import Config
from shardd.config.model import Tls
from shardd.moments import time_text, uptime_text
from shardd.version import NATS_VERSION, SHARDD_VERSION

_NS: Final = 1_000_000_000
# Tools show it; the real one says which Go compiled it.
GO_VERSION: Final = "go1.27.2"
_PROTOCOL: Final = 1
# The documented defaults of what only nats-server has.
_TLS_TIMEOUT_S: Final = limits.TLS_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What the router knows."""

    routes: int = 0  # connections
    remotes: int = 0  # servers
    in_messages: int = 0
    in_bytes: int = 0
    out_messages: int = 0
    out_bytes: int = 0
    slow_consumers: int = 0
    stale_connections: int = 0


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the host's processes know together."""

    server_id: str
    server_name: str
    port: int
    http_host: str
    http_port: int
    https_port: int
    cluster_port: int
    start_ns: int
    config_load_ns: int
    memory_bytes: int  # of all processes, what they share counted once
    cpu_percent: float
    cores: int
    workers: int
    totals: Mapping[str, int]  # the shared page's counters over all processes
    subscriptions: int
    routes: RouteFacts = field(default_factory=RouteFacts)
    requests: Mapping[str, int] = field(default_factory=dict)  # by path
    connect_urls: Sequence[str] = ()
    websocket_urls: Sequence[str] = ()


def document(config: Config, facts: HostFacts, now_ns: int) -> dict[str, Any]:
    """The whole document."""
    return {
        **_identity(config, facts),
        **_settings(config, facts),
        **_life(facts, now_ns),
        **_traffic(facts),
        **_ending(config, facts),
    }


def _identity(config: Config, facts: HostFacts) -> dict[str, Any]:
    result: dict[str, Any] = {
        "server_id": facts.server_id,
        "server_name": facts.server_name,
        "version": NATS_VERSION,
        "shardd": SHARDD_VERSION,
        "proto": _PROTOCOL,
        "go": GO_VERSION,
        "host": config.host,
        "port": facts.port,
    }
    if config.requires_authentication:
        result["auth_required"] = True
    tls = config.tls
    if tls is not None:
        result |= {"tls_required": True, "tls_verify": tls.verify or tls.verify_and_map}
    if facts.connect_urls:
        result["connect_urls"] = list(facts.connect_urls)
    if facts.websocket_urls:
        result["ws_connect_urls"] = list(facts.websocket_urls)
    return result


def _settings(config: Config, facts: HostFacts) -> dict[str, Any]:
    return {
        "max_connections": config.max_connections,
        **({"max_subscriptions": config.max_subscriptions} if config.max_subscriptions else {}),
        "ping_interval": int(config.ping_interval_s * _NS),
        "ping_max": config.ping_max,
        "http_host": facts.http_host,
        "http_port": facts.http_port,
        "http_base_path": config.http_base_path,
        "https_port": facts.https_port,
        "auth_timeout": _number(config.auth_timeout_s),
        "max_control_line": config.max_control_line,
        "max_payload": config.max_payload,
        "max_pending": config.max_pending,
        "cluster": _cluster(config, facts),
        "gateway": {},
        "leaf": {},
        "mqtt": {},
        "websocket": _websocket(config),
        "jetstream": {},
        "tls_timeout": _number(_tls_timeout(config.tls)),
        "write_deadline": int(config.write_deadline_s * _NS),
        **_queue_policies(config),
    }


def _queue_policies(config: Config) -> dict[str, Any]:
    """shardd's own, in the order in which they count; absent where there are none."""
    policies = [
        {
            "subject": each.subject,
            "group": each.group,
            "policy": each.policy.value,
            **({"header": each.header} if each.header else {}),
            **({"account": each.account} if each.account else {}),
        }
        for each in config.queue_policies
    ]
    return {"queue_policies": policies} if policies else {}


def _cluster(config: Config, facts: HostFacts) -> dict[str, Any]:
    cluster = config.cluster
    if cluster is None:
        return {}
    result: dict[str, Any] = {
        "name": cluster.name,
        "addr": cluster.host,
        "cluster_port": facts.cluster_port,
        "auth_timeout": _number(cluster.auth_timeout_s),
    }
    urls = [f"{url.host}:{url.port}" for url in config.route_urls]
    if urls:
        result["urls"] = urls
    result["tls_timeout"] = _number(_tls_timeout(cluster.tls))
    if cluster.tls is not None:
        result |= {"tls_required": True, "tls_verify": True}
    result["pool_size"] = cluster.pool_size
    return result | _certificate_end(cluster.tls)


def _websocket(config: Config) -> dict[str, Any]:
    websocket = config.websocket
    if websocket is None:
        return {}
    result: dict[str, Any] = {"host": websocket.host, "port": websocket.port}
    if websocket.advertise:
        result["advertise"] = websocket.advertise
    if websocket.no_auth_user:
        result["no_auth_user"] = websocket.no_auth_user
    if websocket.jwt_cookie:
        result["jwt_cookie"] = websocket.jwt_cookie
    result["handshake_timeout"] = int(websocket.handshake_timeout_s * _NS)
    if websocket.tls is None:
        result["no_tls"] = True
    if websocket.same_origin:
        result["same_origin"] = True
    if websocket.allowed_origins:
        result["allowed_origins"] = list(websocket.allowed_origins)
    if websocket.compression:
        result["compression"] = True
    return result | _certificate_end(websocket.tls)


def _life(facts: HostFacts, now_ns: int) -> dict[str, Any]:
    return {
        "start": time_text(facts.start_ns),
        "now": time_text(now_ns),
        "uptime": uptime_text((now_ns - facts.start_ns) / _NS),
        "mem": facts.memory_bytes,
        "cores": facts.cores,
        "gomaxprocs": facts.workers,
        "cpu": _number(round(facts.cpu_percent, 2)),
    }


def _traffic(facts: HostFacts) -> dict[str, Any]:
    totals, routes = facts.totals, facts.routes
    return {
        "connections": totals["connections"],
        "total_connections": totals["connections_total"],
        "routes": routes.routes,
        "remotes": routes.remotes,
        "leafnodes": 0,
        "in_msgs": totals["messages_in"] + routes.in_messages,
        "in_bytes": totals["bytes_in"] + routes.in_bytes,
        "in_client_msgs": totals["messages_in"],
        "in_client_bytes": totals["bytes_in"],
        "out_msgs": totals["messages_out"] + routes.out_messages,
        "out_bytes": totals["bytes_out"] + routes.out_bytes,
        "out_client_msgs": totals["messages_out"],
        "out_client_bytes": totals["bytes_out"],
        "slow_consumers": totals["slow_consumers"],
        "stale_connections": totals["stale_connections"],
        "stalled_clients": totals["stalled_clients"],
        "subscriptions": facts.subscriptions,
        "http_req_stats": dict(sorted(facts.requests.items())),
    }


def _ending(config: Config, facts: HostFacts) -> dict[str, Any]:
    totals, routes = facts.totals, facts.routes
    result: dict[str, Any] = {"config_load_time": time_text(facts.config_load_ns)}
    if config.config_digest:
        result["config_digest"] = config.config_digest
    result["feature_flags"] = {}
    if config.system_account:
        result["system_account"] = config.system_account
    result["slow_consumer_stats"] = {
        "clients": totals["slow_consumers"] - routes.slow_consumers,
        "routes": routes.slow_consumers,
        "gateways": 0,
        "leafs": 0,
    }
    result["stale_connection_stats"] = {
        "clients": totals["stale_connections"] - routes.stale_connections,
        "routes": routes.stale_connections,
        "gateways": 0,
        "leafs": 0,
    }
    result["disk_io_wait_stats"] = {"waiters": 0, "waits": 0, "wait_time": 0, "max_wait_time": 0}
    return result | _certificate_end(config.tls)


def _certificate_end(tls: Tls | None) -> dict[str, Any]:
    """Until when the server's certificate is valid."""
    if tls is None or not tls.certificates:
        return {}
    return {"tls_cert_not_after": end_of(tls.certificates[0][0]).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _tls_timeout(tls: Tls | None) -> float:
    return _TLS_TIMEOUT_S if tls is None else tls.timeout_s


def _number(value: float) -> float:
    """As Go writes a float: whole ones without a fraction."""
    return int(value) if value == int(value) else value
