"""The shape that most loads have: some connections publish, some subscribe, all bytes counted.

A flow says who publishes what and who is subscribed to what, and how many copies of a message of
each publisher each subscriber must get. From that follows, to the byte, what must arrive for the
blocks that were sent; a round in which anything else arrived is a failure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench import sides
from bench.frames import (
    Block,
    Subscription,
    check_header,
    encode_msg_header,
    make_block,
    only_width,
    payload,
)
from bench.load import LoadFailure, Measurement, Metric, Scale, Stage, Variant
from bench.placement import await_interest

# What may be on its way, over all subscribers: half of what a server lets one subscriber fall
# behind before it drops it, and far more than what keeps a server busy.
CREDIT_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Flow:
    """Publishers by their subjects, subscribers by their subscriptions."""

    publishers: Sequence[Sequence[str]]
    subscribers: Sequence[Sequence[Subscription]]
    copies: Sequence[Sequence[int]]  # [publisher][subscriber], of each message
    payload_bytes: int
    # Which member of a queue group gets a message is open: only the sum over all is known.
    is_queue_group: bool = False

    def header_bytes(self) -> int:
        """The length of every control line that subscribers get."""
        name = "x" * only_width(name for names in self.publishers for name in names)
        wanted = (each.sid for connection in self.subscribers for each in connection)
        return len(encode_msg_header(name, "x" * only_width(wanted), self.payload_bytes))

    def frame_bytes(self) -> int:
        """The length of every frame that subscribers get; 0 when there are none."""
        if not self.subscribers:
            return 0
        return self.header_bytes() + self.payload_bytes + 2


@dataclass(frozen=True, slots=True)
class Passed:
    """What went through a flow."""

    messages: int  # delivered, or published when nobody is subscribed
    seconds: float
    server_cpu_s: float
    generator_cpu_s: float

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


def open_flow(stage: Stage, flow: Flow) -> None:
    """Open the flow's connections, subscribers first."""
    server, variant = stage.server, stage.variant
    stage.subscriber.call(
        sides.open_connections, server.far, variant.subscriber_place, flow.subscribers
    )
    open_publishers(stage, flow)
    if variant is Variant.HOSTS:
        await_interest(server.far, server.address)


def open_publishers(stage: Stage, flow: Flow) -> None:
    """Open the connections that publish."""
    nothing: list[tuple[Subscription, ...]] = [() for _ in flow.publishers]
    place = stage.variant.publisher_place
    stage.publisher.call(sides.open_connections, stage.server.address, place, nothing)


def close_flow(stage: Stage) -> None:
    """Close the connections of both sides."""
    stage.publisher.call(sides.close_connections)
    stage.subscriber.call(sides.close_connections)


def drive(stage: Stage, flow: Flow, scale: Scale) -> Passed:
    """Publish for the scale's time on connections that are open, and count what arrives."""
    blocks = [
        make_block(names, flow.payload_bytes, sum(copies))
        for names, copies in zip(flow.publishers, flow.copies, strict=True)
    ]
    frame_bytes = flow.frame_bytes()
    outputs = [
        block.frames * sum(copies) * frame_bytes
        for block, copies in zip(blocks, flow.copies, strict=True)
    ]
    stage.publisher.call(sides.reset_shared)
    cpu_before_s = stage.server.cpu_s()
    counting = None
    if flow.subscribers:
        body = payload(flow.payload_bytes) + b"\r\n"
        counting = stage.subscriber.submit(sides.count, flow.header_bytes(), body, scale.patience_s)
    publishing = stage.publisher.submit(
        sides.publish,
        [block.data for block in blocks],
        outputs,
        scale.seconds,
        0,
        CREDIT_BYTES,
        scale.patience_s,
    )
    if counting is None:
        published = publishing.take()
        frames = [n * b.frames for n, b in zip(published.value.blocks, blocks, strict=True)]
        messages, end_ns, cpu_s = sum(frames), published.value.end_ns, published.cpu_s
    else:
        published, counted = sides.take_both(publishing, counting)
        messages = check_arrival(flow, blocks, published.value, counted.value)
        end_ns, cpu_s = counted.value.end_ns, published.cpu_s + counted.cpu_s
    seconds = (end_ns - published.value.start_ns) / 1e9
    return Passed(messages, seconds, stage.server.cpu_s() - cpu_before_s, cpu_s)


def check_arrival(
    flow: Flow, blocks: Sequence[Block], published: sides.Publishing, counted: sides.Counting
) -> int:
    """Raise unless exactly what was published has arrived; return the messages delivered."""
    frame_bytes = flow.frame_bytes()
    sent = [n * block.frames for n, block in zip(published.blocks, blocks, strict=True)]
    expected = [
        sum(frames * copies[subscriber] for frames, copies in zip(sent, flow.copies, strict=True))
        for subscriber in range(len(flow.subscribers))
    ]
    received = [total / frame_bytes for total in counted.received]
    if flow.is_queue_group:
        if sum(received) != sum(expected) or not all(received):
            raise LoadFailure(f"members got {received}, in all {sum(expected)} were published")
    elif received != expected:
        raise LoadFailure(f"subscribers got {received} messages instead of {expected}")
    names = frozenset(name for publisher in flow.publishers for name in publisher)
    for index, wanted in enumerate(flow.subscribers):
        if received[index]:
            for header in (counted.first_headers[index], counted.last_headers[index]):
                check_header(header, wanted, names, flow.payload_bytes)
    return sum(expected)


@dataclass(frozen=True, slots=True)
class FlowLoad:
    """A flow as a load: messages per second."""

    name: str
    summary: str
    flow: Flow
    metrics: Sequence[Metric]
    variants: Sequence[Variant]
    needs_fresh_server: bool = False
    is_encrypted: bool = False

    def measure(self, stage: Stage) -> Measurement:
        """Open the connections, publish for the scale's time, close them."""
        try:
            open_flow(stage, self.flow)
            passed = drive(stage, self.flow, stage.scale)
        finally:
            close_flow(stage)
        return Measurement(
            {self.metrics[0].name: passed.rate},
            passed.messages,
            passed.server_cpu_s,
            passed.generator_cpu_s,
        )
