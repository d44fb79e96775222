"""Many subjects: into one wildcard subscription, and to as many literal subscriptions."""

from collections.abc import Iterator

from bench.flow import Flow, FlowLoad
from bench.frames import Subscription, sid, subject
from bench.load import BOTH, MESSAGES_PER_S, Load

FAN_IN_PUBLISHERS = 4
FAN_IN_SUBJECTS = 1000
LITERALS = 10_000
PAYLOAD_BYTES = 16


def fan_in() -> Flow:
    """Each publisher goes round its own part of the subjects; one subscriber takes them all."""
    part = FAN_IN_SUBJECTS // FAN_IN_PUBLISHERS
    return Flow(
        publishers=tuple(
            tuple(subject(publisher * part + index) for index in range(part))
            for publisher in range(FAN_IN_PUBLISHERS)
        ),
        subscribers=((Subscription("bench.*", sid(1)),),),
        copies=((1,),) * FAN_IN_PUBLISHERS,
        payload_bytes=PAYLOAD_BYTES,
    )


def literals() -> Flow:
    """One publisher goes round all subjects; one subscriber has a subscription to each."""
    return Flow(
        publishers=(tuple(subject(index) for index in range(LITERALS)),),
        subscribers=(tuple(Subscription(subject(index), sid(index)) for index in range(LITERALS)),),
        copies=((1,),),
        payload_bytes=PAYLOAD_BYTES,
    )


def loads() -> Iterator[Load]:
    """The family."""
    yield FlowLoad(
        "fan-in-wildcard",
        f"{FAN_IN_PUBLISHERS} publishers on {FAN_IN_SUBJECTS} subjects, one wildcard subscriber",
        fan_in(),
        (MESSAGES_PER_S,),
        BOTH,
    )
    yield FlowLoad(
        "10k-subjects",
        f"one publisher round {LITERALS} subjects, one subscriber to each of them",
        literals(),
        (MESSAGES_PER_S,),
        BOTH,
    )
