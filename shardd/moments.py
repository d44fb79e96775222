"""Times and durations as nats-server's monitoring writes them; tools parse these texts.

A time is RFC 3339 with nanoseconds, a round trip is a Go duration (`1.2ms`), and how long something
has been up or idle is in whole seconds (`1y2d3h4m5s`), without leading zeros.
"""

from datetime import UTC, datetime
from typing import Final

_UPTIME_UNITS: Final = (
    ("y", 365 * 86_400),
    ("d", 86_400),
    ("h", 3600),
    ("m", 60),
    ("s", 1),
)


def time_text(nanoseconds: int) -> str:
    """A moment, from nanoseconds since 1970: `2026-01-02T03:04:05.678Z`."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


def duration_text(nanoseconds: int) -> str:
    """A duration that is not negative, as Go writes it: `0s`, `250µs`, `1.2ms`, `1h0m1.5s`."""
    if nanoseconds < 1000:
        return f"{nanoseconds}ns" if nanoseconds else "0s"
    if nanoseconds < 1_000_000:
        return f"{_decimal(nanoseconds, 1000)}\u00b5s"
    if nanoseconds < 1_000_000_000:
        return f"{_decimal(nanoseconds, 1_000_000)}ms"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{text}{_decimal(rest, 1_000_000_000)}s"


def uptime_text(seconds: float) -> str:
    """How long something has lasted, in whole seconds: `4s`, `1m0s`, `1d0h0m5s`."""
    left = max(int(seconds), 0)
    text = ""
    for unit, length in _UPTIME_UNITS:
        count, left = divmod(left, length)
        if count or text or unit == "s":
            text += f"{count}{unit}"
    return text


def _decimal(number: int, unit: int) -> str:
    """A number of units, without zeros at its end."""
    whole, rest = divmod(number, unit)
    digits = len(str(unit)) - 1
    fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
    return f"{whole}{fraction}"
