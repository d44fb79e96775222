"""One publisher, and one subscriber in several sizes, over TLS 1.3."""

from collections.abc import Iterator

from bench.flow import FlowLoad
from bench.load import BOTH, MESSAGES_PER_S, Load, Variant
from bench.loads.fanout import PAYLOADS, fanout

PUBLISHED_BYTES = 128


def loads() -> Iterator[Load]:
    """The family."""
    yield FlowLoad(
        f"tls-publish-{PUBLISHED_BYTES}B",
        f"one publisher, no subscriber, {PUBLISHED_BYTES} bytes, over TLS",
        fanout(0, PUBLISHED_BYTES),
        (MESSAGES_PER_S,),
        (Variant.SAME,),
        is_encrypted=True,
    )
    for payload_bytes in PAYLOADS:
        yield FlowLoad(
            f"tls-1x1-{payload_bytes}B",
            f"one publisher, one subscriber, {payload_bytes} bytes, over TLS",
            fanout(1, payload_bytes),
            (MESSAGES_PER_S,),
            BOTH,
            is_encrypted=True,
        )
