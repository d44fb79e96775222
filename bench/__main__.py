"""`python -m bench`: run the loads, list them, compare the last two runs, draw the chart."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from bench import chart, history
from bench.chart import CHART, ChartError, scaled
from bench.history import HISTORY, Record
from bench.load import Scale
from bench.loads import catalogue
from bench.run import Options, Run
from bench.servers import ServerFailure, parse_contenders, raise_file_limit
from bench.streaming import loads as streaming_loads
from bench.streaming.run import StreamingRun
from bench.streaming.servers import parse_contenders as parse_streaming

QUICK_SECONDS = 0.05
SERVERS = "shardd,nats-server"
STREAMING_SERVERS = "shardd-1,nats-streaming-server"
STREAMING_HISTORY = HISTORY.with_name("streaming.jsonl")


@click.group()
def commands() -> None:
    """Compare shardd with nats-server. Without a command: run."""


@commands.command()
@click.option("--loads", "pattern", default="*", help="Names, with * and ?, split by commas.")
@click.option("--rounds", default=3, type=click.IntRange(1), help="Counted rounds per server.")
@click.option("--seconds", default=1.0, type=click.FloatRange(0.01), help="Length of a round.")
@click.option("--quick", is_flag=True, help="Tiny sizes, one round: does it work at all?")
@click.option("--workers", default=max(2, os.cpu_count() or 2), help="Workers of shardd.")
@click.option("--servers", default=SERVERS, help="What is compared with what.")
@click.option(
    "--config", default="", help="A configuration file for both servers; not kept in the history."
)
@click.option("--history", "path", default=HISTORY, type=click.Path(path_type=Path))
@click.option("--no-history", is_flag=True, help="Write neither history nor chart.")
def run(
    pattern: str,
    rounds: int,
    seconds: float,
    quick: bool,
    workers: int,
    servers: str,
    config: str,
    path: Path,
    no_history: bool,
) -> None:
    """Measure both servers in turn, print the figures, keep them."""
    loads = catalogue.select(pattern)
    if not loads:
        raise click.UsageError(f"no load is named like {pattern!r}; see: python -m bench list")
    # The history of the checkout is of full runs of one pair of servers.
    is_comparable = servers == SERVERS and not quick and not config
    is_kept = not no_history and (is_comparable or path != HISTORY)
    if quick:
        rounds, seconds = 1, QUICK_SECONDS
    raise_file_limit()
    records: list[Record] = []
    try:
        contenders = parse_contenders(servers, config)
        running = Run(Options(contenders, rounds, seconds, workers, quick))
    except (ValueError, ServerFailure) as error:
        raise click.UsageError(str(error)) from error
    click.echo(heading([each.label for each in contenders]))
    try:
        for record in running.measure(loads, progress):
            records.append(record)
            progress("")
            click.echo(row(record))
    finally:
        running.close()
        if is_kept:
            history.append(path, records)
    if is_kept and path == HISTORY:
        draw_chart(path, CHART)
    if any(record.failures for record in records):
        sys.exit(1)


@commands.command()
@click.option("--loads", "pattern", default="*", help="Names, with * and ?, split by commas.")
@click.option("--rounds", default=3, type=click.IntRange(1), help="Counted rounds per server.")
@click.option("--seconds", default=1.0, type=click.FloatRange(0.01), help="Size of a round.")
@click.option("--quick", is_flag=True, help="Tiny sizes, one round: does it work at all?")
@click.option("--servers", default=STREAMING_SERVERS, help="shardd-N has N streaming workers.")
@click.option("--history", "path", default=STREAMING_HISTORY, type=click.Path(path_type=Path))
@click.option("--no-history", is_flag=True, help="Write no history.")
def streaming(
    pattern: str,
    rounds: int,
    seconds: float,
    quick: bool,
    servers: str,
    path: Path,
    no_history: bool,
) -> None:
    """Measure NATS Streaming: both servers in turn, with stan-bench."""
    loads = streaming_loads.select(pattern)
    if not loads:
        raise click.UsageError(f"no load is named like {pattern!r}; see: python -m bench list")
    if quick:
        rounds, seconds = 1, 1.0
    is_kept = not no_history and not (quick and path == STREAMING_HISTORY)
    raise_file_limit()
    records: list[Record] = []
    try:
        contenders = parse_streaming(servers)
        click.echo(heading([each.label for each in contenders]))
        running = StreamingRun(contenders, rounds, Scale(seconds, quick, 0.0))
        for record in running.measure(loads, progress):
            records.append(record)
            click.echo(row(record))
    except (ValueError, ServerFailure) as error:
        raise click.UsageError(str(error)) from error
    finally:
        if is_kept:
            history.append(path, records)
    if any(record.failures for record in records):
        sys.exit(1)


@commands.command("list")
def list_loads() -> None:
    """Name the loads."""
    for load in catalogue.all_loads():
        variants = "/".join(variant.value for variant in load.variants)
        click.echo(f"{load.name:20} {variants:11} {load.summary}")
    for each in streaming_loads.LOADS:
        click.echo(f"{each.name:20} {'streaming':11} {each.summary}")


@commands.command()
@click.option("--history", "path", default=HISTORY, type=click.Path(path_type=Path))
def compare(path: Path) -> None:
    """Lay the last two entries of each load side by side."""
    for change in history.changes(history.read(path)):
        before, after = (
            "failed" if record.ratio is None else f"{record.ratio:.2f}x"
            for record in (change.before, change.after)
        )
        factor = "" if change.factor is None else f"{(change.factor - 1) * 100:+.0f} %"
        commits = f"{change.before.commit} -> {change.after.commit}"
        click.echo(f"{change.after.title:34} {before:>8} -> {after:>8} {factor:>8}   {commits}")


@commands.command("chart")
@click.option("--history", "path", default=HISTORY, type=click.Path(path_type=Path))
@click.option("--output", default=CHART, type=click.Path(path_type=Path))
def draw(path: Path, output: Path) -> None:
    """Draw the last entry of each load."""
    draw_chart(path, output)


def draw_chart(path: Path, output: Path) -> None:
    """Draw the chart and say where it is."""
    try:
        chart.draw(history.latest(history.read(path)), output)
    except ChartError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"chart: {output}")


def heading(labels: Sequence[str]) -> str:
    """The line above the figures."""
    first, second = labels
    return (
        f"{'load':34} {first:>13} {second:>13} {'':7} {'ratio':>7}"
        "   server CPU s per million   generator's share of CPU"
    )


def row(record: Record) -> str:
    """The figures of one record."""
    if record.failures:
        texts = "; ".join(f"{label}: {text}" for label, text in record.failures.items())
        return f"{record.title:34} FAILED {texts}"
    first, second = record.results.values()
    ratio = "-" if record.ratio is None else f"{record.ratio:.2f}x"
    return (
        f"{record.title:34} {scaled(first.median):>13} {scaled(second.median):>13}"
        f" {record.unit:7} {ratio:>7}"
        f"   {first.server_cpu_s_per_million:>9.3f} : {second.server_cpu_s_per_million:<9.3f}"
        f"      {first.generator_cpu_share:>6.0%} : {second.generator_cpu_share:<6.0%}"
    )


def progress(text: str) -> None:
    """Show on a terminal what is being measured."""
    if sys.stderr.isatty():
        click.echo(f"\r{text:60}\r", nl=False, err=True)


def main(arguments: Sequence[str]) -> None:
    """Without a command, run."""
    known = {*commands.commands, "--help"}
    rest = list(arguments)
    if not rest or rest[0] not in known:
        rest.insert(0, "run")
    commands.main(args=rest, prog_name="python -m bench")


if __name__ == "__main__":
    main(sys.argv[1:])
