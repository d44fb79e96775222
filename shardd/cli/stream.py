"""`shardd stream`: what one does with the store of NATS Streaming while no server uses it."""

from pathlib import Path

import click

from shardd.errors import ExitCode, printable


@click.group("stream", short_help="Check the store of NATS Streaming.")
def group() -> None:
    """Check the store of NATS Streaming."""


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
