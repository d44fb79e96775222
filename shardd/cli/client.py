"""What `pub`, `sub`, `request` and `reply` do, on nats-py: small tools to try a server with.

One connection, no reconnecting: a server that goes away ends the command with one line. Payloads
are bytes; on the terminal, what is no UTF-8 is shown as escapes. Remarks go to standard error, so
that standard output holds messages only.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import click
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shardd.errors import ShardError

CONNECT_TIMEOUT_S: Final = 2
FLUSH_TIMEOUT_S: Final = 10
INTERRUPTED: Final = 130  # as a shell reports SIGINT


class ClientError(ShardError):
    """The command could not do what it was asked for; the text says why."""


class Session:
    """One connection and what has gone wrong with it. Owned by the command's only task."""

    def __init__(self, url: str) -> None:
        self.client = Client()
        self._url = url
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._refusals: list[str] = []
        self._is_refused = False

    async def open(self) -> None:
        """Connects once, to the first server of the list that answers."""
        servers = [
            each if "://" in each else f"nats://{each}"
            for each in (part.strip() for part in self._url.split(","))
            if each
        ]
        if not servers:
            raise ClientError("no server given")
        try:
            await self.client.connect(
                servers,
                name="shardd",
                allow_reconnect=False,
                max_reconnect_attempts=1,  # of each server, before the first connection too
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT_S,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnect,
            )
        except (OSError, ValueError, TimeoutError, nats.errors.Error) as error:
            reason = self._refusals[-1] if self._refusals else _reason(error)
            raise ClientError(f"could not connect to {_public(self._url)}: {reason}") from None

    async def flush(self) -> None:
        """Waits until the server has handled all that was sent; raises what it refused."""
        # nats-py may write the first PING past what waits for its flusher: only the second answer
        # comes after whatever the server says of that.
        await self.client.flush(FLUSH_TIMEOUT_S)
        await self.client.flush(FLUSH_TIMEOUT_S)
        self.check()

    def check(self) -> None:
        """Raises what the server has refused so far."""
        if self._refusals:
            raise ClientError(self._refusals[0])

    async def until(self, done: asyncio.Future[None]) -> None:
        """Waits for `done`; raises when the connection is lost first."""
        await asyncio.wait((done, self._failure), return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and self._is_refused:
            self.check()
        if not done.done():
            raise ClientError(f"connection lost: {self._failure.result()}")
        done.result()

    async def close(self) -> None:
        """Closes the connection if there is one."""
        self._fail("closed")
        if self.client.is_connected:
            with contextlib.suppress(OSError, TimeoutError, nats.errors.Error):
                await self.client.close()

    async def _on_error(self, error: Exception) -> None:
        self._refusals.append(_reason(error))
        if isinstance(error, nats.errors.UnexpectedEOF):
            return  # no word of the server's: it is gone, of which `_on_disconnect` hears
        if isinstance(error, nats.errors.Error) and self.client.is_connected:
            # The server's word: whoever waits for messages hears of it, whenever it comes.
            self._is_refused = True
            self._fail(self._refusals[0])

    async def _on_disconnect(self) -> None:
        self._fail(self._refusals[-1] if self._refusals else "the server closed it")

    def _fail(self, reason: str) -> None:
        if not self._failure.done():
            self._failure.set_result(reason)


async def publish(
    url: str,
    subject: str,
    payload: bytes,
    *,
    headers: Mapping[str, str],
    reply: str,
    count: int,
) -> None:
    """Publishes one message `count` times."""
    async with _session(url) as session:
        for _ in range(count):
            await session.client.publish(subject, payload, reply, headers=dict(headers) or None)
        await session.flush()
    messages = "1 message" if count == 1 else f"{count} messages"
    click.echo(f'Published {messages} of {len(payload)} bytes on "{subject}"', err=True)


async def subscribe(url: str, subject: str, *, queue: str, count: int | None, is_raw: bool) -> None:
    """Prints messages until `count` of them came or the user interrupts."""

    async def show(number: int, message: Msg) -> None:
        _show(message, f"[#{number}] Received on", is_raw)

    async with _session(url) as session:
        await _receive(session, subject, queue, count, show)


async def request(
    url: str,
    subject: str,
    payload: bytes,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    is_raw: bool,
) -> None:
    """Sends a request and prints the first answer."""
    async with _session(url) as session:
        try:
            answer = await session.client.request(
                subject, payload, timeout_s, headers=dict(headers) or None
            )
        except nats.errors.NoRespondersError:
            raise ClientError(f'no responders on "{subject}"') from None
        except TimeoutError:
            session.check()
            raise ClientError(f'no answer on "{subject}" within {timeout_s:g} s') from None
        _show(answer, "Answer on", is_raw)


async def answer(
    url: str, subject: str, *, queue: str, answer: bytes | None, count: int | None
) -> None:
    """Answers requests with `answer`, or each with its own payload."""

    async def respond(number: int, message: Msg) -> None:
        _show(message, f"[#{number}] Request on", is_raw=False)
        if message.reply:
            await message.respond(message.data if answer is None else answer)
        else:
            click.echo(f"[#{number}] has no reply subject, not answered", err=True)

    async with _session(url) as session:
        await _receive(session, subject, queue, count, respond)
        await session.flush()


def run(coroutine: Coroutine[Any, Any, None]) -> int:
    """Runs one of the above; interrupted, it ends without a traceback."""
    try:
        asyncio.run(coroutine)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


@contextlib.asynccontextmanager
async def _session(url: str) -> AsyncIterator[Session]:
    """A connection for one command; what nats-py raises becomes one line."""
    session = Session(url)
    try:
        await session.open()
        yield session
    except BrokenPipeError:  # nobody reads our output any more
        raise
    except (OSError, ValueError, TimeoutError, nats.errors.Error) as error:
        raise ClientError(_reason(error)) from None
    finally:
        await session.close()


async def _receive(
    session: Session,
    subject: str,
    queue: str,
    count: int | None,
    handle: Callable[[int, Msg], Awaitable[None]],
) -> None:
    """Hands over messages, numbered from 1, until `count` have come or the user interrupts."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    number = 0

    async def on_message(message: Msg) -> None:
        nonlocal number
        number += 1
        try:
            await handle(number, message)
        except Exception as error:
            if not done.done():
                done.set_exception(error)
            return
        if number == count and not done.done():
            done.set_result(None)

    subscription = await session.client.subscribe(subject, queue, cb=on_message)
    if count is not None:
        await subscription.unsubscribe(count)
    await session.flush()
    click.echo(f'Listening on "{subject}"', err=True)
    with contextlib.suppress(asyncio.CancelledError):  # the user's way to end it
        await session.until(done)


def _show(message: Msg, title: str, is_raw: bool) -> None:
    """Prints a message: its payload alone, or with subject, reply and headers."""
    if is_raw:
        sys.stdout.buffer.write(message.data + b"\n")
        sys.stdout.buffer.flush()
        return
    reply = f', reply on "{message.reply}"' if message.reply else ""
    lines = [
        f'{title} "{message.subject}"{reply}: {message.data.decode("utf-8", "backslashreplace")}'
    ]
    lines += [f"    {key}: {value}" for key, value in (message.headers or {}).items()]
    click.echo("\n".join(lines))


def _public(url: str) -> str:
    """The URLs without user and password."""
    parts = (part.strip() for part in url.split(","))
    return ", ".join(
        scheme + mark + rest.rpartition("@")[2] if mark else part.rpartition("@")[2]
        for part in parts
        for scheme, mark, rest in (part.partition("://"),)
    )


def _reason(error: BaseException) -> str:
    """What an exception says, in one line without the library's own prefix."""
    if isinstance(error, OSError) and error.errno:
        is_resolving = error.errno < 0  # what getaddrinfo says has numbers of its own
        return str(error.strerror if is_resolving else os.strerror(error.errno)).lower()
    text = str(error).replace("\n", " ").removeprefix("nats: ").strip("' ")
    return text or type(error).__name__
