"""TLS over any cuts of the stream: all plaintext comes out, as soon as its record is whole."""

import contextlib
import ssl

from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.config.model import Tls
from shardd.tls import TlsLayer, server_context
from tests.support import certificates

SETTINGS = settings(deadline=None, max_examples=60)
SIZE_MAX = 50_000
STREAM = b"".join(b"%07x " % number for number in range(50_000))


class Pair:
    """The layer as the server, and a client over memory."""

    def __init__(self):
        issued = certificates.server()
        tls = Tls(certificates=((issued.certificate.read_bytes(), issued.key.read_bytes()),))
        self.layer = TlsLayer(server_context(tls), tls)
        self._to_client, self._from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = certificates.client_context().wrap_bio(self._to_client, self._from_client)
        while not self.layer.is_open:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.layer.receive(memoryview(self._from_client.read()))
            self._to_client.write(self.layer.take())

    def encrypted(self, data):
        """One piece of the client's, as it goes over the wire."""
        self.client.write(data)
        return self._from_client.read()

    def goodbye(self):
        """The client's last record."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.unwrap()
        return self._from_client.read()

    def decrypted(self, data):
        """What the client makes of what the layer wrote."""
        self._to_client.write(data)
        got = bytearray()
        while True:
            try:
                got += self.client.read(SIZE_MAX)
            except ssl.SSLWantReadError:
                return bytes(got)


@SETTINGS
@given(
    pieces=st.lists(st.integers(1, SIZE_MAX), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 40_000), min_size=1, max_size=12),
    room=st.sampled_from([1000, 16_384, 16_385, 131_072]),
)
def test_plaintext_is_there_when_its_record_is_whatever_the_cuts(pieces, cuts, room):
    pair = Pair()
    wire, ends, start = bytearray(), [], 0
    for piece in pieces:
        wire += pair.encrypted(STREAM[start : start + piece])
        start += piece
        ends.append((len(wire), start))
    wire += pair.goodbye()
    got = bytearray()
    place = 0
    while place < len(wire):
        cut = cuts.pop() if cuts else len(wire)
        pair.layer.receive(memoryview(wire)[place : place + cut])
        place += cut
        buffer = bytearray(room)
        while length := pair.layer.read_into(memoryview(buffer)):
            got += buffer[:length]
        # Nothing that is whole may wait: nobody asks again before more arrives.
        whole = max((plain for end, plain in ends if end <= place), default=0)
        assert len(got) >= whole
        assert pair.layer.is_ended == (place >= len(wire))
    assert got == STREAM[:start]


@SETTINGS
@given(pieces=st.lists(st.integers(1, SIZE_MAX), min_size=1, max_size=6))
def test_what_is_sent_is_what_the_peer_reads(pieces):
    pair = Pair()
    start = 0
    for piece in pieces:
        pair.layer.send(memoryview(STREAM)[start : start + piece])
        start += piece
    assert pair.decrypted(pair.layer.take()) == STREAM[:start]
    assert pair.layer.take() == b""
