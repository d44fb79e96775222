"""A door to the C face of ring records, for tests and the fuzz target."""

from collections.abc import Sequence

def write(
    subject: bytes,
    tail: bytes,
    sizes: tuple[int, int, int],
    targets: Sequence[tuple[int, bytes]] = ...,
    account: int = ...,
    flags: int = ...,
    publisher: int = ...,
    processes: int = ...,
    kind: int = ...,
    hops: int = ...,
) -> bytes: ...
def read(record: bytes) -> tuple[int, int, int, bytes, bytes, int, int, int] | None: ...
def read_target_at(record: bytes, offset: int) -> tuple[int, bytes, int] | None: ...
def tail_of(reply: bytes, payload: bytes, header_len: int | None = ...) -> tuple[bytes, int]: ...
def number(value: int) -> bytes: ...
