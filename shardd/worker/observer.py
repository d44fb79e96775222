"""What one worker remembers of its clients, tells whoever asks, and says in the system account.

Nothing is kept up to date while messages move: a connection counts for itself anyway, and is looked
at when somebody asks. Answers are made in parts (`inquiry`), a few hundred connections at a time,
so that clients have their turn in between. That a client has come or gone is said only if somebody
listens. Sans-IO; the clock is the worker's.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from shardd.errors import CloseReason
from shardd.identity import new_event_id
from shardd.reports import connz, events, subsz
from shardd.reports.accountz import AccountFacts
from shardd.reports.documents import encode_line
from shardd.router.local import LocalClient
from shardd.router.sublist import Sublist
from shardd.worker.connection import Connection

Part = Mapping[str, Any]
# Connections, or subscriptions, looked at between two turns of the event loop.
_STEP: Final = 256
_SLOW: Final = (
    CloseReason.SLOW_CONSUMER_PENDING_BYTES,
    CloseReason.SLOW_CONSUMER_WRITE_DEADLINE,
)
_REFUSED: Final = (CloseReason.AUTHENTICATION_FAILURE, CloseReason.AUTHENTICATION_TIMEOUT)


class Observer:
    """Owned by one worker, touched by its event loop only.

    Args:
        connections: the worker's, by client id.
        sublist: its subject index.
        voice: what it says is said by this client.
        envelope: who this server is.
        system_account: the number of the system account; None: there is none.
        closed_max: how many of those that left are remembered; the oldest are forgotten.
        clock: nanoseconds since 1970.
        wall_ns: what that was when the worker's clock showed 0.
    """

    def __init__(
        self,
        connections: Mapping[int, Connection],
        sublist: Sublist,
        voice: LocalClient,
        envelope: events.Envelope,
        system_account: int | None,
        closed_max: int,
        clock: Callable[[], int],
        wall_ns: int,
    ) -> None:
        self._connections = connections
        self._sublist = sublist
        self._voice = voice
        self._envelope = envelope
        self._system_account = system_account
        self._closed: deque[connz.Row] = deque(maxlen=closed_max)
        self._gone: dict[str, AccountFacts] = {}
        self._clock = clock
        self._wall_ns = wall_ns

    def admitted(self, connection: Connection) -> None:
        """A client has been let in."""
        assert connection.admission is not None
        subject = f"$SYS.ACCOUNT.{connection.admission.identity.account}.CONNECT"
        if self._is_wanted(subject):
            self._say(subject, connection.row(self._wall_ns))

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        """A client is about to be let go; it still has all that it had."""
        row = connection.row(self._wall_ns)
        row |= {"stop_ns": self._clock(), "reason": reason.text}
        if self._closed.maxlen:
            self._remember(row, reason)
        if reason in _REFUSED:
            subject = f"$SYS.SERVER.{self._envelope.server_id}.CLIENT.AUTH.ERR"
            if self._is_wanted(subject):
                self._say(subject, row)
        elif connection.admission is None:
            return
        subject = f"$SYS.ACCOUNT.{row.get('account', '$G')}.DISCONNECT"
        if self._is_wanted(subject):
            self._say(subject, row)

    def tell_user(self, connection: Connection, reply: bytes) -> None:
        """A client has asked who it is (`$SYS.REQ.USER.INFO`)."""
        if connection.admission is None:
            return
        identity = connection.admission.identity
        document = events.user_info(self._envelope, identity, self._clock())
        self._publish(reply, encode_line(document), connection.account)

    def _remember(self, row: connz.Row, reason: CloseReason) -> None:
        self._closed.append(row)
        account = row.get("account")
        if account is None:
            return
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

    def _is_wanted(self, subject: str) -> bool:
        account = self._system_account
        return account is not None and self._voice.is_wanted(subject.encode(), account)

    def _say(self, subject: str, row: connz.Row) -> None:
        document = events.connection_event(self._envelope, row, new_event_id(), self._clock())
        assert self._system_account is not None
        self._publish(subject.encode(), encode_line(document), self._system_account)

    def _publish(self, subject: bytes, payload: bytes, account: int) -> None:
        try:
            self._voice.publish(subject, payload, account=account)
        except ValueError:
            return  # an account's name, or a reply, that is no subject

    # --- answers -------------------------------------------------------------------------------

    def answer_connz(self, question: Part) -> Iterator[Part]:
        """Empty parts while it looks, then the one that counts: the fields of `connz.Picked`."""
        query = connz.ConnzQuery(**question["query"])
        rows: list[connz.Row] = []
        if query.state != "closed":
            yield from self._open_rows(rows, query)
        if query.state != "open":
            rows += self._closed
        total = len(rows)
        if query.cid and query.state != "closed":
            total += len(self._connections) - (query.cid in self._connections)
        if query.filter_subject:
            rows = [row for row in rows if self._meets(row, query.filter_subject)]
        picked = connz.pick(rows, query, total, self._clock())
        if query.subscriptions and query.state != "closed":
            for row in picked.rows:
                self._add_subscriptions(row, query.subscriptions)
                yield {}
        yield {"total": picked.total, "matching": picked.matching, "rows": picked.rows}

    def answer_subsz(self, question: Part) -> Iterator[Part]:
        """The same for subscriptions: the fields of `subsz.IndexFacts`."""
        query = subsz.SubszQuery(**question["query"])
        total = 0
        rows: list[subsz.Row] = []
        for connection in list(self._connections.values()):
            found, more = subsz.pick(self._subscriptions(connection), query)
            total += found
            rows += more[: query.offset + query.limit - len(rows)]
            yield {}
        statistics = self._sublist.statistics()
        fanout_max, fanout_total = self._sublist.fanout()
        yield {
            "subscriptions": total if query.account else statistics.subscriptions,
            "cached": statistics.cache_entries,
            "inserts": statistics.inserts,
            "removes": statistics.removes,
            "matches": statistics.cache_hits + statistics.cache_misses,
            "cache_hits": statistics.cache_hits,
            "fanout_max": fanout_max,
            "fanout_total": fanout_total,
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

    def answer_kick(self, question: Part) -> Iterator[Part]:
        """Ends a client, or tells it that the server is leaving: `done`, or not."""
        connection = self._connections.get(question["cid"])
        if connection is None:
            yield {"done": False}
            return
        if question["is_lame_duck"]:
            connection.tell_lame_duck()
        else:
            connection.close(CloseReason.KICKED)
        yield {"done": True}

    def _open_rows(self, rows: list[connz.Row], query: connz.ConnzQuery) -> Iterator[Part]:
        connections = list(self._connections.values())
        if query.cid:
            connections = [each for each in connections if each.client_id == query.cid]
        for number, connection in enumerate(connections):
            rows.append(connection.row(self._wall_ns))
            if number % _STEP == _STEP - 1:
                yield {}

    def _add_subscriptions(self, row: connz.Row, kind: str) -> None:
        connection = self._connections.get(row["cid"])
        rows = connection.subscription_rows() if connection is not None else []
        if not rows:
            return
        if kind == "detail":
            row["subscriptions_list_detail"] = rows
        else:
            row["subscriptions_list"] = [each["subject"] for each in rows]

    def _meets(self, row: connz.Row, pattern: str) -> bool:
        """Whether a client that is here subscribes to something that the pattern meets."""
        connection = self._connections.get(row["cid"])
        rows = connection.subscription_rows() if connection is not None else []
        return any(subsz.collide(each["subject"], pattern) for each in rows)

    def _subscriptions(self, connection: Connection) -> Iterator[subsz.Row]:
        admission = connection.admission
        if admission is None:
            return
        account = admission.identity.account
        for row in connection.subscription_rows():
            yield {"account": account, "account_tag": account, **row}


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
