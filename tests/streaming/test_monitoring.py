"""The documents under `/streaming`: fields, their order, types, parameters and errors.

Every expectation holds for the original, too; `lag` is shardd's own field.
"""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any, Final

from shardd.streaming.client.connection import connect
from tests.support.streaming_server import CLUSTER_ID, ORIGINAL, StreamingServer

_HTTP_S: Final = 10.0

SERVERZ: Final = (
    *("cluster_id server_id version go state now start_time uptime clients subscriptions").split(),
    *("channels total_msgs total_bytes in_msgs in_bytes out_msgs out_bytes").split(),
)
SUBSCRIPTION: Final = {
    "client_id": str,
    "inbox": str,
    "ack_inbox": str,
    "durable_name": str,
    "is_durable": bool,
    "is_offline": bool,
    "max_inflight": int,
    "ack_wait": int,
    "last_sent": int,
    "pending_count": int,
    "is_stalled": bool,
}
LIMITS: Final = "max_channels max_msgs max_bytes max_age max_subscriptions max_inactivity".split()
CHANNEL: Final = "name msgs bytes first_seq last_seq subs_count subscriptions".split()


def get(server: StreamingServer, path: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(
            f"{server.monitor_url}/streaming/{path}", timeout=_HTTP_S
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def document(server: StreamingServer, path: str) -> dict[str, Any]:
    """A document that has to be there."""
    status, body = get(server, path)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def without(found: dict[str, Any], *names: str) -> list[str]:
    """The names of the fields, in order, without some that only one kind of server has."""
    return [name for name in found if name not in names]


def test_documents_have_the_originals_fields(streaming_server: StreamingServer) -> None:
    asyncio.run(_look_at_documents(streaming_server))


async def _look_at_documents(streaming_server: StreamingServer) -> None:
    channel = "monitored.one"
    async with await connect(CLUSTER_ID, "watched", servers=streaming_server.url) as client:
        for _ in range(3):
            await client.publish(channel, b"hello")
        await client.subscribe(channel, durable_name="steady", max_in_flight=5)

        server = document(streaming_server, "serverz")
        assert without(server, "open_fds", "max_fds", "role", "node_id") == list(SERVERZ)
        assert server["cluster_id"] == CLUSTER_ID
        assert server["state"] == "STANDALONE"
        assert server["total_msgs"] >= 3

        store = document(streaming_server, "storez")
        assert list(store) == "cluster_id server_id now type limits total_msgs total_bytes".split()
        assert store["type"] == "MEMORY"
        assert without(store["limits"], "channels") == LIMITS

        found = document(streaming_server, f"channelsz?channel={channel}&subs=1")
        assert list(found) == CHANNEL
        assert (found["msgs"], found["first_seq"], found["last_seq"]) == (3, 1, 3)
        (row,) = found["subscriptions"]
        assert without(row, "lag") == list(SUBSCRIPTION)
        assert all(type(row[name]) is kind for name, kind in SUBSCRIPTION.items())
        assert (row["client_id"], row["durable_name"], row["max_inflight"]) == (
            "watched",
            "steady",
            5,
        )
        assert ("lag" in row) == (streaming_server.kind != ORIGINAL)

        found = document(streaming_server, "clientsz?client=watched&subs=1")
        assert list(found) == "id hb_inbox subs_count subscriptions".split()
        assert found["subs_count"] == 1
        assert list(found["subscriptions"]) == [channel]


def test_pages_of_channels_and_clients(streaming_server: StreamingServer) -> None:
    asyncio.run(_turn_pages(streaming_server))


async def _turn_pages(streaming_server: StreamingServer) -> None:
    async with await connect(CLUSTER_ID, "paging", servers=streaming_server.url) as client:
        for number in range(3):
            await client.publish(f"paged.{number}", b"x")
        page = document(streaming_server, "channelsz?limit=2&offset=1")
        assert list(page) == "cluster_id server_id now offset limit count total names".split()
        assert (page["offset"], page["limit"], page["count"]) == (1, 2, 2)
        assert page["names"] == sorted(page["names"])
        assert page["total"] >= 3
        rows = document(streaming_server, "channelsz?subs=1")["channels"]
        assert {f"paged.{number}" for number in range(3)} <= {row["name"] for row in rows}
        clients = document(streaming_server, "clientsz")
        assert "paging" in [row["id"] for row in clients["clients"]]


def test_what_is_not_there_is_said(streaming_server: StreamingServer) -> None:
    assert get(streaming_server, "channelsz?channel=none") == (404, "Channel none not found\n")
    assert get(streaming_server, "clientsz?client=none")[0] == 404
    assert get(streaming_server, "isFTActive") == (204, "")
