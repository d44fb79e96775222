"""A queue group: each message goes to exactly one of its members."""

from collections.abc import Iterator

from bench.flow import Flow, FlowLoad
from bench.frames import Subscription, sid, subject
from bench.load import BOTH, MESSAGES_PER_S, Load

MEMBERS = 8
PAYLOAD_BYTES = 128


def group() -> Flow:
    """One publisher; the sum over the members is what was published."""
    wanted = (Subscription(subject(0), sid(1), "workers"),)
    return Flow(
        publishers=((subject(0),),),
        subscribers=(wanted,) * MEMBERS,
        copies=((1,) + (0,) * (MEMBERS - 1),),
        payload_bytes=PAYLOAD_BYTES,
        is_queue_group=True,
    )


def loads() -> Iterator[Load]:
    """The family."""
    yield FlowLoad(
        f"queue-1x{MEMBERS}",
        f"one publisher, a queue group of {MEMBERS} members, {PAYLOAD_BYTES} bytes",
        group(),
        (MESSAGES_PER_S,),
        BOTH,
    )
