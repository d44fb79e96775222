"""Four publishers and four subscribers: each pair on a subject of its own, or all on one."""

from collections.abc import Iterator

from bench.flow import Flow, FlowLoad
from bench.frames import Subscription, sid, subject
from bench.load import BOTH, MESSAGES_PER_S, Load

PAIRS = 4
PAYLOAD_BYTES = 128


def own_subjects() -> Flow:
    """Publisher i publishes to subject i, subscriber i gets it."""
    return Flow(
        publishers=tuple((subject(pair),) for pair in range(PAIRS)),
        subscribers=tuple((Subscription(subject(pair), sid(1)),) for pair in range(PAIRS)),
        copies=tuple(tuple(int(to == pair) for to in range(PAIRS)) for pair in range(PAIRS)),
        payload_bytes=PAYLOAD_BYTES,
    )


def one_subject() -> Flow:
    """All publish to one subject, and all subscribers get all of it."""
    return Flow(
        publishers=((subject(0),),) * PAIRS,
        subscribers=((Subscription(subject(0), sid(1)),),) * PAIRS,
        copies=((1,) * PAIRS,) * PAIRS,
        payload_bytes=PAYLOAD_BYTES,
    )


def loads() -> Iterator[Load]:
    """The family."""
    shape = f"{PAIRS} publishers, {PAIRS} subscribers, {PAYLOAD_BYTES} bytes"
    for name, flow, text in (
        ("own", own_subjects(), "each pair on its own subject"),
        ("shared", one_subject(), "all on one subject"),
    ):
        yield FlowLoad(
            f"{PAIRS}x{PAIRS}-{PAYLOAD_BYTES}B-{name}",
            f"{shape}, {text}",
            flow,
            (MESSAGES_PER_S,),
            BOTH,
        )
