"""Putting the patterns that match one subject together into one `Match`: the C face."""

from shardd.router.sublist cimport Match
from shardd.router.trie cimport Vector

from libc.stdint cimport uint64_t

# What a result needs, counted before it is allocated.
cdef struct MatchPlan:
    uint64_t processes
    size_t plain
    size_t names              # queue groups after merging
    size_t name_bytes
    size_t members
    size_t remotes            # at most

# Counts what the found interests amount to, and leaves their groups in `groups`, those of one name
# side by side. -1 without memory.
cdef int plan_match(const Vector* found, Vector* groups, MatchPlan* plan) noexcept nogil
# The bytes that `fill_match` needs behind a Match, at an 8-byte boundary.
cdef size_t plan_bytes(const MatchPlan* plan) noexcept nogil
cdef void fill_match(
    const Vector* found, const Vector* groups, const MatchPlan* plan, Match* result, void* room
) noexcept nogil
