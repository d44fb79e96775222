"""A run: every load on both servers in turn, A B A B, and what came of it.

Both servers are up while a load runs, and idle servers cost nothing. They are started for the
load and stopped after it; its rounds share them, except where memory is measured, which needs a
server that has done nothing before. A shorter round that is not counted comes first. All
connections of a round are new, and closed after it.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bench import history
from bench.certificate import make_certificate
from bench.frames import FrameError
from bench.history import Record, Result
from bench.load import Load, LoadFailure, Measurement, Metric, Scale, Stage, Variant
from bench.placement import ServerRefusal
from bench.servers import HOST, Contender, Pair, Server, ServerFailure, describe_machine
from bench.sides import Child, SideFailure, make_shared

WARM_UP_SHARE: Final = 0.3
PATIENCE_S: Final = 10.0
FAILURES: Final = (
    LoadFailure, SideFailure, ServerFailure, ServerRefusal, FrameError, OSError, EOFError
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is made."""

    contenders: Sequence[Contender]
    rounds: int
    seconds: float
    workers: int
    is_quick: bool = False

    @property
    def scale(self) -> Scale:
        """The size of a counted round."""
        return Scale(self.seconds, self.is_quick, PATIENCE_S)


@dataclass(slots=True)
class Outcome:
    """The rounds of one server."""

    rounds: list[Measurement] = field(default_factory=list)
    failure: str = ""

    def result(self, metric: Metric) -> Result:
        """Its figures for one metric."""
        return history.summarize(
            [measured.figures[metric.name] for measured in self.rounds],
            [measured.server_cpu_s * 1e6 / measured.messages for measured in self.rounds],
            [generator_share(measured) for measured in self.rounds],
        )


def generator_share(measured: Measurement) -> float:
    """The generator's part of all processor time that server and generator took."""
    total_s = measured.server_cpu_s + measured.generator_cpu_s
    return measured.generator_cpu_s / total_s if total_s else 0.0


class Sides:
    """The two load-making processes; they are replaced after a failure."""

    def __init__(self) -> None:
        """Start both."""
        shared = make_shared()
        self.publisher = Child("publisher", shared)
        self.subscriber = Child("subscriber", shared)

    def stop(self) -> None:
        """End both."""
        self.publisher.stop()
        self.subscriber.stop()


class Run:
    """One run over a list of loads."""

    def __init__(self, options: Options) -> None:
        """Start the load-making processes, and make the certificate of the loads over TLS."""
        self._options = options
        self._sides = Sides()
        self._files = tempfile.TemporaryDirectory(prefix="shardd-bench-")
        self._certificate = make_certificate(Path(self._files.name), HOST)
        self._date = history.now()
        self._commit = history.current_commit()
        self._machine = describe_machine()
        self._versions = {each.label: each.version() for each in options.contenders}

    def close(self) -> None:
        """End the load-making processes, and remove the certificate."""
        self._sides.stop()
        self._files.cleanup()

    def measure(self, loads: Sequence[Load], tell: Callable[[str], None]) -> Iterator[Record]:
        """Measure the loads; a load's records come when it is done."""
        for load in loads:
            for variant in load.variants:
                if variant is Variant.CROSS and self._options.workers < 2:
                    continue
                tell(f"{load.name} {variant.value}")
                outcomes = self._measure_load(load, variant)
                yield from (self._record(load, variant, each, outcomes) for each in load.metrics)

    def _measure_load(self, load: Load, variant: Variant) -> dict[str, Outcome]:
        outcomes = {each.label: Outcome() for each in self._options.contenders}
        with contextlib.ExitStack() as stack:
            servers: dict[str, Server | Pair] = {}
            for number in range(1 + self._options.rounds):
                is_counted = number > 0
                for contender in self._options.contenders:
                    outcome = outcomes[contender.label]
                    if outcome.failure:
                        continue
                    try:
                        measured = self._round(
                            load, variant, contender, servers, stack, is_counted=is_counted
                        )
                    except FAILURES as failure:
                        outcome.failure = str(failure)
                        self._sides.stop()
                        self._sides = Sides()
                    else:
                        if is_counted:
                            outcome.rounds.append(measured)
        return outcomes

    def _round(
        self,
        load: Load,
        variant: Variant,
        contender: Contender,
        servers: dict[str, Server | Pair],
        stack: contextlib.ExitStack,
        *,
        is_counted: bool,
    ) -> Measurement:
        """One load on one server, which is started when there is none yet."""
        scale = self._options.scale
        if not is_counted:
            scale = replace(scale, seconds=scale.seconds * WARM_UP_SHARE)
        with contextlib.ExitStack() as own:
            server = servers.get(contender.label)
            if server is None:
                server = self._start(load, variant, contender)
                (own if load.needs_fresh_server else stack).callback(server.stop)
                if not load.needs_fresh_server:
                    servers[contender.label] = server
            stage = Stage(server, self._sides.publisher, self._sides.subscriber, scale, variant)
            try:
                measured = load.measure(stage)
            except FAILURES as failure:
                # The death of the server explains everything that followed from it.
                server.check_alive()
                words = server.log_tail() or "nothing"
                text = f"{type(failure).__name__}: {failure}; the server wrote: {words}"
                raise LoadFailure(text) from failure
            server.check_alive()
            return measured

    def _start(self, load: Load, variant: Variant, contender: Contender) -> Server | Pair:
        workers = self._options.workers
        if variant is Variant.HOSTS:
            return Pair(contender, workers, PATIENCE_S)
        certificate = self._certificate if load.is_encrypted else None
        return Server(contender, workers, PATIENCE_S, certificate)

    def _record(
        self, load: Load, variant: Variant, metric: Metric, outcomes: dict[str, Outcome]
    ) -> Record:
        good = {label: each for label, each in outcomes.items() if not each.failure}
        results = {label: outcome.result(metric) for label, outcome in good.items()}
        ratio = None
        if len(results) == len(outcomes):
            first, second = (results[label].median for label in outcomes)
            ratio = history.ratio_of(first, second, is_higher_better=metric.is_higher_better)
        return Record(
            date=self._date,
            commit=self._commit,
            machine=self._machine,
            options={
                "rounds": self._options.rounds,
                "seconds": self._options.seconds,
                "workers": self._options.workers,
                "quick": self._options.is_quick,
            },
            servers=self._versions,
            load=load.name,
            variant=variant.value,
            metric=metric.name,
            unit=metric.unit,
            is_higher_better=metric.is_higher_better,
            results=results,
            ratio=ratio,
            failures={label: each.failure for label, each in outcomes.items() if each.failure},
        )
