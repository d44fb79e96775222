"""What a running server can change, and what it cannot: one configuration against another.

All or nothing: a single setting that cannot be changed refuses the whole reload, and the server
goes on as before (sheet 13.5).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from shardd.config.core import Config
from shardd.config.model import Cluster, Websocket
from shardd.errors import ConfigError

# What is made once for the life of the host, under its name in the configuration.
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
    "lame_duck_duration_s": "LameDuckDuration",
    "lame_duck_grace_s": "LameDuckGracePeriod",
    "workers": "workers",
    "pin": "pin",
    "balance": "balance",
    "ring_bytes": "ring_size",
    "heartbeat_silence_s": "heartbeat_silence",
    "unix": "listen_unix",
    "always_enable_nonce": "AlwaysEnableNonce",
}
# What is not the operator's: where the configuration came from.
_IGNORED: Final = frozenset(("config_file", "config_digest", "warnings"))
_SECRET: Final = frozenset(
    ("authorization", "users", "operator", "tls", "websocket", "cluster", "accounts")
)
# The lines of the log, where nats-server's differ from the field's name.
_NAMES: Final = {
    "users": "authorization users",
    "auth_timeout_s": "authorization timeout",
    "ping_interval_s": "ping_interval",
    "write_deadline_s": "write_deadline",
    "log_file": "log_file",
}


def changes(old: Config, new: Config) -> list[str]:
    """What is new, as lines for the log.

    Raises:
        ConfigError: a setting has changed that a running server cannot change.
    """
    lines = []
    for field in dataclasses.fields(Config):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name in _IGNORED or before == after:
            continue
        if field.name in _FIXED:
            raise _refusal(_FIXED[field.name], before, after)
        check = _CHECKS.get(field.name)
        if check is not None:
            check(before, after)
        name = _NAMES.get(field.name, field.name)
        if field.name in _SECRET:
            lines.append(f"Reloaded: {name}")
        else:
            lines.append(f"Reloaded: {name} = {after}")
    return lines


def _refusal(name: str, before: object, after: object) -> ConfigError:
    return ConfigError(f"config reload not supported for {name}: old={before}, new={after}")


def _check_websocket(before: Websocket | None, after: Websocket | None) -> None:
    """Its certificates and users may change, where it listens and how it greets may not."""
    if before is None or after is None:
        raise ConfigError("config reload not supported for Websocket")
    expected = dataclasses.replace(
        before,
        tls=after.tls,
        user=after.user,
        password=after.password,
        token=after.token,
        no_auth_user=after.no_auth_user,
    )
    if (before.tls is None) != (after.tls is None) or expected != after:
        raise ConfigError("config reload not supported for Websocket")


def _check_cluster(before: Cluster | None, after: Cluster | None) -> None:
    if before is None or after is None or (before.host, before.port) != (after.host, after.port):
        raise ConfigError("config reload not supported for Cluster")


_CHECKS: Final[dict[str, Callable[..., None]]] = {
    "websocket": _check_websocket,
    "cluster": _check_cluster,
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
