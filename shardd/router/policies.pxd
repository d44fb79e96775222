"""How a member of a queue group is chosen where the operator has said so: the C face.

A rule has a pattern of subjects, a pattern of groups and a way of choosing; the first one that
matches counts. What is sticky is chosen by weighted rendezvous: each candidate draws a number from
the message's key and its own identity, and the best one wins. So everybody who knows the candidates
chooses the same one, and who comes or goes moves only the keys that it wins or had won.
"""

from libc.stdint cimport uint32_t, uint64_t

from shardd.router.frame cimport Message

cdef enum PolicyKind:
    POLICY_RANDOM = 0
    POLICY_ROUND_ROBIN = 1
    POLICY_LOCAL = 2
    POLICY_STICKY = 3

cdef struct Policy:
    uint32_t kind             # PolicyKind
    uint32_t account
    bint is_for_all           # for every account, not just that one
    uint32_t subject_len
    uint32_t group_len        # 0: every group
    uint32_t header_len       # 0: the key is the subject
    const unsigned char* subject
    const unsigned char* group
    const unsigned char* header

cdef struct PolicyTable:
    Policy* items
    uint32_t count
    unsigned char* text       # what the patterns stand in

# A candidate: one member, or a process or a host with so many of them.
cdef struct Share:
    uint64_t id
    uint32_t weight
    uint32_t process          # by which it is reached

# Replaces the rules: (kind, account or None, subject, group, header) each. MemoryError leaves none.
cdef int policies_set(PolicyTable* table, list rules) except -1
cdef void policies_free(PolicyTable* table) noexcept nogil
# The number of the rule for a group and a literal subject, from 1 on; 0: there is none.
cdef uint32_t policy_find(
    const PolicyTable* table, uint32_t account, const unsigned char* subject, size_t length,
    const unsigned char* group, size_t group_len,
) noexcept nogil
# Whether a group of this name can be sticky on some subject.
cdef bint may_be_sticky(
    const PolicyTable* table, uint32_t account, const unsigned char* group, size_t length
) noexcept nogil

# The finalizer of MurmurHash3 (Appleby): a permutation of 64 bits in which every bit counts.
cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    value ^= value >> 33
    value *= <uint64_t>0xFF51AFD7ED558CCD
    value ^= value >> 33
    value *= <uint64_t>0xC4CEB9FE1A85EC53
    return value ^ (value >> 33)

# The identity of a process of this host, and of a member there.
cdef inline uint64_t process_id(uint32_t process) noexcept nogil:
    return mixed(<uint64_t>(process + 1) << 32)

cdef inline uint64_t member_id(uint32_t process, uint32_t serial) noexcept nogil:
    return mixed(<uint64_t>(process + 1) << 32 | serial)

# The same for bytes: keys, names of hosts.
cdef uint64_t hash_text(const unsigned char* text, size_t length) noexcept nogil
# What decides where a message goes: the value of the header, without one the subject.
cdef uint64_t key_of(const Policy* policy, const Message* message) noexcept nogil
# How late a candidate comes for a key: the first one wins. Twice the weight wins twice as often.
cdef double lateness(uint64_t key, const Share* share) noexcept nogil
# The winner, but for those that are reached by one of these processes; NULL: nobody is left.
cdef const Share* first_of(
    const Share* shares, size_t count, uint64_t key, uint64_t skipped
) noexcept nogil
