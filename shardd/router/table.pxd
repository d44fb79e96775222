"""One hash table of pointers to structs, and the keyed hash that goes with it: the C face.

Open addressing with linear probing. A cell keeps the item's whole hash, so that probing touches an
item only when the hashes are equal and growing touches none. Deletion shifts the cells behind it
back, so there are no tombstones. A table without items that never had one owns no memory; a zeroed
`Table` is an empty table. The table knows nothing of keys: the caller hands in an equality.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from *:
    ctypedef unsigned long long uint128_t "unsigned __int128"

cdef struct Cell:
    uint64_t hash
    void* item                # NULL: the cell is free

cdef struct Table:
    Cell* cells
    size_t capacity           # a power of two, 0 without memory
    size_t count

# Two secrets. Who does not know them cannot make keys collide on purpose.
cdef struct HashKey:
    uint64_t first
    uint64_t second

# Whether the item has this key.
ctypedef bint (*equality)(const void* item, const void* key) noexcept nogil

cdef HashKey hash_key(uint64_t seed) noexcept nogil

# Adds an item; does not look for one with an equal key. -1 without memory, and nothing changed.
cdef int table_insert(Table* table, uint64_t hash, void* item) noexcept nogil
# Takes out this very item; False when it is not there.
cdef bint table_remove(Table* table, uint64_t hash, const void* item) noexcept nogil
# Gives back the cells, not the items.
cdef void table_free(Table* table) noexcept nogil
# The item at or after the cell `index`, NULL at the end; `index` moves behind it. Nothing may be
# added or removed in between.
cdef void* table_next(const Table* table, size_t* index) noexcept nogil


cdef inline void* table_find(
    const Table* table, uint64_t hash, equality is_equal, const void* key
) noexcept nogil:
    cdef size_t mask = table.capacity - 1
    cdef size_t index
    cdef const Cell* cell
    if table.capacity == 0:
        return NULL
    index = hash & mask
    while True:
        cell = &table.cells[index]
        if cell.item == NULL:
            return NULL
        if cell.hash == hash and is_equal(cell.item, key):
            return cell.item
        index = (index + 1) & mask


cdef inline uint64_t load_8(const unsigned char* source) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, source, 8)
    return word


cdef inline uint64_t load_4(const unsigned char* source) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, source, 4)
    return word


cdef inline uint64_t fold(uint64_t a, uint64_t b) noexcept nogil:
    """The two halves of the product, laid over each other."""
    cdef uint128_t product = <uint128_t>a * b
    return <uint64_t>product ^ <uint64_t>(product >> 64)


cdef inline uint64_t hash_bytes(
    const HashKey* key, uint64_t context, const unsigned char* source, size_t length
) noexcept nogil:
    """Hashes bytes within a context: an account, or the address of a parent."""
    cdef uint64_t state = fold(key.first ^ context, key.second ^ length)
    cdef uint64_t low = 0
    cdef uint64_t high = 0
    cdef size_t left = length
    while left > 16:
        state = fold(load_8(source) ^ key.second, load_8(source + 8) ^ state)
        source += 16
        left -= 16
    if left >= 8:
        low = load_8(source)
        high = load_8(source + left - 8)
    elif left >= 4:
        low = load_4(source)
        high = load_4(source + left - 4)
    elif left > 0:
        low = source[0] | <uint64_t>source[left >> 1] << 8 | <uint64_t>source[left - 1] << 16
    return fold(low ^ key.second, high ^ state)


cdef inline bint same_bytes(
    const unsigned char* a, const unsigned char* b, size_t length
) noexcept nogil:
    """Equality of short strings without a call: whole words, the last one overlapping."""
    cdef size_t position = 0
    if length > 64:
        return memcmp(a, b, length) == 0
    if length >= 8:
        while position + 8 < length:
            if load_8(a + position) != load_8(b + position):
                return False
            position += 8
        return load_8(a + length - 8) == load_8(b + length - 8)
    if length >= 4:
        return load_4(a) == load_4(b) and load_4(a + length - 4) == load_4(b + length - 4)
    while position < length:
        if a[position] != b[position]:
            return False
        position += 1
    return True
