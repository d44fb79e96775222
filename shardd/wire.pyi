"""The Python face of the parser: doors for tests, fuzzing and the micro benchmark only."""

def parse(
    data: bytes,
    *,
    control_line_max: int = ...,
    payload_max: int = ...,
    headers: bool = ...,
) -> tuple[list[tuple[object, ...]], int, int, int]: ...
def parse_repeatedly(data: bytes, rounds: int) -> int: ...
