"""The Python face of request/reply."""

from collections.abc import Sequence

class Timed:
    start_ns: int
    end_ns: int
    answers: list[int]
    samples_ns: bytes

def request(
    fds: Sequence[int],
    requests: Sequence[bytes],
    answer_len: int,
    shared: memoryview,
    seconds: float,
    patience_s: float,
) -> Timed: ...
def respond(
    fds: Sequence[int],
    answers: Sequence[bytes],
    request_len: int,
    shared: memoryview,
    patience_s: float,
) -> list[int]: ...
