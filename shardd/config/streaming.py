"""What the streaming pool is told by configuration and flags: frozen data (streaming sheet 11-13).

Limits are 0 for "no limit" here, whatever sign the file uses.
"""

from dataclasses import dataclass, field
from typing import Final

DISCOVER_PREFIX: Final = "_STAN.discover"
KEY_VARIABLE: Final = "NATS_STREAMING_ENCRYPTION_KEY"


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What holds for one channel."""

    max_subs: int = 1000
    max_msgs: int = 1_000_000
    max_bytes: int = 1_024_000_000
    max_age_s: float = 0.0
    max_inactivity_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ChannelEntry:
    """One entry of `store_limits { channels { } }`: None is inherited."""

    pattern: str
    max_subs: int | None = None
    max_msgs: int | None = None
    max_bytes: int | None = None
    max_age_s: float | None = None
    max_inactivity_s: float | None = None


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """`store_limits { }`."""

    max_channels: int = 100
    defaults: ChannelLimits = field(default_factory=ChannelLimits)
    channels: tuple[ChannelEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class FileOptions:
    """`file { }`: how the embedded store trades durability and space."""

    sync: bool = True  # on disk before a publisher is answered
    auto_sync_s: float = 60.0  # what waits for the disk for longer is synced; 0: never
    crc: bool = True  # check what is read; it is always written
    segment_bytes: int = 64 * 1_048_576
    segment_messages: int = 0
    segment_age_s: float = 0.0
    repair: bool = True  # cut a torn tail instead of refusing to start
    descriptors_max: int = 0  # 0: as many as the process may have


@dataclass(frozen=True, slots=True)
class SqlOptions:
    """`sql { }`: PostgreSQL."""

    source: str = field(default="", repr=False)  # may hold a password


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """How a pool that runs alone reaches NATS."""

    urls: tuple[str, ...] = ()
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    credentials_file: str = ""
    nkey_seed_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_server_name: str = ""
    tls_insecure: bool = False
    tls_required: bool = False


@dataclass(frozen=True, slots=True)
class StreamingOptions:
    """The whole of `streaming { }`."""

    cluster_id: str = "test-cluster"
    discover_prefix: str = DISCOVER_PREFIX
    workers: int = 1
    account: str = "$G"  # the account whose clients it serves, when it runs inside a host
    store: str = "MEMORY"  # MEMORY, FILE or SQL
    directory: str = ""
    encrypt: bool = False  # what is stored of payloads
    encryption_cipher: str = ""  # AES or CHACHA; "": what is fast on this machine
    encryption_key: str = field(default="", repr=False)  # the environment's wins
    limits: StoreLimits = field(default_factory=StoreLimits)
    heartbeat_interval_s: float = 30.0
    heartbeat_timeout_s: float = 10.0
    heartbeat_fail_count: int = 10
    replace_durable: bool = False
    partitioning: bool = False
    ft_group: str = ""  # servers with one store, of which one is active
    file: FileOptions = field(default_factory=FileOptions)
    sql: SqlOptions = field(default_factory=SqlOptions)
    nats: NatsOptions = field(default_factory=NatsOptions)
    io_batch_size: int = 1024
    debug: bool = False
    trace: bool = False
    # What users asked the original for in vain; off unless said (features, part B 2).
    redeliveries_max: int = 0  # then to the dead-letter channel
    dead_letter_channel: str = ""
    group_in_flight_max: int = 0  # for a queue group as a whole
    strict_subjects: bool = False  # refuse a publish whose channel is not its NATS subject
    # Rights on `_STAN.pub.<cluster>.<channel>` and `_STAN.sub.<cluster>.<channel>` count.
    channel_permissions: bool = False
    admin: bool = False  # take requests on `_STAN.admin.<cluster>`
