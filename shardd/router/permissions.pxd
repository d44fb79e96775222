"""What one user may publish and subscribe to, compiled: the C face."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from shardd.router.match_cache cimport MatchCache
from shardd.router.trie cimport Trie, Vector

# A parsed entry of a list: a subject pattern, and the queue pattern behind it if there is one.
cdef struct Rule:
    const unsigned char* subject
    size_t subject_len
    const unsigned char* queue
    size_t queue_len          # 0: about every subscription
    Rule* next                # about the same subject pattern

# One list.
cdef struct Rules:
    bint is_given             # an empty list restricts nothing
    Rule* items
    size_t count
    Trie trie                 # each subject pattern leads to the last of its rules

@cython.final
cdef class Permissions:
    cdef readonly bint limits_publish      # False: everything may be published
    cdef readonly bint limits_subscribe    # False: everything may be subscribed to
    cdef readonly object responses         # model.ResponseRules, None: answers need permission
    cdef list _texts                       # what the rules point into
    cdef Rules _publish_allow
    cdef Rules _publish_deny
    cdef Rules _subscribe_allow
    cdef Rules _subscribe_deny
    cdef Vector _rules                     # scratch of `_find`
    cdef MatchCache _cache                 # verdicts: context 0 for publishing, 1 for receiving

    cdef int _parse(self, Rules* rules, object entries, bint has_queues) except -1
    cdef bint may_publish(self, const unsigned char* subject, size_t length) except -1
    # `queue` NULL or empty: a plain subscription.
    cdef bint may_subscribe(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1
    # Whether deliveries of this allowed subscription have to be asked for one by one.
    cdef bint needs_filter(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1
    # Whether a message on this literal subject may reach an allowed subscription in this group.
    cdef bint may_receive(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1
    cdef int _verdict(
        self, int context, const unsigned char* subject, size_t length
    ) except -1
    cdef bint _is_publishable(self, const unsigned char* subject, size_t length) except -1
    cdef int _find(
        self, Rules* rules, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1

@cython.final
cdef class ReplyGrants:
    cdef object _grants                    # OrderedDict: reply to [granted at, replies so far]
    cdef long long _max_messages           # negative: no limit
    cdef int64_t _expires_ms               # negative: never

    cdef int grant(self, const unsigned char* reply, size_t length, uint64_t now_ms) except -1
    cdef bint take(self, const unsigned char* subject, size_t length, uint64_t now_ms) except -1
    cdef bint _is_over(self, list grant, uint64_t now_ms) except -1
