"""What a reload may change, what refuses it, and what the log says, checked on nats-server."""

import dataclasses
from typing import Any

import pytest

from shardd.config.core import Config
from shardd.config.model import (
    Account,
    Authorization,
    Cluster,
    OperatorMode,
    PolicyKind,
    QueuePolicy,
    SubjectMapping,
    Tls,
    UnixListener,
    UseLimits,
    User,
    Websocket,
)
from shardd.config.streaming import NatsOptions, SqlOptions, StreamingOptions
from shardd.errors import ConfigError
from shardd.reload import changes, duration_text, shares_to_shed

SECRET = "sesame"

# One other value for every field of a configuration.
OTHER: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 4333,
    "server_name": "other",
    "client_advertise": "a:1",
    "workers": 3,
    "pin": True,
    "balance": False,
    "ring_bytes": 1 << 20,
    "heartbeat_silence_s": 7.0,
    "debug": True,
    "trace": True,
    "logtime": False,
    "logtime_utc": True,
    "log_file": "log",
    "log_format": "json",
    "remote_syslog": "udp://localhost:514",
    "syslog": True,
    "log_size_limit": 1000,
    "log_max_num": 3,
    "pid_file": "pid",
    "ports_file_dir": "dir",
    "max_connections": 10,
    "max_payload": 2000,
    "max_pending": 10_485_760,
    "max_control_line": 2048,
    "max_subscriptions": 5,
    "max_subscription_tokens": 4,
    "ping_interval_s": 90.0,
    "ping_max": 5,
    "write_deadline_s": 3.0,
    "auth_timeout_s": 3.0,
    "no_header_support": True,
    "no_fast_producer_stall": True,
    "authorization": Authorization(user="a", password=SECRET),
    "users": (User(name="a", password=SECRET),),
    "no_auth_user": "a",
    "accounts": (Account(name="A"),),
    "system_account": "A",
    "mappings": (SubjectMapping("a", ()),),
    "operator": OperatorMode(trusted_keys=("O",)),
    "always_enable_nonce": True,
    "tls": Tls(certificates=((b"c", SECRET.encode()),)),
    "allow_non_tls": True,
    "websocket": Websocket(port=1, password=SECRET),
    "unix": UnixListener(path="socket"),
    "cluster": Cluster(name="c", password=SECRET),
    "streaming": StreamingOptions(sql=SqlOptions(SECRET), nats=NatsOptions(password=SECRET)),
    "user_limits": {"a": UseLimits(max_connections=1)},
    "account_limits": {"A": UseLimits(max_connections=1)},
    "queue_policies": (QueuePolicy(subject="a.>", policy=PolicyKind.STICKY),),
    "http_host": "127.0.0.1",
    "http_port": 8222,
    "https_port": 8222,
    "http_base_path": "/nats",
    "max_closed_clients": 5,
    "lame_duck_duration_s": 40.0,
    "lame_duck_grace_s": 5.0,
    "config_file": "file",
    "config_digest": "sha256:0",
    "warnings": ("careful",),
}

LINES = {
    "client_advertise": ["Reload: client_advertise = a:1"],
    "debug": ["Reloaded: debug = true"],
    "trace": ["Reloaded: trace = true"],
    "logtime": ["Reloaded: logtime = false"],
    "logtime_utc": ["Reloaded: logtime_utc = true"],
    "log_file": ["Reloaded: log_file = log"],
    "log_format": ["Reloaded: log_format = json"],
    "remote_syslog": ["Reloaded: remote_syslog = udp://localhost:514"],
    "syslog": ["Reloaded: syslog = true"],
    "pid_file": ["Reloaded: pid_file = pid"],
    "ports_file_dir": ["Reloaded: ports_file_dir = dir"],
    "max_connections": ["Reloaded: max_connections = 10"],
    "max_payload": ["Reloaded: max_payload = 2000"],
    "max_control_line": ["Reloaded: max_control_line = 2048"],
    "ping_interval_s": ["Reloaded: ping_interval = 1m30s"],
    "ping_max": ["Reloaded: ping_max = 5"],
    "write_deadline_s": ["Reloaded: write_deadline = 3s"],
    "auth_timeout_s": ["Reloaded: authorization timeout = 3"],
    "no_fast_producer_stall": ["Reloaded: fast producers will not be stalled"],
    "authorization": ["Reloaded: authorization username", "Reloaded: authorization password"],
    "users": ["Reloaded: authorization users"],
    "accounts": ["Reloaded: accounts"],
    "mappings": ["Reloaded: accounts"],
    "tls": ["Reloaded: tls = enabled", "Reloaded: tls timeout = 2"],
    "user_limits": ["Reloaded: user_limits"],
    "account_limits": ["Reloaded: account_limits"],
    "queue_policies": ["Reloaded: queue_policies"],
    "config_file": [],
    "config_digest": [],
    "warnings": [],
}

REFUSALS = {
    "host": "Host: old=0.0.0.0, new=127.0.0.1",
    "port": "Port: old=4222, new=4333",
    "server_name": "ServerName: old=, new=other",
    "max_subscriptions": "MaxSubs: old=0, new=5",
    "max_subscription_tokens": "MaxSubTokens: old=0, new=4",
    "max_pending": "MaxPending: old=67108864, new=10485760",
    "no_header_support": "NoHeaderSupport: old=false, new=true",
    "no_auth_user": "NoAuthUser: old=, new=a",
    "system_account": "SystemAccount: old=$SYS, new=A",
    "always_enable_nonce": "AlwaysEnableNonce: old=false, new=true",
    "allow_non_tls": "AllowNonTLS: old=false, new=true",
    "http_host": "HTTPHost: old=, new=127.0.0.1",
    "http_port": "HTTPPort: old=0, new=8222",
    "https_port": "HTTPSPort: old=0, new=8222",
    "http_base_path": "HTTPBasePath: old=, new=/nats",
    "max_closed_clients": "MaxClosedClients: old=10000, new=5",
    "log_size_limit": "LogSizeLimit: old=0, new=1000",
    "log_max_num": "LogMaxFiles: old=0, new=3",
    "lame_duck_duration_s": "LameDuckDuration: old=2m0s, new=40s",
    "lame_duck_grace_s": "LameDuckGracePeriod: old=10s, new=5s",
    "workers": "workers: old=, new=3",
    "pin": "pin: old=false, new=true",
    "balance": "balance: old=true, new=false",
    "ring_bytes": "ring_size: old=4194304, new=1048576",
    "heartbeat_silence_s": "heartbeat_silence: old=5s, new=7s",
    "unix": "listen_unix",
    "websocket": "Websocket",
    "cluster": "Cluster",
    "operator": "TrustedOperators",
    "streaming": "streaming",
}


def test_every_setting_either_changes_or_refuses() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}
    assert set(OTHER) == fields
    assert set(LINES) | set(REFUSALS) == fields
    assert not set(LINES) & set(REFUSALS)


def test_nothing_new_says_nothing() -> None:
    assert changes(Config(), Config()) == []


@pytest.mark.parametrize("name", LINES)
def test_what_changes_is_said_as_nats_server_says_it(name: str) -> None:
    assert changes(Config(), Config(**{name: OTHER[name]})) == LINES[name]


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_change_refuses_with_both_values(name: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        changes(Config(), Config(**{name: OTHER[name]}))
    assert str(refusal.value) == f"config reload not supported for {REFUSALS[name]}"


def test_one_refusal_is_enough_whatever_else_may_change() -> None:
    with pytest.raises(ConfigError, match="MaxPending"):
        changes(Config(), Config(debug=True, max_pending=10_485_760, max_payload=9))


@pytest.mark.parametrize("name", OTHER)
def test_no_line_holds_a_secret(name: str) -> None:
    """In either direction: what was set before is no less secret."""
    configs = Config(), Config(**{name: OTHER[name]})
    for old, new in (configs, configs[::-1]):
        try:
            text = "\n".join(changes(old, new))
        except ConfigError as error:
            text = str(error)
        assert SECRET not in text


def test_authorization_names_what_is_new_in_it() -> None:
    old = Config(authorization=Authorization(token="a"))
    assert changes(old, Config(authorization=Authorization(token="b"))) == [
        "Reloaded: authorization token"
    ]


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (Tls(), None, ["tls = disabled"]),
        (Tls(), Tls(timeout_s=5.0), ["tls timeout = 5"]),
        (Tls(), Tls(verify=True), ["tls = enabled"]),
        (Tls(), Tls(pinned=frozenset("ab")), ["tls = enabled", "2 pinned_certs"]),
    ],
)
def test_tls_says_what_is_new_in_it(before: Tls, after: Tls | None, lines: list[str]) -> None:
    assert changes(Config(tls=before), Config(tls=after)) == [f"Reloaded: {line}" for line in lines]


def test_websocket_takes_new_certificates_and_nothing_else() -> None:
    old = Websocket(port=1, tls=Tls())
    new = dataclasses.replace(old, tls=Tls(certificates=((b"c", b"k"),)))
    assert changes(Config(websocket=old), Config(websocket=new)) == ["Reloaded: websocket tls"]
    for other in (
        None,
        dataclasses.replace(old, port=2),
        dataclasses.replace(old, tls=None, is_plain=True),
        dataclasses.replace(old, compression=True),
        dataclasses.replace(old, user="a", password=SECRET),
    ):
        with pytest.raises(ConfigError, match=r"^config reload not supported for Websocket$"):
            changes(Config(websocket=old), Config(websocket=other))


def test_operators_stay_and_their_accounts_may_change() -> None:
    old = OperatorMode(trusted_keys=("O",), preload={"A": "claims"})
    new = dataclasses.replace(old, preload={"A": "other claims"})
    assert changes(Config(operator=old), Config(operator=new)) == ["Reloaded: accounts"]
    with pytest.raises(ConfigError, match="TrustedOperators"):
        changes(Config(operator=old), Config(operator=dataclasses.replace(old, trusted_keys=())))


def test_what_several_settings_have_to_say_is_said_once() -> None:
    new = Config(accounts=OTHER["accounts"], mappings=OTHER["mappings"])
    assert changes(Config(), new) == ["Reloaded: accounts"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.02, "20ms"),
        (1.5, "1.5s"),
        (59.0, "59s"),
        (60.0, "1m0s"),
        (120.0, "2m0s"),
        (3600.0, "1h0m0s"),
        (90_061.25, "25h1m1.25s"),
    ],
)
def test_durations_read_as_gos(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("connections", "maximum", "shares"),
    [
        ([3, 3], 6, [0, 0]),
        ([3, 3], 100, [0, 0]),
        ([], 0, []),
        ([0, 0], -1, [0, 0]),
        ([6, 0], 4, [2, 0]),
        ([4, 2], 3, [2, 1]),
        ([5, 5], 0, [5, 5]),
        ([5, 5], -1, [5, 5]),
    ],
)
def test_excess_connections_are_shared_out_by_what_each_worker_has(
    connections: list[int], maximum: int, shares: list[int]
) -> None:
    assert shares_to_shed(connections, maximum) == shares


def test_exactly_the_excess_is_shed_however_it_divides() -> None:
    for maximum in range(20):
        connections = [7, 1, 0, 11, 1]
        shares = shares_to_shed(connections, maximum)
        assert sum(shares) == 20 - maximum
        assert all(share <= own for share, own in zip(shares, connections, strict=True))
