"""Encryption: every way a connection may begin, and what certificates say of who it is."""

import socket
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from shardd.tls import key_pin
from tests.support import certificates
from tests.support.fixtures import Dial, Serve
from tests.support.wireclient import WireClient

BIG = b"x" * 300_000


def block(*more: str, verify: str = "") -> str:
    """A `tls` block with the server's certificate."""
    server, authority = certificates.server(), certificates.authority()
    lines = [f"cert_file: '{server.certificate}'", f"key_file: '{server.key}'"]
    if verify:
        lines += [f"ca_file: '{authority.certificate}'", f"{verify}: true"]
    return "tls {\n" + "\n".join([*lines, *more]) + "\n}\n"


def exchange(client: WireClient) -> None:
    """Small and large messages go there and back."""
    client.connect(headers=True)
    client.subscribe(b"a", b"1")
    for payload in (b"", b"small", BIG):
        client.publish(b"a", payload)
        client.expect_msg(b"a", b"1", payload)
    client.send(b"PUB a 2\r\nhi\r\n" * 5000)
    for _ in range(5000):
        client.expect_msg(b"a", b"1", b"hi")


def test_info_comes_first_and_says_so(serve: Serve, dial: Dial) -> None:
    server = serve(block())
    client = dial(server, tls=certificates.client_context())
    assert client.info["tls_required"] is True
    assert "tls_verify" not in client.info
    exchange(client)


def test_a_client_that_does_not_encrypt_is_dropped(serve: Serve, dial: Dial) -> None:
    client = dial(serve(block()))
    client.send(b"CONNECT {}\r\nPING\r\n")
    assert b"PONG" not in client.read_to_end()


def test_the_handshake_may_come_first(serve: Serve, dial: Dial) -> None:
    server = serve(block("handshake_first: true"))
    exchange(dial(server, tls=certificates.client_context(), handshake_first=True))


@pytest.mark.parametrize("setting", ["auto", '"100ms"'])
def test_either_may_come_first(serve: Serve, dial: Dial, setting: str) -> None:
    server = serve(block(f"handshake_first: {setting}"))
    exchange(dial(server, tls=certificates.client_context(), handshake_first=True))
    exchange(dial(server, tls=certificates.client_context()))


def test_encryption_may_be_left_to_the_client(serve: Serve, dial: Dial) -> None:
    server = serve(block() + "allow_non_tls: true\n")
    encrypted, plain = dial(server, tls=certificates.client_context()), dial(server)
    assert plain.info["tls_available"] is True
    assert "tls_required" not in plain.info
    exchange(encrypted)
    exchange(plain)


def test_both_sides_show_who_they_are(serve: Serve, dial: Dial) -> None:
    server = serve(block(verify="verify"))
    context = certificates.client_context(certificates.authority().issue("client"))
    client = dial(server, tls=context)
    assert client.info["tls_verify"] is True
    exchange(client)
    stranger = certificates.Authority("stranger").issue("stranger")
    for context in (certificates.client_context(), certificates.client_context(stranger)):
        with pytest.raises((ssl.SSLError, OSError, AssertionError)):
            dial(server, tls=context).connect()


def test_a_certificate_names_the_user(serve: Serve, dial: Dial) -> None:
    authority = certificates.authority()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "shardd"),
            x509.NameAttribute(NameOID.COMMON_NAME, "dn"),
        ]
    )
    server = serve(
        block(verify="verify_and_map")
        + """
accounts {
  MAIL { users: [ {user: "me@example.com"} ] }
  DNS { users: [ {user: localhost} ] }
  DN { users: [ {user: "CN=dn,O=shardd"} ] }
}
"""
    )
    for issued, account in (
        (authority.issue("mail", email="me@example.com"), "MAIL"),
        (authority.issue("dns"), "DNS"),
        (authority.issue("dn", subject=name), "DN"),
    ):
        client = dial(server, tls=certificates.client_context(issued)).connect(protocol=1)
        assert client.second_info["remote_account"] == account
    other = authority.issue("other", email="other@example.com")
    client = dial(server, tls=certificates.client_context(other))
    client.send(b"CONNECT {}\r\nPING\r\n")
    client.expect_fatal(b"Authorization Violation")


def test_only_pinned_keys_are_let_in(serve: Serve, dial: Dial) -> None:
    authority = certificates.authority()
    pinned, other = authority.issue("pinned"), authority.issue("not-pinned")
    pin = key_pin(ssl.PEM_cert_to_DER_cert(pinned.certificate.read_text()))
    server = serve(block(f'pinned_certs: ["{pin}"]', verify="verify"))
    exchange(dial(server, tls=certificates.client_context(pinned)))
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        dial(server, tls=certificates.client_context(other)).connect()


def test_an_old_version_is_refused(serve: Serve, dial: Dial) -> None:
    server = serve(block('min_version: "1.3"'))
    exchange(dial(server, tls=certificates.client_context()))
    old = certificates.client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises((ssl.SSLError, OSError)):
        dial(server, tls=old)


def test_who_does_not_finish_the_handshake_is_dropped(serve: Serve, dial: Dial) -> None:
    client = dial(serve(block("timeout: 0.3")))
    client.send(b"\x16\x03\x01")
    client.expect_closed()


def test_a_new_certificate_is_for_new_connections(serve: Serve, dial: Dial) -> None:
    server = serve(block())
    context = certificates.client_context()
    before = dial(server, tls=context)
    before.connect()
    fresh = certificates.authority().issue("fresh")
    old = certificates.server()
    text = block().replace(str(old.certificate), str(fresh.certificate))
    assert "Reloaded" in server.reload(text.replace(str(old.key), str(fresh.key)))
    after = dial(server, tls=context)
    after.connect()
    assert isinstance(before.socket, ssl.SSLSocket)
    assert isinstance(after.socket, ssl.SSLSocket)
    wanted = ssl.PEM_cert_to_DER_cert(fresh.certificate.read_text())
    assert after.socket.getpeercert(binary_form=True) == wanted
    before.ping()


def test_a_bad_certificate_at_reload_changes_nothing(serve: Serve, dial: Dial) -> None:
    server = serve(block())
    broken = server.directory / "broken.pem"
    broken.write_text("nothing")
    text = block().replace(str(certificates.server().certificate), str(broken))
    assert "Failed to reload" in server.reload(text)
    exchange(dial(server, tls=certificates.client_context()))


def test_so_many_handshakes_a_second(serve: Serve, dial: Dial) -> None:
    server = serve(block("connection_rate_limit: 2"))
    told = 0
    for _ in range(30):
        with socket.create_connection((server.host, server.port), timeout=10) as client:
            told += b"Connection throttling is active" in client.recv(4096)
    assert told > 0


def test_nobody_is_a_certificate_s_user_without_one(serve: Serve, dial: Dial) -> None:
    text = block(verify="verify_and_map") + "allow_non_tls: true\n"
    server = serve(text + "authorization { users: [ {user: localhost} ] }\n")
    client = dial(server)
    client.send(b'CONNECT {"user":"localhost"}\r\nPING\r\n')
    client.expect_fatal(b"Authorization Violation")
