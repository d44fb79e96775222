"""The Python face of durations by how often they were seen."""

from typing import Any

class Histogram:
    """Durations, kept to within 0.8 percent in a fixed amount of memory."""

    count: int
    min: int
    max: int
    @property
    def mean(self) -> float: ...
    @property
    def stddev(self) -> float: ...
    def record(self, value: int) -> None: ...
    def percentile(self, share: float) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
