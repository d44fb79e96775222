"""The Python face of the dialer."""

class Dialled:
    start_ns: int
    end_ns: int
    fds: list[int]

def dial(
    host: str,
    port: int,
    count: int,
    in_flight: int,
    sources: int,
    hello: bytes,
    patience_s: float,
) -> Dialled: ...
