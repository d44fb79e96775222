# cython: language_level=3str
"""A door to the C face of a bus, for tests: what arrives as Python objects, and a publish of a
message in two pieces."""

cimport cython
from libc.stdint cimport uint64_t

from shardd.streaming.bus cimport Bus, Incoming, Outgoing, Receiver


@cython.final
cdef class ReceiverProbe(Receiver):
    """Calls back with (sid, subject, reply, header, payload); reply and header may be empty."""

    cdef object _callback

    def __init__(self, callback: object):
        self._callback = callback

    cdef int receive(self, uint64_t sid, const Incoming* message) except -1:
        self._callback(
            sid,
            <bytes>message.subject[:message.subject_len],
            <bytes>message.reply[:message.reply_len] if message.reply != NULL else b"",
            <bytes>message.header[:message.header_len] if message.header != NULL else b"",
            <bytes>message.payload[:message.payload_len],
        )


def publish_pieces(
    Bus bus not None, bytes subject not None, bytes payload not None, bytes more not None,
    bytes reply not None,
) -> int:
    """`Bus.publish` with a second piece."""
    cdef Outgoing message
    message.subject = <const unsigned char*>subject
    message.subject_len = len(subject)
    message.reply = <const unsigned char*>reply if reply else NULL
    message.reply_len = len(reply)
    message.payload = <const unsigned char*>payload
    message.payload_len = len(payload)
    message.more = <const unsigned char*>more
    message.more_len = len(more)
    return bus.publish(&message)
