"""What a running server can change, and what it cannot: one configuration against another.

All or nothing: a single setting that cannot be changed refuses the whole reload, and the server
goes on as before (sheet 13.5). The lines for the log are nats-server's where it has the setting;
none of them can hold a secret.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from shardd.config.core import Config
from shardd.config.model import Authorization, Cluster, OperatorMode, Tls, Websocket
from shardd.errors import ConfigError

# What is made once for the life of the host, and what the refusal calls it.
_FIXED: Final = {
    "host": "Host",
    "port": "Port",
    "server_name": "ServerName",
    "max_subscriptions": "MaxSubs",
    "max_subscription_tokens": "MaxSubTokens",
    "max_pending": "MaxPending",
    "no_header_support": "NoHeaderSupport",
    "allow_non_tls": "AllowNonTLS",
    "no_auth_user": "NoAuthUser",
    "system_account": "SystemAccount",
    "always_enable_nonce": "AlwaysEnableNonce",
    "http_host": "HTTPHost",
    "http_port": "HTTPPort",
    "https_port": "HTTPSPort",
    "http_base_path": "HTTPBasePath",
    "max_closed_clients": "MaxClosedClients",
    "log_size_limit": "LogSizeLimit",
    "log_max_num": "LogMaxFiles",
    "lame_duck_duration_s": "LameDuckDuration",
    "lame_duck_grace_s": "LameDuckGracePeriod",
    # shardd's own, by their names in the file
    "workers": "workers",
    "pin": "pin",
    "balance": "balance",
    "ring_bytes": "ring_size",
    "heartbeat_silence_s": "heartbeat_silence",
    "unix": "listen_unix",
    "streaming": "streaming",
}
# What is not the operator's: where the configuration came from.
_IGNORED: Final = frozenset(("config_file", "config_digest", "warnings"))
# A setting whose line in the log is not "Reloaded: <field> = <value>".
_LINES: Final = {
    "client_advertise": "Reload: client_advertise = {}",
    "users": "Reloaded: authorization users",
    "accounts": "Reloaded: accounts",
    "mappings": "Reloaded: accounts",
    "operator": "Reloaded: accounts",
    "auth_timeout_s": "Reloaded: authorization timeout = {}",
    "cluster": "Reloaded: cluster",
    "websocket": "Reloaded: websocket tls",
    "user_limits": "Reloaded: user_limits",
    "account_limits": "Reloaded: account_limits",
    "queue_policies": "Reloaded: queue_policies",
}
_AUTHORIZATION_LINES: Final = {
    "user": "Reloaded: authorization username",
    "password": "Reloaded: authorization password",
    "token": "Reloaded: authorization token",
    "default_permissions": "Reloaded: authorization users",
}


def changes(old: Config, new: Config) -> list[str]:
    """What is new, as lines for the log.

    Raises:
        ConfigError: a setting has changed that a running server cannot change.
    """
    lines: list[str] = []
    for field in dataclasses.fields(Config):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name in _IGNORED or before == after:
            continue
        if field.name in _FIXED:
            raise _refusal(_FIXED[field.name], _text(field.name, before), _text(field.name, after))
        if field.name in _CHECKS:
            _CHECKS[field.name](before, after)
        if field.name == "authorization":
            lines += _authorization_lines(before, after)
        elif field.name == "tls":
            lines += _tls_lines(before, after)
        elif field.name == "no_fast_producer_stall":
            lines.append(f"Reloaded: fast producers will {'not ' if after else ''}be stalled")
        else:
            name = field.name.removesuffix("_s")
            line = _LINES.get(field.name, f"Reloaded: {name} = {{}}")
            lines.append(line.format(_text(field.name, after)))
    return list(dict.fromkeys(lines))


def _refusal(name: str, before: str = "", after: str = "") -> ConfigError:
    """Both values are left out where they are no plain values."""
    values = f": old={before}, new={after}" if before or after else ""
    return ConfigError(f"config reload not supported for {name}{values}")


def _text(name: str, value: object) -> str:
    """A value as nats-server prints it; what has parts of its own is not printed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and name != "auth_timeout_s":
        return duration_text(value)
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return value if isinstance(value, str) else ""


def duration_text(seconds: float) -> str:
    """A duration as nats-server prints it: 2m0s, 1.5s, 20ms."""
    if 0 < seconds < 1:
        return f"{1000 * seconds:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _authorization_lines(before: Authorization, after: Authorization) -> list[str]:
    return [
        line
        for name, line in _AUTHORIZATION_LINES.items()
        if getattr(before, name) != getattr(after, name)
    ]


def _tls_lines(before: Tls | None, after: Tls | None) -> list[str]:
    if after is None:
        return ["Reloaded: tls = disabled"]
    lines = []
    if before is None or dataclasses.replace(after, timeout_s=before.timeout_s) != before:
        lines.append("Reloaded: tls = enabled")
    if before is None or before.timeout_s != after.timeout_s:
        lines.append(f"Reloaded: tls timeout = {after.timeout_s:g}")
    if (before.pinned if before is not None else frozenset()) != after.pinned:
        lines.append(f"Reloaded: {len(after.pinned)} pinned_certs")
    return lines


def _check_websocket(before: Websocket | None, after: Websocket | None) -> None:
    """Its certificates may change; where it listens and how it greets may not."""
    if (
        before is None
        or after is None
        or (before.tls is None) != (after.tls is None)
        or dataclasses.replace(before, tls=after.tls) != after
    ):
        raise _refusal("Websocket")


def _check_cluster(before: Cluster | None, after: Cluster | None) -> None:
    if before is None or after is None or (before.host, before.port) != (after.host, after.port):
        raise _refusal("Cluster")


def _check_operator(before: OperatorMode | None, after: OperatorMode | None) -> None:
    """The accounts' claims may change, who signs them may not."""
    if (
        before is None
        or after is None
        or (dataclasses.replace(before, preload=after.preload) != after)
    ):
        raise _refusal("TrustedOperators")


_CHECKS: Final[dict[str, Callable[..., None]]] = {
    "websocket": _check_websocket,
    "cluster": _check_cluster,
    "operator": _check_operator,
}


def shares_to_shed(connections: Sequence[int], maximum: int) -> list[int]:
    """How many connections each worker has to close so that no more than `maximum` are left: by
    how many it has, and exactly as many in all."""
    total = sum(connections)
    excess = min(total, total - max(maximum, 0))
    if excess <= 0:
        return [0] * len(connections)
    shares = [excess * each // total for each in connections]
    by_remainder = sorted(
        range(len(connections)), key=lambda i: excess * connections[i] % total, reverse=True
    )
    for index in by_remainder[: excess - sum(shares)]:
        shares[index] += 1
    return shares
