"""The `streaming` block of a configuration file, under all names that the original server's keys
have, and shardd's own.

A key that nobody knows is passed over with a warning, as the original passes it over; what would
change who reads or keeps messages, and is not served, is refused. A value of the wrong type is
refused in the original's words.
"""

import dataclasses
from collections.abc import Callable, Container, Mapping
from datetime import datetime
from typing import Any, Final

from shardd.config.reading import Notes, duration_of
from shardd.config.streaming import (
    ChannelEntry,
    ChannelLimits,
    FileOptions,
    NatsOptions,
    SqlOptions,
    StoreLimits,
    StreamingOptions,
)
from shardd.config.tree import Entry, Section
from shardd.errors import ConfigError

STORES: Final = ("MEMORY", "FILE", "SQL")
CIPHERS: Final = ("AES", "CHACHA")
# Go's names of the types, as the original's messages have them.
_KINDS: Final[Mapping[type, str]] = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "string",
    list: "slice",
    Section: "map",
    datetime: "struct",
}
# Settings of the original whose work is done in another way here, or is not needed.
_WITHOUT_EFFECT: Final = frozenset(
    "crc_poly buffer_size read_buffer_size file_read_buffer_size compact compact_enabled"
    " compact_fragmentation compact_frag compact_interval compact_min_size parallel_recovery"
    " no_caching max_open_conns max_conns bulk_insert_limit syslog_name".split()
)
# What would be missed, by key, and what it is called.
_NOT_SERVED: Final[Mapping[str, str]] = {
    "cluster": "clustering of streaming servers",
    "slice_archive_script": "archive scripts",
    "slice_archive": "archive scripts",
    "slice_script": "archive scripts",
}

Read = Callable[[Entry], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Key:
    """Where a key's value goes, and how it is read."""

    field: str
    read: Read


def streaming_of(entry: Entry, notes: Notes) -> StreamingOptions:
    """A `streaming` block. Raises ConfigError."""
    return options_of(_section_of(entry), notes)


def options_of(section: Section, notes: Notes) -> StreamingOptions:
    """What stands in a block, or at the top of a file that is for streaming alone."""
    fields: dict[str, Any] = {}
    nats: dict[str, Any] = {}
    _read(section, {**_keys(notes), **_own_keys()}, fields, notes, _nats_keys(nats, notes))
    if nats:
        fields["nats"] = NatsOptions(**nats)
    return settle(StreamingOptions(**fields), has_store="store" in fields)


def refuse_misplaced(section: Section, others: Container[str]) -> None:
    """Raises ConfigError for a setting of streaming among those of a server, without a `streaming`
    block: the original takes it there. `others` are the server's own settings."""
    known = {**_keys(Notes()), **_nats_keys({}, Notes()), **_NOT_SERVED}
    for entry in section:
        name = entry.key.lower()
        if name in known and name not in others and not entry.is_variable:
            raise entry.place.error(
                f'"{entry.key}" is a setting of streaming: put those into a block, streaming {{ }}'
            )


def _keys(notes: Notes) -> dict[str, _Key]:
    """The settings that are options of the pool, as the original has them."""

    def duration(inner: Entry) -> float:
        return duration_of(inner, notes)

    return {
        **_names("cluster_id id cid", "cluster_id", _text_of),
        **_names("discover_prefix", "discover_prefix", _text_of),
        **_names("store st store_type storetype", "store", _store_of),
        **_names("dir datastore", "directory", _text_of),
        **_names("encrypt", "encrypt", _boolean_of),
        **_names("encryption_cipher", "encryption_cipher", _cipher_of),
        **_names("encryption_key", "encryption_key", _text_of),
        **_names("hb_interval hbi server_to_client_hb_interval", "heartbeat_interval_s", duration),
        **_names("hb_timeout hbt server_to_client_hb_timeout", "heartbeat_timeout_s", duration),
        **_names(
            "hb_fail_count hbf server_to_client_hb_fail_count",
            "heartbeat_fail_count",
            _integer_of,
        ),
        **_names(
            "replace_durable replace_durables replace_duplicate_durable replace_duplicate_durables",
            "replace_durable",
            _boolean_of,
        ),
        **_names("partitioning", "partitioning", _boolean_of),
        **_names("ft_group ft_group_name", "ft_group", _text_of),
        **_names("sd stan_debug", "debug", _boolean_of),
        **_names("sv stan_trace", "trace", _boolean_of),
        **_names(
            "store_limits limits storelimits", "limits", lambda inner: _limits_of(inner, notes)
        ),
        **_names("file file_options", "file", lambda inner: _file_of(inner, notes)),
        **_names("sql sql_options", "sql", lambda inner: _sql_of(inner, notes)),
        **_names("io_batch_size", "io_batch_size", _count_of),
    }


def _own_keys() -> dict[str, _Key]:
    """Those that the original does not have."""
    return {
        **_names("workers", "workers", _integer_of),
        **_names("account", "account", _text_of),
        **_names("redeliveries_max", "redeliveries_max", _count_of),
        **_names("dead_letter_channel", "dead_letter_channel", _text_of),
        **_names("group_in_flight_max", "group_in_flight_max", _count_of),
        **_names("strict_subjects", "strict_subjects", _boolean_of),
        **_names("channel_permissions", "channel_permissions", _boolean_of),
        **_names("admin", "admin", _boolean_of),
    }


def settle(options: StreamingOptions, *, has_store: bool) -> StreamingOptions:
    """A directory without a store's kind means files, and a key means encryption."""
    if options.directory and not has_store:
        options = dataclasses.replace(options, store="FILE")
    if options.encryption_key:
        options = dataclasses.replace(options, encrypt=True)
    return options


def _names(names: str, field: str, read: Read) -> dict[str, _Key]:
    return dict.fromkeys(names.split(), _Key(field, read))


def _read(
    section: Section,
    keys: Mapping[str, _Key],
    fields: dict[str, Any],
    notes: Notes,
    more: Mapping[str, Callable[[Entry], None]] | None = None,
) -> None:
    """Puts each value where it belongs. `more` are keys that do that by themselves."""
    for entry in section:
        name = entry.key.lower()
        if name in keys:
            fields[keys[name].field] = keys[name].read(entry)
        elif more is not None and name in more:
            more[name](entry)
        elif name in _NOT_SERVED and entry.value.value not in (False, ""):
            raise entry.place.error(
                f"{entry.key}: this version of shardd does not serve {_NOT_SERVED[name]}"
            )
        elif name not in _WITHOUT_EFFECT and name not in _NOT_SERVED and not entry.is_variable:
            place = entry.place
            notes.warnings.append(
                f'{place.file}:{place.line}: streaming: unknown field "{entry.key}"'
            )


# --- blocks inside the block --------------------------------------------------------------------


def _nats_keys(nats: dict[str, Any], notes: Notes) -> dict[str, Callable[[Entry], None]]:
    """How the pool reaches NATS when it runs alone."""

    def put(field: str, read: Read) -> Callable[[Entry], None]:
        def reader(entry: Entry) -> None:
            nats[field] = read(entry)

        return reader

    def tls(entry: Entry) -> None:
        nats["tls_required"] = True
        keys = {
            **_names("client_cert", "tls_cert", _text_of),
            **_names("client_key", "tls_key", _text_of),
            **_names("client_ca client_cacert", "tls_ca", _text_of),
            **_names("server_name server_hostname", "tls_server_name", _text_of),
            **_names("insecure skip_verify", "tls_insecure", _boolean_of),
        }
        _read(_section_of(entry), keys, nats, notes)

    return {
        **dict.fromkeys(("nats_server_url", "ns", "nats_server"), put("urls", _urls_of)),
        "credentials": put("credentials_file", _text_of),
        **dict.fromkeys(("username", "user"), put("user", _text_of)),
        **dict.fromkeys(("password", "pass"), put("password", _text_of)),
        "token": put("token", _text_of),
        "nkey_seed_file": put("nkey_seed_file", _text_of),
        "secure": put("tls_required", _boolean_of),
        "tls": tls,
    }


def _limits_of(entry: Entry, notes: Notes) -> StoreLimits:
    """`store_limits`: those of all channels, and of some."""
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    keys = {
        **_names("max_channels mc maxchannels", "max_channels", _integer_of),
        **_names(
            "channels channels_limits channelslimits per_channel per_channel_limits",
            "channels",
            lambda inner: _channels_of(inner, notes),
        ),
    }
    channel_keys = _channel_keys(notes)
    for inner in _section_of(entry):
        name = inner.key.lower()
        if name in channel_keys:
            defaults[channel_keys[name].field] = channel_keys[name].read(inner)
        else:
            _read(Section(inner.place, {name: inner}), keys, fields, notes)
    return StoreLimits(defaults=ChannelLimits(**defaults), **fields)


def _channel_keys(notes: Notes) -> dict[str, _Key]:
    def duration(inner: Entry) -> float:
        return duration_of(inner, notes)

    return {
        **_names(
            "max_subs msu max_subscriptions maxsubscriptions maxsubs", "max_subs", _integer_of
        ),
        **_names("max_msgs mm maxmsgs max_count maxcount", "max_msgs", _integer_of),
        **_names("max_bytes mb maxbytes", "max_bytes", _integer_of),
        **_names("max_age ma maxage", "max_age_s", duration),
        **_names("max_inactivity mi maxinactivity", "max_inactivity_s", duration),
    }


def _channels_of(entry: Entry, notes: Notes) -> tuple[ChannelEntry, ...]:
    """Limits by channel or pattern. An explicit 0, or less, is no limit (streaming sheet 11)."""
    channels = []
    for each in _section_of(entry):
        if each.is_variable:
            continue
        found: dict[str, Any] = {}
        _read(_section_of(each), _channel_keys(notes), found, notes)
        channels.append(
            ChannelEntry(each.key, **{field: max(value, 0) for field, value in found.items()})
        )
    return tuple(channels)


def _file_of(entry: Entry, notes: Notes) -> FileOptions:
    fields: dict[str, Any] = {}

    def duration(inner: Entry) -> float:
        return duration_of(inner, notes)

    keys = {
        **_names("sync_on_flush sync do_sync", "sync", _boolean_of),
        **_names("auto_sync file_auto_sync", "auto_sync_s", duration),
        **_names("crc do_crc", "crc", _boolean_of),
        **_names(
            "slice_max_msgs slice_max_count slice_msgs slice_count", "segment_messages", _count_of
        ),
        **_names(
            "slice_max_bytes slice_max_size slice_bytes slice_size", "segment_bytes", _count_of
        ),
        **_names(
            "slice_max_age slice_age slice_max_time slice_time_limit", "segment_age_s", duration
        ),
        **_names("file_descriptors_limit fds_limit", "descriptors_max", _count_of),
        **_names("repair truncate_bad_eof", "repair", _boolean_of),
    }
    _read(_section_of(entry), keys, fields, notes)
    return FileOptions(**fields)


def _sql_of(entry: Entry, notes: Notes) -> SqlOptions:
    fields: dict[str, Any] = {}

    def driver(inner: Entry) -> None:
        check_driver(_text_of(inner), inner.place.error)

    keys = _names("source", "source", _text_of)
    _read(_section_of(entry), keys, fields, notes, {"driver": driver})
    return SqlOptions(**fields)


def check_driver(name: str, error: Callable[[str], ConfigError] = ConfigError) -> None:
    """Raises the error for a database that is not served."""
    if name.lower() not in ("postgres", "postgresql"):
        raise error(f'sql driver "{name}": this version of shardd serves postgres only')


# --- values -------------------------------------------------------------------------------------


def _value_of(entry: Entry, kind: type) -> Any:
    value = entry.value.value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = _KINDS.get(type(value), "struct")
        raise entry.place.error(
            f'parameter "{entry.key}" value is expected to be {_KINDS[kind]}, got {found}'
        )
    return value


def _text_of(entry: Entry) -> str:
    text: str = _value_of(entry, str)
    return text


def _integer_of(entry: Entry) -> int:
    number: int = _value_of(entry, int)
    return number


def _count_of(entry: Entry) -> int:
    number = _integer_of(entry)
    if number < 0:
        raise entry.place.error(f"{entry.key} cannot be negative ({number})")
    return number


def _boolean_of(entry: Entry) -> bool:
    value: bool = _value_of(entry, bool)
    return value


def _section_of(entry: Entry) -> Section:
    section: Section = _value_of(entry, Section)
    return section


def _store_of(entry: Entry) -> str:
    text = _text_of(entry).upper()
    if text not in STORES:
        raise entry.place.error(f"unsupported store type: {text}")
    return text


def _cipher_of(entry: Entry) -> str:
    return check_cipher(_text_of(entry), entry.place.error)


def check_cipher(name: str, error: Callable[[str], ConfigError] = ConfigError) -> str:
    """A cipher's name as it is used; "" for none. Raises the error for one that is not served."""
    if name and name.upper() not in CIPHERS:
        raise error("encryption cipher not supported")
    return name.upper()


def _urls_of(entry: Entry) -> tuple[str, ...]:
    return split_urls(_text_of(entry))


def split_urls(text: str) -> tuple[str, ...]:
    """The URLs of a list with commas."""
    return tuple(each.strip() for each in text.split(",") if each.strip())
