# cython: language_level=3str
"""CRC-32C (RFC 3720 section 12.1): what tells a record as written from any other bytes.

Computed by the processor's own instruction where it has one (found out at run time), else by
tables. Nothing else of the store needs to know which.
"""

from libc.stdint cimport uint32_t

cdef extern from "crc32c.h" nogil:
    void crc32c_make_tables()
    int crc32c_has_instruction()
    uint32_t c_by_table "crc32c_by_table"(
        uint32_t crc, const unsigned char* bytes, size_t length
    )
    uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char* bytes, size_t length)

crc32c_make_tables()
cdef bint HAS_INSTRUCTION = crc32c_has_instruction()


cdef uint32_t checksum(uint32_t before, const unsigned char* bytes, size_t length) noexcept nogil:
    """Of bytes that follow those of which `before` is the checksum; 0 is that of none."""
    if HAS_INSTRUCTION:
        return crc32c_by_instruction(before, bytes, length)
    return c_by_table(before, bytes, length)


def crc32c(bytes data not None, uint32_t before=0) -> int:
    """The checksum of bytes that follow those of which `before` is the checksum."""
    return checksum(before, <const unsigned char*>data, len(data))


def crc32c_by_table(bytes data not None, uint32_t before=0) -> int:
    """The same without the processor's instruction, for the tests."""
    return c_by_table(before, <const unsigned char*>data, len(data))
