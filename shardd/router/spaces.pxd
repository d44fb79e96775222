"""Accounts as the router sees them, beyond plain subjects: the C face."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport Message
from shardd.router.sublist cimport Sublist, Subscriber, Subscription

# One account that has mappings or imports.
@cython.final
cdef class Space:
    cdef Spaces spaces
    cdef Dispatcher dispatcher
    cdef readonly uint32_t account
    cdef readonly str name
    cdef list _mappings                    # [(Transform of the source, [(weight, Transform)])]
    cdef dict _mapped                      # subject to [(weight, subject)]: what was worked out
    cdef list _services                    # [Service]
    cdef dict _served                      # subject to [(Service, subject there)]
    cdef readonly list streams             # [StreamRoute]; empty: nothing is imported

    # Publish in this account: mapping, subscriptions, imported services. Returns how many took it.
    cdef int publish(self, Message* message, Subscriber* publisher, bint echo) except -1
    cdef int _publish_mapped(
        self, Message* message, Subscriber* publisher, bint echo
    ) except -1
    cdef int _request(self, object service, bytes subject, Message* message) except -1
    # Subscribe to what a new subscription imports; they deliver through it. None: nothing.
    cdef list shadow(self, Subscription* subscription, bytes subject, bytes queue)

# A subscription in an exporting account that delivers to one of an importing account.
@cython.final
cdef class Shadow:
    cdef Dispatcher dispatcher
    cdef Sublist _sublist                  # held: the collector may clear the dispatcher
    cdef Subscription* _parent
    cdef Subscription* _own
    cdef Subscriber _subscriber
    cdef object _transform                 # Transform, None: the subject stays
    cdef dict _subjects                    # what was worked out

    cdef int begin(
        self, Subscription* parent, uint32_t account, bytes subject, bytes queue
    ) except -1
    cdef int deliver(self, Message* message) except -1
    cdef int end(self) except -1

# Where responses to imported services come in, in one exporting account.
@cython.final
cdef class Inbox:
    cdef Spaces spaces
    cdef Sublist _sublist                  # as above
    cdef Subscription* _own
    cdef Subscriber _subscriber

    cdef int deliver(self, Message* message) except -1
    cdef int end(self) except -1

@cython.final
cdef class Spaces:
    cdef readonly Dispatcher dispatcher
    cdef readonly object random            # random.Random
    cdef readonly bytes prefix             # of the replies of this process
    cdef bytes _secret                     # what they are made from
    cdef dict _spaces                      # account to Space
    cdef dict _inboxes                     # account to Inbox
    cdef dict _pending                     # reply to Pending, oldest first
    cdef uint64_t _number
    cdef readonly uint64_t now_ms
    cdef readonly int depth                # services that call services
    cdef dict introduction                 # who asked first, while they do
    cdef object _describe

    cdef int respond(self, Message* message) except -1
    cpdef Space space(self, uint32_t account)
