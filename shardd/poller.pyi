"""Descriptors that one worker watches: the Python face."""

from shardd.timers import Timed

class Source(Timed): ...

class Poller:
    now_ms: int
    @property
    def fd(self) -> int: ...
    def __init__(self) -> None: ...
