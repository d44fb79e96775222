"""The streaming benchmark's reading of stan-bench, its choice of servers and its records."""

from typing import Any

import pytest

from bench.load import LoadFailure, Measurement, Metric, Scale
from bench.streaming.generator import Job, Report, parse_report
from bench.streaming.loads import LOADS, StreamingLoad, select
from bench.streaming.run import StreamingRun
from bench.streaming.servers import StreamingContender, parse_contenders

BOTH = """Starting benchmark [msgs=20000, msgsize=128, pubs=1, subs=2]
NATS Streaming Pub/Sub stats: 132,955 msgs/sec ~ 16.23 MB/sec
 Pub stats: 13,304 msgs/sec ~ 1.62 MB/sec
 Sub stats: 1,120,907 msgs/sec ~ 14.76 MB/sec
  [1] 12,766 msgs/sec ~ 1.56 MB/sec (20000 msgs)
  [2] 12,643 msgs/sec ~ 1.54 MB/sec (20000 msgs)
"""


@pytest.mark.parametrize(
    ("text", "report"),
    [
        (BOTH, Report(13_304, 1_120_907)),
        ("Pub stats: 84,482 msgs/sec ~ 10.31 MB/sec\n [1] 1 msgs/sec", Report(84_482, 0)),
        ("Sub stats: 999 msgs/sec ~ 19.58 MB/sec", Report(0, 999)),
    ],
)
def test_reports_of_stan_bench(text: str, report: Report) -> None:
    assert parse_report(text) == report


def test_a_run_that_reports_nothing_is_a_failure() -> None:
    with pytest.raises(LoadFailure, match="timeout"):
        parse_report("Publisher can't connect: timeout")


def test_what_a_job_handles() -> None:
    assert Job("c", 100).handled == 100
    assert Job("c", 100, publishers=0, subscribers=3).handled == 300
    assert Job("c", 100, publishers=2, subscribers=3).handled == 400


def test_servers_by_name() -> None:
    assert parse_contenders("shardd-2, nats-streaming-server") == [
        StreamingContender("shardd-2", 2),
        StreamingContender("nats-streaming-server", 0),
    ]
    assert [each.label for each in parse_contenders("shardd-1,shardd-1")] == [
        "shardd-1",
        "shardd-1-again",
    ]


@pytest.mark.parametrize(
    "text", ["shardd", "shardd-0,shardd-1", "nats-server,shardd-1", "shardd-1", ""]
)
def test_servers_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown server|two servers"):
        parse_contenders(text)


def test_loads_have_names_of_their_own_and_are_chosen_by_pattern() -> None:
    names = [load.name for load in LOADS]
    assert len(set(names)) == len(names)
    assert [load.name for load in select("million,latency-*")] == ["latency-128B", "million"]


def test_a_run_makes_a_record_of_medians_and_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamingContender, "version", lambda _: "1")

    def measure(server: Any, scale: Scale, number: int) -> Measurement:
        if server.contender.label == "shardd-2":
            raise LoadFailure("broken")
        return Measurement({"rate": float(number * number)}, 10, 1.0, 3.0)

    load = StreamingLoad("load", "", (Metric("rate", "msg/s"),), measure, lambda *_: None)
    run = StreamingRun(parse_contenders("shardd-1,shardd-2"), 3, Scale(1.0, True, 0.0))
    (record,) = run.measure([load], lambda _: None)
    assert record.failures == {"shardd-2": "LoadFailure: broken"}
    assert record.ratio is None
    result = record.results["shardd-1"]
    assert (result.median, list(result.rounds)) == (4.0, [1.0, 4.0, 9.0])
    assert (result.server_cpu_s_per_million, result.generator_cpu_share) == (1e5, 0.75)
