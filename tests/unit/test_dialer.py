"""A bus over TCP: what it hands over and publishes, and what happens when a server goes."""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from shardd.auth.nkeys import KeyRole
from shardd.auth.seeds import read_credentials, read_seed
from shardd.config.streaming import NatsOptions
from shardd.errors import BootError, InternalError
from shardd.login import NatsUrl, parse_nats_url
from shardd.streaming.dialer import Dialer
from shardd.streaming.receiver_probe import ReceiverProbe, publish_pieces
from shardd.streaming.tcp_bus import TcpBus
from tests.support.nkeys import KeyPair

WAIT_S = 30.0
INFO = {"server_id": "x", "headers": True, "max_payload": 1000}
Handler = Callable[["Peer"], Coroutine[Any, Any, None]]


def seed_of(number: int) -> str:
    """The text of a user's seed whose key is this number."""
    role = int(KeyRole.USER)
    body = bytes((18 << 3 | role >> 5, (role & 31) << 3)) + number.to_bytes(32, "big")
    checksum = binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(body + checksum).decode().rstrip("=")


def run(body: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(body, WAIT_S))


class Peer:
    """The server's end of one connection, spoken by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connect: dict[str, Any] = {}

    async def line(self) -> bytes:
        return (await self.reader.readline()).rstrip(b"\r\n")

    async def greet(self, **info: Any) -> None:
        """INFO, CONNECT, PING and PONG."""
        self.say(b"INFO " + json.dumps(INFO | info).encode())
        self.connect = json.loads((await self.line()).partition(b" ")[2])
        assert await self.line() == b"PING"
        self.say(b"PONG")

    def say(self, line: bytes) -> None:
        self.writer.write(line + b"\r\n")


class Server:
    """A server on loopback that hands each connection to the test."""

    def __init__(self) -> None:
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.port = 0
        self._all: list[Peer] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._all.append(Peer(reader, writer))
        self.peers.put_nowait(self._all[-1])

    async def next(self, **info: Any) -> Peer:
        """The next connection, greeted."""
        peer = await self.peers.get()
        await peer.greet(**info)
        return peer

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self._all:
            peer.writer.transport.abort()
        await asyncio.sleep(0.01)  # uvloop closes handles in a later turn


class Pool:
    """A bus that is kept connected, and what it was handed."""

    def __init__(self, *urls: str, **options: Any) -> None:
        self.bus = TcpBus()
        self.got: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.bus.receiver = ReceiverProbe(lambda *got: self.got.put_nowait(got))
        self.connected: asyncio.Queue[NatsUrl] = asyncio.Queue()
        self.dialer = Dialer(
            self.bus,
            NatsOptions(urls=urls, **options),
            "_NSS-test-general",
            self.connected.put_nowait,
        )
        self.task = asyncio.get_running_loop().create_task(self.dialer.run())

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))
        assert self.task.cancelled()
        self.bus.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (what is waited for has no event)
        await asyncio.sleep(0.001)


def test_the_handshake_and_messages_in_both_directions() -> None:
    async def body() -> None:
        server = Server()
        await server.start()
        pool = Pool(f"nats://me:secret@127.0.0.1:{server.port}")
        pool.bus.subscribe(1, b"before.>")
        peer = await server.next()
        assert peer.connect["name"] == "_NSS-test-general"
        assert (peer.connect["user"], peer.connect["pass"]) == ("me", "secret")
        flags = [peer.connect[key] for key in ("headers", "no_responders", "verbose", "echo")]
        assert flags == [True, True, False, False]
        assert await peer.line() == b"SUB before.> 1"
        await pool.connected.get()
        pool.bus.subscribe(2**63, b"behind")
        assert pool.bus.send(b"box", b"hello", b"back") is True
        assert publish_pieces(pool.bus, b"box", b"two", b"pieces", b"") == 1
        pool.bus.unsubscribe(1)
        pool.bus.finish()
        for line in (
            *(b"SUB behind 9223372036854775808", b"PUB box back 5", b"hello"),
            *(b"PUB box 9", b"twopieces", b"UNSUB 1"),
        ):
            assert await peer.line() == line
        peer.say(b"MSG before.x 1 2\r\nno")  # it was unsubscribed: what was under way is dropped
        peer.say(b"MSG behind 9223372036854775808 back 3\r\nyes")
        peer.say(b"HMSG behind 9223372036854775808 16 16\r\nNATS/1.0 503\r\n\r\n")
        sid = 2**63
        assert await pool.got.get() == (sid, b"behind", b"back", b"", b"yes")
        assert await pool.got.get() == (sid, b"behind", b"", b"NATS/1.0 503\r\n\r\n", b"")
        peer.say(b"PING")
        assert await peer.line() == b"PONG"
        await pool.close()
        await server.stop()

    run(body())


def test_a_lost_server_is_reached_again_and_everything_subscribed_again() -> None:
    async def body() -> None:
        server = Server()
        await server.start()
        pool = Pool(f"127.0.0.1:{server.port}")
        peer = await server.next()
        await pool.connected.get()
        answers: list[int] = []
        pool.bus.subscribe(1, b"a")
        pool.bus.subscribe(2, b"b")
        pool.bus.unsubscribe(1)
        pool.bus.flush(lambda: answers.append(1))
        pool.bus.finish()
        peer.writer.close()
        await until(lambda: not pool.bus.is_connected)
        assert pool.bus.send(b"x", b"nobody hears it") is False
        assert pool.bus.dropped == 1
        pool.bus.subscribe(3, b"c")
        peer = await server.next()
        assert [await peer.line() for _ in range(3)] == [b"SUB b 2", b"SUB c 3", b"PING"]
        assert answers == []
        peer.say(b"PONG")
        await until(lambda: answers)
        assert pool.bus.send(b"x", b"heard") is True
        await pool.close()
        await server.stop()

    run(body())


def test_servers_are_tried_in_turn_and_those_learned_of_as_well() -> None:
    async def body() -> None:
        first, second = Server(), Server()
        await first.start()
        await second.start()
        dead = f"127.0.0.1:{first.port}"
        pool = Pool(f"nats://{dead}")
        peer = await first.next(connect_urls=[dead, f"127.0.0.1:{second.port}", 5, "::x::"])
        assert (await pool.connected.get()).port == first.port
        await first.stop()
        peer.writer.close()
        await second.next()
        assert (await pool.connected.get()).port == second.port
        await pool.close()
        await second.stop()

    run(body())


def test_a_message_larger_than_the_server_takes_is_dropped_not_the_connection() -> None:
    async def body() -> None:
        server = Server()
        await server.start()
        pool = Pool(f"127.0.0.1:{server.port}")
        peer = await server.next()
        await pool.connected.get()
        assert pool.bus.send(b"a", bytes(1001)) is False
        assert pool.bus.send(b"a", bytes(1000)) is True
        pool.bus.finish()
        assert await peer.line() == b"PUB a 1000"
        assert pool.bus.too_large == 1
        await pool.close()
        await server.stop()

    run(body())


def test_a_server_that_does_not_read_is_told_of_as_congestion() -> None:
    async def body() -> None:
        server = Server()
        await server.start()
        pool = Pool(f"127.0.0.1:{server.port}")
        rooms: list[bool] = []
        pool.bus.on_room = lambda: rooms.append(pool.bus.is_congested)
        peer = await server.next(max_payload=1_048_576)
        await pool.connected.get()
        rooms.clear()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        while not pool.bus.is_congested:
            assert pool.bus.send(b"a", bytes(100_000)) is True
            pool.bus.finish()
            sent += 1
            await asyncio.sleep(0)
            assert sent < 1000
        assert rooms == []
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(sent):
            await peer.reader.readexactly(len(b"PUB a 100000\r\n") + 100_002)
        await until(lambda: rooms)
        assert rooms == [False]
        await pool.close()
        await server.stop()

    run(body())


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request", b"INFO {", b"INFO []", b"-ERR 'Authorization Violation'"],
)
def test_what_is_no_server_or_refuses_is_tried_again(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        server = Server()
        await server.start()
        pool = Pool(f"127.0.0.1:{server.port}")
        peer = await server.peers.get()
        peer.say(answer)
        await peer.reader.read()
        await server.next()
        await pool.connected.get()
        await pool.close()
        await server.stop()

    run(body())
    said = [record.message for record in caplog.records if "Cannot connect" in record.message]
    assert len(said) == 1
    assert "no NATS server" in said[0] or "Authorization Violation" in said[0]


def test_refusals_after_the_handshake_are_logged_and_the_connection_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        server = Server()
        await server.start()
        pool = Pool(f"127.0.0.1:{server.port}")
        peer = await server.next()
        await pool.connected.get()
        pool.bus.subscribe(1, b"a")
        pool.bus.finish()
        peer.say(b"-ERR 'Permissions Violation for Subscription to \"b\"'")
        peer.say(b"MSG a 1 1\r\nx")
        assert (await pool.got.get())[4] == b"x"
        await pool.close()
        await server.stop()

    run(body())
    assert 'Permissions Violation for Subscription to "b"' in caplog.text


def test_who_the_pool_is(tmp_path: Path) -> None:
    pair = KeyPair(KeyRole.USER, 77)
    seed_file, credentials = tmp_path / "seed", tmp_path / "user.creds"
    seed_file.write_text(seed_of(77) + "\n")
    credentials.write_text(
        "-----BEGIN NATS USER JWT-----\nabc.def.ghi\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed_of(77)}\n------END USER NKEY SEED------\n"
    )

    async def fields(url: str = "", **options: Any) -> dict[str, Any]:
        server = Server()
        await server.start()
        pool = Pool(f"{url}127.0.0.1:{server.port}", **options)
        peer = await server.next(nonce="abc", auth_required=True)
        await pool.close()
        await server.stop()
        return peer.connect

    async def body() -> None:
        assert "user" not in await fields()
        assert (await fields("nats://token@"))["auth_token"] == "token"
        assert (await fields("nats://u:p@", user="a", password="b"))["user"] == "a"
        assert (await fields(token="t"))["auth_token"] == "t"
        said = await fields(nkey_seed_file=str(seed_file))
        assert (said["nkey"], said["sig"]) == (pair.public, pair.sign("abc"))
        said = await fields(credentials_file=str(credentials))
        assert (said["jwt"], said["sig"]) == ("abc.def.ghi", pair.sign("abc"))

    run(body())
    with pytest.raises(BootError, match=r"could not read .*missing"):
        Dialer(TcpBus(), NatsOptions(nkey_seed_file=str(tmp_path / "missing")), "", print)
    seed_file.write_text("SUAAAA")
    with pytest.raises(BootError, match="seed: "):
        Dialer(TcpBus(), NatsOptions(nkey_seed_file=str(seed_file)), "", print)


def test_a_seed_is_read_and_never_shown() -> None:
    signer = read_seed(f"  {seed_of(5)}\n")
    assert signer.public_key == KeyPair(KeyRole.USER, 5).public
    assert "key=" not in repr(signer).replace("public_key=", "")
    text = seed_of(5)
    for wrong in (text[:-1] + "A", text[:20], "", "1" * 58, text.lower()):
        with pytest.raises(ValueError, match="seed") as refusal:
            read_seed(wrong)
        assert text not in str(refusal.value)
    with pytest.raises(ValueError, match="JWT"):
        read_credentials(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("a", NatsUrl("a", 4222)),
        ("a:1", NatsUrl("a", 1)),
        ("nats://u:p%40@a:1", NatsUrl("a", 1, "u", "p@")),
        ("tls://[::1]:9", NatsUrl("::1", 9, is_encrypted=True)),
    ],
)
def test_urls(text: str, url: NatsUrl) -> None:
    assert parse_nats_url(text) == url
    assert "p@" not in str(parse_nats_url(text))


@pytest.mark.parametrize("text", ["", "http://a", "nats://", "nats://a:x"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(BootError, match="--nats"):
        Dialer(TcpBus(), NatsOptions(urls=(text,)), "", print)


def test_a_number_in_use_is_an_error_of_ours() -> None:
    bus = TcpBus()
    bus.subscribe(1, b"a")
    with pytest.raises(InternalError):
        bus.subscribe(1, b"b")
    with pytest.raises(ValueError, match="not a subject"):
        bus.subscribe(2, b"a..b")
