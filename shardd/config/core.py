"""The configuration object: one frozen `Config`, whoever made it.

Values come from a file, from flags, from `--set KEY=VALUE` and, in tests, from keywords. A `Config`
holds what is in force: what nats-server reads as "use the default" (a port of 0, a max_payload of
0, an empty name) is replaced when the object is made, so no reader has to think of it. `validate`
checks what has to hold before a server may start and names the setting that does not.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from shardd import limits
from shardd.config.model import (
    GLOBAL_ACCOUNT,
    SYSTEM_ACCOUNT,
    Account,
    Authorization,
    Cluster,
    OperatorMode,
    QueuePolicy,
    SubjectMapping,
    Tls,
    UnixListener,
    UseLimits,
    User,
    Websocket,
)
from shardd.config.streaming import StreamingOptions
from shardd.config.streaming_check import check_streaming
from shardd.errors import ConfigError
from shardd.values import RouteUrl, parse_route_url, split_host_port

PORT_ANY: Final = -1  # the operating system chooses
_PORT_MAX: Final = 65_535
_INT32_MAX: Final = 2**31 - 1  # where nats-server keeps max_payload and max_control_line
_SUBSCRIPTION_TOKENS_MAX: Final = 255  # nats-server keeps it in one byte
_SYSLOG_SCHEMES: Final = ("udp://", "unix://")
_LOG_FORMATS: Final = ("text", "json")
_RING_BYTES_MAX: Final = 1 << 30  # each process maps every ring twice in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the operator asked for. Made once by the parent process and inherited by the fork."""

    # where clients come in
    host: str = limits.HOST
    port: int = limits.PORT
    server_name: str | None = None
    client_advertise: str | None = None
    # processes
    workers: int | None = None  # None: one per core that this process may use
    pin: bool = False
    balance: bool = True  # hand new connections to the worker that has the fewest
    ring_bytes: int = limits.RING_BYTES
    heartbeat_silence_s: float = limits.HEARTBEAT_SILENCE_S
    # log and files
    debug: bool = False
    trace: bool = False
    logtime: bool = True
    logtime_utc: bool = False
    log_file: str | None = None
    log_size_limit: int = 0  # bytes from which on the file is rotated; 0: never
    log_max_num: int = 0  # files kept, the current one included; 0: all
    log_format: str = "text"  # or "json"
    # Where there is no log_file: a daemon elsewhere, or this host's.
    remote_syslog: str = ""  # udp://HOST:PORT or unix://PATH
    syslog: bool = False
    pid_file: str | None = None
    ports_file_dir: str | None = None
    # limits of connections
    max_connections: int = limits.CONNECTIONS_MAX  # zero or less refuses everybody
    max_payload: int = limits.PAYLOAD_BYTES_MAX  # -1: no limit
    max_pending: int = limits.PENDING_BYTES_MAX
    max_control_line: int = limits.CONTROL_LINE_BYTES_MAX
    max_subscriptions: int = limits.SUBSCRIPTIONS_MAX  # 0: no limit
    max_subscription_tokens: int = 0  # 0: no limit
    ping_interval_s: float = limits.PING_INTERVAL_S
    ping_max: int = limits.PINGS_OUT_MAX
    write_deadline_s: float = limits.WRITE_DEADLINE_S
    auth_timeout_s: float = limits.AUTH_TIMEOUT_S
    no_header_support: bool = False
    no_fast_producer_stall: bool = False
    # who may come in, and what for
    authorization: Authorization = field(default_factory=Authorization)
    users: tuple[User, ...] = ()  # of all accounts
    no_auth_user: str = ""
    accounts: tuple[Account, ...] = ()  # those configured; $G and the system account always exist
    system_account: str = SYSTEM_ACCOUNT  # "": none (no_system_account)
    mappings: tuple[SubjectMapping, ...] = ()  # of the global account
    operator: OperatorMode | None = None  # set: users and accounts come from claims
    always_enable_nonce: bool = False
    # encryption and other ways in
    tls: Tls | None = None
    allow_non_tls: bool = False
    websocket: Websocket | None = None
    unix: UnixListener | None = None
    cluster: Cluster | None = None
    streaming: StreamingOptions | None = None
    # monitoring over HTTP
    http_host: str = ""  # empty: where clients connect to
    http_port: int = 0  # 0: none; -1: any
    https_port: int = 0
    http_base_path: str = ""
    max_closed_clients: int = limits.CLOSED_CLIENTS_MAX  # remembered for monitoring
    # limits of users and accounts over the whole host (shardd's own); "*" is everybody not named
    user_limits: Mapping[str, UseLimits] = field(default_factory=dict)
    account_limits: Mapping[str, UseLimits] = field(default_factory=dict)
    queue_policies: tuple[QueuePolicy, ...] = ()  # shardd's own; the first that matches counts
    # stopping
    lame_duck_duration_s: float = limits.LAME_DUCK_DURATION_S
    lame_duck_grace_s: float = limits.LAME_DUCK_GRACE_S
    # where it came from
    config_file: str | None = None
    config_digest: str = ""  # "sha256:..." of the file
    warnings: tuple[str, ...] = ()  # said once at start: what is not served, what is unwise

    def __post_init__(self) -> None:
        """Replaces what stands for a default by the default."""
        for name in _ZERO_IS_DEFAULT:
            if not getattr(self, name):
                object.__setattr__(self, name, _DEFAULTS[name])
        for name in _EMPTY_IS_NONE:
            if getattr(self, name) == "":
                object.__setattr__(self, name, None)
        if self.host.startswith("[") and self.host.endswith("]"):
            object.__setattr__(self, "host", self.host[1:-1])
        object.__setattr__(self, "max_payload", max(self.max_payload, -1))
        object.__setattr__(self, "max_subscriptions", max(self.max_subscriptions, 0))

    @property
    def requires_authentication(self) -> bool:
        """Whether a client has to prove who it is (sheet 2.1)."""
        way = self.authorization
        return bool(way.user or way.token or self.users or self.operator)

    @property
    def needs_nonce(self) -> bool:
        """Whether INFO carries something for clients to sign (sheet 2.1)."""
        return (
            self.always_enable_nonce
            or self.operator is not None
            or any(user.nkey for user in self.users)
        )

    @property
    def all_accounts(self) -> tuple[Account, ...]:
        """The accounts with what they have; the global one among them if it has something."""
        if not self.mappings:
            return self.accounts
        return (Account(name=GLOBAL_ACCOUNT, mappings=self.mappings), *self.accounts)

    @property
    def account_names(self) -> tuple[str, ...]:
        """Every account that exists: the global one first, the system account if there is one."""
        names = [GLOBAL_ACCOUNT, self.system_account, *(each.name for each in self.accounts)]
        names += self.operator.preload if self.operator is not None else ()
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def worker_count(self) -> int:
        """Workers to start: what was asked for, or one per usable core."""
        if self.workers is not None:
            return self.workers
        return min(len(os.sched_getaffinity(0)), limits.WORKERS_MAX)

    @property
    def has_monitoring(self) -> bool:
        """Whether the server is watched: over HTTP, or by users of the system account."""
        if self.http_port or self.https_port:
            return True
        name = self.system_account
        return bool(name) and (
            self.operator is not None or any(user.account == name for user in self.users)
        )

    def advertised(self, host: str, port: int) -> tuple[str, int]:
        """What INFO tells clients: `client_advertise` if set, else the address listened on."""
        if self.client_advertise is None:
            return host, port
        return split_host_port(self.client_advertise, port)

    def validate(self) -> None:
        """Raises ConfigError, one line, for the first thing that cannot be."""
        self._validate_address()
        self._validate_processes()
        self._validate_limits()
        self._validate_times()
        self._validate_users()
        self._validate_cluster()
        if self.streaming is not None:
            self._validate_streaming(self.streaming)
        self._validate_monitoring()

    def _validate_address(self) -> None:
        if self.port != PORT_ANY:
            _require_range("port", self.port, 1, _PORT_MAX, " (-1: any free port)")
        _require_plain("host", self.host)
        if self.server_name is not None:
            _require_plain("server_name", self.server_name)
        if self.client_advertise is not None:
            _require_plain("client_advertise", self.client_advertise)
            try:
                host, _ = split_host_port(self.client_advertise, limits.PORT)
            except ValueError as error:
                raise ConfigError(f"client_advertise: {error}") from None
            if not host:
                raise ConfigError(f'client_advertise: "{self.client_advertise}" names no host')
        if self.log_format not in _LOG_FORMATS:
            raise ConfigError(f'log_format: "{self.log_format}" is neither text nor json')
        if self.remote_syslog and not self.remote_syslog.startswith(_SYSLOG_SCHEMES):
            raise ConfigError("remote_syslog: shardd serves udp://HOST:PORT and unix://PATH")
        for name in ("log_file", "pid_file", "ports_file_dir"):
            if "\0" in (getattr(self, name) or ""):
                raise ConfigError(f"{name}: a path cannot hold a NUL byte")

    def _validate_processes(self) -> None:
        if self.workers is not None:
            _require_range("workers", self.workers, 1, limits.WORKERS_MAX)
        _require_range("ring_size", self.ring_bytes, limits.RING_BYTES_MIN, _RING_BYTES_MAX)
        if self.ring_bytes & (self.ring_bytes - 1):
            raise ConfigError(f"ring_size: {self.ring_bytes} is not a power of two")
        shortest = 2 * limits.HEARTBEAT_S  # a worker must be able to miss one beat
        if not self.heartbeat_silence_s >= shortest:
            raise ConfigError(f"heartbeat_silence: must be at least {shortest:g} seconds")

    def _validate_limits(self) -> None:
        _require_range("max_payload", self.max_payload, -1, _INT32_MAX)
        _require_range("max_control_line", self.max_control_line, 1, _INT32_MAX)
        _require_range(
            "max_subscription_tokens", self.max_subscription_tokens, 0, _SUBSCRIPTION_TOKENS_MAX
        )
        _require_range("ping_max", self.ping_max, 1, _INT32_MAX)
        if self.max_pending < 1:
            raise ConfigError("max_pending: must be positive")
        if self.max_payload > self.max_pending:
            raise ConfigError(
                f"max_payload ({self.max_payload}) cannot be higher than"
                f" max_pending ({self.max_pending})"
            )

    def _validate_times(self) -> None:
        for key, seconds in (
            ("ping_interval", self.ping_interval_s),
            ("write_deadline", self.write_deadline_s),
            ("auth_timeout", self.auth_timeout_s),
        ):
            if not seconds > 0:
                raise ConfigError(f"{key}: must be positive")

    def _validate_users(self) -> None:
        """What names a user has to name one that exists."""
        known = {user.key for user in self.users}
        names = {"no_auth_user": self.no_auth_user}
        if self.websocket is not None:
            names["websocket.no_auth_user"] = self.websocket.no_auth_user
        if self.unix is not None:
            names |= {
                f"listen_unix user of uid {uid}": name for uid, name in self.unix.users.items()
            }
        for key, name in names.items():
            if name and name not in known and self.operator is None:
                raise ConfigError(
                    f'{key}: "{name}" not present as user in authorization block or account'
                    " configuration"
                )
        for policy in self.queue_policies:
            if policy.account and policy.account not in self.account_names:
                at = f"{policy.place}: " if policy.place else ""
                raise ConfigError(f'{at}queue_policies: there is no account "{policy.account}"')
        websocket = self.websocket
        if websocket is not None and websocket.tls is None and not websocket.is_plain:
            raise ConfigError("websocket requires TLS configuration (or no_tls: true)")
        if self.unix is not None and not self.unix.path:
            raise ConfigError("listen_unix: needs a path")

    def _validate_monitoring(self) -> None:
        for key, port in (("http_port", self.http_port), ("https_port", self.https_port)):
            if port != PORT_ANY:
                _require_range(key, port, 0, _PORT_MAX, " (-1: any free port)")
        if self.http_port and self.https_port:
            raise ConfigError(
                f"can't specify both HTTP ({self.http_port}) and HTTPs ({self.https_port}) ports"
            )
        if self.https_port and self.tls is None:
            raise ConfigError("https: TLS cert and key required for HTTPS")

    def _validate_cluster(self) -> None:
        cluster = self.cluster
        if cluster is None:
            return
        if cluster.port != PORT_ANY:
            _require_range("cluster port", cluster.port, 0, _PORT_MAX, " (-1: any free port)")
        if self.server_name and " " in self.server_name:
            raise ConfigError("server name cannot contain spaces")
        if cluster.pool_size > limits.ROUTE_POOL_MAX:
            raise ConfigError(f"cluster pool_size: more than {limits.ROUTE_POOL_MAX}")
        if cluster.tls is not None and not cluster.tls.certificates:
            raise ConfigError("cluster tls: routes need a certificate of this server")
        for url in cluster.routes:
            try:
                parse_route_url(url)
            except ValueError as error:
                raise ConfigError(f"cluster routes: {error}") from None
        if cluster.advertise:
            try:
                split_host_port(cluster.advertise, limits.PORT)
            except ValueError as error:
                raise ConfigError(f"cluster advertise: {error}") from None

    def _validate_streaming(self, streaming: StreamingOptions) -> None:
        check_streaming(streaming)
        if streaming.nats.urls:
            return  # the pool runs alone
        if self.process_count > limits.PROCESSES_MAX:
            raise ConfigError(
                f"workers: {self.worker_count} and {streaming.workers} streaming workers are too"
                f" many, a host has at most {limits.PROCESSES_MAX} processes"
            )
        if streaming.account not in self.account_names:
            raise ConfigError(f'streaming account: there is no account "{streaming.account}"')

    @property
    def process_count(self) -> int:
        """Processes of the host that the supervisor starts."""
        streaming = 0 if self.streaming is None else self.streaming.workers
        return self.worker_count + (self.cluster is not None) + streaming + self.has_monitoring

    @property
    def route_urls(self) -> tuple[RouteUrl, ...]:
        """The servers that this one dials, none twice."""
        urls = self.cluster.routes if self.cluster is not None else ()
        return tuple(dict.fromkeys(parse_route_url(url) for url in urls))


def _require_range(key: str, value: int, lowest: int, highest: int, note: str = "") -> None:
    if not lowest <= value <= highest:
        raise ConfigError(f"{key}: {value} is not between {lowest} and {highest}{note}")


def _require_plain(key: str, value: str) -> None:
    """Refuses what would not survive in INFO, in a URL or in a log line."""
    if not value.isprintable() or " " in value:
        raise ConfigError(f"{key}: cannot contain spaces or unprintable characters")


_DEFAULTS: Final[Mapping[str, object]] = {
    item.name: item.default for item in dataclasses.fields(Config)
}
# Where zero, or an empty text, means the default (seen on nats-server).
_ZERO_IS_DEFAULT: Final = (
    "host",
    "port",
    "max_payload",
    "max_pending",
    "max_control_line",
    "ping_interval_s",
    "ping_max",
    "write_deadline_s",
    "auth_timeout_s",
)
_EMPTY_IS_NONE: Final = (
    "server_name",
    "client_advertise",
    "log_file",
    "pid_file",
    "ports_file_dir",
)
