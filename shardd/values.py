"""How a setting's value is read from text: sizes, durations, booleans, addresses.

The units are nats-server's: `1k` is 1000 and `1kb` is 1024; a duration is Go's (`250ms`, `1h2m`),
and a number without a unit means seconds. Every function raises ValueError with a text that says
what was expected; the caller knows which key or flag it was and puts that in front.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

_INTEGER_BITS: Final = 63  # what nats-server keeps sizes and nanoseconds in
_INTEGER_MAX: Final = 2**_INTEGER_BITS - 1
_PORT_MAX: Final = 65_535
_NKEY_BYTES: Final = 35
_ROUTE_PORT: Final = 6222  # where clusters listen by custom

_SIZE = re.compile(r"(-?[0-9]{1,19})(?:([kmgtpe])(i?b?))?", re.IGNORECASE | re.ASCII)
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_SECONDS = re.compile(rf"[+-]?{_NUMBER}", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:{_NUMBER}(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(rf"({_NUMBER})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)
_UNIT_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_BOOLEANS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}


def parse_boolean(text: str) -> bool:
    """`true`, `yes`, `on` and their opposites, in any case."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f'"{text}" is not a boolean: use true or false') from None


def parse_size(text: str) -> int:
    """A count with an optional suffix: `k` is 1000; `kb`, `ki`, `kib` are 1024; also m g t p e."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a size: use a number like 4096, 64kb or 8mb')
    digits, prefix, binary = match.groups()
    value = int(digits)
    if prefix:
        value *= (1024 if binary else 1000) ** ("kmgtpe".index(prefix.lower()) + 1)
    if abs(value) > _INTEGER_MAX:
        raise ValueError(f'"{text}" is too large')
    return value


def parse_duration(text: str) -> float:
    """Seconds, from a duration (`250ms`, `2m`, `1h2m`, `1.5s`) or a plain number of seconds."""
    if _SECONDS.fullmatch(text):
        nanoseconds = float(text) * 1e9
    elif _DURATION.fullmatch(text):
        nanoseconds = 0.0
        for number, unit in _DURATION_PART.findall(text):
            nanoseconds += float(number) * _UNIT_NANOSECONDS[unit]
        if text.startswith("-"):
            nanoseconds = -nanoseconds
    else:
        raise ValueError(f'"{text}" is not a duration: use seconds, or units as in 250ms or 1h2m')
    if abs(nanoseconds) > _INTEGER_MAX:
        raise ValueError(f'"{text}" is too long')
    return nanoseconds / 1e9


def is_public_nkey(text: str, letter: str) -> bool:
    """Whether this is the text of a public key whose role has this letter: base32 of a prefix
    byte, 32 bytes of key and a CRC-16/XMODEM of both, little-endian."""
    try:
        raw = base64.b32decode(text)
    except ValueError:
        return False
    return (
        len(raw) == _NKEY_BYTES
        and text.startswith(letter)
        and raw[0] & 7 == 0
        and binascii.crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:], "little")
    )


def split_host_port(text: str, default_port: int) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.

    Port 0 and -1 stand for the default, as in nats-server.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f'"{text}" is not an address: use host:port or [v6]:port')
        port_text = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    else:  # a name, an IPv4 address, or an IPv6 address without brackets
        host, port_text = text, None
    if port_text is None:
        return host, default_port
    if not re.fullmatch(r"-1|[0-9]{1,5}", port_text, re.ASCII) or int(port_text) > _PORT_MAX:
        raise ValueError(f'"{text}" has no valid port')
    port = int(port_text)
    return host, port if port > 0 else default_port


@dataclass(frozen=True, slots=True)
class RouteUrl:
    """Where a server listens for routes, and who to be there."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Without credentials, for the log."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_route_url(text: str) -> RouteUrl:
    """`nats://user:password@host:port`, any scheme, or `host:port`. Raises ValueError."""
    parts = urlsplit(text if "://" in text else f"nats-route://{text}")
    if not parts.hostname or parts.path.strip("/"):
        raise ValueError("expected a URL with a host and a port: nats://host:6222")
    return RouteUrl(
        parts.hostname,
        parts.port or _ROUTE_PORT,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )
