"""Accounts: `/accountz` and `/accstatz` (sheet 12.3). Sans-IO; the facts are handed in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shardd.config.model import (
    Account,
    ResponseType,
    ServiceExport,
    ServiceImport,
    StreamExport,
    StreamImport,
    SubjectMapping,
)
from shardd.moments import time_text
from shardd.reports.query import Query, QueryError
from shardd.reports.subsz import IndexFacts, index_numbers

_RESPONSES: Final[Mapping[ResponseType, str]] = {
    ResponseType.SINGLETON: "Singleton",
    ResponseType.STREAM: "Streamed",
    ResponseType.CHUNKED: "Chunked",
}
_NOTHING: Final[Mapping[str, int]] = {"msgs": 0, "bytes": 0}


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What one process counts of one account."""

    connections: int = 0
    subscriptions: int = 0
    sent_messages: int = 0  # to its clients
    sent_bytes: int = 0
    received_messages: int = 0  # from its clients
    received_bytes: int = 0
    slow_consumers: int = 0


@dataclass(frozen=True, slots=True)
class AccountsView:
    """What the configuration says of all accounts."""

    names: Sequence[str]
    system_account: str
    accounts: Mapping[str, Account] = field(default_factory=dict)  # those that have something
    updated_ns: int = 0


def add(facts: Iterable[AccountFacts]) -> AccountFacts:
    """The sums over processes."""
    total = AccountFacts()
    for each in facts:
        total = AccountFacts(
            total.connections + each.connections,
            total.subscriptions + each.subscriptions,
            total.sent_messages + each.sent_messages,
            total.sent_bytes + each.sent_bytes,
            total.received_messages + each.received_messages,
            total.received_bytes + each.received_bytes,
            total.slow_consumers + each.slow_consumers,
        )
    return total


def list_document(view: AccountsView, server_id: str, now_ns: int) -> dict[str, Any]:
    """`/accountz`: the names."""
    return _head(view, server_id, now_ns) | {"accounts": list(view.names)}


def detail_document(
    view: AccountsView,
    name: str,
    facts: AccountFacts,
    index: Sequence[IndexFacts],
    server_id: str,
    now_ns: int,
) -> dict[str, Any]:
    """`/accountz?acc=NAME`. Raises QueryError when there is no such account."""
    if name not in view.names:
        raise QueryError(f"Account {name} does not exist")
    detail: dict[str, Any] = {
        "account_name": name,
        "update_time": time_text(view.updated_ns),
    }
    if name == view.system_account:
        detail["is_system"] = True
    detail |= {
        "expired": False,
        "complete": True,
        "jetstream_enabled": False,
        "leafnode_connections": 0,
        "client_connections": facts.connections,
        "subscriptions": facts.subscriptions,
    }
    account = view.accounts.get(name)
    if account is not None:
        detail |= _sharing(account)
    detail |= {"name_tag": name, "sublist_stats": index_numbers(index)}
    return _head(view, server_id, now_ns) | {"account_detail": detail}


def _sharing(account: Account) -> dict[str, Any]:
    """What an account's configuration says of others: mappings, exports, imports."""
    parts: dict[str, Any] = {
        "mappings": {each.source: _destinations(each) for each in account.mappings},
        # In nats-server's order: of exports the services come first, of imports the streams.
        "exports": [
            _export(each)
            for kind in (ServiceExport, StreamExport)
            for each in account.exports
            if isinstance(each, kind)
        ],
        "imports": [
            _import(each)
            for kind in (StreamImport, ServiceImport)
            for each in account.imports
            if isinstance(each, kind)
        ],
    }
    return {name: part for name, part in parts.items() if part}


def _destinations(mapping: SubjectMapping) -> list[dict[str, Any]]:
    return [
        {"subject": each.subject, "weight": each.weight}
        | ({"cluster": each.cluster} if each.cluster else {})
        for each in mapping.destinations
    ]


def _export(export: StreamExport | ServiceExport) -> dict[str, Any]:
    is_service = isinstance(export, ServiceExport)
    row: dict[str, Any] = {"subject": export.subject, "type": "service" if is_service else "stream"}
    if export.token_required:
        row["token_req"] = True
    if isinstance(export, ServiceExport):
        row["response_type"] = _RESPONSES[export.response]
    if export.token_position:
        row["account_token_position"] = export.token_position
    if export.accounts is not None:
        row["approved_accounts"] = list(export.accounts)
    return row


def _import(entry: StreamImport | ServiceImport) -> dict[str, Any]:
    local = entry.to or entry.subject
    if isinstance(entry, StreamImport) and not entry.to and entry.prefix:
        local = f"{entry.prefix}.{entry.subject}"
    row: dict[str, Any] = {"subject": entry.subject, "account": entry.account}
    if isinstance(entry, ServiceImport):
        row["to"] = local
    row |= {
        "local_subject": local,
        "type": "service" if isinstance(entry, ServiceImport) else "stream",
        "invalid": False,
        "share": isinstance(entry, ServiceImport) and entry.share,
        "tracking": False,
    }
    return row


def statistics_document(
    facts: Mapping[str, AccountFacts], query: Query, server_id: str, now_ns: int
) -> dict[str, Any]:
    """`/accstatz`: accounts in use, with `unused=1` all. Raises QueryError."""
    has_unused = query.boolean("unused")
    rows = [
        statistics_row(name, each) for name, each in facts.items() if has_unused or each.connections
    ]
    return {"server_id": server_id, "now": time_text(now_ns), "account_statz": rows}


def statistics_row(name: str, facts: AccountFacts) -> dict[str, Any]:
    """One account, as `/accstatz` and the system's events have it."""
    return {
        "acc": name,
        "name": name,
        "conns": facts.connections,
        "leafnodes": 0,
        "total_conns": facts.connections,
        "num_subscriptions": facts.subscriptions,
        "sent": _moved(facts.sent_messages, facts.sent_bytes),
        "received": _moved(facts.received_messages, facts.received_bytes),
        "slow_consumers": facts.slow_consumers,
    }


def _moved(messages: int, size: int) -> dict[str, Any]:
    nothing = {name: dict(_NOTHING) for name in ("gateways", "routes", "leafs")}
    return {"msgs": messages, "bytes": size, **nothing}


def _head(view: AccountsView, server_id: str, now_ns: int) -> dict[str, Any]:
    return {
        "server_id": server_id,
        "now": time_text(now_ns),
        "system_account": view.system_account,
    }
