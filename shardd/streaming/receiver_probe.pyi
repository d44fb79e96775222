"""A door to the C face of a bus, for tests: the Python face."""

from collections.abc import Callable
from typing import final

from shardd.streaming.bus import Bus, Receiver

@final
class ReceiverProbe(Receiver):
    def __init__(self, callback: Callable[[int, bytes, bytes, bytes, bytes], object]) -> None: ...

def publish_pieces(bus: Bus, subject: bytes, payload: bytes, more: bytes, reply: bytes) -> int: ...
