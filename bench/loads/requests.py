"""Request/reply: closed loops, one request under way per requester, every round trip timed.

Requester i asks on a subject of its own and is answered by responder i. Throughput and the
percentiles of the round trip belong together: a server that batches more has more of the one and
less of the other.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from bench import sides
from bench.flow import close_flow
from bench.frames import Subscription, encode_msg_header, encode_pub, payload, sid, subject
from bench.load import BOTH, Load, LoadFailure, Measurement, Metric, Stage, Variant, percentile

PAIRS = (1, 16, 64)
PAYLOAD_BYTES = 128
INBOX_OFFSET = 50_000
METRICS = (
    Metric("requests", "req/s"),
    Metric("p50", "us", is_higher_better=False),
    Metric("p99", "us", is_higher_better=False),
    Metric("p99.9", "us", is_higher_better=False),
)


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """So many pairs of a requester and a responder."""

    pairs: int
    metrics: tuple[Metric, ...] = METRICS
    variants: tuple[Variant, ...] = BOTH
    needs_fresh_server: bool = False
    is_encrypted: bool = False

    @property
    def name(self) -> str:
        """Its key in the history."""
        return f"request-{self.pairs}"

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.pairs} requesters and {self.pairs} responders, {PAYLOAD_BYTES} bytes"

    def measure(self, stage: Stage) -> Measurement:
        """Open the pairs, let them talk for the scale's time, close them."""
        try:
            return self._measure(stage)
        finally:
            close_flow(stage)

    def _measure(self, stage: Stage) -> Measurement:
        address, variant, scale = stage.server.address, stage.variant, stage.scale
        inboxes = [subject(INBOX_OFFSET + pair) for pair in range(self.pairs)]
        asked = [subject(pair) for pair in range(self.pairs)]
        stage.subscriber.call(
            sides.open_connections,
            address,
            variant.subscriber_place,
            [(Subscription(name, sid(1)),) for name in asked],
        )
        stage.publisher.call(
            sides.open_connections,
            address,
            variant.publisher_place,
            [(Subscription(name, sid(1)),) for name in inboxes],
        )
        body = payload(PAYLOAD_BYTES)
        pairs = list(zip(asked, inboxes, strict=True))
        request_header = encode_msg_header(asked[0], sid(1), len(body), inboxes[0])
        answer_header = encode_msg_header(inboxes[0], sid(1), len(body))
        stage.publisher.call(sides.reset_shared)
        cpu_before_s = stage.server.cpu_s()
        responding = stage.subscriber.submit(
            sides.respond,
            [encode_pub(inbox, body) for inbox in inboxes],
            len(request_header) + len(body) + 2,
            scale.patience_s,
        )
        requesting = stage.publisher.submit(
            sides.request,
            [encode_pub(name, body, inbox) for name, inbox in pairs],
            len(answer_header) + len(body) + 2,
            scale.seconds,
            scale.patience_s,
        )
        requested, responded = sides.take_both(requesting, responding)
        server_cpu_s = stage.server.cpu_s() - cpu_before_s
        if requested.value.answers != responded.value:
            raise LoadFailure(f"{responded.value} requests gave {requested.value.answers} answers")
        samples = array("Q", requested.value.samples_ns)
        ordered = sorted(samples)
        seconds = (requested.value.end_ns - requested.value.start_ns) / 1e9
        figures = {
            "requests": len(ordered) / seconds,
            "p50": percentile(ordered, 0.5) / 1e3,
            "p99": percentile(ordered, 0.99) / 1e3,
            "p99.9": percentile(ordered, 0.999) / 1e3,
        }
        generator_cpu_s = requested.cpu_s + responded.cpu_s
        return Measurement(figures, len(ordered), server_cpu_s, generator_cpu_s)


def loads() -> Iterator[Load]:
    """The family."""
    for pairs in PAIRS:
        yield RequestLoad(pairs)
