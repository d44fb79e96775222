"""Who is connected: `/connz` (sheet 12.2), in two halves.

A worker picks those of its own connections that a page can show (`pick`), the monitor joins what
the workers picked (`document`). So a host with a hundred thousand connections moves a page of each
worker, and not all of them. Sans-IO; times are nanoseconds since 1970.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from shardd.moments import duration_text, time_text, uptime_text
from shardd.reports.query import LIMIT, Query, QueryError, read_page

# A connection as a worker tells it: numbers as they are, absent what there is none of.
Row = dict[str, Any]

# Its name is not told; its tag is.
_GLOBAL_ACCOUNT: Final = "$G"
_SECOND_NS: Final = 1_000_000_000

_RISING: Final[Mapping[str, Callable[[Row], Any]]] = {
    "": lambda row: row["cid"],
    "cid": lambda row: row["cid"],
    "start": lambda row: row["start_ns"],
    "reason": lambda row: row["reason"],
}
_FALLING: Final[Mapping[str, Callable[[Row, int], int]]] = {
    "subs": lambda row, _: row["subscriptions"],
    "pending": lambda row, _: row["pending_bytes"],
    "msgs_to": lambda row, _: row["out_msgs"],
    "msgs_from": lambda row, _: row["in_msgs"],
    "bytes_to": lambda row, _: row["out_bytes"],
    "bytes_from": lambda row, _: row["in_bytes"],
    "last": lambda row, _: row["last_ns"],
    "idle": lambda row, now: row.get("stop_ns", now) - row["last_ns"],
    "uptime": lambda row, now: row.get("stop_ns", now) - row["start_ns"],
    "stop": lambda row, _: row["stop_ns"],
    "rtt": lambda row, _: row["rtt_ns"],
}
_OF_CLOSED: Final = ("stop", "reason")
_STATES: Final = {"": "open", "open": "open", "closed": "closed", "any": "all", "all": "all"}


@dataclass(frozen=True, slots=True)
class ConnzQuery:
    """What is wanted. `subscriptions` is "", "list" or "detail"."""

    sort: str = ""
    subscriptions: str = ""
    has_auth: bool = False
    offset: int = 0
    limit: int = LIMIT
    cid: int = 0
    state: str = "open"
    user: str = ""
    account: str = ""
    mqtt_client: str = ""
    filter_subject: str = ""  # only who subscribes to something that this meets

    def fields(self) -> dict[str, Any]:
        """As it travels to a worker; `ConnzQuery(**fields)` makes it again."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Picked:
    """What one worker shows of its connections."""

    total: int  # connections in that state, whatever else the query asks
    matching: int  # those that the query means, on all pages
    rows: list[Row]  # those that the page may show


def read_query(query: Query, filter_subject: str = "") -> ConnzQuery:
    """The query of a request. Raises QueryError with nats-server's words.

    Args:
        filter_subject: only a request in the system account can ask for it.
    """
    sort = query.text("sort")
    has_auth = query.boolean("auth")
    subscriptions = "detail" if query.text("subs").lower() == "detail" else ""
    if not subscriptions and query.boolean("subs"):
        subscriptions = "list"
    offset, limit = read_page(query)
    cid = query.unsigned("cid")
    state = _STATES.get(query.text("state").lower())
    if state is None:
        raise QueryError(f"Error decoding state for {query.text('state')}")
    if sort not in _RISING and sort not in _FALLING:
        raise QueryError(f"invalid sorting option: {sort}")
    account = query.text("acc")
    if filter_subject and not account:
        raise QueryError("filter by subject only valid with account filtering")
    if sort in _OF_CLOSED and state != "closed":
        raise QueryError(f"sort by {sort} only valid on closed connections")
    return ConnzQuery(
        sort=sort,
        subscriptions=subscriptions,
        has_auth=has_auth,
        offset=offset,
        limit=limit,
        cid=cid,
        state=state,
        user=query.text("user"),
        account=account,
        mqtt_client=query.text("mqtt_client"),
        filter_subject=filter_subject,
    )


def pick(rows: Iterable[Row], query: ConnzQuery, total: int, now_ns: int) -> Picked:
    """Those of a worker's connections that may be on the page.

    Args:
        rows: the connections in the state that is asked for.
        total: how many these are; of one account, as many as it has of them.
    """
    if query.account:
        rows = [row for row in rows if row.get("account") == query.account]
        total = len(rows)
    wanted = [row for row in rows if _is_wanted(row, query)]
    count = query.offset + query.limit
    return Picked(total, len(wanted), _first(wanted, query, count, now_ns))


def document(
    picked: Sequence[Picked], query: ConnzQuery, server_id: str, now_ns: int
) -> dict[str, Any]:
    """The page, from what all workers picked."""
    rows = [row for each in picked for row in each.rows]
    rows = _first(rows, query, query.offset + query.limit, now_ns)[query.offset :]
    return {
        "server_id": server_id,
        "now": time_text(now_ns),
        "num_connections": len(rows),
        "total": sum(each.total for each in picked),
        "offset": query.offset,
        # One connection is a page of one.
        "limit": 1 if query.cid else query.limit,
        "connections": [_entry(row, query, now_ns) for row in rows],
    }


def unknown_account(query: ConnzQuery, now_ns: int) -> dict[str, Any]:
    """What nats-server says of an account that it does not know."""
    return document((), query, "", now_ns) | {"connections": None}


def _is_wanted(row: Row, query: ConnzQuery) -> bool:
    if query.mqtt_client:
        return False  # there are none
    if query.cid:
        return bool(row["cid"] == query.cid)
    return not query.user or bool(row.get("authorized_user") == query.user)


def _first(rows: list[Row], query: ConnzQuery, count: int, now_ns: int) -> list[Row]:
    """The first rows in the order that is asked for; equal ones by their number."""
    rising = _RISING.get(query.sort)
    if rising is not None:
        return heapq.nsmallest(count, rows, key=lambda row: (rising(row), row["cid"]))
    falling = _FALLING[query.sort]
    return heapq.nsmallest(count, rows, key=lambda row: (-falling(row, now_ns), row["cid"]))


def _entry(row: Row, query: ConnzQuery, now_ns: int) -> dict[str, Any]:
    """One connection in the document."""
    stop_ns = row.get("stop_ns")
    until_ns = stop_ns or now_ns
    entry: dict[str, Any] = {
        "cid": row["cid"],
        "kind": row["kind"],
        "type": row["type"],
        "ip": row["ip"],
        "port": row["port"],
        "start": time_text(row["start_ns"]),
        "last_activity": time_text(row["last_ns"]),
    }
    if stop_ns:
        entry |= {"stop": time_text(stop_ns), "reason": row["reason"]}
    if row["rtt_ns"]:
        entry["rtt"] = duration_text(row["rtt_ns"])
    entry |= {
        "uptime": uptime_text((until_ns - row["start_ns"]) / _SECOND_NS),
        "idle": uptime_text((until_ns - row["last_ns"]) / _SECOND_NS),
    }
    names = ["pending_bytes", "in_msgs", "out_msgs", "in_bytes", "out_bytes"]
    names += ["stalls", "subscriptions", "name", "lang", "version"]
    names += ["tls_version", "tls_cipher_suite"]
    if query.has_auth:
        names += ["tls_peer_certs", "tls_first", "authorized_user", "account"]
    else:
        names += ["tls_first"]
    names += ["subscriptions_list", "subscriptions_list_detail"]
    if query.has_auth:
        names += ["name_tag"]
    entry |= {name: row[name] for name in names if name in row}
    if entry.get("account") == _GLOBAL_ACCOUNT:
        del entry["account"]
    return entry
