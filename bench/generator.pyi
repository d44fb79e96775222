"""The Python face of the load generator."""

from collections.abc import Sequence

SHARED_BYTES: int

class Published:
    start_ns: int
    end_ns: int
    blocks: list[int]

class Counted:
    end_ns: int
    received: list[int]
    first_headers: list[bytes]
    last_headers: list[bytes]

def reset(shared: memoryview) -> None: ...
def abort(shared: memoryview) -> None: ...
def publish(
    fds: Sequence[int],
    blocks: Sequence[bytes],
    outputs: Sequence[int],
    shared: memoryview,
    seconds: float,
    blocks_max: int,
    credit: int,
    patience_s: float,
) -> Published: ...
def count(
    fds: Sequence[int],
    header_len: int,
    body: bytes,
    shared: memoryview,
    patience_s: float,
) -> Counted: ...
