"""Bytes waiting for one peer: the Python face."""

from shardd.poller import Source

class OutboundSet:
    def __init__(self, write_deadline_ms: int) -> None: ...
    @property
    def write_deadline_ms(self) -> int: ...

class Outbound(Source): ...
