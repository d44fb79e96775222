# cython: language_level=3str
"""What one user may publish and subscribe to, compiled once and asked for every message.

The rules are nats-server's (sheet 8). A publish is allowed when some allowed pattern matches its
subject, or none is given, and no denied one does. A subscription is checked as if its pattern were
a literal. An entry with a queue says which groups may subscribe: once one matches a subject, only
the groups it names pass; of what is denied it takes away those it names. A subscription that is
wider than a denied pattern may exist, and what is denied is left out on delivery.

The patterns of each list stand in a trie, so that a search costs what the subject's tokens cost,
however many rules there are; only rules that differ in nothing but the group are walked one by one.
Verdicts about literal subjects are kept in the same kind of cache that holds the results of
matching, so that a repeated subject costs one lookup.
"""

from collections import OrderedDict
from hashlib import blake2b

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from shardd import limits
from shardd.router.subject import is_valid

from shardd.router.match_cache cimport (
    Entry,
    cache_configure,
    cache_find,
    cache_free,
    cache_insert,
    cache_release,
    cache_stamp,
)
from shardd.router.subject cimport is_reachable, is_token, token_end
from shardd.router.table cimport HashKey, hash_bytes, hash_key
from shardd.router.trie cimport trie_collect, trie_free, trie_insert, vector_free

cdef enum:
    PUBLISHING = 0
    RECEIVING = 1

# What the rules of a list say about a subject and a group.
cdef enum:
    NAMES_SUBJECT = 1         # a rule without a queue matches
    NAMES_GROUPS = 2          # a rule for some groups matches
    NAMES_GROUP = 4           # this one is among them

cdef enum:
    DIGEST_BYTES = 64         # of blake2b

cdef size_t CACHE_ENTRIES = limits.PERMISSION_CACHE_ENTRIES
cdef size_t CACHE_BYTES_MAX = limits.PERMISSION_CACHE_BYTES_MAX
cdef Py_ssize_t GRANTS_MAX = limits.REPLY_GRANTS_MAX


cdef struct Verdict:
    Entry entry
    int answer                # publishing: whether it is allowed; receiving: what is denied
    unsigned char[1] subject


@cython.final
cdef class Permissions:
    """The permissions of one user, shared by its connections on one process.

    Args:
        rules: `model.Permissions`. A pattern that is none matches nothing.
    """

    def __cinit__(self, object rules not None):
        cdef HashKey key = hash_key(<uint64_t>(hash(rules) & 0xFFFFFFFFFFFFFFFF))
        publish = rules.publish
        subscribe = rules.subscribe
        self._texts = []
        self._publish_allow.trie.key = self._publish_deny.trie.key = key
        self._subscribe_allow.trie.key = self._subscribe_deny.trie.key = key
        self._parse(&self._publish_allow, publish.allow, False)
        self._parse(&self._publish_deny, publish.deny, False)
        self._parse(&self._subscribe_allow, subscribe.allow, True)
        self._parse(&self._subscribe_deny, subscribe.deny, True)
        self.responses = rules.responses
        # Who may answer what it is asked has no other right to publish than those listed.
        self.limits_publish = (
            bool(publish.allow) or bool(publish.deny) or self.responses is not None)
        self.limits_subscribe = bool(subscribe.allow) or bool(subscribe.deny)
        cache_configure(&self._cache, key, CACHE_ENTRIES, CACHE_BYTES_MAX)

    def __dealloc__(self):
        free_rules(&self._publish_allow)
        free_rules(&self._publish_deny)
        free_rules(&self._subscribe_allow)
        free_rules(&self._subscribe_deny)
        vector_free(&self._rules)
        cache_free(&self._cache)

    cdef int _parse(self, Rules* rules, object entries, bint has_queues) except -1:
        cdef Rule* rule
        cdef bytes subject
        cdef bytes queue
        cdef dict last = {}
        if not entries:
            return 0
        rules.is_given = True
        rules.items = <Rule*>calloc(len(entries), sizeof(Rule))
        if rules.items == NULL:
            raise MemoryError
        for text in entries:
            parts = [
                part.encode("utf-8", "surrogatepass")
                for part in (text.split() if has_queues else [text])
            ]
            if not 1 <= len(parts) <= 2 or not all(map(is_valid, parts)):
                continue
            subject = parts[0]
            queue = parts[1] if len(parts) == 2 else b""
            self._texts += (subject, queue)
            rule = &rules.items[rules.count]
            rule.subject = <const unsigned char*>PyBytes_AS_STRING(subject)
            rule.subject_len = PyBytes_GET_SIZE(subject)
            rule.queue = <const unsigned char*>PyBytes_AS_STRING(queue)
            rule.queue_len = PyBytes_GET_SIZE(queue)
            rule.next = <Rule*><size_t>last.get(subject, 0)
            last[subject] = <size_t>rule
            if trie_insert(&rules.trie, 0, rule.subject, rule.subject_len, rule) < 0:
                raise MemoryError
            rules.count += 1

    cdef bint may_publish(self, const unsigned char* subject, size_t length) except -1:
        return self._verdict(PUBLISHING, subject, length) != 0

    cdef bint may_subscribe(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1:
        cdef int found
        if self._subscribe_allow.is_given:
            found = self._find(&self._subscribe_allow, subject, length, queue, queue_len)
            if not found & (
                NAMES_GROUP if queue_len and found & NAMES_GROUPS else NAMES_SUBJECT
            ):
                return False
        found = self._find(&self._subscribe_deny, subject, length, queue, queue_len)
        return not found & (NAMES_SUBJECT | NAMES_GROUP)

    cdef bint needs_filter(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1:
        cdef size_t index
        cdef const Rule* rule
        for index in range(self._subscribe_deny.count):
            rule = &self._subscribe_deny.items[index]
            if rule.queue_len and not names_group(rule, queue, queue_len):
                continue
            if patterns_overlap(rule.subject, rule.subject_len, subject, length):
                return True
        return False

    cdef bint may_receive(
        self, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1:
        cdef int found = self._verdict(RECEIVING, subject, length)
        if queue_len and found == NAMES_GROUPS:
            found = self._find(&self._subscribe_deny, subject, length, queue, queue_len)
        return not found & (NAMES_SUBJECT | NAMES_GROUP)

    cdef int _verdict(
        self, int context, const unsigned char* subject, size_t length
    ) except -1:
        """Whether this literal subject may be published to, or for whom receiving it is denied."""
        cdef uint64_t hash = hash_bytes(&self._cache.key, context, subject, length)
        cdef Entry* entry = cache_find(&self._cache, hash, context, subject, length)
        cdef Verdict* verdict
        cdef int answer
        cdef size_t size
        if entry != NULL:
            return (<Verdict*>entry).answer
        if context == RECEIVING:
            answer = self._find(&self._subscribe_deny, subject, length, NULL, 0)
        else:
            answer = self._is_publishable(subject, length)
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
        verdict.answer = answer
        cache_stamp(&self._cache, &verdict.entry)
        cache_insert(&self._cache, hash, &verdict.entry)
        # Nobody holds a verdict: what left the cache goes at once.
        cache_release(&self._cache)
        return answer

    cdef bint _is_publishable(self, const unsigned char* subject, size_t length) except -1:
        if self._publish_allow.is_given:
            if not self._find(&self._publish_allow, subject, length, NULL, 0):
                return False
        elif self.responses is not None:
            return False
        return not self._find(&self._publish_deny, subject, length, NULL, 0)

    cdef int _find(
        self, Rules* rules, const unsigned char* subject, size_t length,
        const unsigned char* queue, size_t queue_len,
    ) except -1:
        """What these rules say about a subject, taken for a literal, and a group."""
        cdef int found = 0
        cdef size_t index
        cdef const Rule* rule
        if rules.count == 0 or not is_reachable(subject, length):
            return 0
        self._rules.count = 0
        if trie_collect(&rules.trie, 0, subject, length, &self._rules) < 0:
            raise MemoryError
        for index in range(self._rules.count):
            rule = <const Rule*>self._rules.items[index]
            while rule != NULL:
                if rule.queue_len == 0:
                    found |= NAMES_SUBJECT
                elif names_group(rule, queue, queue_len):
                    found |= NAMES_GROUPS | NAMES_GROUP
                else:
                    found |= NAMES_GROUPS
                rule = rule.next
        return found

    # --- for Python ----------------------------------------------------------------------------

    def can_publish(self, bytes subject not None) -> bool:
        """Whether a message may be published to this literal subject."""
        return self.may_publish(data(subject), PyBytes_GET_SIZE(subject))

    def can_subscribe(self, bytes subject not None, bytes queue not None=b"") -> bool:
        """Whether this pattern may be subscribed to, in this group if one is given."""
        return self.may_subscribe(
            data(subject), PyBytes_GET_SIZE(subject), data(queue), PyBytes_GET_SIZE(queue))

    def is_filtered(self, bytes subject not None, bytes queue not None=b"") -> bool:
        """Whether some of what this subscription matches is denied."""
        return self.needs_filter(
            data(subject), PyBytes_GET_SIZE(subject), data(queue), PyBytes_GET_SIZE(queue))

    def can_receive(self, bytes subject not None, bytes queue not None=b"") -> bool:
        """Whether a message on this literal subject may be delivered, to this group if one is
        given."""
        return self.may_receive(
            data(subject), PyBytes_GET_SIZE(subject), data(queue), PyBytes_GET_SIZE(queue))


cdef const unsigned char* data(bytes text) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(text)


cdef void free_rules(Rules* rules) noexcept:
    free(rules.items)
    trie_free(&rules.trie)


cdef bint names_group(
    const Rule* rule, const unsigned char* queue, size_t queue_len
) noexcept nogil:
    """Whether the queue pattern of a rule takes in this group.

    Names of groups are no subjects: `a..b` and `>` are good ones. The final `>` of a pattern takes
    in all of them, `*` no token that is empty or a `>`.
    """
    cdef size_t at = 0
    cdef size_t queue_at = 0
    cdef size_t end, queue_end
    if queue_len == 0:
        return False
    while at <= rule.queue_len and queue_at <= queue_len:
        end = token_end(rule.queue, rule.queue_len, at)
        queue_end = token_end(queue, queue_len, queue_at)
        if is_token(rule.queue, at, end, c'>'):
            return True
        if is_token(rule.queue, at, end, c'*'):
            if queue_end == queue_at or is_token(queue, queue_at, queue_end, c'>'):
                return False
        elif not same_tokens(rule.queue + at, end - at, queue + queue_at, queue_end - queue_at):
            return False
        at = end + 1
        queue_at = queue_end + 1
    return at > rule.queue_len and queue_at > queue_len


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
            if not same_tokens(a + a_at, a_end - a_at, b + b_at, b_end - b_at):
                return False
        if a_end == a_len or b_end == b_len:
            return a_end == a_len and b_end == b_len
        a_at = a_end + 1
        b_at = b_end + 1


cdef inline bint same_tokens(
    const unsigned char* a, size_t a_len, const unsigned char* b, size_t b_len
) noexcept nogil:
    return a_len == b_len and memcmp(a, b, a_len) == 0


@cython.final
cdef class ReplyGrants:
    """The replies that one connection may publish because it was asked (`allow_responses`).

    They stand in the order in which they were granted, which is the order in which they expire.
    Each new one sends the oldest away if they have expired or are too many.

    Args:
        rules: `model.ResponseRules`.
    """

    def __cinit__(self, object rules not None):
        self._grants = OrderedDict()
        self._max_messages = rules.max_messages
        self._expires_ms = int(rules.expires_s * 1000) if rules.expires_s > 0 else -1

    def __len__(self) -> int:
        return len(self._grants)

    cdef int grant(self, const unsigned char* reply, size_t length, uint64_t now_ms) except -1:
        """A request was delivered: its reply may be published."""
        cdef bytes key = grant_key(reply, length)
        # Anew, also for one that was there: the newest stand last.
        self._grants.pop(key, None)
        self._grants[key] = [now_ms, 0]
        while True:
            key = next(iter(self._grants))
            if len(self._grants) <= GRANTS_MAX and not self._is_over(self._grants[key], now_ms):
                return 0
            del self._grants[key]

    cdef bint take(self, const unsigned char* subject, size_t length, uint64_t now_ms) except -1:
        """Use one reply up. False: it was not granted, or no more."""
        cdef bytes key = grant_key(subject, length)
        cdef list grant = self._grants.get(key)
        if grant is None:
            return False
        if self._is_over(grant, now_ms):
            del self._grants[key]
            return False
        grant[1] += 1
        if self._max_messages >= 0 and grant[1] >= self._max_messages:
            del self._grants[key]
        return True

    cdef bint _is_over(self, list grant, uint64_t now_ms) except -1:
        return self._expires_ms >= 0 and <int64_t>(now_ms - <uint64_t>grant[0]) > self._expires_ms

    def add(self, bytes reply not None, uint64_t now_ms) -> None:
        """The same as `grant`, for Python."""
        self.grant(data(reply), PyBytes_GET_SIZE(reply), now_ms)

    def use(self, bytes subject not None, uint64_t now_ms) -> bool:
        """The same as `take`, for Python."""
        return self.take(data(subject), PyBytes_GET_SIZE(subject), now_ms)


cdef bytes grant_key(const unsigned char* reply, size_t length):
    """What a reply is known by: itself if it is shorter than the digest that is taken of others."""
    cdef bytes subject = reply[:length]
    return subject if length < DIGEST_BYTES else blake2b(subject).digest()
