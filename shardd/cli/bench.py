"""`shardd bench`: load for any NATS server, and what came of it. What makes it is in `shardd.load`.

Progress goes to standard error, and only where that is a terminal; standard output holds the
result: a table, or one JSON document.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardd.cli.commands import header_option, parse_headers, server_option
from shardd.errors import ConfigError, ExitCode, printable
from shardd.values import parse_duration, parse_size

if TYPE_CHECKING:
    from shardd.load.plan import Plan

INTERRUPTED: Final = 130  # as a shell reports SIGINT
CONNECTIONS_MAX: Final = 10_000  # of one side
SUBJECTS_MAX: Final = 100_000
MESSAGES_MAX: Final = 10**12
REQUESTS_MAX: Final = 10**9  # with a rate: a bit for each says whether it was answered
RATE_MIN: Final = 0.001  # one in a quarter of an hour
RATE_MAX: Final = 1e9


class _Parsed(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A value that one of `shardd.values` reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value, or a usage error."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_time(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError(f'"{text}" is no time to go by: more than 0')
    return seconds


def _parse_rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if RATE_MIN <= (rate := float(text)) <= RATE_MAX:
            return rate
    raise ValueError(f'"{text}" is not a rate: from {RATE_MIN:g} to {RATE_MAX:,.0f}')


_SIZE: Final = _Parsed("size", parse_size)
_DURATION: Final = _Parsed("duration", _parse_time)
_RATE: Final = _Parsed("rate", _parse_rate)

# Who to be to the server: the options of `NatsOptions` by their flags.
_LOGIN: Final = (
    ("--user", "user", "USER", "NATS_USER", "User."),
    ("--password", "password", "PASSWORD", "NATS_PASSWORD", "Password."),
    ("--token", "token", "TOKEN", "NATS_TOKEN", "Token."),
    ("--creds", "credentials_file", "FILE", "NATS_CREDS", "Credentials: a JWT and a seed."),
    ("--nkey", "nkey_seed_file", "FILE", "NATS_NKEY", "File with the seed of an nkey."),
    ("--cacert", "tls_ca", "FILE", "NATS_CA", "Whom TLS is trusted by."),
    ("--cert", "tls_cert", "FILE", "NATS_CERT", "Certificate to show."),
    ("--key", "tls_key", "FILE", "NATS_KEY", "Its key."),
)


def _login(command: Any) -> Any:
    for flag, name, metavar, variable, text in reversed(_LOGIN):
        command = click.option(flag, name, default="", metavar=metavar, envvar=variable, help=text)(
            command
        )
    for flag, name, text in (
        ("--insecure", "tls_insecure", "Trust any certificate."),
        ("--tls-first", "is_tls_first", "TLS handshake before INFO."),
        ("--tls", "tls_required", "Insist on TLS."),
    ):
        command = click.option(flag, name, is_flag=True, help=text)(command)
    return command


@click.command("bench", short_help="Make load for a server and measure it.")
@click.argument("subject")
@click.option(
    "--pub",
    "publishers",
    type=click.IntRange(0, CONNECTIONS_MAX),
    metavar="N",
    help="Publishers, or requesters.  [default: 1 if --sub is not given]",
)
@click.option(
    "--sub",
    "subscribers",
    type=click.IntRange(0, CONNECTIONS_MAX),
    metavar="N",
    help="Subscribers, or responders.  [default: 1 if --pub is not given]",
)
@click.option(
    "--msgs",
    "messages",
    type=click.IntRange(1, MESSAGES_MAX),
    metavar="N",
    help="Messages over all publishers.  [default: 100000]",
)
@click.option(
    "--duration",
    "seconds",
    type=_DURATION,
    metavar="TIME",
    help="Publish for so long instead: 10s, 1m.",
)
@click.option(
    "--size",
    type=_SIZE,
    default="128",
    show_default=True,
    metavar="BYTES",
    help="Payload of a message: 128, 16KB.",
)
@click.option(
    "--subjects",
    type=click.IntRange(1, SUBJECTS_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Publish to SUBJECT.0 to SUBJECT.N-1 in turn.",
)
@click.option("--queue", default="", metavar="GROUP", help="Subscribers are one queue group.")
@click.option(
    "--request", "is_request", is_flag=True, help="Publishers ask and wait; subscribers answer."
)
@click.option(
    "--rate",
    type=_RATE,
    metavar="N",
    help="Messages a second, each at its time; measures latency.",
)
@header_option
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a row for each connection.",
)
@click.option("--json", "is_json", is_flag=True, help="The result as JSON.")
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.option(
    "--timeout",
    "patience_s",
    type=_DURATION,
    default="10s",
    show_default=True,
    metavar="TIME",
    help="How long nothing may happen.",
)
@server_option
@_login
def command(
    subject: str,
    csv_path: Path | None,
    is_json: bool,
    no_progress: bool,
    url: str,
    **options: Any,
) -> int:
    """Publish on SUBJECT and subscribe to it, and say how fast that was.

    \b
    shardd bench foo                                 one publisher, one subscriber
    shardd bench foo --pub 4 --sub 8 --size 1KB      every subscriber gets everything
    shardd bench foo --pub 4 --duration 10s          publish only
    shardd bench 'foo.>' --sub 2                     count what others publish, until ^C
    shardd bench foo --request --pub 16 --sub 4      requests, one under way each
    shardd bench foo --rate 20000 --duration 30s     latency at a steady rate
    """
    plan = _plan(subject, url, options)
    if csv_path is not None:
        _check_writable(csv_path)
    from shardd.load import report
    from shardd.load.run import run

    is_shown = sys.stderr.isatty() and not no_progress
    with _progress(plan) if is_shown else contextlib.nullcontext(lambda *_: None) as on_progress:
        found = run(plan, on_progress)
    if csv_path is not None:
        try:
            report.write_csv(csv_path, found)
        except OSError as error:
            raise ConfigError(f"{csv_path}: {error.strerror}") from None
    if is_json:
        click.echo(json.dumps(report.document(found), indent=2))
    else:
        server = found.server
        click.echo(printable(f"{server['name']} {server['version']} at {server['address']}: ")
                   + _summary(plan) + "\n")  # fmt: skip
        click.echo(report.table(found))
    return INTERRUPTED if found.is_stopped and plan.publishers else ExitCode.CLEAN


def _plan(subject: str, url: str, options: dict[str, Any]) -> "Plan":
    """What the options say. Raises click.UsageError."""
    from shardd.config.streaming import NatsOptions
    from shardd.load.plan import MESSAGES, Plan

    nats = {name: options.pop(name) for _, name, *_ in _LOGIN}
    nats |= {name: options.pop(name) for name in ("tls_required", "tls_insecure")}
    nats["tls_required"] |= bool(nats["tls_ca"] or nats["tls_cert"] or nats["tls_insecure"])
    urls = tuple(filter(None, (part.strip() for part in url.split(","))))
    publishers, subscribers = options.pop("publishers"), options.pop("subscribers")
    if publishers is None and subscribers is None:
        publishers = subscribers = 1
    elif options["is_request"] and publishers and subscribers is None:
        subscribers = 0
    headers = tuple(parse_headers(options.pop("headers")).items())
    messages, seconds = options.pop("messages"), options.pop("seconds")
    rate = options.pop("rate")
    if messages and seconds:
        raise click.UsageError("give either --msgs or --duration")
    if not messages and not seconds and publishers:
        messages = MESSAGES
    plan = Plan(
        subject=subject,
        publishers=publishers or 0,
        subscribers=subscribers or 0,
        messages=messages or 0,
        seconds=seconds or 0.0,
        rate=rate or 0.0,
        headers=headers,
        nats=NatsOptions(urls=urls, **nats),
        **options,
    )
    _check(plan)
    return plan


def _check(plan: "Plan") -> None:
    """Raise click.UsageError where two options cannot be together."""
    from shardd.load.plan import STAMP_BYTES
    from shardd.router.subject import is_literal, is_valid

    name = plan.subject.encode("utf-8", "surrogateescape")
    has_blanks = any(each.isspace() or not each.isprintable() for each in plan.subject + plan.queue)
    if not is_valid(name) or has_blanks:
        raise click.UsageError(f'"{printable(plan.subject)}" is no subject')
    if not plan.publishers and not plan.subscribers:
        raise click.UsageError("--pub and --sub are both 0: nothing to do")
    if plan.publishers and not is_literal(name):
        raise click.UsageError("wildcards are for subscribing: give --sub without --pub")
    if not plan.publishers and (plan.rate or plan.headers or plan.subjects > 1):
        raise click.UsageError("--rate, --header and --subjects are for publishers: give --pub")
    if plan.rate and plan.is_request and plan.total > REQUESTS_MAX:
        raise click.UsageError(f"no more than {REQUESTS_MAX:,} requests with --rate")
    if plan.queue and not plan.subscribers:
        raise click.UsageError("--queue is for subscribers: give --sub")
    if plan.rate and plan.subscribers and plan.size < STAMP_BYTES and not plan.is_request:
        raise click.UsageError(f"--rate needs --size {STAMP_BYTES} or more, for the time")


def _check_writable(path: Path) -> None:
    """Raise ConfigError now and not after a long run."""
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _summary(plan: "Plan") -> str:
    """The load in one line."""
    one, many = ("requester", "responder") if plan.is_request else ("publisher", "subscriber")
    parts = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((plan.publishers, one), (plan.subscribers, many))
        if count
    ]
    if plan.publishers:
        parts.append(f"{plan.size} bytes")
    if plan.subjects > 1:
        parts.append(f"{plan.subjects} subjects")
    if plan.queue:
        parts.append(f"queue group {plan.queue}")
    if plan.rate:
        parts.append(f"{plan.rate:,g} a second")
    return ", ".join(parts)


@contextlib.contextmanager
def _progress(plan: "Plan") -> Iterator[Callable[[int, int], None]]:
    """A bar for each side on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:>13,}"),
        TextColumn("{task.fields[rate]:>12,.0f} msg/s"),
        TimeElapsedColumn(),
    )
    sent, received = ("asked", "answered") if plan.is_request else ("published", "received")
    arriving = plan.total * (1 if plan.is_request else plan.copies) or None
    if not plan.publishers:
        arriving = plan.messages or None
    # No thread of its own: the processes are forked while it is shown.
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as bars:
        tasks: list[tuple[Any, int]] = []
        if plan.publishers:
            tasks.append((bars.add_task(sent, total=plan.total or None, rate=0.0), 0))
        if plan.subscribers or plan.is_request:
            tasks.append((bars.add_task(received, total=arriving, rate=0.0), 1))

        def show(*counts: int) -> None:
            for task, which in tasks:
                elapsed = bars.tasks[task].elapsed or 0.0
                rate = counts[which] / elapsed if elapsed > 0 else 0.0
                bars.update(task, completed=counts[which], rate=rate)
            bars.refresh()

        yield show
