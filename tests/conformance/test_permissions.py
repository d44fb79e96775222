"""What users may publish and subscribe to, row by row, with the exact words of refusal."""

import pytest

from tests.support.fixtures import Dial, Serve
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

USERS = """
authorization {
  default_permissions { publish: "public.>" }
  users: [
    {user: list, password: x, permissions: { publish: ["a.*", "b.>"], subscribe: "in.>" }}
    {user: deny, password: x, permissions: {
       publish: {allow: "a.>", deny: ["a.secret", "a.x.>"]}
       subscribe: {allow: "foo.>", deny: ["foo.bar", "foo.deep.>"]} }}
    {user: queues, password: x, permissions: {
       subscribe: {allow: ["free", "only v1", "star v1.>", "mixed", "mixed vv"],
                   deny: ["free bad"]} }}
    {user: groups, password: x, permissions: {
       subscribe: {deny: ["foo.bar q", "foo.*.x team.>", "foo.none"]} }}
    {user: member, password: x, permissions: { subscribe: {deny: "foo.bar q"} }}
    {user: patterns, password: x, permissions: {
       subscribe: {deny: ["all >", "one *", "two *.*", "below q.>", "under q.*", "last *.r"]} }}
    {user: none, password: x, permissions: { publish: {deny: ">"}, subscribe: {deny: ">"} }}
    {user: empty, password: x, permissions: { publish: [], subscribe: "x" }}
    {user: wild, password: x, permissions: { subscribe: "bar.*" }}
    {user: reply, password: x, permissions: { subscribe: "svc", allow_responses: true }}
    {user: replies, password: x, permissions: {
       subscribe: "svc", publish: "log", allow_responses: {max: 2, expires: "1m"} }}
    {user: brief, password: x, permissions: {
       subscribe: "svc", allow_responses: {max: -1, expires: "10us"} }}
    {user: default, password: x}
    {user: free, password: x, permissions: { subscribe: ">" }}
  ]
}
"""


@pytest.fixture
def enter(serve: Serve, dial: Dial):
    """`enter(user)`: one more connection of this user."""
    server = serve(USERS)
    return lambda user: dial(server).connect(user=user, headers=True, **{"pass": "x"})


def publish_violation(subject: bytes) -> bytes:
    return b'Permissions Violation for Publish to "%b"' % subject


def subscribe_violation(subject: bytes, queue: bytes = b"") -> bytes:
    text = b'Permissions Violation for Subscription to "%b"' % subject
    return text + (b' using queue "%b"' % queue if queue else b"")


def test_what_may_be_published(enter) -> None:
    for user, allowed, refused in (
        ("list", [b"a.b", b"b.c.d"], [b"a", b"a.b.c", b"c", b"b"]),
        ("deny", [b"a.b", b"a.x"], [b"a.secret", b"a.x.y", b"other"]),
        ("none", [], [b"a", b"a.b"]),
        ("empty", [b"anything"], []),
        ("default", [b"public.x"], [b"private"]),
        ("free", [b"private"], []),
    ):
        client = enter(user)
        for subject in allowed:
            client.publish(subject, b"x")
            client.expect_silence()
        for subject in refused:
            client.publish(subject, b"x")
            client.expect_error(publish_violation(subject))


def test_what_may_be_subscribed_to(enter) -> None:
    for user, allowed, refused in (
        ("list", [b"in.a", b"in.>"], [b"in", b"a.b", b">", b"*.a"]),
        ("deny", [b"foo.a", b"foo.*", b"foo.>"], [b"foo.bar", b"foo.deep.a", b"foo.deep.>", b">"]),
        ("none", [], [b"a", b">"]),
        ("wild", [b"bar.a", b"bar.*", b"bar.>"], [b"bar", b"bar.a.b", b">"]),
    ):
        client = enter(user)
        for number, subject in enumerate(allowed):
            client.send(b"SUB %b %d\r\n" % (subject, number))
            client.expect_silence()
        for subject in refused:
            client.send(b"SUB %b 99\r\n" % subject)
            client.expect_error(subscribe_violation(subject))


def test_which_groups_may_subscribe(enter) -> None:
    client = enter("queues")
    for number, (subject, queue, is_allowed) in enumerate(
        [
            (b"free", b"", True),
            (b"free", b"any", True),
            (b"free", b"bad", False),
            (b"only", b"", False),
            (b"only", b"v1", True),
            (b"only", b"v2", False),
            (b"star", b"v1.a", True),
            (b"star", b"v1", False),
            (b"star", b"v2.a", False),
            (b"mixed", b"", True),
            (b"mixed", b"vv", True),
            (b"mixed", b"other", False),
        ]
    ):
        client.send(b"SUB %b %b %d\r\n" % (subject, queue, number))
        if is_allowed:
            client.expect_silence()
        else:
            client.expect_error(subscribe_violation(subject, queue))


def test_which_groups_a_queue_pattern_takes_in(enter) -> None:
    client = enter("patterns")
    for subject, denied, allowed in (
        (b"all", [b"a", b"a.b", b"a..b", b".", b">", b"*", b">.a"], []),
        (b"one", [b"a", b"*", b"a*"], [b">", b"a.b", b"a.", b"."]),
        (b"two", [b"a.b", b"*.*"], [b"a", b"a.", b".b", b"a.>", b">.b", b"a.b.c"]),
        (b"below", [b"q.r", b"q.", b"q..r", b"q.>", b"q.*", b"q.r.s"], [b"q", b"qq.r", b"*.r"]),
        (b"under", [b"q.r", b"q.*"], [b"q", b"q.", b"q.>", b"q..", b"q.r.s", b"*.r"]),
        (b"last", [b"q.r", b"*.r"], [b".r", b">.r", b"r", b"q.*", b"q.>"]),
    ):
        for queue in denied:
            client.send(b"SUB %b %b 1\r\n" % (subject, queue))
            client.expect_error(subscribe_violation(subject, queue))
        for queue in [b"", *allowed]:
            client.send(b"SUB %b %b 1\r\n" % (subject, queue))
            client.expect_silence()


def received(client: WireClient, count: int) -> list[tuple[bytes, bytes]]:
    """Subjects and sids of so many messages without payload, in order, and of no more."""
    found = []
    for _ in range(count):
        _, subject, sid, _ = client.expect_line().split()
        client.expect(b"\r\n")
        found.append((subject, sid))
    client.expect_silence()
    return sorted(found)


def test_what_is_denied_to_a_group_is_left_out_for_that_group_only(enter) -> None:
    subscriber, publisher = enter("groups"), enter("free")
    for sid, queue in ((b"1", b""), (b"2", b"q"), (b"3", b"team.a"), (b"4", b"team"), (b"5", b">")):
        subscriber.subscribe(b"foo.>", sid, queue)
    for subject, sids in (
        (b"foo.bar", [b"1", b"3", b"4", b"5"]),
        (b"foo.bar.x", [b"1", b"2", b"4", b"5"]),
        (b"foo.other", [b"1", b"2", b"3", b"4", b"5"]),
        (b"foo.none", []),
        (b"foo.bar", [b"1", b"3", b"4", b"5"]),
    ):
        publisher.publish(subject, b"")
        publisher.ping()
        assert received(subscriber, len(sids)) == [(subject, sid) for sid in sids]


def test_another_member_gets_what_is_denied_to_one(enter) -> None:
    denied, allowed = [enter("member") for _ in range(5)], enter("free")
    publisher = enter("free")
    for client in (*denied, allowed):
        client.subscribe(b"foo.*", b"1", b"q")
    for _ in range(40):
        publisher.publish(b"foo.bar", b"")
    publisher.ping()
    assert received(allowed, 40) == [(b"foo.bar", b"1")] * 40
    for client in denied:
        client.expect_silence()


def test_what_is_denied_is_left_out_of_a_wider_subscription(enter) -> None:
    subscriber, publisher = enter("deny"), enter("free")
    subscriber.subscribe(b"foo.>", b"1")
    for subject in (b"foo.bar", b"foo.deep.a", b"foo.ok"):
        publisher.publish(subject, b"x")
    subscriber.expect_msg(b"foo.ok", b"1", b"x")


def test_who_is_asked_may_answer(enter) -> None:
    for user, answers in (("reply", 1), ("replies", 2)):
        responder, requester = enter(user), enter("free")
        responder.subscribe(b"svc", b"1")
        requester.subscribe(b"inbox.>", b"1")
        responder.publish(b"inbox.1", b"x")
        responder.expect_error(publish_violation(b"inbox.1"))
        requester.publish(b"svc", b"?", reply=b"inbox.1")
        responder.expect_msg(b"svc", b"1", b"?", reply=b"inbox.1")
        for _ in range(answers):
            responder.publish(b"inbox.1", b"!")
            requester.expect_msg(b"inbox.1", b"1", b"!")
        responder.publish(b"inbox.1", b"!")
        responder.expect_error(publish_violation(b"inbox.1"))
        responder.finish()


def test_answers_do_not_take_away_what_is_allowed(enter) -> None:
    client = enter("replies")
    client.publish(b"log", b"x")
    client.expect_silence()


def test_a_refused_publish_is_not_acknowledged(enter) -> None:
    client = enter("list")
    client.send(b'CONNECT {"user":"list","pass":"x","verbose":true}\r\nPUB c 1\r\nx\r\nPING\r\n')
    client.expect(b"+OK\r\n-ERR '", publish_violation(b"c"), b"'\r\nPONG\r\n")


def test_a_pedantic_publisher_hears_first_that_the_subject_is_invalid(enter) -> None:
    invalid = b"-ERR 'Invalid Publish Subject'\r\n"
    for user, subject, is_refused in (
        ("list", b"c..d", True),
        ("list", b"c.*", True),
        ("list", b"_R_..x", True),
        ("list", b"a.*", False),
        ("deny", b"a.x.>", True),
        ("free", b"c..d", False),
        ("free", b"_GR_..x", True),
    ):
        client = enter(user)
        client.send(
            b'CONNECT {"user":"%b","pass":"x","verbose":true,"pedantic":true}\r\n' % user.encode(),
            b"PUB %b 1\r\nx\r\nPING\r\n" % subject,
        )
        answer = b"-ERR '%b'\r\n" % publish_violation(subject) if is_refused else b"+OK\r\n"
        client.expect(b"+OK\r\n", invalid, answer, b"PONG\r\n")


def test_a_right_to_answer_that_ends_at_once_is_not_one_for_ever(enter) -> None:
    responder, requester = enter("brief"), enter("free")
    responder.subscribe(b"svc", b"1")
    requester.publish(b"svc", b"?", reply=b"inbox.1")
    responder.expect_msg(b"svc", b"1", b"?", reply=b"inbox.1")

    def is_refused() -> bool:
        responder.publish(b"inbox.1", b"!")
        responder.send(b"PING\r\n")
        return publish_violation(b"inbox.1") in responder.read_until(b"PONG\r\n")

    wait_until(is_refused, "the end of the right to answer")


def test_a_subscription_that_may_not_be_is_refused_for_that_before_anything_else(
    serve: Serve, dial: Dial
) -> None:
    server = serve(
        """max_subscriptions: 1
        max_subscription_tokens: 2
        authorization { users: [
          {user: a, password: x, permissions: {subscribe: ["a.>", "b"]}}
        ] }"""
    )
    client = dial(server).connect(user="a", **{"pass": "x"})
    client.subscribe(b"b", b"1")
    for subject, queue in ((b"c", b""), (b"a..b", b""), (b"c.d.e", b""), (b"a.x", b"_sys_")):
        client.send(b"SUB %b %b 2\r\n" % (subject, queue))
        client.expect_error(subscribe_violation(subject, queue))
    client.send(b"SUB a.b.c 2\r\n")
    client.expect_error(subscribe_violation(b"a.b.c") + b", too many tokens")
    client.send(b"SUB a.b 2\r\n")
    client.expect_error(b"maximum subscriptions exceeded")


def test_a_limit_is_told_before_a_subject_that_is_none(serve: Serve, dial: Dial) -> None:
    server = serve("max_subscriptions: 1\n")
    client = dial(server).connect()
    client.send(b"SUB a..b 1\r\n")
    client.expect_error(b"Invalid Subject")
    client.subscribe(b"b", b"1")
    client.send(b"SUB a..b 2\r\n")
    client.expect_error(b"maximum subscriptions exceeded")
