"""Across two hosts of a cluster: one publisher on the one, subscribers on the other."""

from collections.abc import Iterator

from bench.flow import FlowLoad
from bench.load import MESSAGES_PER_S, Load, Variant
from bench.loads.fanout import PAYLOADS, fanout

FANOUT = 4
FANOUT_BYTES = 128


def loads() -> Iterator[Load]:
    """The family."""
    for payload_bytes in PAYLOADS:
        yield FlowLoad(
            f"hosts-1x1-{payload_bytes}B",
            f"one publisher, one subscriber on another host, {payload_bytes} bytes",
            fanout(1, payload_bytes),
            (MESSAGES_PER_S,),
            (Variant.HOSTS,),
        )
    yield FlowLoad(
        f"hosts-1x{FANOUT}-{FANOUT_BYTES}B",
        f"one publisher, {FANOUT} subscribers on another host, {FANOUT_BYTES} bytes",
        fanout(FANOUT, FANOUT_BYTES),
        (MESSAGES_PER_S,),
        (Variant.HOSTS,),
    )
