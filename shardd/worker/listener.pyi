"""The listening socket of one worker: the Python face."""

import socket
from collections.abc import Callable
from typing import final

from shardd.poller import Source
from shardd.worker.shared import Shared

@final
class Listener(Source):
    def __init__(
        self,
        shared: Shared,
        listening: socket.socket,
        handovers: tuple[tuple[socket.socket, socket.socket], ...],
        worker_count: int,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
