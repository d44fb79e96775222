"""The listening sockets of one worker: the Python face."""

import socket
from collections.abc import Callable, Sequence
from typing import final

from shardd.poller import Source
from shardd.worker.door import Door
from shardd.worker.shared import Shared

@final
class Listener(Source):
    def __init__(self, entrance: Entrance, listening: socket.socket, door: int) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...

@final
class Inlet(Source):
    def __init__(self, entrance: Entrance, inlet: socket.socket) -> None: ...

@final
class Entrance:
    def __init__(
        self,
        shared: Shared,
        listening: Sequence[socket.socket],
        doors: Sequence[Door],
        handovers: tuple[tuple[socket.socket, socket.socket], ...],
        worker_count: int,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None: ...
    def change_doors(self, doors: Sequence[Door]) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
