# cython: language_level=3str
cimport cython
from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport Message
from shardd.router.sublist cimport Subscriber
@cython.final
cdef class Space:
    cdef int publish(self, Message* message, Subscriber* publisher, bint echo) except -1:
        return self.dispatcher.publish(message, publisher, echo)
@cython.final
cdef class Spaces:
    def __init__(self, dispatcher, seed, index):
        self._spaces = {}
    def apply(self, accounts, ids): pass
    def space(self, account): return None
