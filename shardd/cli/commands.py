"""`shardd pub`, `sub`, `request` and `reply`: what they take. What they do is in `client`.

nats-py and asyncio cost a tenth of a second to import, so only these commands do, when they run.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

import click

DEFAULT_URL: Final = "nats://127.0.0.1:4222"

server_option = click.option(
    "-s",
    "--server",
    "url",
    envvar="NATS_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="Where the server is; several with commas.",
)
header_option = click.option(
    "-H", "--header", "headers", multiple=True, metavar="KEY:VALUE", help="A header; repeatable."
)
_count_min_1 = click.IntRange(min=1)


def parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """Of `KEY:VALUE`. Raises click.UsageError."""
    parsed = {}
    for header in headers:
        key, colon, value = header.partition(":")
        if not colon or not key.strip() or not header.isprintable():
            raise click.UsageError(f'a header is KEY:VALUE, not "{header}"')
        parsed[key.strip()] = value.strip()
    return parsed


def _payload(message: str | None) -> bytes:
    """The message's bytes; standard input when there is none or it is a dash."""
    if message is None or message == "-":
        return sys.stdin.buffer.read()
    return message.encode("utf-8", "surrogateescape")


@click.command(short_help="Publish a message.")
@click.argument("subject")
@click.argument("message", required=False)
@server_option
@header_option
@click.option("--reply", default="", help="Subject for answers.")
@click.option("--count", type=_count_min_1, default=1, help="Publish it this often.")
def pub(
    subject: str,
    message: str | None,
    url: str,
    headers: tuple[str, ...],
    reply: str,
    count: int,
) -> int:
    """Publish MESSAGE, or standard input, on SUBJECT."""
    parsed = parse_headers(headers)
    payload = _payload(message)
    return _run("publish", url, subject, payload, headers=parsed, reply=reply, count=count)


@click.command(short_help="Subscribe and print messages.")
@click.argument("subject")
@server_option
@click.option("--queue", default="", help="Be a member of this queue group.")
@click.option("--count", type=_count_min_1, help="End after so many messages.")
@click.option("--raw", is_flag=True, help="Print payloads only.")
def sub(subject: str, url: str, queue: str, count: int | None, raw: bool) -> int:
    """Print what is published on SUBJECT."""
    return _run("subscribe", url, subject, queue=queue, count=count, is_raw=raw)


@click.command(short_help="Send a request and print the answer.")
@click.argument("subject")
@click.argument("message", required=False)
@server_option
@header_option
@click.option(
    "--timeout",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds to wait for the answer.",
)
@click.option("--raw", is_flag=True, help="Print the payload only.")
def request(
    subject: str,
    message: str | None,
    url: str,
    headers: tuple[str, ...],
    timeout: float,
    raw: bool,
) -> int:
    """Send MESSAGE, or standard input, on SUBJECT and print the answer."""
    parsed = parse_headers(headers)
    payload = _payload(message)
    return _run("request", url, subject, payload, headers=parsed, timeout_s=timeout, is_raw=raw)


@click.command(short_help="Answer requests.")
@click.argument("subject")
@click.argument("message", required=False)
@server_option
@click.option("--queue", default="", help="Be a member of this queue group.")
@click.option("--echo", is_flag=True, help="Answer with the request's own payload.")
@click.option("--count", type=_count_min_1, help="End after so many requests.")
def reply(
    subject: str, message: str | None, url: str, queue: str, echo: bool, count: int | None
) -> int:
    """Answer each request on SUBJECT with MESSAGE, or with its own payload."""
    if echo == (message is not None):
        raise click.UsageError("give either MESSAGE or --echo")
    answer = None if message is None else message.encode("utf-8", "surrogateescape")
    return _run("answer", url, subject, queue=queue, answer=answer, count=count)


def _run(name: str, *arguments: Any, **options: Any) -> int:
    """Runs one coroutine of `client`."""
    from shardd.cli import client

    coroutine: Callable[..., Any] = getattr(client, name)
    return client.run(coroutine(*arguments, **options))
