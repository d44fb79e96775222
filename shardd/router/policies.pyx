# cython: language_level=3str
"""How a member of a queue group is chosen where the operator has said so.

The rules, looked up once for each cached match, and the arithmetic of weighted rendezvous. Nothing
in it is a secret or differs between hosts: they all have to come to the same winner.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport log
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from shardd.config import model

from shardd.router.frame cimport MESSAGE_HAS_HEADER, Message
from shardd.router.subject cimport pattern_matches

_KINDS = {
    model.PolicyKind.RANDOM: POLICY_RANDOM,
    model.PolicyKind.ROUND_ROBIN: POLICY_ROUND_ROBIN,
    model.PolicyKind.LOCAL: POLICY_LOCAL,
    model.PolicyKind.STICKY: POLICY_STICKY,
}

cdef double STEP = 2.0 ** -53


cdef inline const unsigned char* data(bytes source) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(source)


def rules_of(policies: object, account_ids: object) -> list:
    """The configured policies as an index takes them. One for an account that has no number
    concerns nobody."""
    return [
        (
            _KINDS[each.policy],
            account_ids[each.account] if each.account else None,
            each.subject.encode(),
            b"" if each.group == ">" else each.group.encode(),
            each.header.encode(),
        )
        for each in policies if not each.account or each.account in account_ids
    ]


def identity_of(str name not None) -> int:
    """What a host is known by where hosts are candidates."""
    cdef bytes text = name.encode("utf-8", "surrogateescape")
    return hash_text(data(text), PyBytes_GET_SIZE(text))


# --- the rules ------------------------------------------------------------------------------------

cdef int policies_set(PolicyTable* table, list rules) except -1:
    cdef Policy* policy
    cdef unsigned char* at
    cdef size_t room = sum([len(subject) + len(group) + len(header)
                            for _, _, subject, group, header in rules])
    policies_free(table)
    if not rules:
        return 0
    table.items = <Policy*>calloc(len(rules), sizeof(Policy))
    table.text = <unsigned char*>malloc(room + 1)
    if table.items == NULL or table.text == NULL:
        policies_free(table)
        raise MemoryError
    at = table.text
    for kind, account, subject, group, header in rules:
        policy = &table.items[table.count]
        policy.kind = kind
        policy.is_for_all = account is None
        policy.account = account or 0
        policy.subject, policy.subject_len = at, len(subject)
        at = appended(at, subject)
        policy.group, policy.group_len = at, len(group)
        at = appended(at, group)
        policy.header, policy.header_len = at, len(header)
        at = appended(at, header)
        table.count += 1


cdef unsigned char* appended(unsigned char* at, bytes text) noexcept:
    memcpy(at, data(text), PyBytes_GET_SIZE(text))
    return at + PyBytes_GET_SIZE(text)


cdef void policies_free(PolicyTable* table) noexcept nogil:
    free(table.items)
    free(table.text)
    table.items = NULL
    table.text = NULL
    table.count = 0


cdef inline bint concerns(
    const Policy* policy, uint32_t account, const unsigned char* group, size_t length
) noexcept nogil:
    if not policy.is_for_all and policy.account != account:
        return False
    return policy.group_len == 0 or pattern_matches(
        policy.group, policy.group_len, group, length)


cdef uint32_t policy_find(
    const PolicyTable* table, uint32_t account, const unsigned char* subject, size_t length,
    const unsigned char* group, size_t group_len,
) noexcept nogil:
    cdef const Policy* policy
    cdef uint32_t at
    for at in range(table.count):
        policy = &table.items[at]
        if concerns(policy, account, group, group_len) and pattern_matches(
            policy.subject, policy.subject_len, subject, length
        ):
            return 0 if policy.kind == POLICY_RANDOM else at + 1
    return 0


cdef bint may_be_sticky(
    const PolicyTable* table, uint32_t account, const unsigned char* group, size_t length
) noexcept nogil:
    cdef uint32_t at
    for at in range(table.count):
        if table.items[at].kind == POLICY_STICKY and concerns(
            &table.items[at], account, group, length
        ):
            return True
    return False


# --- rendezvous -----------------------------------------------------------------------------------

cdef uint64_t hash_text(const unsigned char* text, size_t length) noexcept nogil:
    """FNV-1a (Fowler, Noll, Vo), 64 bits, finished so that every bit counts."""
    cdef uint64_t value = <uint64_t>0xCBF29CE484222325
    cdef size_t at
    for at in range(length):
        value = (value ^ text[at]) * <uint64_t>0x100000001B3
    return mixed(value)


cdef size_t line_end(const unsigned char* block, size_t length, size_t at) noexcept nogil:
    while at < length and block[at] != c'\n':
        at += 1
    return at


cdef bint find_header(
    const Policy* policy, const unsigned char* block, size_t length, size_t* start, size_t* end
) noexcept nogil:
    """Where the value of the policy's header stands in a header block, blanks around it aside."""
    cdef size_t at = line_end(block, length, 0) + 1  # behind the version line
    while at < length:
        end[0] = line_end(block, length, at)
        start[0] = at + policy.header_len + 1
        if start[0] <= end[0] and block[start[0] - 1] == c':' and memcmp(
            block + at, policy.header, policy.header_len
        ) == 0:
            while start[0] < end[0] and block[start[0]] in (c' ', c'\t', c'\r'):
                start[0] += 1
            while start[0] < end[0] and block[end[0] - 1] in (c' ', c'\t', c'\r'):
                end[0] -= 1
            return True
        at = end[0] + 1
    return False


cdef uint64_t key_of(const Policy* policy, const Message* message) noexcept nogil:
    cdef const unsigned char* block
    cdef size_t start, end
    if policy.header_len and message.flags & MESSAGE_HAS_HEADER:
        block = message.tail + message.tail_len - 2 - message.total_len
        if find_header(policy, block, message.header_len, &start, &end):
            return hash_text(block + start, end - start)
    return hash_text(message.subject, message.subject_len)


cdef double lateness(uint64_t key, const Share* share) noexcept nogil:
    # An exponential clock that runs `weight` times as fast; 53 bits between 0 and 1.
    return -log((<double>(mixed(key ^ share.id) >> 11) + 0.5) * STEP) / share.weight


cdef const Share* first_of(
    const Share* shares, size_t count, uint64_t key, uint64_t skipped
) noexcept nogil:
    cdef const Share* first = NULL
    cdef const Share* single = NULL  # the first of those with a weight of one: no logarithm
    cdef uint64_t number, highest = 0
    cdef double late, earliest = 0
    cdef size_t at
    for at in range(count):
        if skipped >> shares[at].process & 1:
            continue
        if shares[at].weight == 1:
            number = mixed(key ^ shares[at].id)
            if single == NULL or number > highest:
                single = &shares[at]
                highest = number
            continue
        late = lateness(key, &shares[at])
        if first == NULL or late < earliest:
            first = &shares[at]
            earliest = late
    if first == NULL or (single != NULL and lateness(key, single) < earliest):
        return single
    return first
