"""Whatever is queued in whatever way, a reader of any pace reads exactly those bytes in order.

The lender spoils what it lent right after `return_loans`, and lets go of it: a byte that was not
written or copied by then is a wrong byte, or a use after free in a build with sanitizers.
"""

import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from shardd import limits
from shardd.outbound import OutboundSet
from shardd.outbound_probe import Probe, flush_dirty, has_loans, return_loans
from shardd.poller import Poller
from shardd.source_probe import dispatch
from tests.support.masking import MaskingLayer, unmask

SETTINGS = settings(deadline=None, max_examples=150)

CHUNK = limits.CHUNK_BYTES
STREAM = b"".join(b"%07x " % number for number in range(80_000))
SIZE_MAX = 2 * limits.EAGER_FLUSH_BYTES

sizes = st.one_of(
    st.integers(0, 60),
    st.integers(0, 12_000),
    st.integers(CHUNK - 40, CHUNK + 40),
    st.integers(0, SIZE_MAX),
)
steps = st.one_of(
    st.tuples(st.just("append"), sizes, st.just(0)),
    st.tuples(st.just("reserve"), sizes, st.just(0)),
    st.tuples(st.just("lend"), sizes, st.integers(0, 200)),
    st.tuples(st.just("read"), sizes, st.just(0)),
    st.tuples(
        st.sampled_from(["flush", "end of pass", "return loans", "events"]), st.just(0), st.just(0)
    ),
)


class Machine:
    """An output between a writer that follows a script and a reader."""

    def __init__(self, send_buffer, is_encoded):
        self.outbounds = OutboundSet(1000)
        self.poller = Poller()
        self.own, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.output = Probe(self.outbounds, self.own.fileno(), self.poller)
        self.is_encoded = is_encoded
        if is_encoded:
            self.output.attach_layer(MaskingLayer())
        self.queued = bytearray()
        self.received = bytearray()
        self.lent: list[bytearray] = []

    def take(self, length):
        """The next bytes to be queued; no two stretches of the stream look alike."""
        start = len(self.queued) % (len(STREAM) - SIZE_MAX - 200)
        data = STREAM[start : start + length]
        self.queued += data
        return data

    def step(self, verb, size, head_len):
        """One step of the script."""
        if verb == "append":
            self.output.append_bytes(self.take(size))
        elif verb == "reserve" and size <= CHUNK:
            assert self.output.reserve_and_commit(self.take(size))
        elif verb == "reserve":
            assert not self.output.reserve_and_commit(STREAM[:size])
        elif verb == "lend":
            head = self.take(head_len)
            self.lent.append(bytearray(self.take(size)))
            self.output.lend_bytes(head, self.lent[-1])
            assert has_loans(self.outbounds)
        elif verb == "flush":
            self.output.flush_now()
        elif verb == "end of pass":
            flush_dirty(self.outbounds)
        elif verb == "events":
            dispatch(self.poller)
        elif verb == "return loans":
            self.return_loans()
        else:
            self.read(size)

    def return_loans(self):
        """Returns them, and spoils the bytes."""
        return_loans(self.outbounds)
        assert not has_loans(self.outbounds)
        for body in self.lent:
            body[:] = b"\xff" * len(body)
        self.lent.clear()

    def read(self, size):
        """Read so much, or all that there is."""
        while size > 0:
            try:
                data = self.peer.recv(min(size, CHUNK))
            except BlockingIOError:
                # Nothing is on its way: the rest is still queued.
                assert len(self.received) + self.output.pending_bytes == len(self.queued)
                return
            self.received += unmask(data) if self.is_encoded else data
            size -= len(data)

    def finish(self):
        """End the pass, then read everything."""
        self.return_loans()
        flush_dirty(self.outbounds)
        while self.output.pending_bytes:
            self.read(1 << 30)
            assert dispatch(self.poller) == 1
        self.read(1 << 30)

    def close(self):
        """Both ends."""
        self.output.leave()
        self.output.discard_all()
        self.return_loans()
        flush_dirty(self.outbounds)
        self.own.close()
        self.peer.close()


@SETTINGS
@given(st.sampled_from([1, 20_000, 200_000]), st.booleans(), st.lists(steps, max_size=40))
def test_a_reader_of_any_pace_reads_exactly_what_was_queued(send_buffer, is_encoded, script):
    machine = Machine(send_buffer, is_encoded)
    try:
        for step in script:
            machine.step(*step)
        machine.finish()
        assert machine.received == machine.queued
        assert machine.output.state == (False, False, False)
        assert machine.output.watched_events == 0
    finally:
        machine.close()
