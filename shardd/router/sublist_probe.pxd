"""A door to the C face of the index, for tests and the micro-benchmark."""

from shardd.router.sublist cimport Match, Sublist, Subscriber, Subscription
from shardd.router.trie cimport Vector

cdef class Probe:
    cdef readonly Sublist index
    cdef Subscriber _subscriber
    cdef Vector _subscriptions            # by handle; NULL: removed
    cdef Subscription* _at(self, size_t handle) except NULL
    cdef tuple _plain_data(self, const Match* match)
