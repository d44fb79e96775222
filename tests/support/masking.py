"""A layer that only makes other bytes of bytes, so that what went round it shows."""

_MASK = bytes(byte ^ 0x5A for byte in range(256))


def unmask(encoded: bytes) -> bytes:
    """What was given to `MaskingLayer.send`."""
    return encoded.translate(_MASK)


class MaskingLayer:
    """`layer.Layer`, as far as an output needs it. `pieces`: the lengths of what it encoded."""

    peer_certificate: bytes | None = None
    cookies = None
    client_ip = ""
    is_ended = False

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self.pieces: list[int] = []
        self._encoded = bytearray()

    def say(self, words: bytes) -> None:
        """Something of the layer's own, as in a handshake."""
        self._encoded += words

    def receive(self, data: memoryview) -> None:
        """Nothing is received."""

    def read_into(self, room: memoryview) -> int:
        """Nothing is received."""
        return 0

    def send(self, data: memoryview) -> None:
        """Encodes a piece."""
        self.pieces.append(len(data))
        self._encoded += bytes(data).translate(_MASK)

    def take(self) -> bytes:
        """What was encoded and said."""
        encoded = bytes(self._encoded)
        self._encoded.clear()
        return encoded

    def close(self) -> None:
        """Says nothing."""
