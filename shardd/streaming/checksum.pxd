"""CRC-32C: the C face."""

from libc.stdint cimport uint32_t

cdef uint32_t checksum(uint32_t before, const unsigned char* bytes, size_t length) noexcept nogil
