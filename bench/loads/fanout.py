"""One publisher: to nobody, to one subscriber in several sizes, and to many subscribers.

Publishing only is measured up to the PONG that follows the last message. With subscribers, every
copy counts as a message.
"""

from collections.abc import Iterator

from bench.flow import Flow, FlowLoad
from bench.frames import Subscription, sid, subject
from bench.load import BOTH, MESSAGES_PER_S, Load, Variant

PAYLOADS = (16, 128, 1024, 16_384)
FANOUTS = ((4, 16), (4, 128), (10, 16), (100, 16))


def fanout(subscribers: int, payload_bytes: int) -> Flow:
    """One publisher, one subject, and so many subscribers to it."""
    wanted = (Subscription(subject(0), sid(1)),)
    return Flow(
        publishers=((subject(0),),),
        subscribers=(wanted,) * subscribers,
        copies=((1,) * subscribers,),
        payload_bytes=payload_bytes,
    )


def loads() -> Iterator[Load]:
    """The family."""
    for payload_bytes in (16, 128):
        yield FlowLoad(
            f"publish-{payload_bytes}B",
            f"one publisher, no subscriber, {payload_bytes} bytes",
            fanout(0, payload_bytes),
            (MESSAGES_PER_S,),
            (Variant.SAME,),
        )
    for subscribers, payload_bytes in (*((1, size) for size in PAYLOADS), *FANOUTS):
        yield FlowLoad(
            f"1x{subscribers}-{payload_bytes}B",
            f"one publisher, {subscribers} subscribers, {payload_bytes} bytes",
            fanout(subscribers, payload_bytes),
            (MESSAGES_PER_S,),
            BOTH,
        )
