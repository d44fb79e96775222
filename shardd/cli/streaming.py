"""`shardd streaming`, and the streaming flags of `shardd start`: from flags to `StreamingOptions`.

Any of these flags turns streaming on, as the original server's program does. What a flag says holds
over what a file says; with `-sc` a file of streaming's own is read.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Final

from shardd.cli.flags import SERVED
from shardd.config.load import has_streaming_block, load_streaming_file
from shardd.config.streaming import KEY_VARIABLE, StreamingOptions
from shardd.config.streaming_block import STORES, check_cipher, check_driver, split_urls
from shardd.errors import ConfigError
from shardd.values import parse_duration

_DURATION: Final = parse_duration
# Which field each flag sets, by the part of the options that it stands in.
_TOP: Final = {
    "streaming": "workers",
    "cluster_id": "cluster_id",
    "dir": "directory",
    "hb_fail_count": "heartbeat_fail_count",
    "replace_durable": "replace_durable",
    "ft_group": "ft_group",
    "stan_debug": "debug",
    "stan_trace": "trace",
    "io_batch_size": "io_batch_size",
    "encrypt": "encrypt",
}
_TOP_DURATIONS: Final = {
    "hb_interval": "heartbeat_interval_s",
    "hb_timeout": "heartbeat_timeout_s",
}
_LIMITS: Final = {"max_subs": "max_subs", "max_msgs": "max_msgs", "max_bytes": "max_bytes"}
_LIMIT_DURATIONS: Final = {"max_age": "max_age_s", "max_inactivity": "max_inactivity_s"}
_FILE: Final = {
    "file_sync": "sync",
    "file_crc": "crc",
    "file_slice_max_msgs": "segment_messages",
    "file_slice_max_bytes": "segment_bytes",
    "file_fds_limit": "descriptors_max",
    "file_truncate_bad_eof": "repair",
}
_FILE_DURATIONS: Final = {
    "file_auto_sync": "auto_sync_s",
    "file_slice_max_age": "segment_age_s",
}
_NATS: Final = {
    "secure": "tls_required",
    "tls_client_cert": "tls_cert",
    "tls_client_key": "tls_key",
    "tls_client_cacert": "tls_ca",
}

KEY_WARNING: Final = (
    "--encryption_key: everybody on this machine can see the key among the processes: give it in"
    f" {KEY_VARIABLE}"
)

NAMES: Final = frozenset(
    name
    for section, flags in SERVED.items()
    if section.startswith("Streaming")
    for flag in flags
    for name in (flag.names[0], *flag.stands_for)
)


def with_flags(
    options: Mapping[str, Any], configured: StreamingOptions | None
) -> tuple[StreamingOptions | None, tuple[str, ...]]:
    """The streaming pool by flags, over what the configuration file says of it, and warnings.
    None: there is to be none.

    Raises:
        ConfigError: a value that cannot be, or a file that cannot be read.
    """
    given = {name: options[name] for name in NAMES if options.get(name) is not None}
    if given.get("streaming") == 0:
        return None, ()
    if not given:
        return configured, ()
    warnings: tuple[str, ...] = ()
    base = configured or StreamingOptions()
    if given.get("stan_config"):
        base, warnings = load_streaming_file(given["stan_config"])
    fields = _pick(given, _TOP) | _pick(given, _TOP_DURATIONS, is_duration=True)
    if "store" in given:
        fields["store"] = _store_of(given["store"])
    elif fields.get("directory") and base.store == "MEMORY":
        fields["store"] = "FILE"
    if "sql_driver" in given:
        check_driver(given["sql_driver"])
    if "sql_source" in given:
        fields["sql"] = dataclasses.replace(base.sql, source=given["sql_source"])
    fields |= _encryption_fields(given)
    if fields.get("encryption_key"):
        warnings = (*warnings, KEY_WARNING)
    limits = _pick(given, _LIMITS) | _pick(given, _LIMIT_DURATIONS, is_duration=True)
    file = _pick(given, _FILE) | _pick(given, _FILE_DURATIONS, is_duration=True)
    fields["limits"] = dataclasses.replace(
        base.limits,
        defaults=dataclasses.replace(base.limits.defaults, **limits),
        **_pick(given, {"max_channels": "max_channels"}),
    )
    fields["file"] = dataclasses.replace(base.file, **file)
    fields["nats"] = dataclasses.replace(base.nats, **_nats_fields(given, options, base))
    return dataclasses.replace(base, **fields), warnings


def _encryption_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """A key means encryption, as in the original."""
    fields: dict[str, Any] = {}
    if "encryption_cipher" in given:
        fields["encryption_cipher"] = check_cipher(given["encryption_cipher"])
    if given.get("encryption_key"):
        fields |= {"encryption_key": given["encryption_key"], "encrypt": True}
    return fields


def check_key(options: StreamingOptions | None) -> None:
    """Raises ConfigError if payloads are to be encrypted and there is no key for that: before
    anything is started, and not where a file is only checked."""
    if options is None or not options.encrypt:
        return
    if not (os.environ.get(KEY_VARIABLE) or options.encryption_key):
        raise ConfigError(f"encryption key required: give it in {KEY_VARIABLE}")


def shared_file(options: Mapping[str, Any]) -> str | None:
    """The streaming file, if it is the server's as well: the only file, with a `streaming` block
    among the server's own settings (streaming sheet 12). Raises ConfigError."""
    file = options.get("stan_config")
    return file if file and has_streaming_block(file) else None


def _nats_fields(
    given: Mapping[str, Any], options: Mapping[str, Any], base: StreamingOptions
) -> dict[str, Any]:
    """How NATS is reached. The flags of a server's own user name the pool's user as well, as in
    the original, where there are servers elsewhere."""
    fields = _pick(given, _NATS)
    if "nats_server" in given:
        fields["urls"] = split_urls(given["nats_server"])
        if not fields["urls"]:
            raise ConfigError("--nats_server: names no server")
    if fields.get("urls") or base.nats.urls:
        names = {"user": "user", "pass": "password", "auth": "token"}
        fields |= {
            field: options[flag] for flag, field in names.items() if options.get(flag) is not None
        }
        if any(fields.get(name) for name in ("tls_cert", "tls_key", "tls_ca")):
            fields.setdefault("tls_required", True)
    return fields


def _pick(
    given: Mapping[str, Any], names: Mapping[str, str], *, is_duration: bool = False
) -> dict[str, Any]:
    return {
        field: _DURATION(given[flag]) if is_duration else given[flag]
        for flag, field in names.items()
        if flag in given
    }


def _store_of(text: str) -> str:
    if text.upper() not in STORES:
        raise ConfigError(f"unsupported store type: {text.upper()}")
    return text.upper()
