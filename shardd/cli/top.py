"""`shardd top`: a server in a terminal, live: rates, processes, routes, connections.

It reads what the page at `/` reads. rich draws; without a terminal, or with `--once`, it prints
what there is and ends, `--json` for scripts. Keys: `s` sorts by the next column, space holds the
picture, `q` ends.
"""

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from shardd.cli.watching import UnreachableError, Watched, change, options
from shardd.errors import ExitCode, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

# What connections can be sorted by, as `/connz` has it.
SORTS: Final = (
    *("msgs_from", "msgs_to", "bytes_from", "bytes_to", "subs", "pending"),
    *("rtt", "idle", "uptime", "last", "start", "cid"),
)
_SERVER_RATES: Final = ("in_msgs", "out_msgs", "in_bytes", "out_bytes")
_PROCESS_RATES: Final = ("messages_in", "messages_out", "bytes_in", "bytes_out", "loop_late_us")

Document = dict[str, Any]


class Looker:
    """Looks again and again, and knows what has changed since.

    Args:
        watched: the server.
        limit: of connections.
    """

    def __init__(self, watched: Watched, limit: int) -> None:
        self._watched = watched
        self._limit = limit
        self._before: Document | None = None

    def look(self, sort: str) -> Document:
        """The server now, with rates in each second since the last look; 0 at the first. Raises
        UnreachableError."""
        read = self._watched.document
        now: Document = {
            "varz": read("varz"),
            "health": read("healthz"),
            "processes": read("processz")["processes"],
            "routes": read("routez")["routes"],
        }
        connz = read(f"connz?auth=1&limit={self._limit}&sort={sort}")
        now["connections"], now["connections_total"] = connz["connections"], connz["total"]
        add_rates(now, self._before)
        self._before = now
        return now


def add_rates(now: Document, before: Document | None) -> None:
    """Adds `rates` to the server, its processes and its connections."""
    varz, old = now["varz"], before["varz"] if before else None
    seconds = _seconds(varz["now"]) - _seconds(old["now"]) if old else 0.0
    if old and old["server_id"] != varz["server_id"]:
        before = old = None  # it was started again
    varz["rates"] = {name: change(varz, old, name, seconds) for name in _SERVER_RATES}
    for rows, key, names in (
        ("processes", "pid", _PROCESS_RATES),
        ("connections", "cid", _SERVER_RATES),
    ):
        known = {row[key]: row for row in before[rows]} if before else {}
        for row in now[rows]:
            row["rates"] = {name: change(row, known.get(row[key]), name, seconds) for name in names}


def number(value: float) -> str:
    """A number for people: `950`, `12.3k`, `4.56M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.1f}{unit}" if scaled < 100 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes for people."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def _seconds(text: str) -> float:
    """A time of a document; Python reads microseconds only."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


# --- drawing ----------------------------------------------------------------------------------


def render(now: Mapping[str, Any], sort: str, note: str = "") -> "RenderableType":
    """The whole picture."""
    from rich.console import Group
    from rich.text import Text

    varz, health = now["varz"], now["health"]
    rates = varz["rates"]
    state = ("serving", "green") if health.get("status") == "ok" else ("not ready", "bold red")
    head = Text.assemble(
        (printable(varz["server_name"]), "bold"),
        "  ",
        state,
        f"  shardd {varz.get('shardd', '')}, nats-server {varz['version']}, up {varz['uptime']}",
    )
    load = Text(
        f"in {number(rates['in_msgs'])} msg/s {size(rates['in_bytes'])}/s   "
        f"out {number(rates['out_msgs'])} msg/s {size(rates['out_bytes'])}/s   "
        f"connections {varz['connections']}   subscriptions {varz['subscriptions']}   "
        f"CPU {varz['cpu']:g} %   memory {size(varz['mem'])}   "
        f"slow consumers {varz['slow_consumers']}"
    )
    parts: list[RenderableType] = [head, load, _processes(now["processes"])]
    if now["routes"]:
        parts.append(_routes(now["routes"]))
    parts.append(_connections(now, sort))
    if note:
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def _table(title: str, columns: Mapping[str, bool]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, expand=False
    )
    for name, is_number in columns.items():
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    return table


def _processes(rows: list[Document]) -> "Table":
    names = ("process", "pid", "state", "CPU %", "memory", "conns", "subs", "in/s", "out/s")
    columns = {name: name not in ("process", "state") for name in (*names, "ring", "late ms/s")}
    table = _table("Processes", columns)
    for row in rows:
        rates, ring = row["rates"], row["ring_size"]
        table.add_row(
            *(row["name"], str(row["pid"]), row["state"], f"{row['cpu']:.0f}", size(row["mem"])),
            *(number(row["connections"]), number(row["subscriptions"])),
            *(number(rates["messages_in"]), number(rates["messages_out"])),
            f"{100 * row['ring_used'] / ring:.0f} %" if ring else "",
            f"{rates['loop_late_us'] / 1000:.1f}",
        )
    return table


def _routes(rows: list[Document]) -> "Table":
    names = ("server", "rid", "rtt", "uptime", "pending", "subs", "in msgs", "out msgs")
    table = _table("Routes", {name: name != "server" for name in names})
    for row in rows:
        table.add_row(
            *(printable(row["remote_name"]), str(row["rid"]), row["rtt"], row["uptime"]),
            *(size(row["pending_size"]), number(row["subscriptions"])),
            *(number(row["in_msgs"]), number(row["out_msgs"])),
        )
    return table


def _connections(now: Mapping[str, Any], sort: str) -> "Table":
    names = (
        *("cid", "name", "address", "user", "in/s", "out/s", "in bytes", "out bytes"),
        *("pending", "subs", "rtt", "idle", "uptime", "client"),
    )
    words = ("name", "address", "user", "client")
    title = f"Connections: {now['connections_total']}, by {sort}"
    table = _table(title, {name: name not in words for name in names})
    for row in now["connections"]:
        rates = row["rates"]
        user = "/".join(row[key] for key in ("account", "authorized_user") if row.get(key))
        client = " ".join(row[key] for key in ("lang", "version") if row.get(key))
        table.add_row(
            *(str(row["cid"]), _text(row.get("name", "")), _text(f"{row['ip']}:{row['port']}")),
            *(_text(user), number(rates["in_msgs"]), number(rates["out_msgs"])),
            *(size(row["in_bytes"]), size(row["out_bytes"]), size(row["pending_bytes"])),
            *(number(row["subscriptions"]), row.get("rtt", ""), row["idle"], row["uptime"]),
            _text(client),
        )
    return table


def _text(words: str) -> str:
    """What a client says of itself: neither control characters nor rich's markup."""
    from rich.markup import escape

    return escape(printable(words))


# --- the terminal -----------------------------------------------------------------------------


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The terminal gives keys at once; None: there is none."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _key_within(fd: int | None, seconds: float) -> str:
    """A key that is pressed in this time, or nothing."""
    if fd is None:
        time.sleep(seconds)
        return ""
    readable, _, _ = select.select([fd], [], [], seconds)
    return os.read(fd, 1).decode("latin-1") if readable else ""


def _live(looker: Looker, sort: str, interval_s: float) -> None:
    from rich.live import Live

    place = SORTS.index(sort)
    is_held, until = False, 0.0
    note = "s: sort   space: hold   q: quit"
    now = looker.look(sort)
    with _keys() as fd, Live(render(now, sort, note), screen=True, auto_refresh=False) as live:
        while True:
            until = time.monotonic() + interval_s
            key = _key_within(fd, interval_s)
            if key in ("q", "Q", "\x1b", "\x03"):
                return
            if key == " ":
                is_held = not is_held
            if key == "s":
                place = (place + 1) % len(SORTS)
            elif key:
                _key_within(None, max(0.0, until - time.monotonic()))
            told = note
            if not is_held or key == "s":
                try:
                    now = looker.look(SORTS[place])
                except UnreachableError as error:
                    told = str(error)
            live.update(render(now, SORTS[place], told + ("   (held)" if is_held else "")))
            live.refresh()


@click.command("top", short_help="Show a running server live, in the terminal.")
@click.option("--sort", type=click.Choice(SORTS), default="msgs_from", show_default=True)
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 1024))
@click.option(
    "-d",
    "--interval",
    "interval_s",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look for one interval, print, and end.")
@click.option("--json", "is_json", is_flag=True, help="JSON, one line for each look.")
@options
def command(
    sort: str,
    limit: int,
    interval_s: float,
    once: bool,
    is_json: bool,
    url: str,
    timeout_s: float,
    cacert: str,
) -> int:
    """Show a server by its monitoring: rates, processes, routes and connections."""
    looker = Looker(Watched(url, timeout_s, cacert), limit)
    if not once and not is_json and sys.stdout.isatty():
        with contextlib.suppress(KeyboardInterrupt):
            _live(looker, sort, interval_s)
        return ExitCode.CLEAN
    looker.look(sort)
    while True:
        time.sleep(interval_s)
        now = looker.look(sort)
        if is_json:
            click.echo(json.dumps(now))
        else:
            _print(now, sort)
        if once or not is_json:
            return ExitCode.CLEAN


def _print(now: Document, sort: str) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(render(now, sort))
