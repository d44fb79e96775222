"""The flags of `shardd start`: nats-server's, in every spelling that Go's flag package allows.

One or two dashes, `-flag value` and `-flag=value`, booleans without a value or as `-D=false`, and
parsing that stops at the first word that is no flag. `normalise` turns all of that into one
spelling, `--name=value`, which an ordinary option parser understands; it has no other effect.
What each flag is called, takes and means is in the tables; the usage text is made from them.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shardd.errors import ConfigError, ShardError
from shardd.values import parse_duration, parse_size

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_ASKING: Final = ("help", "version")  # flags that ask for a text instead of a start

# Go's spellings; an upper-case YES is none.
_BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
_INTEGER: Final = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|[0-9](?:_?[0-9])*)",
    re.ASCII,
)


class FlagError(ShardError):
    """A flag that cannot be read: as nats-server does, this and the usage are printed, code 0."""


class Kind(enum.Enum):
    """What a flag takes."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    TEXT = "text"
    SIZE = "size"  # 1024, 64MB
    DURATION = "duration"  # 30s, 1h30m


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. The first name is the canonical one, without dashes, as are all."""

    names: tuple[str, ...]
    kind: Kind
    text: str
    argument: str = ""
    # Options that a flag stands for when it is none of its own: -DV is --debug and --trace.
    stands_for: tuple[str, ...] = ()


# Flags of the original streaming server for what is done in another way, or not at all, here.
_NO_EFFECT: Final = "Accepted for the original's sake"
WITHOUT_EFFECT: Final = (
    *("file_crc_poly", "file_buffer_size", "file_read_buffer_size"),
    *("file_compact_frag", "file_compact_interval", "file_compact_min_size"),
    *("file_parallel_recovery", "sql_max_open_conns", "sql_bulk_insert_limit"),
    *("io_sleep_time", "syslog_name"),
)
SWITCHES_WITHOUT_EFFECT: Final = ("file_compact_enabled", "sql_no_caching")

SERVED: Final[Mapping[str, tuple[Flag, ...]]] = {
    "Server Options": (
        Flag(("addr", "a", "net"), Kind.TEXT, "Bind to this address (default: 0.0.0.0)", "host"),
        Flag(("port", "p"), Kind.INTEGER, "Port for clients (default: 4222, -1: any)", "port"),
        Flag(("name", "n", "server_name"), Kind.TEXT, "Server name (default: its id)", "name"),
        Flag(("pid", "P"), Kind.TEXT, "File to write the process id to", "file"),
        Flag(("client_advertise",), Kind.TEXT, "Address to tell clients", "host[:port]"),
        Flag(("ports_file_dir",), Kind.TEXT, "Directory for a file with the ports in use", "dir"),
        Flag(("config", "c"), Kind.TEXT, "Configuration file", "file"),
        Flag(("t",), Kind.BOOLEAN, "Test the configuration and exit"),
        Flag(("signal", "sl"), Kind.TEXT, "Signal a server: stop, quit, reload, ldm ...", "signal"),
        Flag(("http_port", "m"), Kind.INTEGER, "Port for monitoring over HTTP (-1: any)", "port"),
        Flag(("https_port", "ms"), Kind.INTEGER, "The same over HTTPS", "port"),
        Flag(("workers",), Kind.INTEGER, "Worker processes (default: one per core)", "count"),
        Flag(("pin",), Kind.BOOLEAN, "Pin each worker to a core (default: false)"),
        Flag(("set",), Kind.TEXT, "One setting under its configuration name", "key=value"),
    ),
    "Logging Options": (
        Flag(("log", "l"), Kind.TEXT, "File to log to (default: standard error)", "file"),
        Flag(("logtime", "T"), Kind.BOOLEAN, "Put the time on log lines (default: true)"),
        Flag(("logtime_utc",), Kind.BOOLEAN, "Log times in UTC (default: false)"),
        Flag(("syslog", "s"), Kind.BOOLEAN, "Log to syslog"),
        Flag(("remote_syslog", "r"), Kind.TEXT, "Log to a syslog elsewhere", "udp://host:514"),
        Flag(("log_size_limit",), Kind.INTEGER, "Rotate the file from this size on", "bytes"),
        Flag(("debug", "D"), Kind.BOOLEAN, "Log what developers want to know"),
        Flag(("trace", "V"), Kind.BOOLEAN, "Log the protocol itself"),
        Flag(("VV",), Kind.BOOLEAN, "The same as -V", stands_for=("trace",)),
        Flag(("DV",), Kind.BOOLEAN, "Debug and trace", stands_for=("debug", "trace")),
        Flag(("DVV",), Kind.BOOLEAN, "The same as -DV", stands_for=("debug", "trace")),
    ),
    "Authorization Options": (
        Flag(("user",), Kind.TEXT, "User required for connections", "user"),
        Flag(("pass",), Kind.TEXT, "Password required for connections", "password"),
        Flag(("auth",), Kind.TEXT, "Authorization token required for connections", "token"),
    ),
    "TLS Options": (
        Flag(("tls",), Kind.BOOLEAN, "Enable TLS, do not verify clients (default: false)"),
        Flag(("tlscert",), Kind.TEXT, "Server certificate file", "file"),
        Flag(("tlskey",), Kind.TEXT, "Private key for the server certificate", "file"),
        Flag(("tlsverify",), Kind.BOOLEAN, "Enable TLS, verify client certificates"),
        Flag(("tlscacert",), Kind.TEXT, "Client certificate authority for verification", "file"),
    ),
    "Cluster Options": (
        Flag(("routes",), Kind.TEXT, "Servers to connect to, separated by commas", "url,..."),
        Flag(("cluster",), Kind.TEXT, "Where to listen for other servers", "url"),
        Flag(("cluster_listen",), Kind.TEXT, "The same as --cluster", "url"),
        Flag(("cluster_name",), Kind.TEXT, "Cluster name (default: one is chosen)", "name"),
        Flag(("no_advertise",), Kind.BOOLEAN, "Tell clients nothing of the cluster"),
        Flag(("cluster_advertise",), Kind.TEXT, "Address to tell other servers", "host:port"),
        Flag(("connect_retries",), Kind.INTEGER, "Tries to reach a server learned of", "count"),
    ),
    "Streaming Server Options": (
        Flag(
            ("streaming",),
            Kind.INTEGER,
            "Streaming workers (default: 1 with a flag below)",
            "count",
        ),
        Flag(("cluster_id", "cid"), Kind.TEXT, "Cluster ID (default: test-cluster)", "id"),
        Flag(("store", "st"), Kind.TEXT, "MEMORY, FILE or SQL (default: MEMORY)", "kind"),
        Flag(("dir",), Kind.TEXT, "Directory of a FILE store", "dir"),
        Flag(("stan_config", "sc"), Kind.TEXT, "Streaming configuration file", "file"),
        Flag(("nats_server", "ns", "nats"), Kind.TEXT, "Run alone, with these servers", "url,..."),
        Flag(("max_channels", "mc"), Kind.INTEGER, "Channels (default: 100, 0: no limit)", "count"),
        Flag(
            ("max_subs", "msu"), Kind.INTEGER, "Subscriptions of a channel (default: 1000)", "count"
        ),
        Flag(("max_msgs", "mm"), Kind.INTEGER, "Messages of a channel (default: 1000000)", "count"),
        Flag(("max_bytes", "mb"), Kind.SIZE, "Bytes of a channel (default: 1024000000)", "size"),
        Flag(("max_age", "ma"), Kind.DURATION, "Age of messages (default: no limit)", "duration"),
        Flag(("max_inactivity", "mi"), Kind.DURATION, "Unused channels go after this", "duration"),
        Flag(
            ("hb_interval", "hbi"), Kind.DURATION, "Between heartbeats (default: 30s)", "duration"
        ),
        Flag(("hb_timeout", "hbt"), Kind.DURATION, "For an answer (default: 10s)", "duration"),
        Flag(("hb_fail_count", "hbf"), Kind.INTEGER, "Missed until closed (default: 10)", "count"),
        Flag(
            ("ft_group",), Kind.TEXT, "Of the servers with this name and store one serves", "name"
        ),
        Flag(("replace_durable",), Kind.BOOLEAN, "A second durable takes over (default: false)"),
        Flag(("stan_debug", "SD"), Kind.BOOLEAN, "Log what developers want to know of streaming"),
        Flag(("stan_trace", "SV"), Kind.BOOLEAN, "Log requests and messages of streaming"),
        Flag(("SDV",), Kind.BOOLEAN, "Both", stands_for=("stan_debug", "stan_trace")),
        Flag(("io_batch_size",), Kind.INTEGER, "Messages of one commit (default: 1024)", "count"),
        Flag(("file_sync",), Kind.BOOLEAN, "On disk before the answer (default: true)"),
        Flag(("file_auto_sync",), Kind.DURATION, "What waits is synced (default: 60s)", "duration"),
        Flag(("file_crc",), Kind.BOOLEAN, "Check what is read (default: true)"),
        Flag(("file_slice_max_msgs",), Kind.INTEGER, "Messages of a segment", "count"),
        Flag(("file_slice_max_bytes",), Kind.SIZE, "Bytes of a segment (default: 64MB)", "size"),
        Flag(("file_slice_max_age",), Kind.DURATION, "Age of a segment", "duration"),
        Flag(("file_fds_limit",), Kind.INTEGER, "Open files (default: no limit)", "count"),
        Flag(("file_truncate_bad_eof",), Kind.BOOLEAN, "Cut a torn tail (default: true)"),
        Flag(("encrypt",), Kind.BOOLEAN, "Store payloads encrypted (default: false)"),
        Flag(("encryption_cipher",), Kind.TEXT, "AES or CHACHA (default: what is fast)", "name"),
        Flag(
            ("encryption_key",),
            Kind.TEXT,
            "Better in the environment, as NATS_STREAMING_ENCRYPTION_KEY",
            "key",
        ),
        Flag(("sql_driver",), Kind.TEXT, "postgres", "name"),
        Flag(("sql_source",), Kind.TEXT, "Where the database is", "url"),
        Flag(("secure",), Kind.BOOLEAN, "TLS to the servers of --nats"),
        Flag(("tls_client_cert",), Kind.TEXT, "Certificate for them", "file"),
        Flag(("tls_client_key",), Kind.TEXT, "Its private key", "file"),
        Flag(("tls_client_cacert",), Kind.TEXT, "Authority that they are verified by", "file"),
    ),
    "Streaming Server Options Without Effect": (
        *(Flag((name,), Kind.TEXT, _NO_EFFECT, "value") for name in WITHOUT_EFFECT),
        *(Flag((name,), Kind.BOOLEAN, _NO_EFFECT) for name in SWITCHES_WITHOUT_EFFECT),
    ),
    "Common Options": (
        Flag(("help", "h", "help_tls"), Kind.BOOLEAN, "Show this text"),
        Flag(("version", "v"), Kind.BOOLEAN, "Show the version"),
    ),
}

# nats-server's flags that this version takes and does not serve, as it does the same settings of a
# file: one warning each at start. The text says what they would be for.
NOT_SERVED: Final = (
    Flag(("max_traced_msg_len",), Kind.INTEGER, "shortened traces"),
    Flag(("jetstream", "js"), Kind.BOOLEAN, "JetStream"),
    Flag(("store_dir", "sd"), Kind.TEXT, "JetStream"),
    Flag(("profile",), Kind.INTEGER, "profiling over HTTP"),
)

# The original streaming server's flags that are refused, as the same settings of a file are:
# whoever gives them relies on them.
REFUSED: Final = (
    Flag(("file_slice_archive_script",), Kind.TEXT, "archive scripts"),
    Flag(("clustered",), Kind.BOOLEAN, "clustering of streaming servers"),
    *(
        Flag((f"cluster_{name}",), Kind.BOOLEAN, "clustering of streaming servers")
        for name in (
            *("bootstrap", "sync", "raft_logging", "proceed_on_restore_failure"),
            "allow_add_remove_node",
        )
    ),
    *(
        Flag((f"cluster_{name}",), Kind.TEXT, "clustering of streaming servers")
        for name in (
            *("node_id", "peers", "log_path", "log_cache_size", "log_snapshots"),
            "trailing_logs",
        )
    ),
)

_FLAGS: Final[Mapping[str, Flag]] = {
    name: flag
    for flags in (*SERVED.values(), NOT_SERVED, REFUSED)
    for flag in flags
    for name in flag.names
}


def normalise(argv: Sequence[str]) -> list[str]:
    """The same command line as `--name=value` words only, in the order given.

    Asked for help or the version, it is `--help` or `--version` alone. Raises FlagError for what
    cannot be read, ConfigError for a word that is no flag, or for one that is refused. A
    flag that is not served becomes `--not_served=` and what to say of it.
    """
    given, rest = _read(argv)
    wanted = {flag.names[0]: value == "true" for flag, _, value in given}
    asked = [name for name in ("version", "help") if wanted.get(name)]
    if not asked and rest:  # nats-server takes these two as words also
        asked = [name for name in ("version", "help") if rest[0].lower() == name]
    if asked:
        return [f"--{asked[0]}"]
    if rest:
        raise ConfigError(f'unrecognized command: "{rest[0]}"')
    words: list[str] = []
    for flag, spelling, value in given:
        is_switched_off = flag.kind is Kind.BOOLEAN and value == "false"
        if flag in REFUSED:
            if not is_switched_off and value:
                raise ConfigError(
                    f"--{spelling}: this version of shardd does not serve {flag.text}"
                )
        elif flag in NOT_SERVED:
            if not is_switched_off and (flag.kind is not Kind.INTEGER or value != "0"):
                words.append(f"--not_served={spelling} ({flag.text})")
        elif flag.stands_for:
            if not is_switched_off:
                words += [f"--{option}=true" for option in flag.stands_for]
        elif flag.names[0] not in _ASKING:
            words.append(f"--{flag.names[0]}={value}")
    return words


def _read(argv: Sequence[str]) -> tuple[list[tuple[Flag, str, str]], Sequence[str]]:
    """The flags with their spelling and canonical value, and the words from the first non-flag."""
    given: list[tuple[Flag, str, str]] = []
    index = 0
    while index < len(argv):
        word = argv[index]
        if len(word) < 2 or not word.startswith("-"):
            break
        index += 1
        if word == "--":
            break
        name, value = _split(word)
        flag = _FLAGS.get(name)
        if flag is None:
            raise FlagError(f"flag provided but not defined: -{name}")
        if value is None and flag.kind is Kind.BOOLEAN:
            value = "true"
        elif value is None:
            if index == len(argv):
                raise FlagError(f"flag needs an argument: -{name}")
            value = argv[index]
            index += 1
        given.append((flag, word.partition("=")[0], _canonical_value(flag, name, value)))
    return given, argv[index:]


def usage() -> str:
    """What `shardd start --help` prints."""
    lines = ["", "Usage: shardd start [options]", ""]
    for section, flags in SERVED.items():
        lines.append(f"{section}:")
        lines += [f"    {_spellings(flag):<32} {flag.text}" for flag in flags]
        lines.append("")
    return "\n".join(lines)


def _split(word: str) -> tuple[str, str | None]:
    """A flag's name, and its value if it stands in the same word."""
    name, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
    if not name or name.startswith("-"):
        raise FlagError(f"bad flag syntax: {word}")
    return name, value if equals else None


def _canonical_value(flag: Flag, name: str, value: str) -> str:
    if flag.kind is Kind.BOOLEAN:
        if value not in _BOOLEANS:
            raise FlagError(f'invalid boolean value "{value}" for -{name}: parse error')
        return "true" if _BOOLEANS[value] else "false"
    if flag.kind is Kind.INTEGER:
        return str(_integer(name, value))
    try:
        if flag.kind is Kind.SIZE:
            return str(parse_size(value))
        if flag.kind is Kind.DURATION:
            parse_duration(value)
    except ValueError:
        raise FlagError(f'invalid value "{value}" for flag -{name}: parse error') from None
    return value


def _integer(name: str, value: str) -> int:
    """An integer as Go reads it: 0x, 0o, 0b and plain 0 for octal, underscores between digits."""
    if not _INTEGER.fullmatch(value):
        raise FlagError(f'invalid value "{value}" for flag -{name}: parse error')
    digits = value.lstrip("+-").lower()
    is_octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567_"
    try:
        number = int(digits.replace("_", ""), 8 if is_octal else 0)
    except ValueError:  # 08, or more digits than Python converts
        raise FlagError(f'invalid value "{value}" for flag -{name}: parse error') from None
    if value.startswith("-"):
        number = -number
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise FlagError(f'invalid value "{value}" for flag -{name}: value out of range')
    return number


def _spellings(flag: Flag) -> str:
    """`-p, --port <port>`: the short name first."""
    names = sorted(flag.names, key=lambda name: len(name) > 1)
    dashed = ", ".join(
        f"-{name}" if len(name) == 1 or name.isupper() else f"--{name}" for name in names
    )
    return f"{dashed} <{flag.argument}>" if flag.argument else dashed
