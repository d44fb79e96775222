"""What the channels and subscriptions of one streaming worker share: the Python face."""

from collections.abc import Callable
from typing import Any, final

from shardd.streaming.bus import Bus

@final
class Traffic:
    now_ms: int
    now_ns: int
    deliveries_max: int
    redeliveries_max: int
    group_in_flight_max: int
    on_exhausted: Callable[[Any, Any, int, bytes, bytes], object] | None
    on_unreadable: Callable[[Any, str], object] | None
    in_messages: int
    in_bytes: int
    out_messages: int
    out_bytes: int
    redelivered: int
    def __init__(self, bus: Bus) -> None: ...
    @property
    def bus(self) -> Bus: ...
    @property
    def ready(self) -> list[Any]: ...
    @property
    def moved(self) -> list[Any]: ...
    @property
    def armed(self) -> list[Any]: ...
