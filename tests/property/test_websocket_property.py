"""WebSocket over any cuts of the stream: whole and split, the same comes out, as soon as it can."""

import random
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from shardd.config.model import Websocket
from shardd.errors import CloseReason
from shardd.layer import LayerError
from shardd.worker.websocket import WebsocketLayer

SETTINGS = settings(deadline=None, max_examples=80)
STREAM: Final = b"".join(b"%07x " % number for number in range(20_000))
KINDS: Final = ("whole", "whole", "fragments", "text", "empty", "ping", "pong")


@dataclass
class Outcome:
    """What a layer made of some bytes."""

    plain: bytes
    answers: bytes
    is_open: bool
    is_ended: bool
    fault: str


class Peer:
    """A browser: what it writes, in pieces that each are one frame."""

    def __init__(self, compression: bool) -> None:
        factory = ClientPerMessageDeflateFactory(
            server_no_context_takeover=True, client_no_context_takeover=True
        )
        self.compression = compression
        self.protocol = ClientProtocol(
            parse_uri("ws://localhost/"), extensions=[factory] if compression else None
        )
        self.protocol.send_request(self.protocol.connect())
        self.request = self._written()
        self.layer = new_layer(compression)
        self.layer.receive(memoryview(self.request))
        self.protocol.receive_data(self.layer.take())
        assert self.protocol.state.name == "OPEN"

    def frames(self, kind: str, data: bytes) -> list[bytes]:
        """One message, or a control frame, or a message with one inside."""
        if kind == "fragments":
            third = len(data) // 3
            frames = [self._frame(data[:third], fin=False)]
            self.protocol.send_ping(b"between")
            frames.append(self._written())
            self.protocol.send_continuation(data[third : 2 * third], fin=False)
            frames.append(self._written())
            self.protocol.send_continuation(data[2 * third :], fin=True)
            return [*frames, self._written()]
        if kind == "ping":
            self.protocol.send_ping(data[:100])
        elif kind == "pong":
            self.protocol.send_pong(data[:100])
        elif kind == "text":
            self.protocol.send_text(data)
        else:
            return [self._frame(b"" if kind == "empty" else data)]
        return [self._written()]

    def goodbye(self) -> bytes:
        """Its last frame."""
        self.protocol.send_close(1000)
        return self._written()

    def _frame(self, data: bytes, fin: bool = True) -> bytes:
        self.protocol.send_binary(data, fin)
        return self._written()

    def _written(self) -> bytes:
        return b"".join(self.protocol.data_to_send())


def new_layer(compression: bool) -> WebsocketLayer:
    layer = WebsocketLayer(Websocket(port=1, is_plain=True, compression=compression), is_tls=False)
    layer.trust()
    return layer


def drained(layer: WebsocketLayer, room: int) -> bytes:
    """All plaintext that is there."""
    got = bytearray()
    buffer = bytearray(room)
    while length := layer.read_into(memoryview(buffer)):
        got += buffer[:length]
    return bytes(got)


def outcome(peer: Peer, wire: bytes, ends: list[int], room: int = 4096) -> Outcome:
    """What a new layer makes of these bytes behind the upgrade, cut at these places."""
    layer = new_layer(peer.compression)
    for place in range(len(peer.request)) if ends else ():
        layer.receive(memoryview(peer.request)[place : place + 1])
    if not ends:
        layer.receive(memoryview(peer.request))
    assert layer.take().startswith(b"HTTP/1.1 101 ")
    plain, answers, fault = bytearray(), bytearray(), ""
    reasons: set[CloseReason] = set()
    start = 0
    for end in [*ends, len(wire)]:
        try:
            layer.receive(memoryview(wire)[start:end])
        except LayerError as error:
            reasons.add(error.reason)
            fault = str(error)
        start = end
        plain += drained(layer, room)
        answers += layer.take()
        if fault:
            break
    assert reasons <= {CloseReason.PROTOCOL_VIOLATION}
    return Outcome(bytes(plain), bytes(answers), layer.is_open, layer.is_ended, fault)


MESSAGES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3000)), max_size=6)


@SETTINGS
@given(
    messages=MESSAGES,
    compression=st.booleans(),
    is_over=st.booleans(),
    room=st.sampled_from([1, 100, 65_536]),
    seed=st.integers(0, 2**32),
)
def test_whole_split_at_every_byte_and_cut_anywhere_are_the_same(
    messages, compression, is_over, room, seed
):
    peer = Peer(compression)
    wire = bytearray()
    wanted = bytearray()
    for kind, length in messages:
        wire += b"".join(peer.frames(kind, STREAM[len(wanted) :][:length]))
        if kind not in ("ping", "pong", "empty"):
            wanted += STREAM[len(wanted) :][:length]
    if is_over:
        wire += peer.goodbye()
    whole = outcome(peer, bytes(wire), [], room)
    assert whole.plain == wanted
    assert whole.fault == ""
    assert whole.is_ended == is_over
    assert whole.is_open == (not is_over)
    every_byte = list(range(1, len(wire)))
    assert outcome(peer, bytes(wire), every_byte, room) == whole
    chance = random.Random(seed)
    cuts = sorted(chance.sample(every_byte, min(7, len(every_byte))))
    assert outcome(peer, bytes(wire), cuts, room) == whole


@SETTINGS
@given(messages=MESSAGES, compression=st.booleans(), step=st.integers(1, 700))
def test_what_a_frame_holds_is_there_when_the_frame_is(messages, compression, step):
    peer = Peer(compression)
    layer = peer.layer
    wire, ends, sent = bytearray(), [], 0
    for kind, length in messages:
        if kind == "fragments":
            continue
        wire += b"".join(peer.frames(kind, STREAM[sent : sent + length]))
        sent += length if kind in ("whole", "text") else 0
        ends.append((len(wire), sent))
    got = 0
    for place in range(0, len(wire), step):
        layer.receive(memoryview(wire)[place : place + step])
        got += len(drained(layer, 4096))
        assert got >= max((plain for end, plain in ends if end <= place + step), default=0)
    assert got == sent


@SETTINGS
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(1, 199), max_size=5))
def test_any_bytes_end_the_same_however_they_are_cut(data, cuts):
    peer = Peer(False)
    whole = outcome(peer, data, [])
    for ends in (list(range(1, len(data))), sorted({len(data) - cut for cut in cuts})):
        split = outcome(peer, data, [end for end in ends if end > 0])
        assert split.fault == whole.fault
        # What came in whole frames before the fault is there; cut up, it has been handed on.
        assert split.plain == whole.plain
        assert (split.is_open, split.is_ended) == (whole.is_open, whole.is_ended)


@SETTINGS
@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=6),
    compression=st.booleans(),
)
def test_what_is_sent_is_what_the_peer_reads(sizes, compression):
    peer = Peer(compression)
    sent = 0
    for size in sizes:
        peer.layer.send(memoryview(STREAM)[sent : sent + size])
        sent += size
    peer.protocol.receive_data(peer.layer.take())
    frames = [event for event in peer.protocol.events_received() if isinstance(event, Frame)]
    assert all(frame.opcode is Opcode.BINARY for frame in frames)
    assert b"".join(bytes(frame.data) for frame in frames) == STREAM[:sent]
    assert peer.layer.take() == b""


@pytest.mark.parametrize("cut", [1, 1000, None], ids=str)
def test_a_small_frame_that_unpacks_to_a_large_message_is_refused(cut):
    peer = Peer(True)
    layer = WebsocketLayer(Websocket(port=1, is_plain=True, compression=True), is_tls=False)
    layer.receive(memoryview(peer.request))  # a stranger: never trusted
    peer.protocol.send_binary(bytes(20_000_000))
    wire = b"".join(peer.protocol.data_to_send())
    assert len(wire) < 100_000
    step = cut or len(wire)

    def receive() -> None:
        for place in range(0, len(wire), step):
            layer.receive(memoryview(wire)[place : place + step])

    with pytest.raises(LayerError):
        receive()
    assert drained(layer, 4096) == b""
