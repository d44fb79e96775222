"""What one worker remembers of its clients, and tells whoever asks: open ones, and those that left.

Nothing is kept up to date while messages move: a connection counts for itself anyway, and is looked
at when somebody asks. Answers are made in parts (`inquiry`), a few hundred connections at a time, so
that clients have their turn in between. Sans-IO; the clock is the worker's.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from shardd.errors import CloseReason
from shardd.reports import connz, subsz
from shardd.reports.accountz import AccountFacts
from shardd.router.sublist import Sublist
from shardd.worker.connection import Connection

Part = Mapping[str, Any]
# Connections, or subscriptions, looked at between two turns of the event loop.
_STEP: Final = 256


class Observer:
    """Owned by one worker, touched by its event loop only.

    Args:
        connections: the worker's, by client id.
        sublist: its subject index.
        closed_max: how many of those that left are remembered; the oldest are forgotten.
        clock: nanoseconds since 1970, on the worker's clock.
        wall_ns: what that was when the worker's clock showed 0.
    """

    def __init__(
        self,
        connections: Mapping[int, Connection],
        sublist: Sublist,
        closed_max: int,
        clock: Callable[[], int],
        wall_ns: int,
    ) -> None:
        self._connections = connections
        self._sublist = sublist
        self._closed: deque[connz.Row] = deque(maxlen=closed_max)
        self._gone: dict[str, AccountFacts] = {}
        self._clock = clock
        self.wall_ns = wall_ns

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        """A client is about to be let go; it still has all that it had."""
        row = connection.row(self.wall_ns)
        row |= {"stop_ns": self._clock(), "reason": reason.text}
        self._closed.append(row)
        account = row.get("account")
        if account is not None:
            gone = self._gone.get(account, AccountFacts())
            self._gone[account] = AccountFacts(
                0,
                0,
                gone.sent_messages + row["out_msgs"],
                gone.sent_bytes + row["out_bytes"],
                gone.received_messages + row["in_msgs"],
                gone.received_bytes + row["in_bytes"],
                gone.slow_consumers + (reason in _SLOW),
            )

    # --- answers -------------------------------------------------------------------------------

    def answer_connz(self, question: Part) -> Iterator[Part]:
        """Empty parts while it looks, then the one that counts: the fields of `connz.Picked`."""
        query = connz.ConnzQuery(**question["query"])
        rows: list[connz.Row] = []
        if query.state != "closed":
            yield from self._open_rows(rows, query)
        if query.state != "open":
            rows += self._closed
        picked = connz.pick(rows, query, len(rows), self._clock())
        if query.subscriptions and query.state != "closed":
            for row in picked.rows:
                self._add_subscriptions(row, query.subscriptions)
                yield {}
        yield {"total": picked.total, "matching": picked.matching, "rows": picked.rows}

    def answer_subsz(self, question: Part) -> Iterator[Part]:
        """Empty parts while it looks, then the one that counts: the fields of `subsz.IndexFacts`."""
        query = subsz.SubszQuery(**question["query"])
        total, rows = 0, []
        for connection in list(self._connections.values()):
            found, more = subsz.pick(self._subscriptions(connection), query)
            total += found
            rows += more[: query.offset + query.limit - len(rows)]
            yield {}
        statistics = self._sublist.statistics()
        yield {
            "subscriptions": statistics.subscriptions,
            "cached": statistics.cache_entries,
            "inserts": statistics.inserts,
            "removes": statistics.removes,
            "matches": statistics.cache_hits + statistics.cache_misses,
            "cache_hits": statistics.cache_hits,
            "fanout_max": 0,
            "fanout_total": 0,
            "matching": total,
            "rows": rows,
        }

    def answer_accounts(self, _: Part) -> Iterator[Part]:
        """Empty parts while it looks, then `accounts`: the fields of `AccountFacts` by name."""
        found = {name: list(_numbers(facts)) for name, facts in self._gone.items()}
        for number, connection in enumerate(list(self._connections.values())):
            admission = connection.admission
            if admission is not None:
                numbers = found.setdefault(admission.identity.account, [0] * 7)
                numbers[0] += 1
                numbers[1] += connection.subscriptions
                numbers[2] += connection.messages_out
                numbers[3] += connection.bytes_out
                numbers[4] += connection.messages_in
                numbers[5] += connection.bytes_in
            if number % _STEP == _STEP - 1:
                yield {}
        yield {"accounts": found}

    def _open_rows(self, rows: list[connz.Row], query: connz.ConnzQuery) -> Iterator[Part]:
        connections = list(self._connections.values())
        if query.cid:
            connections = [each for each in connections if each.client_id == query.cid]
        for number, connection in enumerate(connections):
            rows.append(connection.row(self.wall_ns))
            if number % _STEP == _STEP - 1:
                yield {}

    def _add_subscriptions(self, row: connz.Row, kind: str) -> None:
        connection = self._connections.get(row["cid"])
        rows = connection.subscription_rows() if connection is not None else []
        if kind == "detail":
            row["subscriptions_list_detail"] = rows
        elif rows:
            row["subscriptions_list"] = [each["subject"] for each in rows]

    def _subscriptions(self, connection: Connection) -> Iterator[subsz.Row]:
        admission = connection.admission
        if admission is None:
            return
        account = admission.identity.account
        for row in connection.subscription_rows():
            yield {"account": account, "account_tag": account, **row}


_SLOW: Final = (
    CloseReason.SLOW_CONSUMER_PENDING_BYTES,
    CloseReason.SLOW_CONSUMER_WRITE_DEADLINE,
)


def _numbers(facts: AccountFacts) -> tuple[int, ...]:
    """In the order of the fields."""
    return (
        facts.connections,
        facts.subscriptions,
        facts.sent_messages,
        facts.sent_bytes,
        facts.received_messages,
        facts.received_bytes,
        facts.slow_consumers,
    )
