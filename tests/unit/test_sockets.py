"""Addresses as words. What the sockets themselves do is tested in tests/faults/test_supervision."""

import errno

import pytest

from shardd.errors import BootError
from shardd.sockets import error_text, join_address, open_listeners, plain_address


@pytest.mark.parametrize(
    ("host", "joined"),
    [("127.0.0.1", "127.0.0.1:4222"), ("::", "[::]:4222"), ("localhost", "localhost:4222")],
)
def test_only_a_host_with_colons_gets_brackets(host: str, joined: str) -> None:
    assert join_address(host, 4222) == joined


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("::ffff:0:1", "::ffff:0:1"),
    ],
)
def test_ipv4_client_of_a_dual_stack_socket_is_shown_as_ipv4(host: str, plain: str) -> None:
    assert plain_address(host) == plain


def test_errors_are_spelled_as_nats_server_spells_them() -> None:
    assert error_text(OSError(errno.EADDRINUSE, "?")) == "address already in use"
    assert error_text(OSError("no number")) == "no number"


def test_port_beyond_the_last_one_is_refused_before_the_kernel_is_asked() -> None:
    with pytest.raises(BootError) as refusal:
        open_listeners("127.0.0.1", 70_000, 1)
    assert str(refusal.value) == (
        'Error listening on port: 127.0.0.1:70000, "listen tcp: address 70000: invalid port"'
    )
