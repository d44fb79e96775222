"""A streaming client that knows messages only: it sends what it is told and shows what comes back.

One NATS connection, no thread: what arrives is sorted by NATS subscription while somebody waits
for one of them. Names are unique to each client, so that tests can share a server.
"""

import itertools
from collections import deque
from typing import Any, Final, Self
from uuid import uuid4

from shardd.streaming import messages as pb
from shardd.streaming.messages import StartPosition
from tests.support.streaming_server import CLUSTER_ID, StreamingServer
from tests.support.wireclient import WireClient

DISCOVER: Final = f"_STAN.discover.{CLUSTER_ID}".encode()
PINGS: Final = DISCOVER + b".pings"
PUB: Final = f"_STAN.pub.{CLUSTER_ID}.".encode()
SUB: Final = f"_STAN.sub.{CLUSTER_ID}".encode()
UNSUB: Final = f"_STAN.unsub.{CLUSTER_ID}".encode()
SUB_CLOSE: Final = f"_STAN.subclose.{CLUSTER_ID}".encode()
CLOSE: Final = f"_STAN.close.{CLUSTER_ID}".encode()

# Bytes that are no protobuf message: a field that is longer than what follows.
UNPARSABLE: Final = b"\x0a\x7fshort"


class Arrived:
    """One NATS message."""

    def __init__(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self.subject = subject
        self.reply = reply
        self.payload = payload
        self.is_nobody = headers.startswith(b"NATS/1.0 503")


class Inbox:
    """A NATS subscription of one client, and what has come to it."""

    def __init__(self, wire: "StreamingWire", subject: bytes, sid: bytes) -> None:
        self.subject = subject
        self.sid = sid
        self.arrived: deque[Arrived] = deque()
        self._wire = wire

    def next(self) -> Arrived:
        """The next message; waits for it."""
        while not self.arrived:
            self._wire.receive()
        return self.arrived.popleft()

    def take(self, count: int) -> list[pb.MsgProto]:
        """The next so many messages of a channel."""
        return [pb.MsgProto.decode(self.next().payload) for _ in range(count)]

    def sequences(self, count: int) -> list[int]:
        """Their sequences."""
        return [message.sequence for message in self.take(count)]

    def rest(self) -> list[str]:
        """What has come and nobody took, as `show` has it."""
        shown = [show(pb.MsgProto.decode(each.payload)) for each in self.arrived]
        self.arrived.clear()
        return shown


def show(message: pb.MsgProto) -> str:
    """The sequence and, of a redelivery, its count."""
    again = f" again {message.redelivery_count}" if message.redelivered else ""
    return f"{message.sequence}{again}"


class Subscription:
    """A subscription to a channel that the server has accepted."""

    def __init__(self, wire: "StreamingWire", channel: bytes, inbox: Inbox, ack: bytes) -> None:
        self.channel = channel
        self.inbox = inbox
        self.ack_inbox = ack
        self._wire = wire

    def shown(self, count: int) -> list[str]:
        """The next so many messages as text."""
        return [show(message) for message in self.inbox.take(count)]

    def ack(self, *sequences: int) -> None:
        """Acknowledge, without waiting."""
        for sequence in sequences:
            payload = pb.Ack(subject=self.channel, sequence=sequence).encode()
            self._wire.client.publish(self.ack_inbox, payload)

    def end(self, subject: bytes) -> str:
        """Unsubscribe or close, by the request's subject; returns the error."""
        return self._wire.unsubscribe(subject, self.channel, self.ack_inbox)

    def settled(self) -> list[str]:
        """All that has come once the server has handled what was sent to it before."""
        self._wire.settle(self.channel)
        return self.inbox.rest()


class StreamingWire:
    """One NATS connection, and at most one streaming client on it."""

    def __init__(self, server: StreamingServer) -> None:
        self.name = uuid4().hex[:10]
        self.client_id = self.name
        self.conn_id = b""
        self.answers_heartbeats = True
        self.client = WireClient(server.host, server.port)
        self.client.connect(headers=True, no_responders=True, verbose=False)
        self._numbers = itertools.count(1)
        self._inboxes: dict[bytes, Inbox] = {}
        self.heartbeats = self.open_inbox()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.client.finish()

    def channel(self, name: str = "x") -> bytes:
        """A channel of this client's own."""
        return f"{self.name}.{name}".encode()

    # --- NATS ---------------------------------------------------------------------------------

    def open_inbox(self) -> Inbox:
        """A new inbox, which the server knows of."""
        sid = b"%d" % next(self._numbers)
        inbox = Inbox(self, b"_INBOX.%s.%s" % (self.name.encode(), sid), sid)
        self._inboxes[sid] = inbox
        self.client.send(b"SUB ", inbox.subject, b" ", sid, b"\r\n")
        return inbox

    def close_inbox(self, inbox: Inbox) -> None:
        """Nobody listens there any more."""
        self.client.send(b"UNSUB ", inbox.sid, b"\r\n")
        self.flush()

    def receive(self, *, until_pong: bool = False) -> None:
        """Read one message, or all up to the PONG."""
        while True:
            line = self.client.expect_line()
            if line == b"PONG\r\n":
                if until_pong:
                    return
                continue
            self._take(line)
            if not until_pong:
                return

    def _take(self, line: bytes) -> None:
        verb, subject, sid, *rest = line.split()
        sizes = 2 if verb == b"HMSG" else 1
        reply = rest[0] if len(rest) > sizes else b""
        assert verb in (b"MSG", b"HMSG"), line
        body = self.client.read(int(rest[-1]) + 2)[:-2]
        header_bytes = int(rest[-2]) if sizes == 2 else 0
        arrived = Arrived(subject, reply, body[:header_bytes], body[header_bytes:])
        inbox = self._inboxes[sid]
        if inbox is self.heartbeats and self.answers_heartbeats:
            self.client.publish(arrived.reply, b"")
        else:
            inbox.arrived.append(arrived)

    def flush(self) -> None:
        """All that NATS had for this connection has been read."""
        self.client.send(b"PING\r\n")
        self.receive(until_pong=True)

    def request(self, subject: bytes, payload: bytes) -> bytes:
        """The answer to a request; fails when nobody is there."""
        inbox = self.open_inbox()
        self.client.publish(subject, payload, inbox.subject)
        answer = inbox.next()
        assert not answer.is_nobody, f"nobody listens on {subject!r}"
        self.client.send(b"UNSUB ", inbox.sid, b"\r\n")
        return answer.payload

    # --- NATS Streaming -----------------------------------------------------------------------

    def connect_request(self, **fields: Any) -> bytes:
        """A good request with some fields changed."""
        mine = {"client_id": self.client_id, "heartbeat_inbox": self.heartbeats.subject}
        return pb.ConnectRequest(**(mine | fields)).encode()

    def try_connect(self, **fields: Any) -> pb.ConnectResponse:
        """Ask for a connection."""
        answer = self.request(DISCOVER, self.connect_request(**fields))
        return pb.ConnectResponse.decode(answer)

    def connect(self, client_id: str = "", *, conn_id: bytes = b"") -> Self:
        """Connect as a present-day client."""
        self.client_id = client_id or self.client_id
        self.conn_id = conn_id or uuid4().hex.encode()
        answer = self.try_connect(protocol=1, conn_id=self.conn_id)
        assert answer.error == "", answer
        return self

    def pub_message(self, channel: bytes, data: bytes = b"", **fields: Any) -> bytes:
        """A good PubMsg with some fields changed."""
        mine = {"client_id": self.client_id, "guid": b"guid", "conn_id": self.conn_id}
        return pb.PubMsg(**(mine | {"subject": channel, "data": data} | fields)).encode()

    def try_publish(self, channel: bytes, data: bytes = b"", **fields: Any) -> pb.PubAck:
        """Publish, on a NATS subject of no importance, and return the acknowledgement."""
        payload = self.pub_message(channel, data, **fields)
        return pb.PubAck.decode(self.request(PUB + subject_of(channel), payload))

    def publish(self, channel: bytes, *bodies: bytes, **fields: Any) -> None:
        """Publish one after the other; all must be stored."""
        for body in bodies:
            answer = self.try_publish(channel, body, **fields)
            assert answer == pb.PubAck(guid=b"guid"), answer

    def fill(self, channel: bytes, count: int) -> None:
        """Publish so many messages, all under way at once."""
        acks = self.open_inbox()
        for number in range(count):
            payload = self.pub_message(channel, b"%d" % number)
            self.client.publish(PUB + subject_of(channel), payload, acks.subject)
        for _ in range(count):
            answer = pb.PubAck.decode(acks.next().payload)
            assert answer == pb.PubAck(guid=b"guid"), answer

    def sub_request(self, channel: bytes, inbox: bytes, **fields: Any) -> bytes:
        """A good SubscriptionRequest with some fields changed."""
        mine: dict[str, Any] = {"client_id": self.client_id, "subject": channel, "inbox": inbox}
        mine |= {"max_in_flight": 1000, "ack_wait_s": 60, "start_position": StartPosition.FIRST}
        return pb.SubscriptionRequest(**(mine | fields)).encode()

    def try_subscribe(self, channel: bytes, **fields: Any) -> pb.SubscriptionResponse:
        """Ask for a subscription; returns the answer."""
        payload = self.sub_request(channel, b"_INBOX.nowhere", **fields)
        return pb.SubscriptionResponse.decode(self.request(SUB, payload))

    def subscribe(self, channel: bytes, **fields: Any) -> Subscription:
        """Subscribe from the first message on, unless told otherwise."""
        inbox = self.open_inbox()
        answer = self.request(SUB, self.sub_request(channel, inbox.subject, **fields))
        decoded = pb.SubscriptionResponse.decode(answer)
        assert decoded.error == "", decoded
        return Subscription(self, channel, inbox, decoded.ack_inbox)

    def unsubscribe(self, subject: bytes, channel: bytes, inbox: bytes, **fields: Any) -> str:
        """Ask for the end of a subscription; returns the error."""
        mine = {"client_id": self.client_id, "subject": channel, "inbox": inbox}
        answer = self.request(subject, pb.UnsubscribeRequest(**(mine | fields)).encode())
        error = pb.SubscriptionResponse.decode(answer).error
        assert error or answer == b"", answer
        return error

    def close(self, client_id: str = "") -> str:
        """Close this client, or another one; returns the error."""
        payload = pb.CloseRequest(client_id=client_id or self.client_id).encode()
        answer = self.request(CLOSE, payload)
        error = pb.CloseResponse.decode(answer).error
        assert error or answer == b"", answer
        return error

    def ping(self, conn_id: bytes = b"") -> str:
        """Ask whether a connection is known; returns the error."""
        answer = self.request(PINGS, pb.Ping(conn_id=conn_id or self.conn_id).encode())
        error = pb.PingResponse.decode(answer).error
        assert error or answer == b"", answer
        return error

    def settle(self, channel: bytes) -> None:
        """The server has handled every publish and every ack that this client sent for a channel
        that holds something, and what follows from them has been read."""
        last = self.subscribe(channel, start_position=StartPosition.LAST_RECEIVED)
        last.inbox.take(1)
        assert last.end(UNSUB) == ""
        self.flush()


def subject_of(channel: bytes) -> bytes:
    """A NATS subject for a channel whose name may be none."""
    odd = any(byte <= 0x20 or byte == 0x7F for byte in channel) or not channel
    empty_token = b"" in channel.split(b".")
    return b"odd" if odd or empty_token else channel
