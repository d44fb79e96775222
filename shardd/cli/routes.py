"""`shardd routes`: which other servers a running server is connected to, and what passes.

The server is found as by `shardd signal`, and asked through the socket in its runtime directory,
which only its user and root can enter.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

from shardd.cli import servers
from shardd.errors import ConfigError, ExitCode, printable

_COLUMNS: Final = (
    ("RID", "rid"),
    ("NAME", "remote_name"),
    ("ADDRESS", "address"),
    ("KIND", "kind"),
    ("UPTIME", "uptime"),
    ("IDLE", "idle"),
    ("RTT", "rtt"),
    ("SUBS", "subscriptions"),
    ("PENDING", "pending_size"),
    ("IN MSGS", "in_msgs"),
    ("IN BYTES", "in_bytes"),
    ("OUT MSGS", "out_msgs"),
    ("OUT BYTES", "out_bytes"),
    ("COMPRESSION", "compression"),
    ("ACCOUNT", "account"),
)
_WORDS: Final = frozenset(("remote_name", "address", "kind", "compression", "account"))

# What one peer subscribes to: (account, subject, queue) and the members of the group.
Wishes = dict[tuple[str, str, str | None], int]


# `--subs` as the query of `/routez` has it; a value of its own would take the server for one.
_SPELLINGS: Final = {"--subs=1": "--subs", "--subs=detail": "--detail"}


def report(target: str, *, is_json: bool, has_subscriptions: bool, is_detailed: bool) -> int:
    """Prints what the server says of its routes.

    Args:
        target: a pid, a pid file, or nothing.
        is_json: as `/routez` has it.
        has_subscriptions: and what the peers subscribe to.
        is_detailed: with account, queue group and members, where `is_json`.

    Raises:
        ConfigError: there is no such server, it is in no cluster, or it is somebody else's.
        InquiryError: it does not answer.
    """
    document, wishes = _ask(servers.find(target), has_subscriptions)
    if is_json:
        for row in document["routes"] if has_subscriptions else ():
            of_route = wishes.get(row["rid"], {})
            if is_detailed:
                row["subscriptions_list_detail"] = _details(row, of_route)
            else:
                row["subscriptions_list"] = [key[1] for key in of_route]
        click.echo(json.dumps(document, indent=2))
        return ExitCode.CLEAN
    lines = _summary(document)
    if document["routes"]:
        lines += ["", *_table(document["routes"])]
    for row in document["routes"] if has_subscriptions else ():
        lines += ["", f"{row['remote_name']} (rid {row['rid']}) subscribes to"]
        lines += _listing(wishes.get(row["rid"], {}))
    click.echo("\n".join(map(printable, lines)))
    return ExitCode.CLEAN


def _ask(pid: int, has_subscriptions: bool) -> tuple[dict[str, Any], dict[int, Wishes]]:
    """The document, and by route what its peer subscribes to."""
    from shardd import inquiry  # asyncio costs a tenth of a second to import
    from shardd.runfiles import directory_of

    try:
        directory = directory_of(pid)
        if directory is None:
            raise ConfigError(f"process {pid} is no shardd server")
        path = directory / inquiry.socket_name("Router")
        with contextlib.suppress(FileNotFoundError):
            parts = inquiry.ask(path, {"ask": "routez", "subs": has_subscriptions})
            return _collect(parts)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        if isinstance(error, FileNotFoundError):
            reason = "no such process"
        raise ConfigError(f"could not ask server {pid}: {reason}") from None
    raise ConfigError(f"server {pid} is in no cluster")


def _collect(parts: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], dict[int, Wishes]]:
    document: dict[str, Any] = {}
    wishes: dict[int, Wishes] = {}
    for part in parts:
        if "routes" in part:
            document = part
            continue
        of_route = wishes.setdefault(part["rid"], {})
        for account, subject, queue, members in part["subscriptions"]:
            of_route[account, subject, queue] = members
    return document, wishes


def _details(row: Mapping[str, Any], wishes: Wishes) -> list[dict[str, Any]]:
    """One entry for each subscription, as `/routez?subs=detail` has them, and the members."""
    entries = []
    for (account, subject, queue), members in wishes.items():
        entry = {"account": account, "subject": subject}
        # The sid is what the peer's lines name it by; on a route of one account they leave it out.
        sid = [subject] if row.get("account") else [account, subject]
        if queue is not None:
            entry["qgroup"] = queue
            sid.append(queue)
        entries.append({**entry, "sid": " ".join(sid), "cid": row["rid"], "members": members})
    return entries


def _summary(document: Mapping[str, Any]) -> list[str]:
    return [
        f"Server:          {document['server_name']}",
        f"ID:              {document['server_id']}",
        f"Routes:          {document['num_routes']}",
        f"Slow consumers:  {document['slow_consumers']}",
        *(
            f"{title + ':':<17}{_rules(document[name])}"
            for title, name in (("Lets in", "import"), ("Lets out", "export"))
            if name in document
        ),
    ]


def _rules(rules: Mapping[str, Sequence[str]]) -> str:
    words = [" ".join(rules.get("allow", ())) or "all"]
    if "deny" in rules:
        words += ["but not", *rules["deny"]]
    return " ".join(words)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns as wide as they must be; words to the left, numbers and times to the right."""
    cells = [dict(row, address=_address(row), kind=_kind(row)) for row in rows]
    columns = [column for column in _COLUMNS if any(column[1] in row for row in cells)]
    texts = [[title for title, _ in columns]]
    texts += [[printable(str(row.get(name, ""))) for _, name in columns] for row in cells]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if name in _WORDS else text.rjust(width)
            for text, width, (_, name) in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in texts
    ]


def _address(row: Mapping[str, Any]) -> str:
    host = f"[{row['ip']}]" if ":" in row["ip"] else row["ip"]
    return f"{host}:{row['port']}"


def _kind(row: Mapping[str, Any]) -> str:
    """Why there is this route: the configuration has it, this server found it, or the other."""
    if row["is_configured"]:
        return "configured"
    return "dialed" if row["did_solicit"] else "accepted"


def _listing(wishes: Wishes) -> list[str]:
    lines = []
    for (account, subject, queue), members in sorted(
        wishes.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or "")
    ):
        group = "" if queue is None else f"  queue group {queue}, {members} members"
        lines.append(f"  {account}  {subject}{group}")
    return lines or ["  nothing"]


class _Command(click.Command):
    """Takes `--subs=detail` as well."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_SPELLINGS.get(each, each) for each in args])


@click.command("routes", cls=_Command, short_help="Show a running server's routes.")
@click.argument("server", required=False, default="", metavar="[PID|FILE]")
@click.option("--json", "is_json", is_flag=True, help="As nats-server's /routez.")
@click.option("--subs", "has_subscriptions", is_flag=True, help="And what the peers subscribe to.")
@click.option(
    "--detail", "is_detailed", is_flag=True, help="With --json: all of each subscription."
)
def command(server: str, is_json: bool, has_subscriptions: bool, is_detailed: bool) -> int:
    """Show the routes of the only running server, or of the one with this pid or pid file."""
    return report(
        server,
        is_json=is_json,
        has_subscriptions=has_subscriptions or is_detailed,
        is_detailed=is_detailed,
    )
