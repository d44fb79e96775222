"""`shardd server check`: whether a server does well, as one line and an exit code for probes.

The codes are those that monitoring systems know: 0 good, 1 warning, 2 critical, 3 unknown, which
is that it could not be found out.
"""

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from shardd.cli.watching import Watched, options
from shardd.errors import ConfigError, ShardError, printable


class Level(enum.IntEnum):
    """How bad it is; the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Bound:
    """Two thresholds of one number; None: any number is good."""

    name: str
    unit: str
    warning: float | None
    critical: float | None

    def level(self, value: float) -> Level:
        """Of a value."""
        if self.critical is not None and value >= self.critical:
            return Level.CRITICAL
        if self.warning is not None and value >= self.warning:
            return Level.WARNING
        return Level.OK


_NUMBERS: Final = {
    "cpu": ("cpu", "%"),
    "mem": ("mem", ""),
    "connections": ("connections", ""),
    "subscriptions": ("subscriptions", ""),
    "slow_consumers": ("slow_consumers", ""),
}


def judge(
    varz: dict[str, Any], health: dict[str, Any], bounds: Sequence[Bound]
) -> tuple[Level, str]:
    """The worst of what there is to say, and the line that says it.

    Args:
        varz, health: the documents.
        bounds: of the numbers that are looked at.
    """
    if health.get("status") != "ok":
        return Level.CRITICAL, f"CRITICAL {varz['server_name']}: {health.get('error', 'not ready')}"
    levels = [(bound, bound.level(varz[bound.name])) for bound in bounds]
    worst = max((level for _, level in levels), default=Level.OK)
    text = f"{worst.name} {varz['server_name']}"
    bad = [
        f"{b.name} is {varz[b.name]:.12g}{b.unit}" for b, level in levels if level is not Level.OK
    ]
    if bad:
        text += ": " + ", ".join(bad)
    values = [
        f"{b.name}={varz[b.name]:.12g}{b.unit};{_shown(b.warning)};{_shown(b.critical)}"
        for b in bounds
    ]
    return worst, f"{text} | {' '.join(values)}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.12g}"


def _bounds(warnings: Sequence[str], criticals: Sequence[str]) -> list[Bound]:
    """From `NAME=NUMBER`. Raises ConfigError."""
    found: dict[str, list[float | None]] = {name: [None, None] for name in _NUMBERS}
    for place, texts in enumerate((warnings, criticals)):
        for text in texts:
            name, _, number = text.partition("=")
            if name not in found:
                raise ConfigError(f"no such number: {name}; there are {', '.join(_NUMBERS)}")
            try:
                found[name][place] = float(number)
            except ValueError:
                raise ConfigError(f"{text}: not a number") from None
    return [Bound(name, _NUMBERS[name][1], *pair) for name, pair in found.items()]


class _Probe(click.Command):
    """Options that cannot be read say nothing of the server: unknown, and not the shell's 1."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """The context, or the end of the command."""
        try:
            return super().make_context(*args, **more)
        except click.UsageError as error:
            click.echo(f"UNKNOWN {printable(error.format_message())}")
            raise click.exceptions.Exit(Level.UNKNOWN) from None


@click.group("server", short_help="Look at a running server.")
def group() -> None:
    """Look at a running server."""


@group.command(
    "check",
    cls=_Probe,
    short_help="Exit codes for probes: 0 good, 1 warning, 2 critical, 3 unknown.",
)
@click.option("--warn", "warnings", multiple=True, metavar="NAME=NUMBER", help="From here on: 1.")
@click.option("--crit", "criticals", multiple=True, metavar="NAME=NUMBER", help="From here on: 2.")
@click.option(
    "--json", "is_json", is_flag=True, help="The documents it was judged by, and the level."
)
@options
def check(
    warnings: tuple[str, ...],
    criticals: tuple[str, ...],
    is_json: bool,
    url: str,
    timeout_s: float,
    cacert: str,
) -> int:
    """Check a server by its monitoring, and exit with 0, 1, 2 or 3 (good, warning, critical,
    unknown). Numbers: cpu (percent of one core), mem (bytes), connections, subscriptions,
    slow_consumers."""
    try:
        bounds = _bounds(warnings, criticals)
        watched = Watched(url, timeout_s, cacert)
        health, varz = watched.document("healthz"), watched.document("varz")
        level, text = judge(varz, health, bounds)
    except (ShardError, OSError, KeyError, TypeError) as error:
        level, text, health, varz = Level.UNKNOWN, f"UNKNOWN {error}", {}, {}
    if is_json:
        found = {"level": level.name, "text": text, "healthz": health, "varz": varz}
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(printable(text))
    return int(level)
