"""A run of streaming loads: both servers in turn, A B A B, medians, records.

Each load has servers and stores of its own. Both are there at the same time, and idle but for the
one that is measured. A round that is not counted comes first.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bench import history
from bench.history import Record, Result
from bench.load import LoadFailure, Measurement, Metric, Scale
from bench.servers import ServerFailure, describe_machine
from bench.streaming.loads import StreamingLoad
from bench.streaming.servers import StreamingContender, StreamingServer

WARM_UP_SHARE: Final = 0.3
FAILURES: Final = (LoadFailure, ServerFailure, OSError, EOFError)


@dataclass(slots=True)
class Outcome:
    """The rounds of one server."""

    rounds: list[Measurement] = field(default_factory=list)
    failure: str = ""

    def result(self, metric: Metric) -> Result:
        """Its figures for one metric."""
        shares = []
        for each in self.rounds:
            total_s = each.server_cpu_s + each.generator_cpu_s
            shares.append(each.generator_cpu_s / total_s if total_s else 0.0)
        return history.summarize(
            [each.figures[metric.name] for each in self.rounds],
            [each.server_cpu_s * 1e6 / each.messages for each in self.rounds],
            shares,
        )


@dataclass(frozen=True, slots=True)
class StreamingRun:
    """How a run is made."""

    contenders: Sequence[StreamingContender]
    rounds: int
    scale: Scale

    def measure(
        self, loads: Sequence[StreamingLoad], tell: Callable[[str], None]
    ) -> Iterator[Record]:
        """Measure the loads; a load's records come when it is done."""
        versions = {each.label: each.version() for each in self.contenders}
        date, commit, machine = history.now(), history.current_commit(), describe_machine()
        options = {
            "rounds": self.rounds, "seconds": self.scale.seconds, "quick": self.scale.is_quick,
        }  # fmt: skip
        for load in loads:
            tell(load.name)
            outcomes = self._measure_load(load)
            failures = {label: each.failure for label, each in outcomes.items() if each.failure}
            for metric in load.metrics:
                results = {
                    label: each.result(metric) for label, each in outcomes.items() if each.rounds
                }
                ratio = None
                if not failures:
                    first, second = (results[label].median for label in outcomes)
                    ratio = history.ratio_of(
                        first, second, is_higher_better=metric.is_higher_better
                    )
                yield Record(
                    date, commit, machine, options, versions, load.name, "any", metric.name,
                    metric.unit, metric.is_higher_better, results, ratio, failures,
                )  # fmt: skip

    def _measure_load(self, load: StreamingLoad) -> dict[str, Outcome]:
        outcomes = {each.label: Outcome() for each in self.contenders}
        with contextlib.ExitStack() as stack:
            servers: dict[str, StreamingServer] = {}
            for number in range(1 + self.rounds):
                for contender in self.contenders:
                    outcome = outcomes[contender.label]
                    if outcome.failure:
                        continue
                    try:
                        server = servers.get(contender.label)
                        if server is None:
                            server = servers[contender.label] = StreamingServer(contender)
                            stack.callback(server.close)
                            load.prepare(server, self.scale)
                        scale = self.scale
                        if number == 0:
                            scale = replace(scale, seconds=scale.seconds * WARM_UP_SHARE)
                        measured = load.measure(server, scale, number)
                    except FAILURES as failure:
                        outcome.failure = f"{type(failure).__name__}: {failure}"
                    else:
                        if number:
                            outcome.rounds.append(measured)
        return outcomes
