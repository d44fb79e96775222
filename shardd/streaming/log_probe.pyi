"""A door to the C face of channel logs, for tests and benchmarks."""

from shardd.streaming.log import ChannelLog

NOTHING: int
MESSAGE: int
LATER: int

def append(log: ChannelLog, now_ns: int, data: bytes, reply: bytes = b"") -> int:
    """Append one message; its sequence."""

def append_many(log: ChannelLog, now_ns: int, data: bytes, count: int) -> int:
    """Append the same message so many times; the last sequence."""

def find(log: ChannelLog, sequence: int) -> tuple[int, int, int, bytes]:
    """What was found (NOTHING, MESSAGE or LATER), and of a message its sequence, timestamp and
    bytes (0, 0 and none without one)."""

def read_all(log: ChannelLog, sequence: int, most: int = ...) -> tuple[int, int]:
    """Finds message after message from a sequence on, so many at most; how many there were, and
    their bytes."""
