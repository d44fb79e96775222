"""`shardd stream`: what a running pool says of itself, and what one does with the store of NATS
Streaming while no server uses it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from shardd.cli import servers
from shardd.errors import ConfigError, ExitCode, printable


@click.group("stream", short_help="Ask a streaming pool; check or import a store.")
def group() -> None:
    """Ask a streaming pool, check its store, or import one of the original server."""


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
    from shardd.runfiles import directory_of
    from shardd.streaming import questions  # asyncio, and the whole core

    try:
        directory = directory_of(pid)
        if directory is None:
            raise ConfigError(f"process {pid} is no shardd server")
        status, document = questions.ask(directory, path, query)
    except FileNotFoundError as error:
        what = "no such process" if str(pid) in str(error.filename) else "it serves no streaming"
        raise ConfigError(f"could not ask server {pid}: {what}") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"could not ask server {pid}: {reason}") from None
    if status != 200 or isinstance(document, str):
        raise ConfigError(str(document))
    return document


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
def import_(source: Path, target: Path, *, is_cut_allowed: bool) -> int:
    """Copy SOURCE, a FILE store of nats-streaming-server that no server uses.

    Sequences, timestamps, durables with their positions, and clients are kept. SOURCE is only read.
    """
    from shardd.streaming import importing

    report = importing.import_store(source, target, is_cut_allowed=is_cut_allowed)
    for note in report.notes:
        click.echo(f"note: {printable(note)}")
    click.echo(
        f"{printable(str(target))}: cluster {printable(report.cluster_id)}: {report.channels}"
        f" channels, {report.messages} messages, {report.subscriptions} subscriptions,"
        f" {report.clients} clients"
    )
    return ExitCode.CLEAN
