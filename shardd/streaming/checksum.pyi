"""CRC-32C: the Python face."""

def crc32c(data: bytes, before: int = 0) -> int:
    """The checksum of bytes that follow those of which `before` is the checksum."""

def crc32c_by_table(data: bytes, before: int = 0) -> int:
    """The same without the processor's instruction, for the tests."""
