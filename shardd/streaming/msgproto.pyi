"""The encoded MsgProto: the Python face."""

def encode(sequence: int, subject: bytes, reply: bytes, data: bytes, timestamp_ns: int) -> bytes:
    """The message as it is stored and delivered."""

def decode(encoded: bytes) -> tuple[int, bytes, bytes, bytes, int]:
    """Sequence, subject, reply, data and timestamp (unix ns). ValueError: not a message."""
