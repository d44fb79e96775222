"""What a NATS server says to a client: the Python face."""

from typing import TypeAlias

Parsed: TypeAlias = tuple[int, int, bytes, bytes, bytes, bytes, bytes]

def read_operations(data: bytes) -> tuple[list[Parsed], int]: ...
