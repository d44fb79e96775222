"""The loads of NATS Streaming: publishing, delivering, replaying, starting, and what is kept.

A load runs on a server that is shared by its rounds, on channels of its own in each round, or on
a store that it has filled before the first one.
"""

import fnmatch
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.load import LoadFailure, Measurement, Metric, Scale, percentile
from bench.servers import HOST
from bench.streaming.client import Client
from bench.streaming.generator import Job, children_cpu_s, run_jobs
from bench.streaming.servers import CLUSTER_ID, StreamingServer

PUBLISHED: Final = Metric("published", "msg/s")
DELIVERED: Final = Metric("delivered", "msg/s")
CPU: Final = Metric("server-cpu", "us/msg", is_higher_better=False)
PAYLOAD: Final = b"x" * 128
FULL: Final = "full"


def no_preparation(server: StreamingServer, scale: Scale) -> None:
    """A load that needs an empty server that runs."""
    server.start()


@dataclass(frozen=True, slots=True)
class StreamingLoad:
    """One load. `measure` is called with the number of the round, for names of channels."""

    name: str
    summary: str
    metrics: Sequence[Metric]
    measure: Callable[[StreamingServer, Scale, int], Measurement]
    prepare: Callable[[StreamingServer, Scale], None] = field(default=no_preparation)


# What a load takes from the reports: from the rates of publishers, from those of subscribers.
Pick = Callable[[Sequence[float], Sequence[float]], dict[str, float]]


def with_cpu(server: StreamingServer, jobs: Sequence[Job], pick: Pick) -> Measurement:
    """Run the jobs and add what the server needed for each message, published or delivered."""
    cpu_before_s, generator_before_s = server.cpu_s(), children_cpu_s()
    reports = run_jobs(server.url, jobs)
    cpu_s, generator_s = server.cpu_s() - cpu_before_s, children_cpu_s() - generator_before_s
    handled = sum(job.handled for job in jobs)
    figures = pick([each.published for each in reports], [each.delivered for each in reports])
    return Measurement(figures | {CPU.name: cpu_s * 1e6 / handled}, handled, cpu_s, generator_s)


def publishing(publishers: int, message_bytes: int, in_flight: int = 512) -> StreamingLoad:
    """Asynchronous publishers on one channel."""

    def measure(server: StreamingServer, scale: Scale, number: int) -> Measurement:
        count = int(scale.pick(100_000, 2_000) * scale.seconds)
        job = Job(f"p{number}", count, publishers, 0, message_bytes, in_flight)
        return with_cpu(server, [job], lambda published, _: {PUBLISHED.name: published[0]})

    deep = f"-{in_flight}" if in_flight != 512 else ""
    return StreamingLoad(
        f"publish-{message_bytes}B-{publishers}{deep}",
        f"{publishers} asynchronous publishers, {message_bytes} bytes, {in_flight} in flight each",
        (PUBLISHED, CPU),
        measure,
    )


def delivering(subscribers: int) -> StreamingLoad:
    """One publisher and subscribers that each get everything."""

    def measure(server: StreamingServer, scale: Scale, number: int) -> Measurement:
        count = int(scale.pick(200_000, 2_000) * scale.seconds) // (subscribers + 1)
        job = Job(f"d{number}", count, 1, subscribers)
        return with_cpu(server, [job], lambda _, delivered: {DELIVERED.name: delivered[0]})

    return StreamingLoad(
        f"deliver-1x{subscribers}",
        f"one publisher, {subscribers} subscribers of its channel, 128 bytes",
        (DELIVERED, CPU),
        measure,
    )


def spread(channels: int) -> StreamingLoad:
    """Publishers on channels of their own, which a pool shares out."""

    def measure(server: StreamingServer, scale: Scale, number: int) -> Measurement:
        count = int(scale.pick(100_000, 2_000) * scale.seconds) // channels
        jobs = [Job(f"s{number}-{channel}", count) for channel in range(channels)]
        return with_cpu(server, jobs, lambda published, _: {PUBLISHED.name: sum(published)})

    return StreamingLoad(
        f"spread-{channels}",
        f"{channels} asynchronous publishers, each on a channel of its own, 128 bytes",
        (PUBLISHED, CPU),
        measure,
    )


def measure_latency(server: StreamingServer, scale: Scale, number: int) -> Measurement:
    """One message under way at a time."""
    cpu_before_s, own_before_s = server.cpu_s(), own_cpu_s()
    with Client(HOST, server.port, CLUSTER_ID) as client:
        if not client.try_open(f"latency-{number}"):
            raise LoadFailure("no streaming server answers")
        samples = client.time_publishes(b"latency", PAYLOAD, scale.seconds)
        client.close_session()
    ordered = sorted(samples)
    figures = {"p50": percentile(ordered, 0.5) / 1e3, "p99": percentile(ordered, 0.99) / 1e3}
    cpu_s, own_s = server.cpu_s() - cpu_before_s, own_cpu_s() - own_before_s
    return Measurement(figures, len(samples), cpu_s, own_s)


def own_cpu_s() -> float:
    """Processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def open_channels(server: StreamingServer, scale: Scale) -> None:
    """Fill a store with channels of one message each; the server runs."""
    server.start()
    channels = [b"idle.%d" % number for number in range(scale.pick(10_000, 200))]
    with Client(HOST, server.port, CLUSTER_ID) as client:
        client.try_open("channels")
        client.publish_all(channels, PAYLOAD)
        client.close_session()


def measure_channels(server: StreamingServer, scale: Scale, number: int) -> Measurement:
    """What the channels cost while nobody uses them: as they are, and after another start."""
    count = scale.pick(10_000, 200)
    filled = settled_pss_bytes(server)
    server.stop()
    stopped_s = time.monotonic()
    server.start()
    restart_ms = (time.monotonic() - stopped_s) * 1e3
    restarted = settled_pss_bytes(server)
    figures = {
        "memory": filled / 1e6, "memory-restarted": restarted / 1e6, "restart": restart_ms,
    }  # fmt: skip
    return Measurement(figures, count, server.cpu_s(), 0.0)


def settled_pss_bytes(server: StreamingServer) -> int:
    """Memory once it no longer changes much, or after some seconds."""
    before = server.pss_bytes()
    for _ in range(10):
        time.sleep(0.5)
        after = server.pss_bytes()
        if abs(after - before) < before / 100:
            return after
        before = after
    return before


def fill(server: StreamingServer, scale: Scale) -> None:
    """A million messages in one channel; the server runs."""
    server.start()
    run_jobs(server.url, [Job(FULL, scale.pick(1_000_000, 5_000), in_flight=4096)])


def fill_and_stop(server: StreamingServer, scale: Scale) -> None:
    """The same; the server is ended."""
    fill(server, scale)
    server.stop()


def measure_filled(server: StreamingServer, scale: Scale, number: int) -> Measurement:
    """What a server that has taken all those messages keeps in memory."""
    figures = {"memory": settled_pss_bytes(server) / 1e6}
    return Measurement(figures, scale.pick(1_000_000, 5_000), server.cpu_s(), 0.0)


def measure_full(server: StreamingServer, scale: Scale, number: int) -> Measurement:
    """Start on the full store, take the first message, rest, and replay everything."""
    count = scale.pick(1_000_000, 5_000)
    launched_s = server.launch()
    with server.first_client() as client:
        client.publish(b"first", PAYLOAD)
        start_s = time.monotonic() - launched_s
        client.close_session()
    resting = settled_pss_bytes(server)
    job = Job(FULL, count, publishers=0, subscribers=1)
    measured = with_cpu(server, [job], lambda _, delivered: {"replayed": delivered[0]})
    figures = measured.figures | {
        "start": start_s * 1e3,
        "memory": resting / 1e6,
        "memory-replayed": server.pss_bytes() / 1e6,
    }
    server.stop()
    return Measurement(figures, count, measured.server_cpu_s, measured.generator_cpu_s)


LOADS: Final = (
    *(publishing(publishers, size) for size in (128, 1024) for publishers in (1, 10)),
    publishing(1, 128, 16_384),
    StreamingLoad(
        "latency-128B",
        "one publisher, one message in flight, 128 bytes",
        (
            Metric("p50", "us", is_higher_better=False),
            Metric("p99", "us", is_higher_better=False),
        ),
        measure_latency,
    ),
    *(delivering(subscribers) for subscribers in (1, 4, 10)),
    spread(4),
    StreamingLoad(
        "channels-10k",
        "10,000 channels of one message, idle; the same after another start",
        (
            Metric("memory", "MB", is_higher_better=False),
            Metric("memory-restarted", "MB", is_higher_better=False),
            Metric("restart", "ms", is_higher_better=False),
        ),
        measure_channels,
        open_channels,
    ),
    StreamingLoad(
        "million",
        "1,000,000 stored messages: start to first acknowledgement, memory, replay",
        (
            Metric("replayed", "msg/s"),
            CPU,
            Metric("start", "ms", is_higher_better=False),
            Metric("memory", "MB", is_higher_better=False),
            Metric("memory-replayed", "MB", is_higher_better=False),
        ),
        measure_full,
        fill_and_stop,
    ),
    StreamingLoad(
        "million-filled",
        "a server that has just stored 1,000,000 messages",
        (Metric("memory", "MB", is_higher_better=False),),
        measure_filled,
        fill,
    ),
)


def select(pattern: str) -> list[StreamingLoad]:
    """The loads whose name matches one of the comma-separated shell patterns."""
    wanted = [each.strip() for each in pattern.split(",")]
    return [load for load in LOADS if any(fnmatch.fnmatchcase(load.name, each) for each in wanted)]
