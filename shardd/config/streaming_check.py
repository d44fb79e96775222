"""What has to hold of the options of a streaming pool before it may start (streaming sheet 11-15).

The texts are the original's where it has the check.
"""

from typing import Final

from shardd.config.streaming import ChannelLimits, StoreLimits, StreamingOptions
from shardd.errors import ConfigError
from shardd.limits import STREAMING_WORKERS_MAX

_LIMITS: Final = {
    "max_subs": "max subscriptions",
    "max_msgs": "max messages",
    "max_bytes": "max bytes",
    "max_age_s": "max age",
    "max_inactivity_s": "max inactivity",
}


def check_streaming(options: StreamingOptions) -> None:
    """Raises ConfigError, one line, for the first thing that cannot be."""
    _check_names(options)
    if not 1 <= options.workers <= STREAMING_WORKERS_MAX:
        raise ConfigError(
            f"streaming workers: {options.workers} is not between 1 and {STREAMING_WORKERS_MAX}"
        )
    if options.store == "FILE" and not options.directory:
        raise ConfigError("for FILE stores, root directory must be specified")
    if "\0" in options.directory:
        raise ConfigError("streaming dir: a path cannot hold a NUL byte")
    if options.store == "SQL" and not options.sql.source:
        raise ConfigError("for SQL stores, a source must be specified")
    _check_limits(options.limits)
    for key, seconds in (
        ("hb_interval", options.heartbeat_interval_s),
        ("hb_timeout", options.heartbeat_timeout_s),
    ):
        if not seconds > 0:
            raise ConfigError(f"streaming {key}: must be positive")
    if options.heartbeat_fail_count < 0:
        raise ConfigError("streaming hb_fail_count: cannot be negative")
    if options.ft_group and options.store not in ("FILE", "SQL"):
        raise ConfigError("ft: only FILE or SQL stores supported in FT mode")
    if options.partitioning and not options.limits.channels:
        raise ConfigError("stan: no configured channel")
    if options.dead_letter_channel:
        if not is_channel_name(options.dead_letter_channel, with_wildcards=False):
            raise ConfigError(f'invalid channel name "{options.dead_letter_channel}"')
        if not options.redeliveries_max:
            raise ConfigError("streaming dead_letter_channel: needs redeliveries_max")


def _check_names(options: StreamingOptions) -> None:
    """They become part of subjects."""
    for key, text in (
        ("cluster_id", options.cluster_id),
        ("discover_prefix", options.discover_prefix),
        ("ft_group", options.ft_group or "none"),
    ):
        if not is_channel_name(text, with_wildcards=False) or not text.isprintable() or " " in text:
            raise ConfigError(f'streaming {key}: "{text}" cannot be part of a subject')


def _check_limits(limits: StoreLimits) -> None:
    if limits.max_channels < 0:
        raise ConfigError(f"max channels limit cannot be negative ({limits.max_channels})")
    _check_defaults(limits.defaults)
    literal = 0
    for entry in limits.channels:
        if not is_channel_name(entry.pattern, with_wildcards=True):
            raise ConfigError(f'invalid channel name "{entry.pattern}"')
        literal += not any(token in ("*", ">") for token in entry.pattern.split("."))
    if limits.max_channels and literal > limits.max_channels:
        raise ConfigError(
            f"too many channels defined ({literal}). The max channels limit is set to"
            f" {limits.max_channels}"
        )


def _check_defaults(limits: ChannelLimits) -> None:
    for field, name in _LIMITS.items():
        value = getattr(limits, field)
        if value < 0:
            text = f"{value:g}s" if field.endswith("_s") else str(value)
            raise ConfigError(f"{name} limit cannot be negative ({text})")


def is_channel_name(name: str, *, with_wildcards: bool) -> bool:
    """Whether a channel, or a pattern of channels, may be called so (streaming sheet 4)."""
    tokens = name.split(".")
    if "" in tokens or "/" in name:
        return False
    if not with_wildcards:
        return "*" not in name and ">" not in name
    return all(
        (token in ("*", ">") or ("*" not in token and ">" not in token))
        and (token != ">" or index == len(tokens) - 1)
        for index, token in enumerate(tokens)
    )
