"""What one user may publish and subscribe to, compiled: the C face."""

cimport cython
from libc.stdint cimport uint64_t

from shardd.router.match_cache cimport MatchCache

# A parsed entry of a list: a subject pattern, and the queue pattern behind it if there is one.
cdef struct Rule:
    const unsigned char* subject
    size_t subject_len
    const unsigned char* queue
    size_t queue_len

cdef struct Rules:
    Rule* items
    size_t count

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
    cdef MatchCache _cache                 # verdicts: context 0 for publishing, 1 for receiving

    cdef Rules _parse(self, object entries, bint has_queues) except *
    cdef bint may_publish(self, const unsigned char* subject, size_t length) except -1
    # `queue` NULL or empty: a plain subscription.
    cdef bint may_subscribe(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1
    # Whether deliveries of an allowed subscription to this pattern have to be asked for one by one.
    cdef bint needs_filter(self, const unsigned char* subject, size_t length) except -1
    cdef bint may_receive(self, const unsigned char* subject, size_t length) except -1
    cdef int _verdict(
        self, int context, const unsigned char* subject, size_t length
    ) except -1
    cdef bint _decide(
        self, int context, const unsigned char* subject, size_t length
    ) except -1

@cython.final
cdef class ReplyGrants:
    cdef dict _grants                      # reply subject to [granted at, replies so far]
    cdef long long _max_messages           # negative: no limit
    cdef uint64_t _expires_ms              # 0: never

    cdef int grant(self, const unsigned char* reply, size_t length, uint64_t now_ms) except -1
    cdef bint take(self, const unsigned char* subject, size_t length, uint64_t now_ms) except -1
