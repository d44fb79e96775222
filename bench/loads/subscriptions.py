"""Very many subscriptions: what one costs in memory and time, and whether matching stays flat.

The same few subjects are published to whether a thousand or a million subscriptions exist, so the
message rates of the three loads can be laid side by side. Memory is taken right after the server
has acknowledged the last subscription, on a server that has done nothing before.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench import generator
from bench.flow import Flow, close_flow, drive, open_publishers
from bench.frames import Subscription
from bench.load import Load, Measurement, Metric, Stage, Variant
from bench.placement import Address, Place, await_pong, open_placed
from bench.sides import Side

COUNTS = ((1_000, "1k"), (100_000, "100k"), (1_000_000, "1m"))
CONNECTIONS = 10
PUBLISHED_SUBJECTS = 16
PAYLOAD_BYTES = 16
METRICS = (
    Metric("memory", "B/sub", is_higher_better=False),
    Metric("subscribe", "sub/s"),
    Metric("messages", "msg/s"),
)


def wanted(index: int) -> Subscription:
    """Subscription number `index` of all; subjects have three tokens, as in real life."""
    return Subscription(f"bench.{index % 1000:03d}.{index // 1000:04d}", f"{index:07d}")


def subscribe_many(side: Side, address: Address, count: int) -> float:
    """Make `count` subscriptions over all connections at once; return the seconds it took."""
    blocks = []
    for connection in range(CONNECTIONS):
        side.connections.append(open_placed(address, Place.ANY))
        mine = range(connection, count, CONNECTIONS)
        blocks.append(b"".join(wanted(index).encode() for index in mine) + b"PING\r\n")
    nothing = [0] * CONNECTIONS
    generator.reset(side.shared)
    done = generator.publish(side.fds, blocks, nothing, side.shared, 0.0, 1, 1, address.patience_s)
    for opened in side.connections:
        await_pong(opened)
    return (time.monotonic_ns() - done.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class SubscriptionsLoad:
    """So many subscriptions, all to different subjects."""

    count: int
    label: str
    metrics: tuple[Metric, ...] = METRICS
    variants: tuple[Variant, ...] = (Variant.ANY,)
    needs_fresh_server: bool = True
    is_encrypted: bool = False

    @property
    def name(self) -> str:
        """Its key in the history."""
        return f"subscriptions-{self.label}"

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.count} subscriptions on {CONNECTIONS} connections"

    def measure(self, stage: Stage) -> Measurement:
        """Subscribe, look at the memory, then publish to a few of the subjects."""
        count = stage.scale.pick(self.count, min(self.count, 2_000))
        try:
            before_bytes = stage.server.pss_bytes()
            seconds = stage.subscriber.call(subscribe_many, stage.server.address, count)
            grown_bytes = stage.server.pss_bytes() - before_bytes
            flow = self._flow(count)
            open_publishers(stage, flow)
            scale = stage.scale
            passed = drive(stage, flow, replace(scale, seconds=scale.seconds / 2))
        finally:
            close_flow(stage)
        figures = {
            "memory": grown_bytes / count,
            "subscribe": count / seconds,
            "messages": passed.rate,
        }
        return Measurement(figures, passed.messages, passed.server_cpu_s, passed.generator_cpu_s)

    def _flow(self, count: int) -> Flow:
        # All published subjects belong to the first connection.
        chosen = [wanted(index * CONNECTIONS) for index in range(PUBLISHED_SUBJECTS)]
        others = [(wanted(connection),) for connection in range(1, CONNECTIONS)]
        return Flow(
            publishers=([each.subject for each in chosen],),
            subscribers=(chosen, *others),
            copies=((1,) + (0,) * (CONNECTIONS - 1),),
            payload_bytes=PAYLOAD_BYTES,
        )


def loads() -> Iterator[Load]:
    """The family."""
    for count, label in COUNTS:
        yield SubscriptionsLoad(count, label)
