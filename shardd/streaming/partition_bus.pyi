"""A bus that shows a server only its own list of channels: the Python face."""

from collections.abc import Callable, Sequence
from typing import Any, final

from shardd.streaming.bus import Bus

QUESTIONS: int
ANSWERS: int

@final
class PartitionBus(Bus):
    begin_pass: Callable[[], object] | None
    end_pass: Callable[[], object] | None
    on_room: Callable[[], object] | None
    wake: Callable[[], object] | None
    on_control: Callable[[int, bytes, bytes], object]
    def __init__(
        self,
        inner: Bus,
        entries: Sequence[str],
        later: Callable[[float, Callable[[], object]], object],
    ) -> None: ...
    @property
    def inner(self) -> Bus: ...
    @property
    def held(self) -> int: ...
    def know(self, clients: dict[bytes, Any], connections: dict[bytes, Any]) -> None: ...

def covers(pattern: Sequence[str], tokens: Sequence[str]) -> bool: ...
