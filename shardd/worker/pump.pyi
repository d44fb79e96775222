"""One pass of a worker: the Python face."""

from collections.abc import Callable
from typing import final

from shardd.poller import Source
from shardd.router.doorbell import Doorbell
from shardd.worker.shared import Shared

@final
class Bell(Source):
    def __init__(self, doorbell: Doorbell) -> None: ...

@final
class Pump:
    def __init__(
        self,
        shared: Shared,
        doorbell: Doorbell,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None: ...
    @property
    def shared(self) -> Shared: ...
    def run(self) -> None: ...
    def finish(self) -> None: ...
