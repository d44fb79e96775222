"""The parts of a configuration that have parts: users, permissions, accounts, TLS, listeners.

Plain frozen data, made by the loader from a checked file, by flags, or in operator mode from an
account's claims; whoever serves a part reads it here. Every object can be compared, which is how a
reload knows what has changed, and pickled, which is how it reaches the workers. Secrets are left
out of `repr`, so that no log line can hold one by accident.

Subjects are text here: a configuration file is UTF-8.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

GLOBAL_ACCOUNT: Final = "$G"
SYSTEM_ACCOUNT: Final = "$SYS"

UNLIMITED: Final = -1  # nats-server's sign for "no limit" in counts


class ConnectionType(enum.StrEnum):
    """How a client came in; what `allowed_connection_types` lists (sheet 7)."""

    STANDARD = "STANDARD"
    WEBSOCKET = "WEBSOCKET"
    LEAFNODE = "LEAFNODE"
    LEAFNODE_WS = "LEAFNODE_WS"
    MQTT = "MQTT"
    MQTT_WS = "MQTT_WS"
    IN_PROCESS = "IN_PROCESS"


# --- permissions (sheet 8) --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubjectRules:
    """What is allowed and what is denied in one direction; deny beats allow.

    An entry is a subject pattern; in subscribe rules it may be followed by a blank and a queue
    pattern. None and an empty tuple both mean that this side restricts nothing.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.allow or self.deny)


@dataclass(frozen=True, slots=True)
class ResponseRules:
    """`allow_responses`: how many replies to each request received, and for how long."""

    max_messages: int = 1  # negative: no limit
    expires_s: float = 120.0  # negative: never


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one user, or everybody without permissions of their own, may do."""

    publish: SubjectRules = SubjectRules()
    subscribe: SubjectRules = SubjectRules()
    responses: ResponseRules | None = None


# --- users ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One entry of a `users` list. Its name, or its nkey, is unique over all accounts."""

    name: str = ""
    password: str = field(default="", repr=False)  # as written: plain, or a bcrypt hash
    nkey: str = ""  # a public user key, U...; then name and password are empty
    account: str = GLOBAL_ACCOUNT
    permissions: Permissions | None = None  # the defaults of account or server are merged in
    connection_types: frozenset[ConnectionType] = frozenset()  # empty: every kind
    proxy_required: bool = False

    @property
    def key(self) -> str:
        """What identifies the user in limits and in a reload."""
        return self.nkey or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """The `authorization` block without its `users`, which stand in `Config.users`."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    default_permissions: Permissions | None = None


# --- accounts (sheet 9) -----------------------------------------------------------------------


class ResponseType(enum.StrEnum):
    """How many responses a service export sends to one request."""

    SINGLETON = "single"
    STREAM = "stream"
    CHUNKED = "chunked"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamExport:
    """Subjects that other accounts may subscribe to."""

    subject: str
    accounts: tuple[str, ...] | None = None  # who may import; None: everybody (public)
    token_position: int = 0  # 1-based token that has to be the importer's name; 0: none
    token_required: bool = False  # operator mode: an import needs an activation token


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceExport:
    """Subjects that other accounts may send requests to."""

    subject: str
    accounts: tuple[str, ...] | None = None
    token_position: int = 0
    token_required: bool = False
    response: ResponseType = ResponseType.SINGLETON
    threshold_s: float = 0.0  # how long a response may take; 0: the default of two minutes
    latency_subject: str = ""  # where the exporter is told how long requests took; "": nowhere
    latency_sampling: int = 0  # percent of requests; 0: those with a trace header


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamImport:
    """A stream of another account: `subject` there, `to` (already with its prefix) here."""

    account: str
    subject: str
    to: str = ""  # "": the same subject
    prefix: str = ""
    activation: str = field(default="", repr=False)  # operator mode: the activation JWT


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceImport:
    """A service of another account: requests to `to` here go to `subject` there."""

    account: str
    subject: str
    to: str = ""
    share: bool = False  # tell the exporter who asked
    activation: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class MappedDestination:
    """One destination of a mapping: a subject with placeholders, and its share of messages."""

    subject: str
    weight: int = 100  # percent
    cluster: str = ""  # only in this cluster; "": everywhere


@dataclass(frozen=True, slots=True)
class SubjectMapping:
    """Messages published to `source` go to one of the destinations instead."""

    source: str
    destinations: tuple[MappedDestination, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """What one account may use on this server; `UNLIMITED` where there is no limit."""

    max_connections: int = UNLIMITED
    max_subscriptions: int = UNLIMITED
    max_payload: int = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account: an isolated subject space. Its users stand in `Config.users`."""

    name: str
    exports: tuple[StreamExport | ServiceExport, ...] = ()
    imports: tuple[StreamImport | ServiceImport, ...] = ()
    mappings: tuple[SubjectMapping, ...] = ()
    limits: AccountLimits = AccountLimits()
    # What users have that name no permissions; only claims need it, the loader merges a file's.
    default_permissions: Permissions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorMode:
    """`operator` and its resolver: who may sign accounts, and the accounts' claims."""

    trusted_keys: tuple[str, ...]  # public operator keys, O...: of the operator and its signers
    operators: tuple[str, ...] = field(default=(), repr=False)  # JWTs, verified by the loader
    system_account: str = ""  # a public account key, A...; "": none
    preload: Mapping[str, str] = field(default_factory=dict, repr=False)  # account key to JWT


# --- limits that users asked for in vain (shardd's own) ---------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UseLimits:
    """What one user, or one account, may use of the whole host. 0: no limit."""

    max_connections: int = 0
    publish_messages_per_s: int = 0
    publish_bytes_per_s: int = 0

    def __bool__(self) -> bool:
        return bool(self.max_connections or self.publish_messages_per_s or self.publish_bytes_per_s)


class PolicyKind(enum.StrEnum):
    """How one member of a queue group is chosen."""

    RANDOM = "random"
    ROUND_ROBIN = "round_robin"
    LOCAL = "local"
    STICKY = "sticky"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """One entry of `queue_policies`; of several that match, the first counts."""

    subject: str  # a pattern
    group: str = ">"  # a pattern; ">" is every name
    policy: PolicyKind = PolicyKind.RANDOM
    header: str = ""  # sticky: whose value is the key; "": the subject is
    account: str = ""  # "": every account
    place: str = field(default="", compare=False)  # where it stands, for error messages


# --- listeners --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A `tls` block. File contents are read once, by the loader, so that every process of the
    host, and every worker that is replaced later, has the same."""

    # PEM texts: pairs of a certificate chain and its key.
    certificates: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    authorities: bytes = field(default=b"", repr=False)  # PEM; empty: the system's
    verify: bool = False  # a client certificate is demanded
    verify_and_map: bool = False  # and names the user
    timeout_s: float = 2.0
    minimum_version: str = "1.2"  # "1.2" or "1.3"
    cipher_suites: tuple[str, ...] = ()  # Go's names; empty: the library's choice
    curves: tuple[str, ...] = ()  # Go's names
    pinned: frozenset[str] = frozenset()  # hex SHA-256 of the key (SubjectPublicKeyInfo)
    rate_limit: int = 0  # handshakes per second on the host; 0: no limit
    # None: INFO comes first. 0: the handshake does. Else seconds that a ClientHello is waited for.
    handshake_first_s: float | None = None
    insecure: bool = False  # only for connections this server makes
    # Where it came from, for error messages: file names only.
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Websocket:
    """The `websocket` block."""

    host: str = "0.0.0.0"
    port: int = 0
    advertise: str = ""
    tls: Tls | None = None
    is_plain: bool = False  # `no_tls`: without it TLS has to be configured
    compression: bool = False
    same_origin: bool = False
    allowed_origins: tuple[str, ...] = ()
    jwt_cookie: str = ""
    username_cookie: str = ""
    password_cookie: str = ""
    token_cookie: str = ""
    no_auth_user: str = ""
    handshake_timeout_s: float = 2.0
    headers: tuple[tuple[str, str], ...] = ()  # added to the answer to an upgrade
    # An `authorization` block of its own.
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    auth_timeout_s: float | None = None  # None: the server's


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixListener:
    """`listen_unix`: a socket in the file system (shardd's own)."""

    path: str
    mode: int = 0o660
    # Peer credentials as identity: which configured user a process of this uid is, when its
    # CONNECT names none. -1 stands for every other uid.
    users: Mapping[int, str] = field(default_factory=dict)


# --- cluster (sheet 10; checked here, served by the router) -----------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The `cluster` block."""

    name: str = ""
    host: str = "0.0.0.0"
    port: int = 0  # 0: not listening; -1: any
    routes: tuple[str, ...] = field(default=(), repr=False)  # URLs, which may hold a password
    user: str = ""
    password: str = field(default="", repr=False)
    auth_timeout_s: float = 2.0
    permissions: Permissions | None = None
    tls: Tls | None = None
    advertise: str = ""
    no_advertise: bool = False
    connect_retries: int = 0
    connect_backoff: bool = False
    pool_size: int = 3
    accounts: tuple[str, ...] = ()  # with a route connection of their own
    compression: str = "accept"
    ping_interval_s: float | None = None
    ping_max: int | None = None
    write_deadline_s: float | None = None
    write_timeout: str = "default"
