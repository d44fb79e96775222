"""The Python face of the load generator's loops over TLS."""

import ssl
from collections.abc import Sequence

from bench.generator import Counted, Published

def publish(
    connections: Sequence[ssl.SSLSocket],
    blocks: Sequence[bytes],
    outputs: Sequence[int],
    shared: memoryview,
    seconds: float,
    blocks_max: int,
    credit: int,
    patience_s: float,
) -> Published: ...
def count(
    connections: Sequence[ssl.SSLSocket],
    header_len: int,
    body: bytes,
    shared: memoryview,
    patience_s: float,
) -> Counted: ...
