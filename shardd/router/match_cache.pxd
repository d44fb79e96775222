"""Results of matching by account and literal subject, bounded in number and bytes: the C face.

Set-associative: four cells to a set, one cache line, the latest used first. An entry is one piece
of memory: this header, then whatever the index puts behind it, the subject's bytes among it.

An entry is valid as long as nothing changed that could concern it. A change of a literal pattern
drops the entry of that subject. A change of a wildcard pattern adds one to one counter, chosen by
the pattern's leading literal tokens (none, the first, the first two); an entry remembers the sum
of the counters that concern its subject. Counters only grow, so an equal sum means no change. Both
are O(1), whatever is cached.

Entries that leave the cache are not freed but chained to `retired`: one of them may be in use.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memmove

from shardd.router.table cimport HashKey, same_bytes

cdef enum:
    WAYS = 4

cdef struct Entry:
    Entry* next               # in the chain of retired ones
    const unsigned char* subject
    uint64_t changes          # sum of its counters when it was built
    size_t size               # bytes of the whole allocation
    uint32_t account
    uint32_t subject_len
    uint16_t counters[3]      # which ones concern it; counter 0 never changes
    uint16_t reserved

cdef struct CacheCell:
    uint64_t hash
    Entry* entry              # NULL: free, and so are the cells behind it in the set

cdef struct MatchCache:
    HashKey key
    CacheCell* cells          # NULL until the first entry; on a cache line's boundary
    uint64_t* counters
    void* memory              # what `cells` and `counters` stand in
    size_t set_mask           # sets are a power of two
    size_t ways               # 0: nothing is cached
    size_t entries
    size_t bytes
    size_t bytes_max
    size_t hand               # the set that gives way next when bytes are short
    Entry* retired
    uint64_t hits
    uint64_t misses

cdef void cache_configure(
    MatchCache* cache, HashKey key, size_t entries_max, size_t bytes_max
) noexcept nogil
# Fills in what an entry needs to know of the counters. Called before the index is searched.
cdef void cache_stamp(MatchCache* cache, Entry* entry) noexcept nogil
# Takes over an entry; one that cannot be kept is retired at once.
cdef void cache_insert(MatchCache* cache, uint64_t hash, Entry* entry) noexcept nogil
# A literal pattern changed / a wildcard pattern changed.
cdef void cache_drop(
    MatchCache* cache, uint64_t hash, uint32_t account,
    const unsigned char* subject, size_t length,
) noexcept nogil
cdef void cache_touch(
    MatchCache* cache, uint32_t account, const unsigned char* pattern, size_t length
) noexcept nogil
# Everything may have changed.
cdef void cache_empty(MatchCache* cache) noexcept nogil
# Frees the retired entries / everything.
cdef void cache_release(MatchCache* cache) noexcept nogil
cdef void cache_free(MatchCache* cache) noexcept nogil
# Takes the entry in this cell out of its set and retires it.
cdef void cache_evict(MatchCache* cache, CacheCell* cells, size_t way) noexcept nogil


cdef inline CacheCell* cache_set(const MatchCache* cache, uint64_t hash) noexcept nogil:
    # The upper half: the lower one chooses the cell in the index's own table.
    return &cache.cells[((hash >> 32) & cache.set_mask) * WAYS]


cdef inline uint64_t cache_changes(const MatchCache* cache, const Entry* entry) noexcept nogil:
    return (
        cache.counters[entry.counters[0]]
        + cache.counters[entry.counters[1]]
        + cache.counters[entry.counters[2]]
    )


cdef inline bint cache_is_entry(
    const CacheCell* cell, uint64_t hash, uint32_t account,
    const unsigned char* subject, size_t length,
) noexcept nogil:
    return (
        cell.hash == hash
        and cell.entry != NULL
        and cell.entry.subject_len == length
        and cell.entry.account == account
        and same_bytes(cell.entry.subject, subject, length)
    )


cdef inline Entry* cache_find(
    MatchCache* cache, uint64_t hash, uint32_t account,
    const unsigned char* subject, size_t length,
) noexcept nogil:
    """The valid entry of a subject, NULL when there is none."""
    cdef CacheCell* cells
    cdef CacheCell cell
    cdef size_t way
    if cache.cells != NULL:
        cells = cache_set(cache, hash)
        for way in range(<size_t>WAYS):
            if not cache_is_entry(&cells[way], hash, account, subject, length):
                continue
            cell = cells[way]
            if cache_changes(cache, cell.entry) != cell.entry.changes:
                cache_evict(cache, cells, way)
                break
            if way > 0:
                memmove(&cells[1], &cells[0], way * sizeof(CacheCell))
                cells[0] = cell
            cache.hits += 1
            return cell.entry
    cache.misses += 1
    return NULL
