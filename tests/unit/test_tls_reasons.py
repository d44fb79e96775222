"""What the log says of a handshake that fails: what an operator has to know to mend it."""

import pytest

from shardd.config.model import Tls
from shardd.layer import LayerError
from shardd.tls import TlsLayer, client_context, server_context
from tests.support import certificates


def tls_of(authorities: bytes = b"") -> Tls:
    issued = certificates.server()
    pair = (issued.certificate.read_bytes(), issued.key.read_bytes())
    return Tls(certificates=(pair,), authorities=authorities)


@pytest.mark.parametrize(
    "line", [b'CONNECT {"name":"x"}\r\n', b"PING\r\nPING\r\n", b"GET / HTTP/1.1"]
)
def test_a_peer_without_tls_is_called_that(line: bytes) -> None:
    tls = tls_of()
    with pytest.raises(LayerError, match="the other end speaks no TLS"):
        TlsLayer(server_context(tls), tls).receive(memoryview(line))


def test_a_certificate_that_is_not_trusted_is_told_with_the_reason() -> None:
    mine, other = tls_of(), tls_of(certificates.Authority("another").certificate.read_bytes())
    server = TlsLayer(server_context(mine), mine)
    client = TlsLayer(client_context(other), other, is_server=False, host="localhost")
    server.receive(memoryview(client.take()))
    with pytest.raises(LayerError, match=r"CERTIFICATE_VERIFY_FAILED: \w+"):
        client.receive(memoryview(server.take()))
