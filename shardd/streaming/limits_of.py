"""Which limits hold for a channel: `store_limits` with patterns and inheritance (sheet 11).

An entry takes what it does not say from the next wider entry that matches it, the widest one from
the defaults. A channel has the limits of the narrowest entry that matches it.
"""

from typing import Final

from shardd.config.streaming import ChannelEntry, ChannelLimits, StoreLimits
from shardd.errors import ConfigError
from shardd.streaming.subjects import is_channel

_FIELDS: Final = ("max_subs", "max_msgs", "max_bytes", "max_age_s", "max_inactivity_s")


class LimitsOf:
    """The limits of every channel.

    Raises:
        ConfigError: an entry that names no channel and no pattern, or more channels by name than
            there may be.
    """

    def __init__(self, limits: StoreLimits) -> None:
        _check(limits)
        self._defaults = limits.defaults
        # Widest first: what an entry inherits is resolved before it.
        self._entries: list[tuple[list[str], ChannelLimits]] = []
        for entry in sorted(limits.channels, key=_width, reverse=True):
            tokens = entry.pattern.split(".")
            inherited = self._narrowest(tokens)
            said = {name: getattr(entry, name) for name in _FIELDS}
            self._entries.append(
                (
                    tokens,
                    ChannelLimits(
                        **{
                            name: getattr(inherited, name) if value is None else max(value, 0)
                            for name, value in said.items()
                        }
                    ),
                )
            )

    def __call__(self, channel: bytes) -> ChannelLimits:
        """What holds for this channel."""
        return self._narrowest(channel.decode("utf-8", "surrogateescape").split("."))

    @property
    def entries(self) -> dict[str, ChannelLimits]:
        """What holds for each entry, with what it inherits."""
        return {".".join(tokens): limits for tokens, limits in self._entries}

    def _narrowest(self, tokens: list[str]) -> ChannelLimits:
        for pattern, limits in reversed(self._entries):
            if _covers(pattern, tokens):
                return limits
        return self._defaults


def _check(limits: StoreLimits) -> None:
    literal = 0
    for entry in limits.channels:
        tokens = entry.pattern.split(".")
        plain = ["x" if token in {"*", ">"} else token for token in tokens]
        if ">" in tokens[:-1] or not is_channel(".".join(plain).encode()):
            raise ConfigError(f'invalid channel name "{entry.pattern}"')
        literal += plain == tokens
    if 0 < limits.max_channels < literal:
        raise ConfigError(
            f"too many channels defined ({literal})."
            f" The max channels limit is set to {limits.max_channels}"
        )


def _width(entry: ChannelEntry) -> list[int]:
    """Sorts narrow before wide: token by token a word, `*`, `>`."""
    ranks = {"*": 1, ">": 2}
    return [ranks.get(token, 0) for token in entry.pattern.split(".")]


def _covers(pattern: list[str], tokens: list[str]) -> bool:
    """Whether the pattern matches the channel, or all that the other pattern matches."""
    for place, sign in enumerate(pattern):
        if sign == ">":
            return place < len(tokens)
        if place >= len(tokens) or tokens[place] == ">":
            return False
        if sign not in {"*", tokens[place]}:
            return False
    return len(pattern) == len(tokens)
