"""Fuzzing the streaming server with what clients may send: protobuf that is none, requests in any
order, acks for anything. Both protobuf parsers agree, nobody is answered twice, and the server
serves the next client as if nothing had been.

An input is a row of messages: a letter that says where it goes, a byte with the length, the
payload. How to run it stands in `runner.py`; the unit tests replay the corpus.
"""

import random
from typing import Final

from shardd.config.streaming import ChannelLimits, StoreLimits, StreamingOptions
from shardd.streaming import messages, pb
from shardd.streaming.messages import PubAck
from tests.fuzz import runner
from tests.support.streaming_worker import Pool

CORPUS: Final = runner.CORPORA / "streaming"
INPUT_BYTES_MAX: Final = 600

SUBJECTS: Final = {
    b"c": b"_STAN.discover.test-cluster",
    b"i": b"_STAN.discover.test-cluster.pings",
    b"s": b"_STAN.sub.test-cluster",
    b"u": b"_STAN.unsub.test-cluster",
    b"x": b"_STAN.subclose.test-cluster",
    b"e": b"_STAN.close.test-cluster",
    b"p": b"_STAN.pub.test-cluster.foo",
    b"q": b"_STAN.pub.test-cluster.bar",
    b"j": b"_STAN.admin.test-cluster",
}
# An ack goes to the inbox of the subscription with this number; time passes in tenths of a second.
ACK: Final = b"a"
TIME: Final = b"t"
RESTART: Final = b"r"

PIECES: Final = (
    *(b"\x0a\x02me", b"\x12\x05hb.me", b"\x22\x01k", b"\x18\x01", b"\x12\x03foo", b"\x1a\x03foo"),
    *(b"\x12\x01g", b"\x32\x01k", b"\x22\x05inbox", b"\x28\x01", b"\x30\x01", b"\x3a\x01d"),
    *(b"\x1a\x01q", b"\x50\x04", b"\x50\x03\x58\x02", b"\x10\x01", b"\x10\x02", b"\xff" * 9),
    *(b"\x00", b"\x7b", b"\x7c", b"t\x00", b"t\xff", b"r\x00", b"a\x07\x0a\x03foo\x10\x01"),
    *(b'{"op": "purge", "channel": "foo"}', b"\x80\x80", b"\x0a\xff\xff\xff\xff\x0f"),
)

OPTIONS: Final = StreamingOptions(
    admin=True,
    redeliveries_max=2,
    dead_letter_channel="dead",
    heartbeat_interval_s=5,
    heartbeat_timeout_s=1,
    heartbeat_fail_count=1,
    limits=StoreLimits(
        max_channels=4, defaults=ChannelLimits(max_subs=3, max_msgs=5, max_inactivity_s=60)
    ),
)


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """The messages of an input; what is left over at its end is the last one's payload."""
    found = []
    position = 0
    while position + 1 < len(data):
        length = data[position + 1]
        found.append((data[position : position + 1], data[position + 2 : position + 2 + length]))
        position += 2 + length
    return found


def check(data: bytes) -> bool:
    """Whether any request was served; raises AssertionError for what must not be."""
    pool = Pool(OPTIONS)
    served = False
    for kind, payload in split(data[:INPUT_BYTES_MAX]):
        check_parsers(payload)
        if kind in SUBJECTS:
            served |= bool(check_answer(kind, pool.request(SUBJECTS[kind], payload)))
        elif kind == ACK:
            for subscriptions in pool.worker().server.core.receiver.subscriptions:
                for each in list(subscriptions.values()):
                    pool.send(each.ack_inbox, payload)
            pool.run()
        elif kind == TIME:
            pool.advance(sum(payload[:4]) * 100 + 100)
        elif kind == RESTART:
            pool.crash()
        check_state(pool)
        pool.inbox.clear()
    check_next_client(pool)
    return served


def check_parsers(payload: bytes) -> None:
    """The hot parser takes what the cold one takes, and finds the same."""
    for hot, cold, names in (
        (pb.decode_pub_msg, messages.PubMsg, ("guid", "subject", "reply", "data", "conn_id")),
        (pb.decode_ack, messages.Ack, ("subject", "sequence")),
    ):
        found: tuple[object, ...] | None
        try:
            found = hot(payload)
        except ValueError:
            found = None
        try:
            message = cold.decode(payload)
        except UnicodeDecodeError:
            continue  # what nobody keeps need not be text
        except ValueError:
            assert found is None, f"{payload!r}: only one parser takes it"
            continue
        assert found is not None, f"{payload!r}: only one parser takes it"
        expected = tuple(getattr(message, name) for name in names)
        assert found[-len(names) :] == expected, f"{payload!r}: {found}, not {expected}"


def check_answer(kind: bytes, answer: bytes | None) -> bool:
    """An answer is one of its kind; whether it is a good one. There is at most one: the harness
    asserts that."""
    if answer is None or kind in {b"i", b"j"}:
        return False
    response: messages.ConnectResponse | messages.CloseResponse | PubAck
    if kind == b"c":
        response = messages.ConnectResponse.decode(answer)
    elif kind == b"e":
        response = messages.CloseResponse.decode(answer)
    elif kind in {b"p", b"q"}:
        response = PubAck.decode(answer)
    else:
        return not messages.SubscriptionResponse.decode(answer).error
    return not response.error


def check_state(pool: Pool) -> None:
    """Limits hold, and nobody is beyond the end of a log."""
    core = pool.worker().server.core
    assert len(core.channels) <= OPTIONS.limits.max_channels
    for channel in core.channels.values():
        assert len(channel.subscriptions) <= 3
        assert channel.log.messages <= 5
        assert channel.log.last == channel.log.appended, "something waits for no commit"
        for subscription in channel.subscriptions.values():
            assert subscription.last_sent <= channel.log.last
            assert all(each <= channel.log.last for each in subscription.in_flight.sequences())


def check_next_client(pool: Pool) -> None:
    """Whoever comes next is served."""
    assert pool.connect("next").error == ""
    core = pool.worker().server.core
    name = next(iter(core.channels), b"fresh")
    assert pool.publish("next", name).error == ""
    assert pool.close("next").error == ""


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """One seed, changed here and there."""
    return runner.mutate(seeds, PIECES, INPUT_BYTES_MAX, rng)


TARGET: Final = runner.Target("fuzz the streaming server's requests", CORPUS, check, mutate)

if __name__ == "__main__":
    TARGET.main()
