"""The load generator of `shardd bench` without a server: counting, schedules, figures, options."""

import pickle
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.cli.main import main
from shardd.load.asking import request, respond
from shardd.load.histogram import Histogram
from shardd.load.links import Link, LinkError, settle
from shardd.load.page import Page
from shardd.load.plan import Plan
from shardd.load.receiving import tally
from shardd.load.report import Client, Side
from shardd.load.sending import flood, pace
from tests.support.waiting import wait_until

PATIENCE_S = 10.0
IMPATIENCE_S = 0.05
MESSAGES = (
    b"MSG foo 1 3\r\nabc\r\n",
    b"MSG foo 1 3\r\nMSG\r\n",
    b"MSG foo 1 0\r\n\r\n",
    b"MSG foo 1 r 13\r\nMSG foo 1 3\r\n\r\n",
    b"HMSG foo 1 12 15\r\nNATS/1.0\r\n\r\nabc\r\n",
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a stream: the server's and the generator's."""
    left, right = socket.socketpair()
    left.settimeout(PATIENCE_S)
    with left, right:
        yield left, right


def count(link: Link, messages: int) -> Histogram:
    return tally([link], Page(), False, False, messages, 0.0, PATIENCE_S)


# --- counting ---------------------------------------------------------------------------------


@given(
    stream=st.lists(st.sampled_from([*MESSAGES, b"PING\r\n", b"+OK\r\n"]), max_size=30),
    cut=st.integers(1, 60),
)
@settings(deadline=None, max_examples=60)
def test_messages_of_any_kind_are_counted_wherever_they_are_cut(
    stream: list[bytes], cut: int
) -> None:
    stream = [*stream, MESSAGES[0]]
    data = b"".join(stream)
    messages = sum(each in MESSAGES for each in stream)
    pings = stream.count(b"PING\r\n")
    left, right = socket.socketpair()
    with left, right:
        link = Link(right, "subscriber 1", data[:cut])
        left.sendall(data[cut:] or b"PING\r\n")
        pings += not data[cut:]
        count(link, messages)
        assert link.messages == messages
        sizes = {message: len(message.split(b"\r\n", 1)[1]) - 2 for message in MESSAGES}
        assert link.payload_bytes == sum(sizes[each] for each in stream if each in sizes)
        assert left.recv(1000, socket.MSG_DONTWAIT) == b"PONG\r\n" * pings if pings else True


def test_a_moment_in_the_payload_becomes_a_latency(pair) -> None:
    left, right = pair
    plan = Plan("foo", 1, 1, 20, rate=1000.0, headers=(("a", "b"),))
    page = Page()
    sender, receiver = Link(left, "publisher 1"), Link(right, "subscriber 1")
    frame = plan.frame("foo")
    lateness = pace([sender], [frame], plan.stamp_at, 20, 1, page, 1e6, 50, PATIENCE_S)
    assert (lateness.count, sender.messages) == (50, 50)
    # Without a server between them, what is published is made what is delivered.
    raw = right.recv(1 << 20)
    assert len(raw) == 50 * len(frame)
    left.setblocking(True)
    left.sendall(raw.replace(b"HPUB foo ", b"HMSG foo 1 "))
    page.finish()
    latency = tally([receiver], page, True, True, 0, 0.0, PATIENCE_S)
    assert latency.count == 50
    assert 0 < latency.min <= latency.max < PATIENCE_S * 1e9


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"-ERR 'Slow Consumer'\r\n", "subscriber 1: the server says: Slow Consumer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "subscriber 1: no NATS server says b'HTTP"),
        (b"", "subscriber 1: the server closed the connection"),
    ],
)
def test_a_server_that_cuts_a_subscriber_is_reported(pair, said: bytes, why: str) -> None:
    left, right = pair
    left.sendall(MESSAGES[0] + said)
    left.close()
    with pytest.raises(LinkError, match=why):
        count(Link(right, "subscriber 1"), 100)


@pytest.mark.parametrize(("copies", "why"), [(3, "2 of 3 messages"), (1, "somebody else")])
def test_other_numbers_than_were_published_are_reported(pair, copies: int, why: str) -> None:
    left, right = pair
    page = Page()
    publisher, subscriber = Link(left, "publisher 1"), Link(right, "subscriber 1")
    publisher.limit(1)
    flood([publisher], b"MSG foo 1 0\r\n\r\n", 1, 0, copies, 100, page, 0.0, PATIENCE_S)
    left.setblocking(True)
    left.sendall(b"MSG foo 1 0\r\n\r\n")
    page.finish()
    with pytest.raises(LinkError, match=why):
        tally([subscriber], page, False, True, 0, 0.0, IMPATIENCE_S)


@given(
    stream=st.lists(
        st.sampled_from(
            [
                *MESSAGES,
                *(b"PING\r\n", b"PONG\r\n", b"INFO {}\r\n", b"\n", b"\x00", b"MSG ", b"9" * 20),
                *(b"MSG a 1 18446744073709551615\r\n", b"MSG a 1 1073741824\r\n"),
                b"MSG i.0000000000000001 1 r 0\r\n\r\n",
                b"HMSG i.0000000000000001 1 99 16\r\n",
                b"MSG " + b"s" * 300 + b" 1 r 20\r\n" + b"y" * 20 + b"\r\n",
            ]
        )
        | st.binary(max_size=6),
        max_size=20,
    ).map(b"".join),
    held=st.integers(0, 200),
    loop=st.sampled_from(["count", "time", "ask", "ask on time", "answer"]),
)
@settings(deadline=None, max_examples=150)
def test_whatever_a_server_says_a_loop_ends(stream: bytes, held: int, loop: str) -> None:
    """Lengths come from the other side; `make asan` looks where they lead."""
    left, right = socket.socketpair()
    with left, right, suppress(LinkError):
        left.sendall(stream[held:])
        left.shutdown(socket.SHUT_WR)
        link = Link(right, "l", stream[:held])
        if loop.startswith("ask"):
            frame, place = Plan("foo", 1, 0, 0).request(0, "i")
            rate = 1e6 if loop == "ask on time" else 0.0
            request([link], [frame], [place], 0, Page(), rate, 9, 0.0, IMPATIENCE_S)
        elif loop == "answer":
            respond([link], Page(), False, 9, 0.0)
        else:
            tally([link], Page(), loop == "time", False, 99, 0.0, IMPATIENCE_S)


# --- publishing -------------------------------------------------------------------------------


def test_each_publisher_sends_its_quota_and_no_more(pair) -> None:
    left, right = pair
    page = Page()
    link = Link(right, "publisher 1")
    link.limit(7)
    flood([link], b"abcd" * 3, 3, 2, 0, 0, page, 0.0, PATIENCE_S)
    assert left.recv(1000) == b"abcd" * 7
    assert (link.messages, link.payload_bytes, page.published) == (7, 14, 7)


def test_a_publisher_never_gets_further_ahead_than_its_credit(pair) -> None:
    left, right = pair
    link = Link(right, "publisher 1")
    link.limit(100)
    with pytest.raises(LinkError, match="nothing arrived"):
        flood([link], b"abcd" * 5, 5, 2, 2, 20, Page(), 0.0, IMPATIENCE_S)
    assert left.recv(1000) == b"abcd" * 10


def test_publishers_get_credit_in_turn() -> None:
    page, count = Page(), 4
    pairs = [socket.socketpair() for _ in range(count)]
    publishers = [Link(left, "publisher") for left, _ in pairs]
    subscribers = [Link(right, "subscriber") for _, right in pairs]
    block = b"MSG foo 1 0\r\n\r\n" * 4
    both = [
        threading.Thread(target=flood, args=(publishers, block, 4, 0, 1, 4, page, 0.0, PATIENCE_S)),
        threading.Thread(target=tally, args=(subscribers, page, False, False, 0, 0.0, PATIENCE_S)),
    ]
    for each in both:
        each.start()
    wait_until(lambda: page.published >= 400, "a hundred blocks")
    page.stop()
    for each in both:
        each.join()
    shares = [each.messages for each in publishers]
    assert max(shares) - min(shares) <= 4, shares
    for left, right in pairs:
        left.close()
        right.close()


def test_a_publisher_hears_what_the_server_refuses(pair) -> None:
    left, right = pair
    left.sendall(b"PING\r\n-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
    with pytest.raises(LinkError, match='says: Permissions Violation for Publish to "x"'):
        flood([Link(right, "publisher 1")], b"abcd", 1, 2, 0, 0, Page(), 0.0, PATIENCE_S)


def test_a_side_that_waits_ends_when_the_other_has_failed(pair) -> None:
    page = Page()
    page.abort()
    with pytest.raises(InterruptedError):
        tally([Link(pair[1], "subscriber 1")], page, False, True, 0, 0.0, PATIENCE_S)


def test_a_load_that_is_stopped_ends_as_if_its_time_were_up(pair) -> None:
    page = Page()
    page.stop()
    link = Link(pair[1], "publisher 1")
    flood([link], b"abcd", 1, 2, 0, 0, page, 0.0, PATIENCE_S)
    assert link.messages == 0
    tally([link], page, False, False, 0, 0.0, PATIENCE_S)


def test_settling_waits_for_every_pong(pair) -> None:
    left, right = pair
    with pytest.raises(LinkError, match=r"publisher 1: no answer for 0\.05 s"):
        settle([Link(right, "publisher 1")], IMPATIENCE_S)
    assert left.recv(100) == b"PING\r\n"


# --- requests ---------------------------------------------------------------------------------


def serve_answers(end: socket.socket, answer: bytes) -> None:
    """Answer each request with this payload, twice, on the subject that it names."""
    held = b""
    with suppress(OSError):
        while got := end.recv(65536):
            held += got
            for reply in re.findall(rb"PUB foo (\S+) 2\r\nab\r\n", held):
                end.sendall(b"MSG %b 1 %d\r\n%b\r\n" % (reply, len(answer), answer) * 2)
            held = held[held.rfind(b"ab\r\n") + 4 :]


@pytest.mark.parametrize("rate", [0.0, 5000.0])
def test_answers_are_timed_by_their_subject_whatever_they_hold(pair, rate: float) -> None:
    left, right = pair
    plan = Plan("foo", 1, 0, 0)
    frame, place = plan.request(0, "_INBOX.x.0")
    frame = frame.replace(b" 0\r\n\r\n", b" 2\r\nab\r\n")
    answering = threading.Thread(target=serve_answers, args=(left, b"anything"))
    answering.start()
    link = Link(right, "requester 1")
    latency, lateness = request([link], [frame], [place], 2, Page(), rate, 40, 0.0, PATIENCE_S)
    right.shutdown(socket.SHUT_RDWR)
    answering.join()
    # The second answer is known for what it is.
    assert latency.count == link.messages == 40
    assert lateness.count == (40 if rate else 0)
    assert latency.max < PATIENCE_S * 1e9


def test_an_answer_is_timed_when_it_comes_and_not_when_the_next_request_leaves(pair) -> None:
    left, right = pair
    frame, place = Plan("foo", 1, 0, 0).request(0, "i")
    frame = frame.replace(b" 0\r\n\r\n", b" 2\r\nab\r\n")
    answering = threading.Thread(target=serve_answers, args=(left, b""))
    answering.start()
    latency, _ = request([Link(right, "r")], [frame], [place], 2, Page(), 50.0, 10, 0.0, PATIENCE_S)
    right.shutdown(socket.SHUT_RDWR)
    answering.join()
    # Requests leave 20 ms apart; even where much else runs, one of ten answers comes sooner.
    assert latency.count == 10
    assert latency.min < 15_000_000


def test_nobody_who_answers_is_reported(pair) -> None:
    left, right = pair
    frame, place = Plan("foo", 1, 0, 0).request(0, "i")
    left.sendall(b"HMSG i.x 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n")
    with pytest.raises(LinkError, match="no responders"):
        request([Link(right, "r")], [frame], [place], 2, Page(), 0.0, 1, 0.0, PATIENCE_S)


# --- figures ----------------------------------------------------------------------------------


@given(values=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5000), min_size=1, max_size=80))
@settings(deadline=None, max_examples=80)
def test_percentiles_are_right_within_a_hundredth(values: list[int]) -> None:
    found = Histogram()
    for value in values:
        found.record(value)
    found = pickle.loads(pickle.dumps(found))
    ordered = sorted(values)
    assert (found.count, found.min, found.max) == (len(values), ordered[0], ordered[-1])
    assert found.mean == pytest.approx(sum(values) / len(values))
    for share in (0.5, 0.9, 0.99, 1.0):
        exact = ordered[max(1, -(-round(share * 100) * len(values) // 100)) - 1]
        assert exact <= found.percentile(share) <= exact * 1.008 + 1


@pytest.mark.parametrize("stamp", [b"0" * 16, b"f" * 16, b"0" * 15 + b"2", b"x" * 16, b"short"])
def test_answers_that_nobody_asked_for_count_for_nothing(pair, stamp: bytes) -> None:
    left, right = pair
    frame, place = Plan("foo", 1, 0, 0).request(0, "i")
    left.sendall(b"MSG i.%b 1 0\r\n\r\n" % stamp)
    for rate in (0.0, 1e6):
        page = Page()
        with pytest.raises(LinkError, match="0 of 1 requests were answered"):
            request([Link(right, "r")], [frame], [place], 0, page, rate, 1, 0.0, IMPATIENCE_S)


def test_rates_are_over_the_time_of_those_that_did_something() -> None:
    side = Side("published", [Client(30, 300, 0, 10**9), Client(10, 100, 10**9, 2 * 10**9)])
    assert (side.messages, side.seconds, side.rate, side.byte_rate) == (40, 2.0, 20.0, 200.0)
    assert side.rates() == (10.0, 20.0, 30.0, 10.0)
    assert Side("published", [Client(0, 0, 5, 5)]).rate == 0.0
    # All in one read: nobody knows how fast.
    assert (Client(9, 9, 5, 5).rate, Side("received", [Client(9, 9, 5, 5)]).rate) == (0.0, 0.0)


def test_a_plan_sends_to_all_subjects_in_turn() -> None:
    plan = Plan("foo", 3, 2, 4, messages=10, subjects=11, headers=(("a", "b"),))
    block, frames = plan.block()
    assert block.startswith(b"HPUB foo.00 18 22\r\nNATS/1.0\r\na: b\r\n\r\n0123\r\nHPUB foo.01 ")
    assert block.count(b"HPUB foo.10 ") * 11 == frames == block.count(b"HPUB")
    assert (plan.quotas(), plan.pattern, plan.copies) == ([4, 3, 3], "foo.*", 2)
    assert Plan("foo", 3, 2, 4, queue="q").copies == Plan("foo", 1, 9, 4, is_request=True).copies


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("a..b", "is no subject"),
        ("a.> --pub 1", "wildcards are for subscribing"),
        ("a --msgs 5 --duration 1s", "either --msgs or --duration"),
        ("a --pub 0 --sub 0", "nothing to do"),
        ("a --sub 1 --rate 5", "give --pub"),
        ("a --pub 1 --queue q", "give --sub"),
        ("a --size 7 --rate 5", "needs --size 8"),
        ("a --size many", "is not a size"),
        ("a --duration soon", "duration"),
        ("a --duration 0s", "more than 0"),
        ("a --duration -5s", "more than 0"),
        ("a --timeout 0", "more than 0"),
        ("a --rate nan", '"nan" is not a rate'),
        ("a --rate inf", '"inf" is not a rate'),
        ("a --rate fast", '"fast" is not a rate'),
        ("a --msgs 9999999999999", "--msgs"),
        ("a --request --pub 1 --rate 1e9 --duration 1h", "no more than 1,000,000,000 requests"),
        ("a -H nothing", "KEY:VALUE"),
        ("a --csv /nowhere/at/all", "No such file"),
        ("a -s http://x", "--server"),
        ("a -s 127.0.0.1:1", "could not connect to 127.0.0.1:1: connection refused"),
        ("a --creds /nowhere", "could not read /nowhere"),
        ("", "Missing argument"),
    ],
)
def test_wrong_options_are_one_line(
    argv: str, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    assert main(["bench", *argv.split()]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"shardd: [^\n]*\n", err), err
    assert why in err


# --- greetings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "the server closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n", "this is no NATS server"),
        (b"INFO " + b"[" * 100_000 + b"\r\n", "this is no NATS server"),
        (b"INFO {}\r\n" + b"x" * 2_000_000, "this is no NATS server"),
        (b"INFO {}\r\n-ERR 'no \x1b[31m\xff'\r\n", "no \\x1b[31m\ufffd"),
        (b'INFO {"max_payload": "many"}\r\nPONG\r\n', "the server closed the connection"),
        (b'INFO {"max_payload": Infinity}\r\nPONG\r\n', "the server closed the connection"),
        (b'INFO {"max_payload": 100}\r\nPONG\r\n', "more than the server takes (100)"),
        (b"INFO {}\r\nPONG\r\n-ERR 'no more'\r\n", "the server says: no more"),
        (b"INFO {}\r\nPONG\r\nMSG a 1 9999999999\r\n", "no NATS server says b'MSG a 1 99999"),
        (b'INFO {"tls_required": true}\r\nPONG\r\n', "goes on in the clear"),
    ],
)
def test_what_no_server_says_at_first_is_one_line(
    said: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each connection is told the same and then closed, once the client has spoken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(PATIENCE_S)
                        connection.sendall(said)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):
                            pass

        greeting = threading.Thread(target=greet)
        greeting.start()
        try:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            assert main(["bench", "a", "--pub", "1", "-s", address, "--timeout", "5s"]) == 1
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            greeting.join()
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"shardd: [^\n]*\n", err), err
    assert why in err
