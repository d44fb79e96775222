"""What nats-server says of features that are off: leaf nodes, gateways, JetStream (sheet 12).

Tools ask for these documents whether or not the feature is there.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from shardd.moments import time_text

Document = dict[str, Any]


def leafz(server_id: str, now_ns: int) -> Document:
    """No leaf nodes."""
    return {"server_id": server_id, "now": time_text(now_ns), "leafnodes": 0, "leafs": []}


def gatewayz(server_id: str, now_ns: int) -> Document:
    """No gateways."""
    return {
        "server_id": server_id,
        "now": time_text(now_ns),
        "outbound_gateways": {},
        "inbound_gateways": {},
    }


def jsz(server_id: str, now_ns: int) -> Document:
    """JetStream is disabled."""
    return {
        "memory": 0,
        "storage": 0,
        "reserved_memory": 0,
        "reserved_storage": 0,
        "accounts": 0,
        "ha_assets": 0,
        "api": {"level": 0, "total": 0, "errors": 0},
        "server_id": server_id,
        "now": time_text(now_ns),
        "disabled": True,
        "config": {"max_memory": 0, "max_storage": 0},
        "streams": 0,
        "consumers": 0,
        "messages": 0,
        "bytes": 0,
        "total": 0,
    }


def profilez(name: str) -> Document:
    """No profile of the Go runtime."""
    why = f'Profile "{name}" not found' if name else "Profile name not specified"
    return {"profile": None, "error": why}


DOCUMENTS: Final[Mapping[str, Callable[[str, int], Document]]] = {
    "leafz": leafz,
    "gatewayz": gatewayz,
    "jsz": jsz,
}
