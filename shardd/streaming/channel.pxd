"""One channel with its log, its subscriptions and its queue groups: the C face."""

from libc.stdint cimport int64_t, uint64_t

from shardd.streaming.log cimport ChannelLog, Stored
from shardd.streaming.queue_group cimport QueueGroup
from shardd.streaming.subscription cimport Subscription
from shardd.streaming.traffic cimport Traffic

cdef class Channel:
    cdef readonly bytes name
    cdef readonly ChannelLog log
    cdef readonly Traffic traffic
    cdef readonly dict subscriptions   # id to Subscription: all, offline ones included
    cdef readonly list plain           # those that are online and in no queue group
    cdef readonly dict groups          # (name, is it durable) to QueueGroup
    cdef readonly dict durables        # (client id, durable name) to Subscription, on- and offline
    cdef public object limits
    cdef public int64_t active_ms      # the last publish, or the last active subscription's end
    cdef readonly uint64_t failures    # commits that took messages of this channel back
    cdef public object batch           # the latest batch with a message for this channel
    cdef bint is_ready                 # among `traffic.ready`
    cdef bint is_loading               # the log is fetching something

    cdef int note_ready(self) except -1
    cdef int ack(self, Subscription subscription, uint64_t sequence) except -1
    cdef int pause(self, object error) except -1
    cdef int deliver(self) except -1
    cdef int _feed(self, Subscription subscription) except -1
    cdef int _feed_group(self, QueueGroup group) except -1
    cdef int _redeliver(self, Subscription subscription) except -1
    cdef int _exhausted(self, Subscription subscription, const Stored* stored) except -1
