"""What a server says in the system account: envelopes, events, answers (sheet 14). Sans-IO."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shardd.auth.identity import Identity
from shardd.config.model import SubjectRules
from shardd.moments import time_text
from shardd.reports.accountz import AccountFacts, statistics_row
from shardd.version import NATS_VERSION

Document = dict[str, Any]

_ADVISORY: Final = "io.nats.server.advisory.v1."
# Requests name a kind of state by number.
_STATES: Final = ("open", "closed", "all")


@dataclass(slots=True)
class Envelope:
    """Who speaks, on everything that this server says; numbered."""

    server_id: str
    server_name: str
    host: str
    cluster: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    sequence: int = 0

    def server(self, now_ns: int) -> Document:
        """The `server` part of the next message."""
        self.sequence += 1
        part: Document = {"name": self.server_name, "host": self.host, "id": self.server_id}
        if self.cluster:
            part["cluster"] = self.cluster
        part["ver"] = NATS_VERSION
        if self.tags:
            part["tags"] = list(self.tags)
        if self.metadata:
            part["metadata"] = dict(self.metadata)
        part |= {"jetstream": False, "flags": 0, "seq": self.sequence, "time": time_text(now_ns)}
        return part

    def event(self, kind: str, event_id: str, now_ns: int) -> Document:
        """The beginning of an advisory."""
        return {
            "type": _ADVISORY + kind,
            "id": event_id,
            "timestamp": time_text(now_ns),
            "server": self.server(now_ns),
        }

    def is_meant(self, wishes: Mapping[str, Any]) -> bool:
        """Whether the filters of a request let this server answer."""
        exact = wishes.get("exact_match") is True
        for name, own in (
            ("server_name", self.server_name),
            ("host", self.host),
            ("cluster", self.cluster),
        ):
            wanted = wishes.get(name)
            if wanted and (own != wanted if exact else wanted not in own):
                return False
        tags = wishes.get("tags") or ()
        return not wishes.get("domain") and all(tag in self.tags for tag in tags)


def connection_event(
    envelope: Envelope, row: Mapping[str, Any], event_id: str, now_ns: int
) -> Document:
    """A client has come, or, if the row has an end, has left: the advisory about it.

    Args:
        row: as `connz.Row`.
    """
    is_over = "stop_ns" in row
    document = envelope.event(
        "client_disconnect" if is_over else "client_connect", event_id, now_ns
    )
    account = row.get("account", "$G")
    client: Document = {
        "start": time_text(row["start_ns"]),
        "host": row["ip"],
        "id": row["cid"],
        "acc": account,
    }
    for name, key in (("user", "authorized_user"), ("name", "name"), ("lang", "lang")):
        if row.get(key):
            client[name] = row[key]
    if row.get("version"):
        client["ver"] = row["version"]
    if is_over:
        client |= {"rtt": row["rtt_ns"], "stop": time_text(row["stop_ns"])}
    client |= {"name_tag": account, "kind": "Client", "client_type": row["type"]}
    document["client"] = client
    if is_over:
        # Seen from the client.
        document["sent"] = {"msgs": row["in_msgs"], "bytes": row["in_bytes"]}
        document["received"] = {"msgs": row["out_msgs"], "bytes": row["out_bytes"]}
        document["reason"] = row["reason"]
    return document


def account_event(
    envelope: Envelope, name: str, facts: AccountFacts, event_id: str, now_ns: int
) -> Document:
    """How many clients an account has."""
    document = envelope.event("account_connections", event_id, now_ns)
    return document | statistics_row(name, facts)


def statsz(
    varz: Mapping[str, Any],
    routes: Iterable[Mapping[str, Any]],
    active_accounts: int,
    active_servers: int,
) -> Document:
    """The server in short, from its `/varz` and the rows of `/routez`."""
    result: Document = {
        name: varz[name]
        for name in ("start", "mem", "cores", "cpu", "connections", "total_connections")
    }
    result["active_accounts"] = active_accounts
    result["subscriptions"] = varz["subscriptions"]
    result["sent"] = {"msgs": varz["out_msgs"], "bytes": varz["out_bytes"]}
    result["sent_to_clients"] = {"msgs": varz["out_client_msgs"], "bytes": varz["out_client_bytes"]}
    result["received"] = {"msgs": varz["in_msgs"], "bytes": varz["in_bytes"]}
    result["received_from_clients"] = {
        "msgs": varz["in_client_msgs"],
        "bytes": varz["in_client_bytes"],
    }
    result["slow_consumers"] = varz["slow_consumers"]
    rows = [
        {
            "rid": row["rid"],
            "name": row["remote_name"],
            "sent": {"msgs": row["out_msgs"], "bytes": row["out_bytes"]},
            "received": {"msgs": row["in_msgs"], "bytes": row["in_bytes"]},
            "pending": row["pending_size"],
        }
        for row in routes
    ]
    if rows:
        result["routes"] = rows
    result["active_servers"] = active_servers
    result["gomaxprocs"] = varz["gomaxprocs"]
    return result


def parameters(wishes: Mapping[str, Any]) -> dict[str, list[str]]:
    """The options of a request's JSON as the parameters that the same question has over HTTP."""
    found: dict[str, list[str]] = {}
    for name, key in (
        ("sort", "sort"),
        ("offset", "offset"),
        ("limit", "limit"),
        ("cid", "cid"),
        ("acc", "acc"),
        ("acc", "account"),
        ("user", "user"),
        ("test", "test"),
        ("name", "name"),
        ("mqtt_client", "mqtt_client"),
        ("filter_subject", "filter_subject"),
    ):
        value = wishes.get(key)
        if value:
            found[name] = [str(value)]
    for name, key in (("auth", "auth"), ("subs", "subscriptions"), ("unused", "include_unused")):
        if wishes.get(key) is True:
            found[name] = ["1"]
    if wishes.get("subscriptions_detail") is True:
        found["subs"] = ["detail"]
    state = wishes.get("state")
    if isinstance(state, int) and 0 <= state < len(_STATES):
        found["state"] = [_STATES[state]]
    return found


# What an option is in Go, by its name; a JSON value of another kind is refused.
_KINDS: Final[Mapping[str, tuple[type, str]]] = {
    **dict.fromkeys(("limit", "offset"), (int, "int")),
    "cid": (int, "uint64"),
    "sort": (str, "server.SortOpt"),
    "state": (int, "server.ConnState"),
    **dict.fromkeys(("auth", "subscriptions", "subscriptions_detail"), (bool, "bool")),
    **dict.fromkeys(("exact_match", "include_unused"), (bool, "bool")),
    **dict.fromkeys(("server_name", "host", "cluster", "domain"), (str, "string")),
    **dict.fromkeys(("acc", "account", "user", "test", "filter_subject", "name"), (str, "string")),
}


def read_options(payload: bytes, kind: str) -> dict[str, Any]:
    """The options of a request for `kind` (`CONNZ`). Raises ValueError, in Go's words."""
    text = payload.strip()
    if not text:
        return {}
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        first = chr(text[0])
        raise ValueError(f"invalid character '{first}' looking for beginning of value") from None
    name = f"{kind.capitalize()}EventOptions"
    if not isinstance(options, dict):
        raise ValueError(
            f"json: cannot unmarshal {_json_kind(options)} into Go value of type server.{name}"
        )
    for key, value in options.items():
        wanted, go_name = _KINDS.get(key, (object, ""))
        if value is not None and (
            not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))
        ):
            raise ValueError(
                f"json: cannot unmarshal {_json_kind(value)} into Go struct field "
                f"{name}.{key} of type {go_name}"
            )
    return options


def _json_kind(value: object) -> str:
    for kind, name in ((bool, "bool"), (int | float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"


def user_info(envelope: Envelope, identity: Identity, now_ns: int) -> Document:
    """What a client is told of its own user (`$SYS.REQ.USER.INFO`)."""
    data: Document = {
        "user": identity.user,
        "account": identity.account,
        "account_name": identity.account,
    }
    rules = identity.permissions
    if rules is not None:
        sides = {"publish": rules.publish, "subscribe": rules.subscribe}
        data["permissions"] = {name: _rules(side) if side else {} for name, side in sides.items()}
    if identity.expires_at is not None:
        data["expires"] = max(int(identity.expires_at * 1e9) - now_ns, 0)
    return {"server": envelope.server(now_ns), "data": data}


def _rules(rules: SubjectRules) -> Document:
    sides = {"allow": list(rules.allow), "deny": list(rules.deny)}
    return {name: subjects for name, subjects in sides.items() if subjects}
