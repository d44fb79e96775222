# cython: language_level=3str
"""What a streaming worker needs of NATS: publish, subscribe, and to be told of what arrives.

Two kinds exist: a member of the host's mesh without a socket (`mesh_bus`), and a connection to any
NATS server (`tcp_bus`). Whoever uses a bus cannot tell which one it is. Here stands what both
have in common, and nothing that does anything.

Messages of one publisher arrive in the order in which it published them, whatever subjects and
subscriptions they come by: a close that was sent behind a publish is received behind it. The
ordering barrier of the protocol (sheet 8) rests on that.
"""


cdef class Receiver:
    """Who is handed what arrives. Called from the bus's event loop, one message at a time."""

    cdef int receive(self, uint64_t sid, const Incoming* message) except -1:
        """One message for the subscription `sid`."""
        raise NotImplementedError


cdef class Bus:
    """The way to NATS. Touched by one event loop only."""

    cdef int publish(self, const Outgoing* message) except -1:
        """Publish. Returns 0 when it is certain that nobody gets it, else 1 (a "no responders" may
        still arrive at the reply subject, as a message whose header has the status 503)."""
        raise NotImplementedError

    def subscribe(self, sid: int, subject: bytes) -> None:
        """Subscribe under a number that is free. `*` and `>` are wildcards.

        Raises:
            ValueError: the subject is not valid.
        """
        raise NotImplementedError

    def unsubscribe(self, sid: int) -> None:
        """End a subscription. Nothing more is received for this number."""
        raise NotImplementedError

    def flush(self, callback: object) -> None:
        """Call back once every subscription made so far is visible to all who publish."""
        raise NotImplementedError

    def send(self, bytes subject not None, bytes payload not None, bytes reply=None) -> bool:
        """Publish from Python; False when it is certain that nobody gets it."""
        cdef Outgoing message
        message.subject = <const unsigned char*>subject
        message.subject_len = len(subject)
        message.reply = NULL
        message.reply_len = 0
        if reply:
            message.reply = <const unsigned char*>reply
            message.reply_len = len(reply)
        message.payload = <const unsigned char*>payload
        message.payload_len = len(payload)
        message.more = NULL
        message.more_len = 0
        return bool(self.publish(&message))
