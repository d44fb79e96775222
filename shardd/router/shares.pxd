"""Who the members of a sticky group are: the C face."""

from shardd.router.patterns cimport Group, Index
from shardd.router.policies cimport Share

# Who the members of a sticky group are, as candidates for a message: how many, and which.
cdef size_t count_shares(const Group* group) noexcept nogil
cdef size_t write_shares(const Index* index, const Group* group, Share* room) noexcept nogil
# A process or a host that is there once for each of several patterns becomes one candidate with all
# of its members, as it counts itself. Puts them in another order; returns how many are left.
cdef size_t merge_shares(Share* shares, size_t count) noexcept nogil
# Those of them that the others are told of.
cdef size_t count_told(const Index* index, const Group* group) noexcept nogil
cdef size_t write_told(const Index* index, const Group* group, Share* room) noexcept nogil
