"""What monitoring shows of a streaming server, under the original's paths and names (sheet 17).

Each worker makes its part of a document from what it has; `document` joins the parts of all workers
and applies the query. Both are plain functions: how parts travel, and HTTP, are somebody else's.
`lag` is shardd's own field: how many messages a subscription has not acknowledged or not been sent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shardd.config.streaming import ChannelLimits, StreamingOptions
from shardd.moments import time_text, uptime_text
from shardd.streaming.channel import Channel
from shardd.streaming.limits_of import LimitsOf
from shardd.streaming.server import StreamingServer
from shardd.streaming.subscription import Subscription

PATHS: Final = ("serverz", "storez", "clientsz", "channelsz")
LIMIT: Final = 1024

Document = dict[str, Any]
Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the documents say of the process, not of streaming."""

    server_id: str
    version: str
    runtime: str  # where the original names its version of Go
    now_ns: int
    started_ns: int
    state: str = "STANDALONE"
    open_fds: int = 0
    max_fds: int = 0


# --- one worker ----------------------------------------------------------------------------------


def part(server: StreamingServer, path: str, query: Query) -> Document:
    """What one worker contributes to a document; JSON and msgpack take it as it is.

    Raises:
        KeyError: there is no such path.
    """
    return {
        "serverz": _server_part,
        "storez": _store_part,
        "clientsz": _clients_part,
        "channelsz": _channels_part,
    }[path](server, query)


def _store_part(server: StreamingServer, query: Query) -> Document:
    logs = [channel.log for channel in server.core.channels.values()]
    return {
        "total_msgs": sum(log.messages for log in logs),
        "total_bytes": sum(log.bytes for log in logs),
    }


def _server_part(server: StreamingServer, query: Query) -> Document:
    core = server.core
    traffic = core.traffic
    return {
        "clients": len(core.clients) if core.is_lead else 0,
        "subscriptions": sum(len(each.subscriptions) for each in core.channels.values()),
        "channels": len(core.channels),
        **_store_part(server, query),
        "in_msgs": traffic.in_messages,
        "in_bytes": traffic.in_bytes,
        "out_msgs": traffic.out_messages,
        "out_bytes": traffic.out_bytes,
    }


def _clients_part(server: StreamingServer, query: Query) -> Document:
    """For each client its inbox, from the lead, and what it subscribes to at this worker."""
    core = server.core
    asked = query.get("client")
    shows = query.get("subs") == "1"
    clients = {}
    for client in core.clients:
        if asked and client.row.client_id != asked:
            continue
        entry: Document = {
            "subs_count": len(client.subscriptions),
            "hb_inbox": _text(client.row.heartbeat_inbox),
        }
        if shows:
            found: dict[str, list[Document]] = {}
            for each in sorted(client.subscriptions, key=lambda each: each.id):
                found.setdefault(_text(each.channel.name), []).append(subscription_document(each))
            entry["subscriptions"] = found
        clients[client.row.client_id] = entry
    return {"is_lead": core.is_lead, "clients": clients}


def _channels_part(server: StreamingServer, query: Query) -> Document:
    channels = server.core.channels
    asked = query.get("channel")
    shows = query.get("subs") == "1"
    if asked:
        channel = channels.get(asked.encode("utf-8", "surrogateescape"))
        return {"channels": [] if channel is None else [_channel_document(channel, shows)]}
    if not shows:
        return {"names": [_text(name) for name in channels]}
    # What an earlier page holds is not made, what a later one might is cut off there.
    least = sorted(channels)[: _number(query, "offset", 0) + _number(query, "limit", LIMIT)]
    return {
        "channels": [_channel_document(channels[name], shows) for name in least],
        "count": len(channels),
    }


def _channel_document(channel: Channel, shows_subscriptions: bool) -> Document:
    log = channel.log
    has_begun = log.last > 0
    document: Document = {
        "name": _text(channel.name),
        "msgs": log.messages,
        "bytes": log.bytes,
        "first_seq": log.first if has_begun else 0,
        "last_seq": log.last,
        "subs_count": len(channel.subscriptions),
    }
    if shows_subscriptions and channel.subscriptions:
        document["subscriptions"] = [
            subscription_document(each)
            for each in sorted(channel.subscriptions.values(), key=_plain_first)
        ]
    return document


def _plain_first(subscription: Subscription) -> tuple[bool, bool, int]:
    return bool(subscription.queue_group), subscription.is_offline, subscription.id


def subscription_document(subscription: Subscription) -> Document:
    """One subscription. A queue group's lag counts from where the group is."""
    channel: Channel = subscription.channel
    document: Document = {
        "client_id": subscription.client_id,
        "inbox": _text(subscription.inbox),
        "ack_inbox": _text(subscription.ack_inbox),
        "durable_name": subscription.durable_name,
        "queue_name": subscription.queue_group,
        "is_durable": subscription.is_durable,
        "is_offline": subscription.is_offline,
        "max_inflight": subscription.max_in_flight,
        "ack_wait": subscription.ack_wait_ms // 1000,
        "last_sent": subscription.last_sent,
        "pending_count": subscription.in_flight.count,
        "is_stalled": subscription.is_stalled,
        "lag": max(channel.log.last - subscription.position, 0) + subscription.in_flight.count,
    }
    for name in ("durable_name", "queue_name"):
        if not document[name]:
            del document[name]
    return document


# --- all workers ---------------------------------------------------------------------------------


def document(
    parts: Sequence[Document],
    path: str,
    query: Query,
    options: StreamingOptions,
    facts: ServerFacts,
) -> tuple[int, Document | str]:
    """HTTP status and document, or a text instead of one, from the parts of every worker.

    Raises:
        KeyError: there is no such path.
    """
    return {
        "serverz": _server,
        "storez": _store,
        "clientsz": _clients,
        "channelsz": _channels,
    }[path](parts, query, options, facts)


def encoded(answer: Document | str, query: Query) -> tuple[str, bytes]:
    """Content type and body of an answer, in the original's spelling."""
    if isinstance(answer, str):
        return "text/plain; charset=utf-8", f"{answer}\n".encode()
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    callback = query.get("callback")
    if callback:
        return "application/javascript", f"{callback}({text})".encode("utf-8", "replace")
    return "application/json", text.encode("utf-8", "replace")


def _server(
    parts: Sequence[Document], query: Query, options: StreamingOptions, facts: ServerFacts
) -> tuple[int, Document]:
    document: Document = {
        "cluster_id": options.cluster_id,
        "server_id": facts.server_id,
        "version": facts.version,
        "go": facts.runtime,
        "state": facts.state,
        "now": time_text(facts.now_ns),
        "start_time": time_text(facts.started_ns),
        "uptime": uptime_text((facts.now_ns - facts.started_ns) / 1e9),
    }
    document |= _summed(parts)
    for name, count in (("open_fds", facts.open_fds), ("max_fds", facts.max_fds)):
        if count:
            document[name] = count
    return 200, document


def _store(
    parts: Sequence[Document], query: Query, options: StreamingOptions, facts: ServerFacts
) -> tuple[int, Document]:
    limits = {"max_channels": options.limits.max_channels}
    shown: Document = limits | _limits(options.limits.defaults)
    channels = LimitsOf(options.limits).entries
    if channels:
        shown["channels"] = {name: _limits(each) for name, each in sorted(channels.items())}
    head = _head(options, facts)
    return 200, head | {"type": options.store, "limits": shown} | _summed(parts)


def _limits(limits: ChannelLimits) -> Document:
    return {
        "max_msgs": limits.max_msgs,
        "max_bytes": limits.max_bytes,
        "max_age": int(limits.max_age_s * 1e9),
        "max_subscriptions": limits.max_subs,
        "max_inactivity": int(limits.max_inactivity_s * 1e9),
    }


def _clients(
    parts: Sequence[Document], query: Query, options: StreamingOptions, facts: ServerFacts
) -> tuple[int, Document | str]:
    known = {
        client_id: {"id": client_id, "hb_inbox": entry["hb_inbox"], "subs_count": 0}
        for part in parts
        if part["is_lead"]
        for client_id, entry in part["clients"].items()
    }
    for part in parts:
        for client_id, entry in part["clients"].items():
            client = known.get(client_id)
            if client is not None:
                client["subs_count"] += entry["subs_count"]
                if entry.get("subscriptions"):
                    client.setdefault("subscriptions", {}).update(entry["subscriptions"])
    for client in known.values():
        if "subscriptions" in client:
            client["subscriptions"] = dict(sorted(client["subscriptions"].items()))
    asked = query.get("client")
    if asked:
        found = known.get(asked)
        return (404, f"Client {asked} not found") if found is None else (200, found)
    rows = [known[client_id] for client_id in sorted(known)]
    return 200, _page(rows, len(rows), "clients", query, options, facts)


def _channels(
    parts: Sequence[Document], query: Query, options: StreamingOptions, facts: ServerFacts
) -> tuple[int, Document | str]:
    asked = query.get("channel")
    if asked:
        found = [channel for part in parts for channel in part["channels"]]
        return (200, found[0]) if found else (404, f"Channel {asked} not found")
    if query.get("subs") != "1":
        names = sorted(name for part in parts for name in part["names"])
        return 200, _page(names, len(names), "names", query, options, facts)
    rows = sorted(
        (channel for part in parts for channel in part["channels"]),
        key=lambda channel: str(channel["name"]),
    )
    total = sum(part["count"] for part in parts)
    return 200, _page(rows, total, "channels", query, options, facts)


def _page(
    rows: Sequence[Any],
    total: int,
    name: str,
    query: Query,
    options: StreamingOptions,
    facts: ServerFacts,
) -> Document:
    """So many rows from an offset on; numbers that make no sense are as if they were not there."""
    offset = _number(query, "offset", 0)
    limit = _number(query, "limit", LIMIT)
    shown = list(rows[offset : offset + limit])
    return _head(options, facts) | {
        "offset": offset,
        "limit": limit,
        "count": len(shown),
        "total": total,
        name: shown,
    }


def _number(query: Query, name: str, default: int) -> int:
    text = query.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    return number or default


def _head(options: StreamingOptions, facts: ServerFacts) -> Document:
    return {
        "cluster_id": options.cluster_id,
        "server_id": facts.server_id,
        "now": time_text(facts.now_ns),
    }


def _summed(parts: Sequence[Document]) -> Document:
    return {name: sum(part[name] for part in parts) for name in parts[0]} if parts else {}


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
