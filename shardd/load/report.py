"""What came of a load, for people, for programs and for spreadsheets."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shardd.load.histogram import Histogram
from shardd.load.plan import Plan

PERCENTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))


@dataclass(frozen=True, slots=True)
class Client:
    """One connection's part: from its start to its last message. Bytes are payload with headers.

    What arrives in one read takes no time that could be measured: 0 seconds, and no rate.
    """

    messages: int
    bytes: int
    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def rate(self) -> float:
        """Messages per second; 0 when that is not known."""
        return self.messages / self.seconds if self.seconds else 0.0

    @property
    def byte_rate(self) -> float:
        """Bytes per second; 0 when that is not known."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Side:
    """All connections that did the same."""

    role: str  # published, received, requested, answered
    clients: Sequence[Client]

    @property
    def messages(self) -> int:
        """Over all of them."""
        return sum(each.messages for each in self.clients)

    @property
    def bytes(self) -> int:
        """Over all of them."""
        return sum(each.bytes for each in self.clients)

    @property
    def seconds(self) -> float:
        """From the first start to the last end, of those that had anything to do."""
        busy = [each for each in self.clients if each.messages]
        if not busy:
            return 0.0
        start_ns = min(each.start_ns for each in busy)
        return (max(each.end_ns for each in busy) - start_ns) / 1e9

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds if self.seconds else 0.0

    @property
    def byte_rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds if self.seconds else 0.0

    def rates(self) -> tuple[float, float, float, float]:
        """Of single connections: least, mean, most, standard deviation."""
        rates = [each.rate for each in self.clients]
        return min(rates), statistics.fmean(rates), max(rates), statistics.pstdev(rates)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    plan: Plan
    server: dict[str, Any]
    sides: Sequence[Side]
    latency: Histogram | None  # of answers, or of messages that said when they were due
    lateness: Histogram | None  # how late this program sent what was due
    is_stopped: bool = False


def latency_figures(found: Histogram) -> dict[str, float]:
    """Count, and microseconds."""
    figures = {name: found.percentile(share) / 1e3 for name, share in PERCENTILES}
    return {
        "count": found.count,
        "min": found.min / 1e3,
        "mean": found.mean / 1e3,
        "stddev": found.stddev / 1e3,
        **figures,
        "max": found.max / 1e3,
    }


def document(report: Report) -> dict[str, Any]:
    """Everything, for `--json`. Rates are per second, latencies in microseconds."""
    plan = report.plan
    found: dict[str, Any] = {
        "server": report.server,
        "load": {
            "subject": plan.subject,
            "publishers": plan.publishers,
            "subscribers": plan.subscribers,
            "size": plan.size,
            "messages": plan.messages,
            "seconds": plan.seconds,
            "subjects": plan.subjects,
            "queue": plan.queue,
            "rate": plan.rate,
            "request": plan.is_request,
        },
        "stopped": report.is_stopped,
    }
    for side in report.sides:
        least, mean, most, deviation = side.rates()
        found[side.role] = {
            "messages": side.messages,
            "bytes": side.bytes,
            "seconds": side.seconds,
            "messages_per_s": side.rate,
            "bytes_per_s": side.byte_rate,
            "per_client": {"min": least, "avg": mean, "max": most, "stddev": deviation},
            "clients": [
                {
                    "messages": each.messages,
                    "bytes": each.bytes,
                    "seconds": each.seconds,
                    "messages_per_s": each.rate,
                }
                for each in side.clients
            ],
        }
    for name, histogram in (("latency_us", report.latency), ("lateness_us", report.lateness)):
        if histogram is not None and histogram.count:
            found[name] = latency_figures(histogram)
    return found


def write_csv(path: Path, report: Report) -> None:
    """One row for each connection, and one for each side with the latencies. Raises OSError."""
    names = [f"latency_{name}_us" for name, _ in PERCENTILES]
    latency = report.latency if report.latency is not None and report.latency.count else None
    asked = report.sides[-1] if not report.plan.is_request else report.sides[0]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            [
                "role",
                "client",
                "messages",
                "bytes",
                "seconds",
                "messages_per_s",
                "bytes_per_s",
                *names,
            ]
        )
        for side in report.sides:
            for index, each in enumerate(side.clients):
                rate = [f"{each.rate:.1f}", f"{each.byte_rate:.1f}"]
                row = [side.role, index, each.messages, each.bytes, f"{each.seconds:.9f}", *rate]
                rows.writerow(row + [""] * len(names))
            total = [f"{side.seconds:.9f}", f"{side.rate:.1f}", f"{side.byte_rate:.1f}"]
            shown = [""] * len(names)
            if latency is not None and side is asked:
                shown = [f"{latency.percentile(share) / 1e3:.3f}" for _, share in PERCENTILES]
            rows.writerow([side.role, "all", side.messages, side.bytes, *total, *shown])


def table(report: Report) -> str:
    """For the terminal."""
    heads = ("", "messages", "seconds", "msg/s", "MB/s", "each: min", "avg", "max", "stddev")
    rows: list[tuple[str, ...]] = [heads]
    for side in report.sides:
        *each, deviation = side.rates()
        rows.append(
            (
                f"{side.role} by {len(side.clients)}",
                f"{side.messages:,}",
                f"{side.seconds:.3f}",
                _rate(side.rate),
                f"{side.byte_rate / 1e6:,.1f}" if side.rate else "-",
                *map(_rate, each),
                f"{deviation:,.0f}",
            )
        )
    lines = _aligned(rows)
    timed = [
        (name, histogram)
        for name, histogram in (("latency", report.latency), ("sent late by", report.lateness))
        if histogram is not None and histogram.count
    ]
    if timed:
        figures = [(name, latency_figures(histogram)) for name, histogram in timed]
        keys = [key for key in figures[0][1] if key != "count"]
        lines += ["", *_aligned([
            ("us", *keys),
            *((name, *(f"{found[key]:,.1f}" for key in keys)) for name, found in figures),
        ])]  # fmt: skip
    return "\n".join(lines)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
