"""Subscribing, unsubscribing, closing; durables and queue groups (sheet 5 to 8)."""

import pytest

from shardd.config.streaming import ChannelLimits, StoreLimits, StreamingOptions
from shardd.streaming.messages import StartPosition, SubscriptionRequest, SubscriptionResponse
from tests.support.streaming_worker import Pool

FOO = b"foo"
SUB = b"_STAN.sub.test-cluster"
UNKNOWN_CLIENT = "stan: unknown clientID"
DUPLICATE = "stan: duplicate durable registration"
COLON = "stan: durable name of a durable queue subscriber can't contain the character ':'"


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    for client_id in ("me", "you"):
        pool.connect(client_id)
    return pool


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"client_id": "", "ack_wait_s": 0}, "stan: clientID missing"),
        ({"ack_wait_s": 0, "max_in_flight": 0}, "stan: invalid ack wait time, should be >= 1s"),
        ({"max_in_flight": 0, "start_position": 9}, "stan: invalid MaxInflight, should be >= 1"),
        ({"max_in_flight": -1}, "stan: invalid MaxInflight, should be >= 1"),
        ({"start_position": 5, "channel": b"*"}, "stan: invalid start position"),
        ({"channel": b"foo.*", "client_id": "nobody"}, "stan: invalid subject"),
        ({"channel": b""}, "stan: invalid subject"),
        ({"client_id": "nobody"}, UNKNOWN_CLIENT),
        ({"inbox": b""}, "stan: invalid subscription request"),
        ({"inbox": b"a b"}, "stan: invalid subscription request"),
        ({"durable_name": "a:b", "queue_group": "q"}, COLON),
    ],
)
def test_checks_and_their_order(pool: Pool, fields: dict, error: str) -> None:
    client_id, channel = fields.pop("client_id", "me"), fields.pop("channel", FOO)
    assert pool.subscribe(client_id, channel, **fields).error == error


def test_an_unreadable_request(pool: Pool) -> None:
    answer = pool.request(SUB, b"\xff")
    assert answer is not None
    assert SubscriptionResponse.decode(answer).error == "stan: invalid subscription request"


def test_the_answer_comes_before_the_first_message(pool: Pool) -> None:
    pool.publish_many("me", FOO, 2)
    pool.subscribed("me", FOO)
    request = SubscriptionRequest(
        client_id="me",
        subject=FOO,
        inbox=b"other",
        max_in_flight=5,
        ack_wait_s=1,
        start_position=StartPosition.FIRST,
    )
    pool.inbox.clear()
    pool.send(SUB, request.encode(), b"answer")
    pool.run()
    assert [subject for subject, _, _ in pool.inbox] == [b"answer", b"other", b"other"]


def test_there_may_be_so_many_subscriptions_offline_durables_included() -> None:
    limits = StoreLimits(defaults=ChannelLimits(max_subs=2))
    pool = Pool(StreamingOptions(limits=limits))
    pool.connect("me")
    ack_inbox = pool.subscribed("me", FOO, durable_name="d")
    pool.subscribed("me", FOO)
    error = "too many subscriptions per channel"
    assert pool.subscribe("me", FOO).error == error
    pool.end("me", FOO, ack_inbox)
    assert pool.subscribe("me", FOO).error == error
    assert pool.subscribe("me", FOO, durable_name="d").error == ""


def test_errors_of_unsubscribe_and_close(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO)
    assert pool.end("me", b"bar", ack_inbox) == "stan: unknown channel"
    assert pool.end("me", FOO, b"other") == "stan: invalid subscription"
    assert pool.end("you", FOO, ack_inbox) == UNKNOWN_CLIENT
    for verb in (b"unsub", b"subclose"):
        answer = pool.request(b"_STAN.%b.test-cluster" % verb, b"\xff")
        assert answer is not None
        assert SubscriptionResponse.decode(answer).error == "stan: invalid unsubscribe request"
    answer = pool.request(
        b"_STAN.unsub.test-cluster", b"\x0a\x02me\x12\x03foo\x1a%c%b" % (len(ack_inbox), ack_inbox)
    )
    assert answer == b""
    assert not pool.channel(FOO).subscriptions


def test_the_inbox_of_messages_names_a_subscription_too(pool: Pool) -> None:
    pool.subscribed("me", FOO, b"one")
    pool.subscribed("me", FOO, b"two")
    assert pool.end("me", FOO, b"two") == ""
    pool.publish("me", FOO)
    assert (pool.sequences(b"one"), pool.sequences(b"two")) == ([1], [])


def test_a_durable_goes_on_where_it_was_and_is_sent_again_what_was_in_flight(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO, durable_name="d", max_in_flight=3)
    pool.publish_many("me", FOO, 4)
    assert pool.sequences() == [1, 2, 3]
    pool.ack(ack_inbox, FOO, 2)
    assert pool.sequences() == [4]
    assert pool.end("me", FOO, ack_inbox) == ""
    pool.publish_many("me", FOO, 2)
    second = pool.subscribed(
        "me", FOO, b"again", durable_name="d", start_position=StartPosition.NEW_ONLY
    )
    assert second != ack_inbox
    found = pool.deliveries(b"again")
    assert [(each.sequence, each.redelivered) for each in found] == [
        (1, True),
        (3, True),
        (4, True),
        (5, False),
        (6, False),
    ]
    assert pool.end("me", FOO, ack_inbox) == "stan: invalid subscription"
    assert pool.sequences() == []


def test_a_durable_belongs_to_its_client_and_is_active_once(pool: Pool) -> None:
    pool.subscribed("me", FOO, durable_name="d")
    assert pool.subscribe("me", FOO, durable_name="d").error == DUPLICATE
    assert pool.subscribe("you", FOO, durable_name="d").error == ""
    assert pool.subscribe("me", b"bar", durable_name="d").error == ""


def test_an_unsubscribed_durable_is_forgotten(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO, durable_name="d")
    pool.publish_many("me", FOO, 2)
    assert pool.end("me", FOO, ack_inbox, is_unsubscribe=True) == ""
    assert pool.sequences() == [1, 2]
    pool.subscribed("me", FOO, durable_name="d")
    assert [each.redelivered for each in pool.deliveries()] == [False, False]


def test_replace_durable_takes_over_an_active_one() -> None:
    pool = Pool(StreamingOptions(replace_durable=True))
    pool.connect("me")
    first = pool.subscribed("me", FOO, b"one", durable_name="d")
    pool.publish("me", FOO)
    assert pool.sequences(b"one") == [1]
    pool.subscribed("me", FOO, b"two", durable_name="d")
    assert [each.redelivered for each in pool.deliveries(b"two")] == [True]
    pool.publish("me", FOO)
    assert (pool.sequences(b"one"), pool.sequences(b"two")) == ([], [2])
    assert pool.end("me", FOO, first) == "stan: invalid subscription"


# --- queue groups --------------------------------------------------------------------------------


def test_each_message_goes_to_the_least_busy_member(pool: Pool) -> None:
    one = pool.subscribed("me", FOO, b"one", queue_group="q")
    pool.subscribed("you", FOO, b"two", queue_group="q", start_position=StartPosition.NEW_ONLY)
    pool.publish_many("me", FOO, 4)
    first, second = pool.sequences(b"one"), pool.sequences(b"two")
    assert sorted(first + second) == [1, 2, 3, 4]
    assert len(first) == len(second) == 2
    pool.ack(one, FOO, *first)
    pool.publish_many("me", FOO, 2)
    assert pool.sequences(b"one") == [5, 6]


def test_a_group_stalls_when_all_members_do_and_goes_on_with_an_ack(pool: Pool) -> None:
    acks = {
        inbox: pool.subscribed("me", FOO, inbox, queue_group="q", max_in_flight=1)
        for inbox in (b"one", b"two")
    }
    pool.publish_many("me", FOO, 4)
    one, two = pool.sequences(b"one"), pool.sequences(b"two")
    assert sorted(one + two) == [1, 2]
    pool.ack(acks[b"two"], FOO, *two)
    assert (pool.sequences(b"one"), pool.sequences(b"two")) == ([], [3])


def test_a_leavers_messages_are_dealt_out_and_sent_again_after_a_tenth_of_a_second(
    pool: Pool,
) -> None:
    one = pool.subscribed("me", FOO, b"one", queue_group="q")
    pool.publish_many("me", FOO, 4)
    assert pool.sequences(b"one") == [1, 2, 3, 4]
    pool.subscribed("you", FOO, b"two", queue_group="q")
    pool.subscribed("you", FOO, b"three", queue_group="q")
    pool.end("me", FOO, one)
    pool.advance(84)
    assert pool.sequences(b"two") + pool.sequences(b"three") == []
    pool.advance(16)
    two, three = pool.deliveries(b"two"), pool.deliveries(b"three")
    assert sorted(each.sequence for each in two + three) == [1, 2, 3, 4]
    assert all(each.redelivered and each.count == 1 for each in two + three)
    assert len(two) == len(three) == 2


def test_a_late_ack_reaches_whoever_has_the_message_now(pool: Pool) -> None:
    one = pool.subscribed("me", FOO, b"one", queue_group="q", ack_wait_s=1)
    pool.publish_many("me", FOO, 2)
    two = pool.subscribed("you", FOO, b"two", queue_group="q", ack_wait_s=30)
    pool.advance(1000)
    moved = pool.sequences(b"two")
    assert moved
    pool.ack(one, FOO, *moved)
    group = pool.channel(FOO).groups["q", False]
    holders = {member.inbox: member.in_flight.count for member in group.members}
    assert holders[b"two"] == 0
    pool.ack(two, FOO, 1, 2)
    assert pool.channel(FOO).groups["q", False].members[0].in_flight.count == 0


def test_a_member_whose_client_does_not_answer_gets_nothing_while_others_do(pool: Pool) -> None:
    pool.subscribed("me", FOO, b"one", queue_group="q")
    pool.subscribed("you", FOO, b"two", queue_group="q")
    pool.gone.add(b"hb.me")
    pool.advance(30_000)
    pool.publish_many("you", FOO, 3)
    assert (pool.sequences(b"one"), pool.sequences(b"two")) == ([], [1, 2, 3])


def test_a_group_without_members_is_gone_unless_it_is_durable(pool: Pool) -> None:
    plain = pool.subscribed("me", FOO, b"one", queue_group="q")
    durable = pool.subscribed("me", FOO, b"two", queue_group="q", durable_name="d")
    pool.publish_many("me", FOO, 2)
    assert (pool.sequences(b"one"), pool.sequences(b"two")) == ([1, 2], [1, 2])
    pool.ack(durable, FOO, 1)
    pool.end("me", FOO, plain)
    pool.close("me")
    pool.publish("you", FOO)
    (remains,) = pool.channel(FOO).subscriptions.values()
    assert remains.client_id == ""
    pool.subscribed("you", FOO, b"one", queue_group="q", start_position=StartPosition.NEW_ONLY)
    pool.subscribed("you", FOO, b"two", queue_group="q", durable_name="d")
    found = [(each.sequence, each.redelivered) for each in pool.deliveries(b"two")]
    assert found == [(2, True), (3, False)]
    assert pool.sequences(b"one") == []


def test_the_last_member_deletes_a_durable_group_by_unsubscribing(pool: Pool) -> None:
    one = pool.subscribed("me", FOO, b"one", queue_group="q", durable_name="d")
    two = pool.subscribed("you", FOO, b"two", queue_group="q", durable_name="d")
    pool.publish_many("me", FOO, 2)
    pool.end("me", FOO, one, is_unsubscribe=True)
    assert ("d:q", True) in pool.channel(FOO).groups
    pool.end("you", FOO, two, is_unsubscribe=True)
    assert not pool.channel(FOO).groups
    assert not pool.keeps[0].subscriptions[FOO]


def test_a_plain_group_and_a_durable_one_with_the_same_key_are_two(pool: Pool) -> None:
    pool.subscribed("me", FOO, b"one", queue_group="d:q")
    pool.subscribed("me", FOO, b"two", queue_group="q", durable_name="d")
    pool.publish("me", FOO)
    assert (pool.sequences(b"one"), pool.sequences(b"two")) == ([1], [1])


def test_a_group_may_have_a_limit_as_a_whole() -> None:
    pool = Pool(StreamingOptions(group_in_flight_max=1))
    pool.connect("me")
    acks = {inbox: pool.subscribed("me", FOO, inbox, queue_group="q") for inbox in (b"one", b"two")}
    pool.publish_many("me", FOO, 3)
    order = []
    for _ in range(3):
        (inbox,) = [inbox for inbox in acks if any(each[0] == inbox for each in pool.inbox)]
        (sequence,) = pool.sequences(inbox)
        order.append(sequence)
        pool.ack(acks[inbox], FOO, sequence)
    assert order == [1, 2, 3]
