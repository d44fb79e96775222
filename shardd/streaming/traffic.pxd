"""What the channels and subscriptions of one streaming worker share: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.streaming.bus cimport Bus

cdef class Traffic:
    cdef readonly Bus bus
    cdef public int64_t now_ms     # monotonic, of this pass
    cdef public int64_t now_ns     # unix time, of this pass

    cdef readonly list ready       # channels with something to deliver
    cdef readonly list moved       # subscriptions whose position is to be saved
    cdef readonly list armed       # subscriptions that may need an earlier timer

    cdef public uint32_t deliveries_max        # for one subscription in one pass
    cdef public uint32_t redeliveries_max      # 0: for ever
    cdef public uint32_t group_in_flight_max   # 0: members have limits, groups have none
    cdef public object on_exhausted            # (channel, subscription, sequence, reply, data)
    cdef public object on_unreadable           # (channel, text): until its `resume` is called

    cdef public uint64_t in_messages
    cdef public uint64_t in_bytes
    cdef public uint64_t out_messages
    cdef public uint64_t out_bytes
    cdef public uint64_t redelivered
