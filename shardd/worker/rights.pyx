# cython: language_level=3str
"""What a client's user may do: publish here, subscribe there, answer what it was asked (sheet 8).

A client whose user has no permissions has None here and pays nothing. What a subscription may not
receive though it may exist is filtered by the `Receiver` on delivery.
"""

import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp

from shardd.worker import session

from shardd.router.permissions cimport Permissions, ReplyGrants
from shardd.router.sublist cimport Subscription
from shardd.router.table cimport table_next
from shardd.wire cimport Operation
from shardd.worker.receiver cimport Receiver

log = logging.getLogger("shardd.worker")


cdef class Rights(Receiver):
    """A client as its user's permissions see it."""

    def __cinit__(self):
        self.subscriptions_max = -1

    cdef int set_rules(self, object permissions) except -1:
        """From here on these permissions hold (`router.permissions.Permissions` or None)."""
        self.permissions = permissions
        self.grants = None
        self.is_filtered = False
        if self.permissions is not None and self.permissions.responses is not None:
            self.grants = ReplyGrants(self.permissions.responses)
        self.is_guarded = self.grants is not None

    cdef bint is_allowed(self, Operation* operation) except -1:
        """Whether this message may be published; if not, the client has been told."""
        cdef Permissions permissions = self.permissions
        if not permissions.limits_publish and self.grants is None:
            return True
        if permissions.may_publish(operation.subject, operation.subject_len):
            return self.shared.guard is None or self._may_by_content(operation)
        if self.grants is not None and self.grants.take(
            operation.subject, operation.subject_len, self.shared.poller.now_ms
        ):
            return True
        return self._refuse_publish(operation.subject[:operation.subject_len])

    cdef bint _may_by_content(self, Operation* operation) except -1:
        """Whether a message may be published that may as far as its subject goes."""
        cdef bytes prefix = self.shared.guarded_prefix
        cdef size_t prefix_len = PyBytes_GET_SIZE(prefix)
        cdef bytes subject
        if operation.subject_len < prefix_len or memcmp(
            operation.subject, PyBytes_AS_STRING(prefix), prefix_len
        ) != 0:
            return True
        subject = self.shared.guard(
            operation.subject[:operation.subject_len],
            operation.payload[operation.header_len:operation.total_len])
        return (
            subject is None
            or (<Permissions>self.permissions).may_publish(
                <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))
            or self._refuse_publish(subject)
        )

    cdef bint _refuse_publish(self, bytes subject) except -1:
        """Tells the client; False."""
        log.error("%s - Publish Violation - Subject %s", self, session.quote(subject))
        self.refuse(session.publish_violation(subject))
        return False

    cdef bint may_subscribe(self, Operation* operation) except -1:
        """Whether this subscription may be made; if not, the client has been told."""
        cdef Permissions permissions = self.permissions
        if not permissions.limits_subscribe:
            return True
        if permissions.may_subscribe(
            operation.subject, operation.subject_len, operation.queue, operation.queue_len
        ):
            if permissions.needs_filter(
                operation.subject, operation.subject_len, operation.queue, operation.queue_len
            ):
                self.is_filtered = True
                self.is_guarded = True
            return True
        subject = operation.subject[:operation.subject_len]
        queue = operation.queue[:operation.queue_len] if operation.queue_len else None
        text = session.subscribe_violation(subject, queue)
        log.error("%s - Subscription Violation - Subject %s%s, SID %s", self,
                  session.quote(subject), f", Queue: {session.quote(queue)}" if queue else "",
                  session.quote(operation.sid[:operation.sid_len])[1:-1])
        self.refuse(text)
        return False

    cdef int withdraw_refused(self) except -1:
        """End the subscriptions that the permissions of a reload refuse."""
        cdef Permissions permissions = self.permissions
        cdef Subscription* subscription
        cdef const unsigned char* subject
        cdef const unsigned char* queue
        cdef size_t subject_len
        cdef size_t queue_len
        cdef size_t index = 0
        cdef list refused = []
        if permissions is None or not permissions.limits_subscribe:
            return 0
        while True:
            subscription = <Subscription*>table_next(&self._sids, &index)
            if subscription == NULL:
                break
            subject = self.shared.sublist.subject_of(subscription, &subject_len)
            queue = self.shared.sublist.queue_of(subscription, &queue_len)
            if not permissions.may_subscribe(subject, subject_len, queue, queue_len):
                refused.append(<size_t>subscription)
            elif permissions.needs_filter(subject, subject_len, queue, queue_len):
                self.is_filtered = True
                self.is_guarded = True
        for address in refused:
            subscription = <Subscription*><size_t>address
            subject = self.shared.sublist.subject_of(subscription, &subject_len)
            queue = self.shared.sublist.queue_of(subscription, &queue_len)
            text = session.subscribe_violation(
                subject[:subject_len], queue[:queue_len] if queue_len else None,
                subscription.sid[:subscription.sid_len])
            self.refuse(text)
            self.remove(subscription)
