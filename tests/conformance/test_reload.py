"""A running server reads its configuration anew: what changes at once, and what refuses it all."""

import os
import re
import signal

import bcrypt
import pytest

from tests.support.broker import Broker, make_broker
from tests.support.fixtures import Dial, Serve
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

USERS = """
max_payload: 1000
authorization { users: [
  {user: stays, password: x}
  {user: goes, password: x}
  {user: changes, password: x}
  {user: shrinks, password: x}
] }
"""


def join(dial: Dial, server: Broker, user: str) -> WireClient:
    return dial(server).connect(user=user, **{"pass": "x"})


def test_each_client_is_asked_anew(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    clients = {name: join(dial, server, name) for name in ("stays", "goes", "changes", "shrinks")}
    for client in clients.values():
        client.subscribe(b"foo.bar", b"1")
        client.subscribe(b"ok", b"2")
        client.subscribe(b"foo.*", b"3", b"group")
    text = USERS.replace("{user: goes, password: x}", "")
    text = text.replace("{user: changes, password: x}", "{user: changes, password: y}")
    text = text.replace(
        "{user: shrinks, password: x}",
        '{user: shrinks, password: x, permissions: {subscribe: {deny: ["foo.bar", "foo.*"]}}}',
    )
    assert "Reloaded server configuration" in server.reload(text)
    clients["goes"].expect_closed()
    clients["changes"].expect_fatal(b"Authorization Violation")
    violation = b'Permissions Violation for Subscription to "%b"%b (sid "%b")'
    lines = {clients["shrinks"].expect_line() for _ in range(2)}
    assert lines == {
        b"-ERR '%b'\r\n" % (violation % (b"foo.bar", b"", b"1")),
        b"-ERR '%b'\r\n" % (violation % (b"foo.*", b' using queue "group"', b"3")),
    }
    clients["stays"].expect_silence()
    clients["stays"].publish(b"ok", b"x")
    clients["stays"].expect_msg(b"ok", b"2", b"x")
    clients["shrinks"].expect_msg(b"ok", b"2", b"x")


def test_what_a_reload_denies_to_a_group_is_left_out_of_its_wider_subscription(
    serve: Serve, dial: Dial
) -> None:
    server = serve(USERS)
    member, other = join(dial, server, "shrinks"), join(dial, server, "stays")
    for client in (member, other):
        client.subscribe(b"foo.*", b"1", b"group")
    server.reload(
        USERS.replace(
            "{user: shrinks, password: x}",
            '{user: shrinks, password: x, permissions: {subscribe: {deny: "foo.bar group"}}}',
        )
    )
    for _ in range(20):
        other.publish(b"foo.bar", b"x")
    for _ in range(20):
        other.expect_msg(b"foo.bar", b"1", b"x")
    member.expect_silence()


def test_limits_change_for_those_who_are_in(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    client = join(dial, server, "stays")
    server.reload(USERS.replace("max_payload: 1000", "max_payload: 10"))
    client.send(b"PUB a 11\r\n")
    client.expect_fatal(b"Maximum Payload Violation")
    assert dial(server).info["max_payload"] == 10


def test_a_lower_limit_of_connections_closes_the_rest(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    clients = [join(dial, server, "stays") for _ in range(6)]
    server.reload(f"{USERS}\nmax_connections: 4\n")
    ends = 0
    for client in clients:
        client.socket.setblocking(False)

    def count() -> bool:
        nonlocal ends
        for client in list(clients):
            try:
                data = client.socket.recv(4096)
            except BlockingIOError:
                continue
            assert data.replace(b"PING\r\n", b"") in (
                b"-ERR 'maximum connections exceeded'\r\n",
                b"",
            )
            if b"-ERR" in data:
                clients.remove(client)
                ends += 1
        return ends >= 2

    wait_until(count, "two connections to be closed")
    for client in clients:
        client.socket.settimeout(10)
        client.ping()
    assert ends == 2


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("max_subscriptions: 9", "MaxSubs"),
        ("server_name: other", "ServerName"),
        ("max_pending: 2mb", "MaxPending"),
        ('lame_duck_duration: "45s"', "LameDuckDuration"),
        ("no_auth_user: stays", "NoAuthUser"),
    ],
)
def test_one_setting_that_cannot_change_refuses_all(
    serve: Serve, dial: Dial, change: str, name: str
) -> None:
    server = serve(USERS)
    answer = server.reload(USERS.replace("max_payload: 1000", "max_payload: 10") + change)
    assert f"config reload not supported for {name}" in answer
    assert dial(server).info["max_payload"] == 1000


def test_a_file_that_is_not_valid_changes_nothing(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    for text in ("max_payload: {", "unknown_thing: 1\nport: 4222", "port: 'x'"):
        assert "Failed to reload" in server.reload(text)
    join(dial, server, "stays").ping()
    assert "Reloaded server configuration" in server.reload(USERS)


def test_an_included_file_is_read_anew(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    text = USERS.replace("max_payload: 1000", "include 'more.conf'")
    beside = server.directory / "more.conf"
    for limit in (20, 30):
        beside.write_text(f"max_payload: {limit}\n")
        assert "Reloaded" in server.reload(text)
        client = join(dial, server, "stays")
        client.publish(b"a", b"x" * limit)
        client.send(b"PUB a %d\r\n" % (limit + 1))
        client.expect_fatal(b"Maximum Payload Violation")


def test_imports_change_for_those_who_have_subscribed(serve: Serve, dial: Dial) -> None:
    text = """
accounts {
  A { users: [ {user: a, password: x} ], exports: [ {stream: "data.>"} ] }
  B { users: [ {user: b, password: x} ], imports: [ IMPORT ] }
}
"""
    server = serve(text.replace("IMPORT", '{stream: {account: A, subject: "data.one"}}'))
    publisher, subscriber = join(dial, server, "a"), join(dial, server, "b")
    subscriber.subscribe(b"data.>", b"1")
    publisher.publish(b"data.one", b"1")
    subscriber.expect_msg(b"data.one", b"1", b"1")
    server.reload(text.replace("IMPORT", '{stream: {account: A, subject: "data.two"}}'))
    publisher.ping()
    subscriber.ping()
    publisher.publish(b"data.one", b"2")
    publisher.publish(b"data.two", b"3")
    subscriber.expect_msg(b"data.two", b"1", b"3")


def test_the_log_follows_the_file(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    server.reload(f"debug: true\n{USERS}")
    dial(server)
    wait_until(lambda: "[DBG]" in server.log_text(), "a line of debugging")


def test_without_a_file_there_is_nothing_to_read(no_leaks: None) -> None:
    broker = make_broker("shardd-1")
    broker.start()
    try:
        os.kill(broker.pid, signal.SIGHUP)
        wait_until(lambda: "can only reload config" in broker.log_text(), "the refusal")
    finally:
        broker.stop()


def test_another_hash_of_the_same_password_lets_its_clients_stay(serve: Serve, dial: Dial) -> None:
    def users(password: bytes) -> str:
        hashed = bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()
        return f'authorization {{ users: [ {{user: a, password: "{hashed}"}} ] }}'

    server = serve(users(b"same"))
    clients = [dial(server).connect(user="a", **{"pass": "same"}) for _ in range(8)]
    for client in clients:
        client.subscribe(b"a", b"1")
    assert "Reloaded server configuration" in server.reload(users(b"same"))
    for client in clients:
        client.publish(b"a", b"x")
        for each in clients:
            each.expect_msg(b"a", b"1", b"x")
    assert "Reloaded server configuration" in server.reload(users(b"other"))
    for client in clients:
        client.expect_fatal(b"Authorization Violation")


def test_a_shorter_control_line_holds_for_those_who_are_in(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    clients = [join(dial, server, "stays") for _ in range(4)]
    for client in clients:
        client.send(b"SUB ", b"a" * 100, b" 1\r\n")
        client.ping()
    assert "Reloaded" in server.reload(f"max_control_line: 64\n{USERS}")
    for client in clients:
        client.send(b"SUB ", b"b" * 30, b" 2\r\n")
        client.ping()
        client.send(b"SUB ", b"c" * 100, b" 3\r\n")
        client.expect_fatal(b"maximum control line exceeded")


def test_a_longer_control_line_holds_for_those_who_are_in(serve: Serve, dial: Dial) -> None:
    server = serve(f"max_control_line: 512\n{USERS}")
    client = join(dial, server, "stays")
    assert "Reloaded" in server.reload(f"max_control_line: 8kb\n{USERS}")
    client.subscribe(b"a" * 4000, b"1")


def test_a_new_write_deadline_holds_for_who_comes_after(serve: Serve, dial: Dial) -> None:
    server = serve(f"max_payload: 1mb\n{USERS.replace('max_payload: 1000', '')}")
    assert "Reloaded" in server.reload(
        f'write_deadline: "300ms"\nmax_payload: 1mb\n{USERS.replace("max_payload: 1000", "")}'
    )
    slow = dial(server, receive_bytes=4096).connect(user="stays", **{"pass": "x"})
    slow.subscribe(b"much", b"1")
    publisher = join(dial, server, "stays")
    for _ in range(20):
        publisher.publish(b"much", b"x" * 1_000_000)
    wait_until(lambda: "Slow Consumer" in server.log_text(), "the deadline to pass")
    assert re.search(r"WriteDeadline of (0\.3s|300ms)", server.log_text())


def test_who_has_to_come_through_a_proxy_from_now_on_is_refused(serve: Serve, dial: Dial) -> None:
    text = "authorization { users: [ {user: a, password: x, proxy_required: %s} ] }"
    server = serve(text % "false")
    client = dial(server).connect(user="a", **{"pass": "x"})
    assert "Reloaded" in server.reload(text % "true")
    client.expect_fatal(b"Authorization Violation")
    late = dial(server)
    late.send(b'CONNECT {"user":"a","pass":"x"}\r\n')
    late.expect_fatal(b"Authorization Violation")
