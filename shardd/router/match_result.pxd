"""Putting the patterns that match one subject together into one `Match`: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.router.patterns cimport Group, Index, RemoteWeight, Subscription
from shardd.router.policies cimport Share
from shardd.router.trie cimport Vector

# One queue group over all patterns that match a subject.
cdef struct MatchGroup:
    const unsigned char* name
    uint32_t name_len
    uint32_t local_count
    Subscription** members    # local_count of them
    uint32_t remote_count
    uint32_t policy           # number of the rule for it; 0: at random
    RemoteWeight* remotes     # one per process, weights summed over patterns
    uint64_t weight           # local_count + remote weights
    # Only where a rule is; the group lives as long as this result is current.
    Group* source             # whose turns count
    Share* shares             # the candidates of a sticky one
    size_t share_count

# Who gets one literal subject. The memory stays until `release`; a subscription that was removed
# since says so. What it says is current until the next change.
cdef struct Match:
    uint64_t processes        # bit mask of other processes with plain interest
    uint32_t plain_count
    uint32_t group_count
    Subscription** plain
    MatchGroup* groups

# What a result needs, counted before it is allocated.
cdef struct MatchPlan:
    uint64_t processes
    size_t plain
    size_t names              # queue groups after merging
    size_t name_bytes
    size_t members
    size_t remotes            # at most
    size_t shares             # at most

# Counts what the found interests amount to, and leaves their groups in `groups`, those of one name
# side by side. -1 without memory.
cdef int plan_match(const Vector* found, Vector* groups, MatchPlan* plan) noexcept nogil
# The bytes that `fill_match` needs behind a Match, at an 8-byte boundary.
cdef size_t plan_bytes(const MatchPlan* plan) noexcept nogil
cdef void fill_match(
    const Index* index, const MatchPlan* plan, uint32_t account, const unsigned char* subject,
    size_t length, Match* result, void* room,
) noexcept nogil
