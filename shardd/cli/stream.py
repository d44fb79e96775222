"""`shardd stream`: what one does with the store of NATS Streaming while no server uses it."""

from pathlib import Path

import click

from shardd.errors import ExitCode, printable


@click.group("stream", short_help="Check or import a store of NATS Streaming.")
def group() -> None:
    """Check a store of NATS Streaming, or import one of the original server."""


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
