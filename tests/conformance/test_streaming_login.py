"""A streaming pool that runs alone logs in to each kind of server in every way that it knows."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
import uvloop

from shardd.auth.nkeys import KeyRole
from shardd.config.streaming import NatsOptions
from shardd.streaming.dialer import Dialer
from shardd.streaming.receiver_probe import ReceiverProbe
from shardd.streaming.tcp_bus import TcpBus
from tests.support import certificates
from tests.support.fixtures import Serve
from tests.support.nkeys import KeyPair, account_jwt, operator_jwt, user_jwt
from tests.support.waiting import PATIENCE

WAIT_S = 10.0 * PATIENCE
KEY = KeyPair(KeyRole.USER, 12)
SEED = nkeys.encode_seed((12).to_bytes(32, "big"), nkeys.PREFIX_BYTE_USER).decode()
OPERATOR, ACCOUNT = KeyPair(KeyRole.OPERATOR, 21), KeyPair(KeyRole.ACCOUNT, 22)


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """What the library opens with its first loop, and keeps, is no leak of a test."""
    uvloop.new_event_loop().close()


def encrypted(more: str = "") -> str:
    """A `tls` block with the tests' certificates."""
    server, authority = certificates.server(), certificates.authority()
    return f"""tls {{ cert_file: '{server.certificate}', key_file: '{server.key}',
        ca_file: '{authority.certificate}' {more} }}"""


def operator_mode() -> str:
    claims = account_jwt(OPERATOR, ACCOUNT)
    return f"""operator: {operator_jwt(OPERATOR)}
        resolver: MEMORY
        resolver_preload {{ {ACCOUNT.public}: {claims} }}"""


def seed_file(directory: Path) -> str:
    path = directory / "user.nk"
    path.write_text(SEED)
    return str(path)


def credentials_file(directory: Path) -> str:
    path = directory / "user.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt(ACCOUNT, KEY)}\n------END NATS USER JWT------\n"
        f"\n-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
    )
    return str(path)


def authority_file() -> str:
    return str(certificates.authority().certificate)


def mutual() -> dict[str, str]:
    issued = certificates.authority().issue("pool")
    return {
        "tls_ca": authority_file(),
        "tls_cert": str(issued.certificate),
        "tls_key": str(issued.key),
    }


WAYS: dict[str, tuple[Callable[[], str], Callable[[Path], dict[str, Any]]]] = {
    "nobody": (lambda: "", lambda _: {}),
    "token": (lambda: "authorization { token: t0ken }", lambda _: {"token": "t0ken"}),
    "user": (
        lambda: "authorization { user: me, password: pw }",
        lambda _: {"user": "me", "password": "pw"},
    ),
    "nkey": (
        lambda: f"authorization {{ users: [ {{nkey: {KEY.public}}} ] }}",
        lambda directory: {"nkey_seed_file": seed_file(directory)},
    ),
    "credentials": (
        operator_mode,
        lambda directory: {"credentials_file": credentials_file(directory)},
    ),
    "tls that the server asks for": (encrypted, lambda _: {"tls_ca": authority_file()}),
    "tls without a look": (encrypted, lambda _: {"tls_insecure": True}),
    "mutual tls": (lambda: encrypted(", verify: true"), lambda _: mutual()),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_pool_is_let_in_and_works(serve: Serve, tmp_path: Path, way: str) -> None:
    text, options = WAYS[way]
    server = serve(text())

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        connected, got = loop.create_future(), loop.create_future()
        bus = TcpBus()
        bus.receiver = ReceiverProbe(lambda *message: got.set_result(message))
        dialer = Dialer(
            bus,
            NatsOptions(urls=(f"nats://127.0.0.1:{server.port}",), **options(tmp_path)),
            "_NSS-test-general",
            lambda _: connected.set_result(None),
        )
        task = loop.create_task(dialer.run())
        bus.subscribe(1, b"nobody.there.reply")
        await connected
        # The server says at once that nobody listens, at the reply subject.
        assert bus.send(b"nobody.there", b"question", b"nobody.there.reply")
        bus.finish()
        sid, subject, reply, header, payload = await got
        assert (sid, subject, reply, payload) == (1, b"nobody.there.reply", b"", b"")
        assert header.startswith(b"NATS/1.0 503")
        task.cancel()
        await asyncio.wait((task,))
        bus.close()
        await asyncio.sleep(0.01)  # uvloop closes handles in a later turn

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(talk(), WAIT_S))


@pytest.mark.parametrize("way", ["token", "tls that the server asks for"])
def test_who_is_not_let_in_tries_on_and_says_why(
    serve: Serve, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(WAYS[way][0]())

    async def talk() -> None:
        bus = TcpBus()
        options = NatsOptions(urls=(f"nats://127.0.0.1:{server.port}",), token="wrong")
        dialer = Dialer(bus, options, "_NSS-test-general", lambda _: None)
        task = asyncio.get_running_loop().create_task(dialer.run())
        while "Cannot connect" not in caplog.text:  # noqa: ASYNC110 (a log has no event)
            await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()
        await asyncio.wait((task,))
        await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(talk(), WAIT_S))
    assert "Authorization Violation" in caplog.text or "certificate" in caplog.text.lower()
    assert "wrong" not in caplog.text
