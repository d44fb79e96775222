"""`shardd stream`: what a running pool says of itself and does for its operator, and what one does
with the store of NATS Streaming while no server uses it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from shardd.cli import servers
from shardd.config.streaming import KEY_VARIABLE
from shardd.config.streaming_block import CIPHERS
from shardd.errors import ConfigError, ExitCode, printable


@click.group("stream", short_help="Ask and manage a streaming pool; check or import a store.")
def group() -> None:
    """Ask or manage a streaming pool, check its store, or import one of the original server."""


@group.command("stats", short_help="What a running pool says of itself.")
@click.argument("server", required=False, default="", metavar="[PID|FILE]")
@click.option(
    "--of",
    "path",
    type=click.Choice(("serverz", "storez", "clientsz", "channelsz")),
    default="serverz",
    show_default=True,
    help="Which of the original's documents.",
)
@click.option("--channel", default="", help="Of channelsz: this one alone.")
@click.option("--client", default="", help="Of clientsz: this one alone.")
@click.option("--subs", is_flag=True, help="With subscriptions.")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="So many entries.")
@click.option("--offset", type=click.IntRange(min=0), default=None, help="From this one on.")
@click.option("--json", "is_json", is_flag=True, help="As the original's monitoring has it.")
def stats(server: str, path: str, is_json: bool, **query: Any) -> int:
    """Ask the only running server, or the one with this pid or pid file."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "", False)}
    if "subs" in given:
        given["subs"] = "1"
    document = _ask(servers.find(server), path, given)
    if is_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(printable(line) for line in _lines(document)))
    return ExitCode.CLEAN


def _ask(pid: int, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    from shardd.streaming import questions  # asyncio, and the whole core

    with _reached(pid) as directory:
        status, document = questions.ask(directory, path, query)
    if status != 200 or isinstance(document, str):
        raise ConfigError(str(document))
    return document


@contextmanager
def _reached(pid: int) -> Iterator[Path]:
    """The runtime directory of a server; raises ConfigError if it cannot be asked."""
    from shardd.runfiles import directory_of

    try:
        directory = directory_of(pid)
        if directory is None:
            raise ConfigError(f"process {pid} is no shardd server")
        yield directory
    except FileNotFoundError as error:
        what = "no such process" if str(pid) in str(error.filename) else "it serves no streaming"
        raise ConfigError(f"could not ask server {pid}: {what}") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"could not ask server {pid}: {reason}") from None


def _lines(document: Mapping[str, Any]) -> list[str]:
    """A document for people: simple values one a line, then each list as its entries."""
    width = max((len(key) for key in document), default=0) + 2
    lines = [
        f"{key + ':':<{width}}{value}"
        for key, value in document.items()
        if not isinstance(value, list | dict)
    ]
    for key, value in document.items():
        if isinstance(value, list):
            lines += ["", f"{key}:", *(f"  {_entry(each)}" for each in value)]
        elif isinstance(value, dict):
            lines += ["", f"{key}:", *(f"  {name}: {_entry(each)}" for name, each in value.items())]
    return lines


def _entry(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{key}: {inner}" for key, inner in value.items())


# --- what an operator does -----------------------------------------------------------------------


def _managing(name: str, short_help: str) -> Callable[[Callable[..., int]], click.Command]:
    """A command that has the pool do something."""

    def decorate(function: Callable[..., int]) -> click.Command:
        chosen = click.option(
            "--server",
            default="",
            metavar="PID|FILE",
            help="The server with this pid or pid file; otherwise the only one that runs.",
        )
        return group.command(name, short_help=short_help)(chosen(function))

    return decorate


def _order(server: str, **request: Any) -> dict[str, Any]:
    from shardd.streaming import questions  # asyncio, and the whole core

    with _reached(servers.find(server)) as directory:
        return questions.order(directory, request)


@_managing("channels", "List the channels.")
def channels(server: str) -> int:
    """List the names of all channels, one a line."""
    for name in _order(server, op="channels")["channels"]:
        click.echo(printable(name))
    return ExitCode.CLEAN


@_managing("purge", "Remove a channel's messages.")
@click.argument("channel")
@click.option("--before", type=click.IntRange(min=1), help="Only those before this sequence.")
def purge(server: str, channel: str, before: int | None) -> int:
    """Remove the messages of CHANNEL. Sequences go on, and subscriptions stay."""
    done = _order(server, op="purge", channel=channel, before=before)
    click.echo(f"{done['purged']} messages removed: first {done['first']}, last {done['last']}")
    return ExitCode.CLEAN


@_managing("delete", "Delete a channel.")
@click.argument("channel")
@click.option("--force", is_flag=True, help="End subscriptions to it, if there are any.")
def delete(server: str, channel: str, *, force: bool) -> int:
    """Delete CHANNEL with its messages and durables. The next publish begins it anew."""
    done = _order(server, op="delete", channel=channel, force=force)
    click.echo(f"deleted with {done['deleted']} messages")
    return ExitCode.CLEAN


@_managing("durables", "List the durables of a channel.")
@click.argument("channel")
@click.option("--json", "is_json", is_flag=True, help="As JSON.")
def durables(server: str, channel: str, *, is_json: bool) -> int:
    """List the durable subscriptions and durable queue groups of CHANNEL."""
    found = _order(server, op="durables", channel=channel)["durables"]
    if is_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return ExitCode.CLEAN
    for each in found:
        click.echo(printable(_entry(each)))
    return ExitCode.CLEAN


@_managing("delete-durable", "Delete an offline durable.")
@click.argument("channel")
@click.argument("durable")
@click.option("--client", default="", help="The client ID that it belongs to.")
@click.option("--queue", default="", help="The queue group, of a durable one.")
def delete_durable(server: str, channel: str, durable: str, client: str, queue: str) -> int:
    """Delete the offline DURABLE of CHANNEL: of a client, or of a queue group."""
    if bool(client) == bool(queue):
        raise click.UsageError("say whose it is: with --client or with --queue")
    _order(
        server, op="delete_durable", channel=channel, durable=durable, client_id=client, queue=queue
    )
    click.echo("deleted")
    return ExitCode.CLEAN


# --- stores that no server uses ------------------------------------------------------------------


@group.command("verify", short_help="Read a file store and say what is damaged.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(directory: Path) -> int:
    """Read every message in DIRECTORY and say what is damaged. Nothing is changed.

    The exit code is 0 when all that was acknowledged is there, 1 when something is lost.
    """
    from shardd.streaming import verify as verifying  # SQLite and more, which others need not load

    report = verifying.verify(directory)
    for note in report.notes:
        click.echo(f"note: {printable(note)}")
    for damage in report.damages:
        click.echo(f"damaged: {printable(damage)}")
    verdict = "sound" if report.is_sound else f"damaged in {len(report.damages)} places"
    click.echo(
        f"{printable(str(directory))}: {report.channels} channels, {report.messages} messages,"
        f" {report.bytes} bytes, {report.subscriptions} subscriptions, {report.clients} clients:"
        f" {verdict}"
    )
    return ExitCode.CLEAN if report.is_sound else ExitCode.CONFIGURATION


@group.command("import", short_help="Copy a FILE store of nats-streaming-server.")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--into",
    "target",
    required=True,
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Where the new store is made; must not exist, or be empty.",
)
@click.option(
    "--truncate-bad-eof",
    "is_cut_allowed",
    is_flag=True,
    help="Leave out what is behind the last whole record of a file that ends inside one.",
)
@click.option(
    "--encryption_key",
    "--encryption-key",
    "key",
    default="",
    metavar="KEY",
    help="The key that SOURCE is encrypted with. Better in NATS_STREAMING_ENCRYPTION_KEY.",
)
@click.option(
    "--encryption_cipher",
    "--encryption-cipher",
    "cipher",
    default="",
    type=click.Choice(("", *CIPHERS), case_sensitive=False),
    metavar="AES|CHACHA",
    help="What the new store is encrypted with, where there is a key (default: what is fast).",
)
@click.option("--plain", "is_plain", is_flag=True, help="Do not encrypt the new store.")
def import_(
    source: Path, target: Path, *, is_cut_allowed: bool, key: str, cipher: str, is_plain: bool
) -> int:
    """Copy SOURCE, a FILE store of nats-streaming-server that no server uses.

    Sequences, timestamps, durables with their positions, and clients are kept. SOURCE is only read.
    With a key encrypted messages are decrypted, and the new store is encrypted with the same key.
    """
    from shardd.streaming import importing

    given = os.environb.get(KEY_VARIABLE.encode()) or os.fsencode(key)
    report = importing.import_store(
        source,
        target,
        is_cut_allowed=is_cut_allowed,
        key=given,
        cipher=cipher,
        is_plain=is_plain,
    )
    for note in report.notes:
        click.echo(f"note: {printable(note)}")
    click.echo(
        f"{printable(str(target))}: cluster {printable(report.cluster_id)}: {report.channels}"
        f" channels, {report.messages} messages, {report.subscriptions} subscriptions,"
        f" {report.clients} clients{', encrypted' if given and not is_plain else ''}"
    )
    return ExitCode.CLEAN
