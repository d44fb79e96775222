"""What a load is: its name, what it measures, and the stage that it is measured on."""

import enum
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bench.placement import Place
from bench.servers import Pair, Server
from bench.sides import Child


class LoadFailure(Exception):
    """A load did not come out as it must; the figures of that round do not count."""


class Variant(enum.Enum):
    """Where publishers and subscribers are, on a server of several workers."""

    SAME = "same"  # all on one worker
    CROSS = "cross"  # publishers on one worker, subscribers on others
    ANY = "any"  # wherever the kernel puts them
    HOSTS = "hosts"  # publishers on one host of a cluster, subscribers on the other

    @property
    def publisher_place(self) -> Place:
        """Where what publishes, or requests, is."""
        return Place.FIRST if self in BOTH else Place.ANY

    @property
    def subscriber_place(self) -> Place:
        """Where what subscribes, or answers, is."""
        return {Variant.SAME: Place.FIRST, Variant.CROSS: Place.OTHERS}.get(self, Place.ANY)


BOTH: Final = (Variant.SAME, Variant.CROSS)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a load."""

    name: str
    unit: str
    is_higher_better: bool = True


MESSAGES_PER_S: Final = Metric("messages", "msg/s")


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the loads are."""

    seconds: float
    is_quick: bool
    patience_s: float

    def pick(self, full: int, quick: int) -> int:
        """A size."""
        return quick if self.is_quick else full


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round on one server. `messages` went through while the processor times were taken."""

    figures: dict[str, float]
    messages: int
    server_cpu_s: float
    generator_cpu_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """What a load is measured with."""

    server: Server | Pair
    publisher: Child
    subscriber: Child
    scale: Scale
    variant: Variant


class Load(Protocol):
    """One workload. It leaves nothing behind: connections are its own and are closed."""

    @property
    def name(self) -> str:
        """Short, without blanks; the history is keyed by it."""

    @property
    def summary(self) -> str:
        """One line for people."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """What it measures, the most telling first."""

    @property
    def variants(self) -> Sequence[Variant]:
        """The placements in which it is measured."""

    @property
    def needs_fresh_server(self) -> bool:
        """Whether each round starts a server of its own, because it measures memory."""

    @property
    def is_encrypted(self) -> bool:
        """Whether its connections are TLS, for which the servers have to be told."""

    def measure(self, stage: Stage) -> Measurement:
        """Run it once."""


def percentile(ordered: Sequence[int], share: float) -> float:
    """The value that `share` of all values do not exceed (nearest rank)."""
    if not ordered:
        raise LoadFailure("no round trip was measured")
    rank = max(1, -(-round(share * 1000) * len(ordered) // 1000))
    return float(ordered[min(rank, len(ordered)) - 1])


def median_of(rounds: Sequence[Measurement], pick: Callable[[Measurement], float]) -> float:
    """The median over rounds of one thing."""
    return statistics.median(pick(measured) for measured in rounds)
