"""The body of the match cache: what is kept, what gives way, what a change touches."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove

from shardd.router.subject cimport is_token, token_end
from shardd.router.table cimport HashKey, hash_bytes

# Counter 0 stands still; then one group of counters for each number of leading literal tokens.
# Patterns that begin with a wildcard have theirs by account, the others by a hash.
cdef enum:
    ACCOUNT_COUNTERS = 64
    TOKEN_COUNTERS = 1024
    COUNTERS = 1 + ACCOUNT_COUNTERS + 2 * TOKEN_COUNTERS
    LINE = 64                 # bytes of a cache line


cdef void cache_configure(
    MatchCache* cache, HashKey key, size_t entries_max, size_t bytes_max
) noexcept nogil:
    cdef size_t sets = 1
    cache.key = key
    cache.ways = entries_max if entries_max < WAYS else WAYS
    while sets * 2 * WAYS <= entries_max:
        sets *= 2
    cache.set_mask = sets - 1
    cache.bytes_max = bytes_max


cdef int allocate(MatchCache* cache) noexcept nogil:
    cdef size_t cells = (cache.set_mask + 1) * WAYS * sizeof(CacheCell)
    cache.memory = calloc(1, LINE + cells + COUNTERS * sizeof(uint64_t))
    if cache.memory == NULL:
        return -1
    cache.cells = <CacheCell*>((<uintptr_t>cache.memory + LINE - 1) & ~<uintptr_t>(LINE - 1))
    cache.counters = <uint64_t*>(<unsigned char*>cache.cells + cells)
    return 0


cdef inline uint16_t counter_of(
    const MatchCache* cache, uint32_t account, const unsigned char* prefix, size_t length,
    uint32_t tokens,
) noexcept nogil:
    """The counter of patterns with this many leading literal tokens (2: two or more)."""
    if tokens == 0:
        return <uint16_t>(1 + account % ACCOUNT_COUNTERS)
    return <uint16_t>(
        1 + ACCOUNT_COUNTERS + (tokens - 1) * TOKEN_COUNTERS
        + hash_bytes(&cache.key, account, prefix, length) % TOKEN_COUNTERS
    )


cdef void cache_stamp(MatchCache* cache, Entry* entry) noexcept nogil:
    cdef size_t end = token_end(entry.subject, entry.subject_len, 0)
    cdef uint32_t account = entry.account
    entry.counters[0] = counter_of(cache, account, entry.subject, 0, 0)
    entry.counters[1] = 0
    entry.counters[2] = 0
    # A wildcard takes at least one token, so the last one is never part of a pattern's prefix.
    if end < entry.subject_len:
        entry.counters[1] = counter_of(cache, account, entry.subject, end, 1)
        end = token_end(entry.subject, entry.subject_len, end + 1)
        if end < entry.subject_len:
            entry.counters[2] = counter_of(cache, account, entry.subject, end, 2)
    entry.changes = cache_changes(cache, entry) if cache.counters != NULL else 0


cdef void cache_touch(
    MatchCache* cache, uint32_t account, const unsigned char* pattern, size_t length
) noexcept nogil:
    cdef size_t end, first_end
    cdef uint32_t tokens = 0
    if cache.counters == NULL:
        return
    end = token_end(pattern, length, 0)
    if not is_token(pattern, 0, end, c'*') and not is_token(pattern, 0, end, c'>'):
        tokens = 1
        first_end = end
        end = token_end(pattern, length, first_end + 1)
        if is_token(pattern, first_end + 1, end, c'*') or is_token(
            pattern, first_end + 1, end, c'>'
        ):
            end = first_end
        else:
            tokens = 2
    cache.counters[counter_of(cache, account, pattern, end, tokens)] += 1


cdef inline void retire(MatchCache* cache, Entry* entry) noexcept nogil:
    entry.next = cache.retired
    cache.retired = entry


cdef void cache_evict(MatchCache* cache, CacheCell* cells, size_t way) noexcept nogil:
    cdef Entry* entry = cells[way].entry
    cache.entries -= 1
    cache.bytes -= entry.size
    retire(cache, entry)
    while way + 1 < WAYS and cells[way + 1].entry != NULL:
        cells[way] = cells[way + 1]
        way += 1
    cells[way].entry = NULL


cdef size_t filled(const CacheCell* cells) noexcept nogil:
    cdef size_t way = 0
    while way < WAYS and cells[way].entry != NULL:
        way += 1
    return way


cdef void make_room(MatchCache* cache, size_t size) noexcept nogil:
    """Evicts from one set after the other, the longest unused of each, until the bytes fit."""
    cdef CacheCell* cells
    cdef size_t count
    while cache.entries > 0 and cache.bytes + size > cache.bytes_max:
        cells = &cache.cells[cache.hand * WAYS]
        count = filled(cells)
        if count > 0:
            cache_evict(cache, cells, count - 1)
        cache.hand = (cache.hand + 1) & cache.set_mask


cdef void cache_insert(MatchCache* cache, uint64_t hash, Entry* entry) noexcept nogil:
    cdef CacheCell* cells
    cdef size_t count
    if cache.ways == 0 or entry.size > cache.bytes_max:
        retire(cache, entry)
        return
    if cache.cells == NULL and allocate(cache) < 0:
        retire(cache, entry)
        return
    make_room(cache, entry.size)
    cells = cache_set(cache, hash)
    count = filled(cells)
    if count == cache.ways:
        cache_evict(cache, cells, count - 1)
        count -= 1
    memmove(&cells[1], &cells[0], count * sizeof(CacheCell))
    cells[0].hash = hash
    cells[0].entry = entry
    cache.entries += 1
    cache.bytes += entry.size


cdef void cache_drop(
    MatchCache* cache, uint64_t hash, uint32_t account,
    const unsigned char* subject, size_t length,
) noexcept nogil:
    cdef CacheCell* cells
    cdef size_t way
    if cache.cells == NULL:
        return
    cells = cache_set(cache, hash)
    for way in range(<size_t>WAYS):
        if cache_is_entry(&cells[way], hash, account, subject, length):
            cache_evict(cache, cells, way)
            return


cdef void cache_empty(MatchCache* cache) noexcept nogil:
    cdef CacheCell* cells
    cdef size_t at
    if cache.cells == NULL:
        return
    for at in range(cache.set_mask + 1):
        cells = &cache.cells[at * WAYS]
        while cells[0].entry != NULL:
            cache_evict(cache, cells, 0)


cdef void cache_release(MatchCache* cache) noexcept nogil:
    cdef Entry* entry
    while cache.retired != NULL:
        entry = cache.retired
        cache.retired = entry.next
        free(entry)


cdef void cache_free(MatchCache* cache) noexcept nogil:
    cdef size_t index
    cache_release(cache)
    if cache.cells != NULL:
        for index in range((cache.set_mask + 1) * <size_t>WAYS):
            free(cache.cells[index].entry)
    free(cache.memory)
    cache.memory = NULL
    cache.cells = NULL
    cache.counters = NULL
    cache.entries = 0
    cache.bytes = 0
