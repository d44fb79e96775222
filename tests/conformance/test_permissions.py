"""What users may publish and subscribe to, row by row, with the exact words of refusal."""

import pytest

from tests.support.fixtures import Dial, Serve

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
    {user: none, password: x, permissions: { publish: {deny: ">"}, subscribe: {deny: ">"} }}
    {user: empty, password: x, permissions: { publish: [], subscribe: "x" }}
    {user: wild, password: x, permissions: { subscribe: "bar.*" }}
    {user: reply, password: x, permissions: { subscribe: "svc", allow_responses: true }}
    {user: replies, password: x, permissions: {
       subscribe: "svc", publish: "log", allow_responses: {max: 2, expires: "1m"} }}
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
