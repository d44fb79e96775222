"""nats-py proves who it is in every way that it knows, and then simply works."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import nats
import nkeys
import pytest
from nats.aio.client import Client
from nats.errors import Error

from shardd.auth.nkeys import KeyRole
from tests.support import certificates
from tests.support.fixtures import Serve
from tests.support.nkeys import KeyPair

KEY = KeyPair(KeyRole.USER, 11)
SEED = nkeys.encode_seed((11).to_bytes(32, "big"), nkeys.PREFIX_BYTE_USER).decode()


def encrypted(more: str = "") -> str:
    """A `tls` block with the tests' certificates."""
    server, authority = certificates.server(), certificates.authority()
    return f"""tls {{ cert_file: '{server.certificate}', key_file: '{server.key}',
        ca_file: '{authority.certificate}' {more} }}"""


def mutual() -> ssl.SSLContext:
    """A client that shows a certificate."""
    return certificates.client_context(certificates.authority().issue("nats-py"))


WAYS: dict[str, tuple[Callable[[], str], Callable[[], dict[str, Any]]]] = {
    "token": (lambda: "authorization { token: t0ken }", lambda: {"token": "t0ken"}),
    "user": (
        lambda: "authorization { user: me, password: pw }",
        lambda: {"user": "me", "password": "pw"},
    ),
    "nkey": (
        lambda: f"authorization {{ users: [ {{nkey: {KEY.public}}} ] }}",
        lambda: {"nkeys_seed_str": SEED},
    ),
    "tls": (encrypted, lambda: {"tls": certificates.client_context()}),
    "mutual tls": (lambda: encrypted(", verify: true"), lambda: {"tls": mutual()}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_is_let_in_works(serve: Serve, way: str) -> None:
    text, options = WAYS[way]
    server = serve(text())

    async def talk() -> None:
        client = await nats.connect(
            f"nats://127.0.0.1:{server.port}", allow_reconnect=False, **options()
        )
        try:
            answers = await client.subscribe("ask")
            await client.flush()
            request = asyncio.ensure_future(client.request("ask", b"?", timeout=10))
            question = await answers.next_msg(timeout=10)
            await question.respond(b"x" * 100_000)
            assert len((await request).data) == 100_000
        finally:
            await client.close()

    asyncio.run(talk())


@pytest.mark.parametrize("way", ["token", "user", "nkey", "mutual tls"])
def test_a_client_that_proves_nothing_is_refused(serve: Serve, way: str) -> None:
    text, _ = WAYS[way]
    server = serve(text())

    async def try_it() -> None:
        options = {"tls": certificates.client_context()} if "tls" in way else {}
        client = Client()
        try:
            await client.connect(
                f"nats://127.0.0.1:{server.port}",
                allow_reconnect=False,
                connect_timeout=5,
                max_reconnect_attempts=0,
                **options,
            )
            await client.flush()
        finally:
            if client._transport is not None:  # a refusal leaves it open
                client._transport.close()
                await client._transport.wait_closed()
            await client.close()

    with pytest.raises((Error, OSError, ssl.SSLError)):
        asyncio.run(try_it())
