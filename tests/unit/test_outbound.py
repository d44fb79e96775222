"""One peer's output: the order of its bytes, back-pressure, loans, and the end of a peer."""

import gc
import select
import socket
from collections.abc import Iterator
from typing import Final

import pytest

from shardd import limits
from shardd.outbound import OutboundSet
from shardd.outbound_probe import Probe, flush_dirty, has_loans, pooled_chunks, return_loans
from shardd.poller import Poller
from shardd.source_probe import dispatch
from tests.support.masking import MaskingLayer, unmask

CHUNK: Final = limits.CHUNK_BYTES
EAGER: Final = limits.EAGER_FLUSH_BYTES
DEADLINE_MS: Final = 10_000
SHARE: Final = 262_144  # what a layer encodes at a time
DONE, BLOCKED, BROKEN = range(3)


def pattern(length, seed=0):
    """Bytes in which a piece that is missing or out of place shows."""
    return b"".join(b"%08x" % (seed + number) for number in range(length // 8 + 1))[:length]


def read_all(sock):
    """What is there to read."""
    parts = []
    while True:
        try:
            part = sock.recv(CHUNK)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


class Line:
    """An output, its set, its poller, and the peer that reads."""

    def __init__(self, pending_max=2**64 - 1):
        self.outbounds = OutboundSet(DEADLINE_MS)
        self.poller = Poller()
        self.own, self.peer = socket.socketpair()
        for sock in (self.own, self.peer):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.output = Probe(self.outbounds, self.own.fileno(), self.poller, pending_max)

    def block(self):
        """Queue until the kernel takes no more; returns what was queued."""
        data = pattern(EAGER)
        self.output.append_bytes(data)
        assert self.output.state[0]
        return data

    def read_to_the_end(self):
        """Read, and write whenever there is room, until nothing is left."""
        parts = [read_all(self.peer)]
        while self.output.pending_bytes:
            assert dispatch(self.poller) == 1, "bytes are left and nothing waits for room"
            parts.append(read_all(self.peer))
        return b"".join(parts)

    def close(self):
        """End both sides."""
        self.output.leave()
        self.output.discard_all()
        return_loans(self.outbounds)
        flush_dirty(self.outbounds)
        self.own.close()
        self.peer.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


# --- order -----------------------------------------------------------------------------------


def test_nothing_is_written_before_the_pass_ends(line):
    line.output.append_bytes(b"one ")
    assert line.output.reserve_and_commit(b"two ")
    line.output.append_bytes(b"three")
    assert (read_all(line.peer), line.output.pending_bytes) == (b"", 13)
    flush_dirty(line.outbounds)
    assert (read_all(line.peer), line.output.pending_bytes) == (b"one two three", 0)
    assert line.output.watched_events == 0


@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
def test_bytes_keep_their_order_over_chunks(line, length):
    data = pattern(length)
    line.output.append_bytes(b"head")
    line.output.append_bytes(data)
    line.output.append_bytes(b"tail")
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == b"head" + data + b"tail"


def test_reserved_room_that_does_not_fit_the_rest_of_a_chunk_starts_another(line):
    first, second = pattern(CHUNK - 10), pattern(11, seed=7)
    line.output.append_bytes(first)
    assert line.output.reserve_and_commit(second)
    line.output.append_bytes(b"end")
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == first + second + b"end"


def test_more_than_a_chunk_cannot_be_reserved(line):
    assert line.output.reserve_and_commit(pattern(CHUNK))
    assert not line.output.reserve_and_commit(pattern(CHUNK + 1))
    assert line.output.pending_bytes == CHUNK
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == pattern(CHUNK)


def test_empty_pieces_change_nothing(line):
    line.output.append_bytes(b"")
    assert line.output.reserve_and_commit(b"")
    line.output.lend_bytes(b"", bytearray())
    line.output.append_bytes(b"x")
    assert line.output.reserve_and_commit(b"")
    line.output.lend_bytes(b"", bytearray())
    flush_dirty(line.outbounds)
    assert (read_all(line.peer), line.output.state) == (b"x", (False, False, False))


def test_more_pieces_than_one_write_takes_keep_their_order(line):
    bodies = [bytearray(b"<%04d>" % number) for number in range(500)]
    for number, body in enumerate(bodies):
        line.output.lend_bytes(b"%04d" % number, body)
    flush_dirty(line.outbounds)
    expected = b"".join(b"%04d<%04d>" % (number, number) for number in range(500))
    return_loans(line.outbounds)
    assert line.read_to_the_end() == expected


def test_much_is_written_before_the_pass_ends(line):
    data = pattern(EAGER - 1)
    line.output.append_bytes(data)
    assert read_all(line.peer) == b""
    line.output.append_bytes(b"x")
    assert line.output.pending_bytes < EAGER
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == data + b"x"


def test_an_output_that_nobody_holds_is_written_before_it_goes(line):
    own, peer = socket.socketpair()
    with own, peer:
        output = Probe(line.outbounds, own.fileno())
        output.append_bytes(b"last word")
        del output
        gc.collect()
        flush_dirty(line.outbounds)
        assert peer.recv(100) == b"last word"


def test_every_output_of_a_set_is_written_at_the_end_of_the_pass(line):
    pairs = [socket.socketpair() for _ in range(100)]
    outputs = [Probe(line.outbounds, own.fileno()) for own, _ in pairs]
    for number, output in enumerate(outputs):
        output.append_bytes(b"to %d" % number)
    flush_dirty(line.outbounds)
    assert [peer.recv(100) for _, peer in pairs] == [b"to %d" % number for number in range(100)]
    for pair in pairs:
        for sock in pair:
            sock.close()


# --- back-pressure ---------------------------------------------------------------------------


def test_a_peer_that_does_not_read_is_watched_for_room_and_written_to_when_there_is_some(line):
    data = line.block()
    assert line.output.watched_events == 0  # until the pass ends
    flush_dirty(line.outbounds)
    assert line.output.watched_events == select.EPOLLOUT
    assert line.output.blocked_count == 1
    assert dispatch(line.poller) == 0

    line.output.append_bytes(b"more")
    flush_dirty(line.outbounds)
    assert line.output.blocked_count == 1
    assert line.read_to_the_end() == data + b"more"
    assert line.output.state == (False, False, False)
    assert line.output.watched_events == 0

    line.output.append_bytes(b"again")
    flush_dirty(line.outbounds)
    assert read_all(line.peer) == b"again"


def test_a_blocked_output_does_not_try_before_there_is_room(line):
    line.block()
    read_all(line.peer)
    before = line.output.pending_bytes
    line.output.append_bytes(pattern(2 * EAGER))
    flush_dirty(line.outbounds)
    assert line.output.pending_bytes == before + 2 * EAGER
    line.output.make_room()
    assert line.output.pending_bytes < before + 2 * EAGER


def test_exactly_the_most_that_may_be_queued_is_not_too_much():
    line = Line(pending_max=1000)
    line.output.append_bytes(bytes(1000))
    assert line.output.state == (False, False, False)
    line.output.append_bytes(b"x")
    assert line.output.state == (False, False, True)
    flush_dirty(line.outbounds)
    assert (line.output.overflow_count, line.output.broken_count) == (1, 0)
    assert read_all(line.peer) == b""
    line.close()


@pytest.mark.parametrize("how", ["append", "reserve", "lend"])
def test_every_way_to_queue_finds_that_it_is_too_much(how):
    line = Line(pending_max=99)
    data = bytearray(100)
    if how == "append":
        line.output.append_bytes(bytes(data))
    elif how == "reserve":
        line.output.reserve_and_commit(bytes(data))
    else:
        line.output.lend_bytes(b"", data)
    assert line.output.state == (False, False, True)
    flush_dirty(line.outbounds)
    assert line.output.overflow_count == 1
    line.close()


def test_what_the_kernel_takes_at_once_is_not_held_against_the_peer():
    line = Line(pending_max=EAGER)
    line.own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * EAGER)
    for number in range(8):
        line.output.append_bytes(pattern(EAGER // 2, seed=number))
        read_all(line.peer)
    assert line.output.state == (False, False, False)
    line.close()


# --- the write deadline ----------------------------------------------------------------------


def test_the_write_deadline_runs_from_the_first_refusal(line):
    line.poller.now_ms = 5000
    line.block()
    assert line.output.write_deadline_ms == 5000 + DEADLINE_MS
    line.poller.now_ms = 6000
    line.output.append_bytes(b"more")
    flush_dirty(line.outbounds)
    line.output.make_room()
    assert line.output.write_deadline_ms == 5000 + DEADLINE_MS


def test_the_write_deadline_moves_when_all_that_was_queued_at_its_start_is_written(line):
    line.poller.now_ms = 5000
    line.block()
    goal = line.output.pending_bytes
    line.output.append_bytes(pattern(2 * EAGER))  # comes later: it does not count
    total = line.output.pending_bytes
    line.poller.now_ms = 7000
    moved_at = None
    while moved_at is None:
        assert read_all(line.peer)
        line.output.make_room()
        if line.output.write_deadline_ms != 5000 + DEADLINE_MS:
            moved_at = total - line.output.pending_bytes
        else:
            assert total - line.output.pending_bytes < goal
    assert line.output.state[0]
    assert moved_at >= goal
    assert line.output.write_deadline_ms == 7000 + DEADLINE_MS


def test_a_peer_that_caught_up_gets_a_new_deadline_when_it_falls_behind_again(line):
    line.poller.now_ms = 5000
    line.block()
    flush_dirty(line.outbounds)
    line.read_to_the_end()
    line.poller.now_ms = 9000
    line.block()
    flush_dirty(line.outbounds)
    assert line.output.write_deadline_ms == 9000 + DEADLINE_MS
    assert line.output.blocked_count == 2


# --- loans -----------------------------------------------------------------------------------


def test_lent_bytes_are_written_from_where_they_lie(line):
    body = bytearray(b"before")
    line.output.lend_bytes(b"head ", body)
    assert has_loans(line.outbounds)
    body[:] = b"after "  # what no lender may do: it shows that nothing was copied
    flush_dirty(line.outbounds)
    assert read_all(line.peer) == b"head after "


def test_returning_loans_writes_them_before_the_pass_ends(line):
    body = bytearray(b"lent")
    line.output.append_bytes(b"first ")
    line.output.lend_bytes(b"head ", body)
    return_loans(line.outbounds)
    assert not has_loans(line.outbounds)
    body[:] = b"over"
    assert read_all(line.peer) == b"first head lent"
    assert line.output.pending_bytes == 0


def test_loans_that_could_not_be_written_are_copied(line):
    expected = line.block()
    bodies = [bytearray(pattern(size, seed=size)) for size in (1, 10_000, CHUNK, 3 * CHUNK + 1)]
    for body in bodies:
        line.output.lend_bytes(b"<head>", body)
        line.output.append_bytes(b"<between>")
        expected += b"<head>" + bytes(body) + b"<between>"
    pending = line.output.pending_bytes
    return_loans(line.outbounds)
    assert not has_loans(line.outbounds)
    assert line.output.pending_bytes == pending
    for body in bodies:
        body[:] = b"\xff" * len(body)
    bodies.clear()
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == expected


def test_the_rest_of_a_loan_that_was_written_in_part_is_copied(line):
    body = bytearray(pattern(EAGER - 1))
    line.output.lend_bytes(b"", body)
    return_loans(line.outbounds)
    assert line.output.state[0]
    assert 0 < line.output.pending_bytes < EAGER - 1
    body[:] = bytes(len(body))
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == pattern(EAGER - 1)


def test_many_may_be_lent_the_same_bytes_and_each_returns_its_own(line):
    others = [Line() for _ in range(3)]
    body = bytearray(pattern(20_000))
    outputs = [Probe(line.outbounds, other.own.fileno(), line.poller) for other in others[:2]]
    for output in outputs:
        output.lend_bytes(b"x", body)
        output.lend_bytes(b"y", body)
    return_loans(line.outbounds)
    body[:] = bytes(len(body))
    flush_dirty(line.outbounds)
    for other, output in zip(others, outputs, strict=False):
        read = read_all(other.peer)
        while output.pending_bytes:
            output.make_room()
            read += read_all(other.peer)
        assert read == b"x" + pattern(20_000) + b"y" + pattern(20_000)
        output.leave()
    for other in others:
        other.close()


def test_an_output_may_borrow_again_after_its_loans_were_returned(line):
    expected = b""
    for number in range(5):
        body = bytearray(pattern(30_000, seed=number))
        line.output.lend_bytes(b"h", body)
        expected += b"h" + bytes(body)
        return_loans(line.outbounds)
        body[:] = bytes(len(body))
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == expected


def test_returning_without_loans_does_nothing(line):
    line.output.append_bytes(b"x")
    return_loans(line.outbounds)
    assert line.output.pending_bytes == 1


def test_loans_of_a_closed_output_are_forgotten(line):
    line.block()
    body = bytearray(100)
    line.output.lend_bytes(b"h", body)
    line.output.leave()
    line.output.discard_all()
    assert line.output.pending_bytes == 0
    return_loans(line.outbounds)
    assert not has_loans(line.outbounds)
    assert line.output.pending_bytes == 0


def count_probes():
    """Outputs alive in this process."""
    gc.collect()
    return sum(type(item) is Probe for item in gc.get_objects())


def test_a_set_does_not_hold_an_output_whose_loans_were_returned(line):
    before = count_probes()
    own, peer = socket.socketpair()
    with own, peer:
        output = Probe(line.outbounds, own.fileno())
        body = bytearray(10)
        output.lend_bytes(b"h", body)
        return_loans(line.outbounds)
        flush_dirty(line.outbounds)
        del output
        assert count_probes() == before


def test_an_output_that_goes_with_its_set_leaves_what_it_was_lent_alone(line):
    line.block()
    outbounds = OutboundSet(DEADLINE_MS)
    output = Probe(outbounds, line.own.fileno())
    body = bytearray(b"z" * 5000)
    output.lend_bytes(b"h", body)
    flush_dirty(outbounds)
    assert output.pending_bytes == 5001
    del output, outbounds
    gc.collect()
    assert bytes(body) == b"z" * 5000


# --- the end ---------------------------------------------------------------------------------


def test_a_peer_that_is_gone_is_told_to_the_owner_at_the_end_of_the_pass(line):
    line.peer.close()
    line.output.append_bytes(b"x")
    assert line.output.state == (False, False, False)
    flush_dirty(line.outbounds)
    assert line.output.state == (False, True, False)
    assert line.output.broken_count == 1
    assert line.output.flush_now() == BROKEN


def test_a_peer_that_goes_while_the_output_is_blocked_breaks_it_at_its_next_turn(line):
    line.block()
    flush_dirty(line.outbounds)
    line.peer.close()
    assert dispatch(line.poller) == 1
    assert line.output.broken_count == 1


def test_a_broken_output_still_returns_its_loans(line):
    line.peer.close()
    body = bytearray(pattern(5000))
    line.output.lend_bytes(b"h", body)
    return_loans(line.outbounds)
    assert line.output.state == (False, True, False)
    assert line.output.pending_bytes == 5001
    del body
    line.output.append_bytes(pattern(2 * EAGER))
    flush_dirty(line.outbounds)
    assert line.output.broken_count == 1


def test_an_output_without_a_socket_keeps_quiet(line):
    line.output.leave()
    line.output.append_bytes(b"x")
    flush_dirty(line.outbounds)
    assert line.output.flush_now() == BROKEN
    assert line.output.broken_count == 0


@pytest.mark.parametrize("state", ["fresh", "empty", "blocked"])
def test_a_flush_says_how_it_went(line, state):
    if state == "blocked":
        line.block()
        assert line.output.flush_now() == BLOCKED
    else:
        line.output.append_bytes(b"x" if state == "fresh" else b"")
        assert line.output.flush_now() == DONE


def test_written_and_discarded_chunks_go_back_to_the_pool(line):
    assert pooled_chunks(line.outbounds) == 0
    line.output.append_bytes(pattern(CHUNK + 1))
    flush_dirty(line.outbounds)
    line.read_to_the_end()
    assert pooled_chunks(line.outbounds) == 2
    line.block()
    taken = pooled_chunks(line.outbounds)
    line.output.lend_bytes(b"h" * CHUNK, bytearray(10))
    line.output.discard_all()
    assert line.output.pending_bytes == 0
    assert pooled_chunks(line.outbounds) >= max(taken, 3)
    # They are clean: what was in them is not written again.
    line.output.make_room()
    read_all(line.peer)
    line.output.append_bytes(b"fresh")
    flush_dirty(line.outbounds)
    assert line.read_to_the_end() == b"fresh"


def test_the_pool_keeps_no_more_than_it_may(line):
    line.block()
    line.output.append_bytes(bytes(300 * CHUNK))
    line.output.discard_all()
    assert pooled_chunks(line.outbounds) == 256


# --- layers ----------------------------------------------------------------------------------


def test_a_layer_gets_what_is_queued_in_one_piece(line):
    layer = MaskingLayer()
    line.output.attach_layer(layer)
    body = bytearray(pattern(1000))
    line.output.append_bytes(b"one")
    line.output.lend_bytes(b"head", body)
    line.output.append_bytes(b"two")
    flush_dirty(line.outbounds)
    assert unmask(read_all(line.peer)) == b"onehead" + body + b"two"
    assert layer.pieces == [1010]


def test_a_layer_gets_much_in_shares_and_the_next_when_the_last_was_written(line):
    layer = MaskingLayer()
    line.output.attach_layer(layer)
    body = bytearray(pattern(3 * SHARE))
    line.output.lend_bytes(b"head", body)
    flush_dirty(line.outbounds)
    assert layer.pieces == [SHARE]
    assert unmask(line.read_to_the_end()) == b"head" + body
    assert layer.pieces == [SHARE, SHARE, SHARE, 4]


def test_what_is_queued_waits_for_the_handshake_and_the_layer_speaks_for_itself(line):
    layer = MaskingLayer(is_open=False)
    line.output.attach_layer(layer)
    layer.say(b"hello")
    line.output.append_bytes(b"INFO")
    flush_dirty(line.outbounds)
    assert read_all(line.peer) == b"hello"
    assert (layer.pieces, line.output.pending_bytes) == ([], 4)
    layer.is_open = True
    line.output.flush_now()
    assert unmask(read_all(line.peer)) == b"INFO"
