"""The Python face of the route parser: a door for tests and fuzzing only."""

def parse(
    data: bytes,
    *,
    control_line_max: int = ...,
    payload_max: int = ...,
    has_account: bool = ...,
) -> tuple[list[tuple[object, ...]], int, int, int]: ...
