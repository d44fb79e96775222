# cython: language_level=3str
"""What one user may publish and subscribe to, compiled once and asked for every message.

The rules are nats-server's (sheet 8). A publish is allowed when some allowed pattern matches its
subject, or none is given, and no denied one does. A subscription is checked as if its pattern were
a literal. An entry with a queue says which groups may subscribe: once one matches a subject, only
the groups it names pass. A subscription that is wider than a denied pattern may exist, and what is
denied is left out on delivery.

Verdicts about literal subjects are kept in the same kind of cache that holds the results of
matching, so that a repeated subject costs one lookup however many rules there are.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from shardd import limits

from shardd.router.match_cache cimport (
    Entry,
    cache_configure,
    cache_find,
    cache_free,
    cache_insert,
    cache_release,
    cache_stamp,
)
from shardd.router.subject cimport is_token, pattern_matches, token_end
from shardd.router.table cimport hash_bytes, hash_key

cdef enum:
    PUBLISHING = 0
    RECEIVING = 1

cdef size_t CACHE_ENTRIES = limits.PERMISSION_CACHE_ENTRIES
cdef size_t CACHE_BYTES_MAX = limits.PERMISSION_CACHE_BYTES_MAX
GRANTS_MAX = limits.REPLY_GRANTS_MAX


cdef struct Verdict:
    Entry entry
    uint32_t is_allowed
    unsigned char[1] subject


@cython.final
cdef class Permissions:
    """The permissions of one user, shared by its connections on one process.

    Args:
        rules: `model.Permissions`; its patterns were checked when they were read.
    """

    def __cinit__(self):
        self._texts = []

    def __init__(self, object rules not None):
        publish = rules.publish
        subscribe = rules.subscribe
        self._publish_allow = self._parse(publish.allow, False)
        self._publish_deny = self._parse(publish.deny, False)
        self._subscribe_allow = self._parse(subscribe.allow, True)
        self._subscribe_deny = self._parse(subscribe.deny, True)
        self.responses = rules.responses
        # Who may answer what it is asked has no other right to publish than those listed.
        self.limits_publish = (
            bool(publish.allow) or bool(publish.deny) or self.responses is not None)
        self.limits_subscribe = bool(subscribe.allow) or bool(subscribe.deny)
        cache_configure(
            &self._cache, hash_key(<uint64_t>(hash(rules) & 0xFFFFFFFFFFFFFFFF)),
            CACHE_ENTRIES, CACHE_BYTES_MAX)

    def __dealloc__(self):
        free(self._publish_allow.items)
        free(self._publish_deny.items)
        free(self._subscribe_allow.items)
        free(self._subscribe_deny.items)
        cache_free(&self._cache)

    cdef Rules _parse(self, object entries, bint has_queues) except *:
        cdef Rules rules
        cdef Rule* rule
        cdef bytes subject
        cdef bytes queue
        rules.items = NULL
        rules.count = 0
        if not entries:
            return rules
        rules.items = <Rule*>calloc(len(entries), sizeof(Rule))
        if rules.items == NULL:
            raise MemoryError
        for text in entries:
            parts = text.encode().split()
            subject = parts[0]
            queue = parts[1] if has_queues and len(parts) > 1 else b""
            self._texts += (subject, queue)
            rule = &rules.items[rules.count]
            rule.subject = <const unsigned char*>PyBytes_AS_STRING(subject)
            rule.subject_len = PyBytes_GET_SIZE(subject)
            rule.queue = <const unsigned char*>PyBytes_AS_STRING(queue)
            rule.queue_len = PyBytes_GET_SIZE(queue)
            rules.count += 1
        return rules

    cdef bint may_publish(self, const unsigned char* subject, size_t length) except -1:
        return self._verdict(PUBLISHING, subject, length)

    cdef bint may_receive(self, const unsigned char* subject, size_t length) except -1:
        return self._verdict(RECEIVING, subject, length)

    cdef bint may_subscribe(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1:
        cdef bint is_plain
        cdef int group
        if self._subscribe_allow.count:
            is_plain = find_plain(&self._subscribe_allow, subject, length)
            group = find_queue(&self._subscribe_allow, subject, length, queue, queue_len)
            if group >= 0:
                if group == 0:
                    return False
            elif not is_plain:
                return False
        is_plain = find_plain(&self._subscribe_deny, subject, length)
        group = find_queue(&self._subscribe_deny, subject, length, queue, queue_len)
        return not is_plain and group != 1

    cdef bint needs_filter(self, const unsigned char* subject, size_t length) except -1:
        cdef size_t index
        cdef Rule* rule
        for index in range(self._subscribe_deny.count):
            rule = &self._subscribe_deny.items[index]
            if rule.queue_len == 0 and patterns_overlap(
                rule.subject, rule.subject_len, subject, length
            ):
                return True
        return False

    cdef int _verdict(self, int context, const unsigned char* subject, size_t length) except -1:
        """Whether this literal subject may be published to, or received."""
        cdef uint64_t hash = hash_bytes(&self._cache.key, context, subject, length)
        cdef Entry* entry = cache_find(&self._cache, hash, context, subject, length)
        cdef Verdict* verdict
        cdef size_t size
        if entry != NULL:
            return (<Verdict*>entry).is_allowed
        size = sizeof(Verdict) + length
        verdict = <Verdict*>malloc(size)
        if verdict == NULL:
            raise MemoryError
        memset(verdict, 0, sizeof(Verdict))
        memcpy(verdict.subject, subject, length)
        verdict.entry.subject = verdict.subject
        verdict.entry.subject_len = <uint32_t>length
        verdict.entry.account = context
        verdict.entry.size = size
        verdict.is_allowed = self._decide(context, subject, length)
        cache_stamp(&self._cache, &verdict.entry)
        context = verdict.is_allowed
        cache_insert(&self._cache, hash, &verdict.entry)
        # Nobody holds a verdict: what left the cache goes at once.
        cache_release(&self._cache)
        return context

    cdef bint _decide(
        self, int context, const unsigned char* subject, size_t length
    ) except -1:
        if context == RECEIVING:
            return not find_plain(&self._subscribe_deny, subject, length)
        if self._publish_allow.count == 0:
            if self.responses is not None:
                return False
        elif not find_plain(&self._publish_allow, subject, length):
            return False
        return not find_plain(&self._publish_deny, subject, length)

    # --- for Python ----------------------------------------------------------------------------

    def can_publish(self, bytes subject not None) -> bool:
        """Whether a message may be published to this literal subject."""
        return self.may_publish(
            <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))

    def can_subscribe(self, bytes subject not None, bytes queue not None=b"") -> bool:
        """Whether this pattern may be subscribed to, in this group if one is given."""
        return self.may_subscribe(
            <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject),
            <const unsigned char*>PyBytes_AS_STRING(queue), PyBytes_GET_SIZE(queue))

    def is_filtered(self, bytes subject not None) -> bool:
        """Whether some of what this pattern matches is denied."""
        return self.needs_filter(
            <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))

    def can_receive(self, bytes subject not None) -> bool:
        """Whether a message on this literal subject may be delivered."""
        return self.may_receive(
            <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))


cdef bint find_plain(
    const Rules* rules, const unsigned char* subject, size_t length
) noexcept nogil:
    """Whether a rule without a queue matches."""
    cdef size_t index
    cdef const Rule* rule
    for index in range(rules.count):
        rule = &rules.items[index]
        if rule.queue_len == 0 and pattern_matches(
            rule.subject, rule.subject_len, subject, length
        ):
            return True
    return False


cdef int find_queue(
    const Rules* rules, const unsigned char* subject, size_t length,
    const unsigned char* queue, size_t queue_len,
) noexcept nogil:
    """1: a rule with a queue matches both; 0: one matches the subject, none the queue; -1: none
    has to do with it."""
    cdef int found = -1
    cdef size_t index
    cdef const Rule* rule
    if queue_len == 0:
        return -1
    for index in range(rules.count):
        rule = &rules.items[index]
        if rule.queue_len and pattern_matches(rule.subject, rule.subject_len, subject, length):
            if pattern_matches(rule.queue, rule.queue_len, queue, queue_len):
                return 1
            found = 0
    return found


cdef bint patterns_overlap(
    const unsigned char* a, size_t a_len, const unsigned char* b, size_t b_len
) noexcept nogil:
    """Whether some literal subject matches both patterns."""
    cdef size_t a_at = 0
    cdef size_t b_at = 0
    cdef size_t a_end
    cdef size_t b_end
    while True:
        a_end = token_end(a, a_len, a_at)
        b_end = token_end(b, b_len, b_at)
        if is_token(a, a_at, a_end, c'>') or is_token(b, b_at, b_end, c'>'):
            return True
        if not is_token(a, a_at, a_end, c'*') and not is_token(b, b_at, b_end, c'*'):
            if not _same(a + a_at, a_end - a_at, b + b_at, b_end - b_at):
                return False
        if a_end == a_len or b_end == b_len:
            return a_end == a_len and b_end == b_len
        a_at = a_end + 1
        b_at = b_end + 1


cdef bint _same(
    const unsigned char* a, size_t a_len, const unsigned char* b, size_t b_len
) noexcept nogil:
    cdef size_t index
    if a_len != b_len:
        return False
    for index in range(a_len):
        if a[index] != b[index]:
            return False
    return True


@cython.final
cdef class ReplyGrants:
    """The replies that one connection may publish because it was asked (`allow_responses`).

    Bounded: beyond the bound the expired ones go, and if none has, the oldest.

    Args:
        rules: `model.ResponseRules`.
    """

    def __init__(self, object rules not None):
        self._grants = {}
        self._max_messages = rules.max_messages
        self._expires_ms = <uint64_t>(rules.expires_s * 1000) if rules.expires_s > 0 else 0

    def __len__(self) -> int:
        return len(self._grants)

    cdef int grant(self, const unsigned char* reply, size_t length, uint64_t now_ms) except -1:
        """A request was delivered: its reply may be published."""
        cdef bytes subject = reply[:length]
        # Anew, also for one that was there: the newest stand last.
        self._grants.pop(subject, None)
        self._grants[subject] = [now_ms, 0]
        if len(self._grants) > GRANTS_MAX:
            self._prune(now_ms)

    cdef bint take(self, const unsigned char* subject, size_t length, uint64_t now_ms) except -1:
        """Use one reply up. False: it was not granted, or no more."""
        cdef bytes key = subject[:length]
        cdef list grant = self._grants.get(key)
        if grant is None:
            return False
        if self._expires_ms and now_ms - <uint64_t>grant[0] > self._expires_ms:
            del self._grants[key]
            return False
        grant[1] += 1
        if self._max_messages >= 0 and grant[1] >= self._max_messages:
            del self._grants[key]
        return True

    def _prune(self, uint64_t now_ms) -> None:
        if self._expires_ms:
            for key in [
                key for key, (granted_ms, _) in self._grants.items()
                if now_ms - <uint64_t>granted_ms > self._expires_ms
            ]:
                del self._grants[key]
        while len(self._grants) > GRANTS_MAX:
            del self._grants[next(iter(self._grants))]

    def add(self, bytes reply not None, uint64_t now_ms) -> None:
        """The same as `grant`, for Python."""
        self.grant(
            <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), now_ms)

    def use(self, bytes subject not None, uint64_t now_ms) -> bool:
        """The same as `take`, for Python."""
        return self.take(
            <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject), now_ms)
