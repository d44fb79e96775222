/*
 * CRC-32C (Castagnoli; RFC 3720 section 12.1): by the processor's instruction where it has one,
 * else by tables for eight bytes at a time.
 *
 * Included by checksum.pyx alone: the tables are its own.
 */
#ifndef SHARDD_CRC32C_H
#define SHARDD_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t crc32c_table[8][256];

static void crc32c_make_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (0x82F63B78u & (0u - (value & 1)));
        crc32c_table[0][byte] = value;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int row = 1; row < 8; row++) {
            uint32_t value = crc32c_table[row - 1][byte];
            crc32c_table[row][byte] = (value >> 8) ^ crc32c_table[0][value & 255];
        }
}

static uint32_t crc32c_by_table(uint32_t crc, const unsigned char *bytes, size_t length) {
    crc = ~crc;
    for (; length >= 8; bytes += 8, length -= 8) {
        uint32_t low = crc ^ ((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 |
                              (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24);
        crc = crc32c_table[7][low & 255] ^ crc32c_table[6][low >> 8 & 255] ^
              crc32c_table[5][low >> 16 & 255] ^ crc32c_table[4][low >> 24] ^
              crc32c_table[3][bytes[4]] ^ crc32c_table[2][bytes[5]] ^
              crc32c_table[1][bytes[6]] ^ crc32c_table[0][bytes[7]];
    }
    for (; length; bytes++, length--)
        crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *bytes) & 255];
    return ~crc;
}

#if defined(__x86_64__)

static int crc32c_has_instruction(void) { return __builtin_cpu_supports("sse4.2") != 0; }

__attribute__((target("sse4.2"))) static uint32_t
crc32c_by_instruction(uint32_t crc, const unsigned char *bytes, size_t length) {
    uint64_t value = ~crc;
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        value = __builtin_ia32_crc32di(value, word);
    }
    for (; length; bytes++, length--)
        value = __builtin_ia32_crc32qi((uint32_t)value, *bytes);
    return ~(uint32_t)value;
}

#else

static int crc32c_has_instruction(void) { return 0; }

static uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char *bytes, size_t length) {
    return crc32c_by_table(crc, bytes, length);
}

#endif

#endif
