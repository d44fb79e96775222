"""The host's processes: `/processz`, which is shardd's own. Sans-IO; the facts are handed in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shardd.moments import time_text


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process of the host."""

    index: int
    name: str
    pid: int
    state: str
    memory_bytes: int  # resident; what is shared with others is counted in one of them
    cpu_percent: float  # of one core, since the last look
    cpu_seconds: float
    counters: Mapping[str, int]  # of the shared page, of all that lived in the slot
    ring_used_bytes: int = 0  # in its ring, not yet read by all
    ring_bytes: int = 0


def document(processes: Iterable[ProcessFacts], server_id: str, now_ns: int) -> dict[str, Any]:
    """All of them, the supervisor last."""
    return {
        "server_id": server_id,
        "now": time_text(now_ns),
        "processes": [_row(each) for each in processes],
    }


def label(name: str) -> str:
    """`Worker 0` as labels and rows have it: `worker-0`."""
    return name.lower().replace(" ", "-")


def _row(process: ProcessFacts) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": label(process.name),
        "index": process.index,
        "pid": process.pid,
        "state": process.state,
        "mem": process.memory_bytes,
        "cpu": round(process.cpu_percent, 1),
        "cpu_seconds": round(process.cpu_seconds, 2),
        "ring_used": process.ring_used_bytes,
        "ring_size": process.ring_bytes,
    }
    names = (
        *("connections", "connections_total", "subscriptions"),
        *("messages_in", "bytes_in", "messages_out", "bytes_out"),
        *("slow_consumers", "stale_connections", "stalled_clients"),
        *("ring_stalls", "ring_bytes", "oversize_messages", "redirected", "loop_late_us"),
    )
    return row | {name: process.counters.get(name, 0) for name in names}
