"""The benchmark's arithmetic: frames, percentiles, ratios, the history, and the counting loops."""

import fcntl
import socket
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import callers, generator, history
from bench.chart import caption, scaled
from bench.flow import Flow, check_arrival
from bench.frames import (
    BLOCK_BYTES,
    FrameError,
    Subscription,
    check_header,
    encode_msg_header,
    encode_pub,
    make_block,
    matches,
    only_width,
    payload,
    sid,
    subject,
)
from bench.history import Record, Result
from bench.load import LoadFailure, percentile
from bench.loads import catalogue
from bench.placement import Place, ServerRefusal, await_pong, worker_of
from bench.servers import parse_contenders
from bench.sides import Counting, Publishing
from tests.support.waiting import wait_until

BODY = payload(16) + b"\r\n"
HEADER = encode_msg_header(subject(7), sid(1), 16)
FRAME = HEADER + BODY
PATIENCE_S = 30.0
IMPATIENCE_S = 0.05


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a stream: the server's and the generator's."""
    left, right = socket.socketpair()
    left.settimeout(PATIENCE_S)
    with left, right:
        yield left, right


def shared_page(expected: int | None = None) -> memoryview:
    """The page of both sides; with `expected`, as a publisher that has finished leaves it."""
    page = memoryview(bytearray(generator.SHARED_BYTES))
    if expected is not None:
        slots = page.cast("Q")
        slots[8], slots[16] = expected, 1
    return page


def unread_bytes(end: socket.socket) -> int:
    """How much the kernel still holds of what this end sent."""
    return int.from_bytes(fcntl.ioctl(end, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def record(ratio: float | None = 2.0, load: str = "1x1", commit: str = "a") -> Record:
    """A line of the history."""
    result = Result(2_000_000.0, [2_000_000.0], 0.1, 0.2)
    return Record(
        date="2026-01-02T03:04:05+00:00",
        commit=commit,
        machine={"cores": 2, "cpu": "some"},
        options={"rounds": 1},
        servers={"one": "1", "other": "2"},
        load=load,
        variant="same",
        metric="messages",
        unit="msg/s",
        is_higher_better=True,
        results={"one": result, "other": result},
        ratio=ratio,
        failures={},
    )


# --- frames -----------------------------------------------------------------------------------


def test_pub_frame_carries_subject_reply_size_and_payload() -> None:
    assert encode_pub("a", b"hello", "r") == b"PUB a r 5\r\nhello\r\n"
    assert encode_pub("a", b"") == b"PUB a 0\r\n\r\n"


def test_subjects_and_sids_have_one_width_each() -> None:
    assert only_width(subject(index) for index in (0, 9, 10_000, 99_999)) == len(subject(0))
    assert only_width(sid(index) for index in (0, 9, 10_000)) == len(sid(0))
    with pytest.raises(FrameError):
        only_width(["a", "bc"])


@given(
    names=st.integers(1, 50),
    size=st.sampled_from([0, 16, 1024, 16_384]),
    copies=st.integers(0, 200),
)
@settings(deadline=None, max_examples=50)
def test_block_holds_whole_turns_of_equal_frames(names: int, size: int, copies: int) -> None:
    frame_len = len(encode_pub(subject(0), payload(size)))
    block = make_block([subject(index) for index in range(names)], size, copies)
    assert block.frames % names == 0
    assert len(block.data) == block.frames * frame_len
    assert block.frames == names or len(block.data) <= BLOCK_BYTES


def test_payload_never_contains_the_beginning_of_a_frame() -> None:
    body = payload(16_384)
    assert len(body) == 16_384
    assert not any(word in body for word in (b"MSG", b"PING", b"-ERR", b"\r"))


@pytest.mark.parametrize(
    ("pattern", "name", "is_match"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.b.c", "a.b", False),
    ],
)
def test_subscription_matches_as_nats_says(pattern: str, name: str, is_match: bool) -> None:
    assert matches(pattern, name) is is_match


@pytest.mark.parametrize(
    "header",
    [
        encode_msg_header(subject(8), sid(1), 16),  # nobody published it
        encode_msg_header(subject(7), sid(2), 16),  # not this connection's
        encode_msg_header(subject(7), sid(1), 17),
        b"MSG",
    ],
)
def test_frame_that_nobody_published_is_refused(header: bytes) -> None:
    wanted = [Subscription("bench.*", sid(1))]
    check_header(HEADER, wanted, frozenset([subject(7)]), 16)
    with pytest.raises(FrameError):
        check_header(header, wanted, frozenset([subject(7)]), 16)


# --- counting ---------------------------------------------------------------------------------


@given(
    stream=st.lists(st.sampled_from([FRAME, FRAME, FRAME, b"PING\r\n"]), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 120), max_size=12),
)
@settings(deadline=None, max_examples=60)
def test_frames_are_counted_exactly_wherever_pings_and_cuts_fall(
    stream: list[bytes], cuts: list[int]
) -> None:
    frames, pings = stream.count(FRAME), stream.count(b"PING\r\n")
    data = b"".join(stream)
    # The last words are a frame, so that every PING was seen when it has arrived.
    data, frames = data + FRAME, frames + 1
    left, right = socket.socketpair()

    def feed() -> None:
        place = 0
        for cut in [*cuts, len(data)]:
            left.sendall(data[place : place + cut])
            place += cut
            # Each piece is read before the next one is there, so that the cuts are real ones.
            wait_until(lambda: unread_bytes(left) == 0, "the generator reads what was sent")

    with left, right:
        left.settimeout(PATIENCE_S)
        feeder = threading.Thread(target=feed)
        feeder.start()
        counted = generator.count(
            [right.fileno()], len(HEADER), BODY, shared_page(frames * len(FRAME)), PATIENCE_S
        )
        feeder.join()
        assert counted.received == [frames * len(FRAME)]
        assert counted.first_headers == counted.last_headers == [HEADER]
        answered = b""
        while len(answered) < 6 * pings:
            answered += left.recv(6 * pings - len(answered))
        assert answered == b"PONG\r\n" * pings


def test_foreign_bytes_between_frames_are_reported(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    left.sendall(FRAME + b"x" + FRAME * 2)
    with pytest.raises(ValueError, match="no frame where one must begin: b'xMSG"):
        generator.count([right.fileno()], len(HEADER), BODY, shared_page(), PATIENCE_S)


def test_payload_that_was_not_published_is_reported(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    left.sendall(FRAME + HEADER + b"X" * 16 + b"\r\n")
    with pytest.raises(ValueError, match="no frame"):
        generator.count([right.fileno()], len(HEADER), BODY, shared_page(), PATIENCE_S)


def test_server_that_cuts_the_subscriber_is_reported(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    left.sendall(FRAME)
    left.close()
    with pytest.raises(ConnectionError, match="closed by the server"):
        generator.count([right.fileno()], len(HEADER), BODY, shared_page(), PATIENCE_S)


def test_error_line_of_the_server_is_reported(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.sendall(FRAME + b"-ERR 'Slow'\r\n")
    left.close()
    with pytest.raises(ConnectionError, match="-ERR 'Slow'"):
        generator.count([right.fileno()], len(HEADER), BODY, shared_page(), PATIENCE_S)


def test_missing_bytes_are_reported_when_patience_ends(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    left.sendall(FRAME * 2)
    page = shared_page(3 * len(FRAME))
    with pytest.raises(TimeoutError, match=f"{2 * len(FRAME)} of {3 * len(FRAME)} bytes"):
        generator.count([right.fileno()], len(HEADER), BODY, page, IMPATIENCE_S)


def test_more_bytes_than_published_are_reported(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.sendall(FRAME * 2)
    with pytest.raises(ValueError, match="more bytes arrived"):
        generator.count([right.fileno()], len(HEADER), BODY, shared_page(len(FRAME)), PATIENCE_S)


# --- publishing -------------------------------------------------------------------------------


def test_publisher_sends_whole_blocks_and_says_what_must_arrive(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    page = shared_page()
    done = generator.publish([right.fileno()], [b"block"], [7], page, 9.0, 3, 1000, PATIENCE_S)
    assert left.recv(100) == b"block" * 3
    assert done.blocks == [3]
    slots = page.cast("Q")
    assert (slots[8], slots[16]) == (21, 1)


def test_publisher_never_gets_further_ahead_than_its_credit(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    with pytest.raises(TimeoutError):
        generator.publish(
            [right.fileno()], [b"block"], [40], shared_page(), 9.0, 5, 100, IMPATIENCE_S
        )
    assert left.recv(100) == b"block" * 2


def test_block_larger_than_the_credit_goes_out_when_nothing_is_under_way(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    page = shared_page()
    generator.publish([right.fileno()], [b"block"], [500], page, 9.0, 1, 100, PATIENCE_S)
    assert left.recv(100) == b"block"


def test_publisher_reports_a_connection_that_the_server_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    left.close()
    with pytest.raises(OSError, match="connection 0"):
        generator.publish([right.fileno()], [b"block"], [0], shared_page(), 9.0, 9, 1, PATIENCE_S)


def test_side_that_waits_ends_when_the_other_has_failed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    _, right = pair
    page = shared_page()
    generator.abort(page)
    with pytest.raises(InterruptedError):
        generator.count([right.fileno()], len(HEADER), BODY, page, PATIENCE_S)


def test_request_loop_times_every_answer_and_tells_the_responder_to_end(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    page = shared_page()
    responded: list[list[int]] = []
    # Without a server between them, what one side sends is what the other expects.
    asked = encode_msg_header(subject(1), sid(1), 16, subject(2)) + BODY

    def respond() -> None:
        responded.append(callers.respond([left.fileno()], [FRAME], len(asked), page, PATIENCE_S))

    responder = threading.Thread(target=respond)
    responder.start()
    done = callers.request([right.fileno()], [asked], len(FRAME), page, 0.02, PATIENCE_S)
    responder.join()
    assert done.answers[0] == len(memoryview(done.samples_ns).cast("Q")) >= 1
    assert responded == [done.answers]


# --- what must arrive -------------------------------------------------------------------------


def two_subscribers(is_queue_group: bool) -> tuple[Flow, Publishing, int]:
    """One publisher that has sent one block to two subscribers."""
    wanted = (Subscription(subject(7), sid(1)),)
    copies = ((1, 0),) if is_queue_group else ((1, 1),)
    flow = Flow(((subject(7),),), (wanted, wanted), copies, 16, is_queue_group)
    block = make_block((subject(7),), 16, sum(copies[0]))
    return flow, Publishing(0, 1, [1]), block.frames


@pytest.mark.parametrize("is_queue_group", [False, True])
def test_message_lost_by_one_and_doubled_by_another_subscriber_is_a_failure(
    is_queue_group: bool,
) -> None:
    flow, published, frames = two_subscribers(is_queue_group)
    block = make_block((subject(7),), 16, sum(flow.copies[0]))
    headers = [HEADER, HEADER]
    if is_queue_group:
        good, bad = [frames - 5, 5], [frames, 0]
    else:
        good, bad = [frames, frames], [frames + 1, frames - 1]
    size = len(FRAME)
    counted = Counting(1, [n * size for n in good], headers, headers)
    total = frames if is_queue_group else 2 * frames
    assert check_arrival(flow, [block], published, counted) == total
    wrong = Counting(1, [n * size for n in bad], headers, headers)
    with pytest.raises(LoadFailure):
        check_arrival(flow, [block], published, wrong)


# --- figures ----------------------------------------------------------------------------------


@given(
    values=st.lists(st.integers(0, 10**9), min_size=1, max_size=300),
    share=st.sampled_from([0.5, 0.99, 0.999, 1.0]),
)
@settings(deadline=None, max_examples=80)
def test_percentile_is_the_least_value_that_the_share_does_not_exceed(
    values: list[int], share: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    needed = round(share * 1000) * len(ordered)
    assert sum(value <= found for value in ordered) * 1000 >= needed
    assert sum(value < found for value in ordered) * 1000 < needed


def test_ratio_above_one_is_better_whatever_is_measured() -> None:
    assert history.ratio_of(6.0, 2.0, is_higher_better=True) == 3.0
    assert history.ratio_of(6.0, 2.0, is_higher_better=False) == pytest.approx(1 / 3)
    assert history.ratio_of(0.0, 2.0, is_higher_better=True) is None
    assert history.ratio_of(-1.0, 2.0, is_higher_better=False) is None


def test_summary_takes_the_medians_over_rounds() -> None:
    result = history.summarize([5.0, 1.0, 3.0], [0.3, 0.1, 0.2], [0.5, 0.5, 0.1])
    assert result == Result(3.0, [5.0, 1.0, 3.0], 0.2, 0.5)


def test_history_reads_what_it_wrote_and_appends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.jsonl"
    first, second = record(2.0, commit="a"), record(None, commit="b")
    history.append(path, [first])
    history.append(path, [second])
    assert history.read(path) == [first, second]
    assert history.read(tmp_path / "absent") == []


def test_comparison_takes_the_last_two_entries_of_each_load() -> None:
    records = [record(1.0), record(2.0), record(7.0, "single"), record(3.0)]
    (change,) = history.changes(records)
    assert (change.before.ratio, change.after.ratio, change.factor) == (2.0, 3.0, 1.5)
    assert history.changes([record(2.0), record(None)])[0].factor is None


def test_chart_takes_the_last_entry_that_has_a_ratio() -> None:
    records = [record(1.0), record(2.0), record(None)]
    assert [each.ratio for each in history.latest(records)] == [2.0]
    assert caption(record(2.0)) == "2.00x   2 M : 2 M msg/s"
    assert [scaled(value) for value in (7.81, 45_600.0, 1.234e6, 2e9)] == [
        "7.81",
        "45.6 k",
        "1.23 M",
        "2 G",
    ]


# --- placement, servers, loads ----------------------------------------------------------------


def test_client_id_tells_the_worker() -> None:
    info = b'INFO {"server_id":"N","client_id":6} \r\n'
    assert worker_of(info, 4) == 1
    assert Place.FIRST.accepts(0)
    assert not Place.FIRST.accepts(1)
    assert not Place.OTHERS.accepts(0)
    assert Place.OTHERS.accepts(3)
    assert Place.ANY.accepts(0)
    assert Place.ANY.accepts(1)


def test_only_pings_may_come_before_the_pong(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.sendall(b"PING\r\nPING\r\nPONG\r\nPING\r\n")
    await_pong(right)
    assert left.recv(100) == b"PONG\r\nPONG\r\n"
    assert right.recv(100) == b"PING\r\n"
    left.sendall(FRAME)
    with pytest.raises(ServerRefusal):
        await_pong(right)


def test_program_named_twice_gets_two_labels() -> None:
    labels = [each.label for each in parse_contenders("nats-server, nats-server")]
    assert labels == ["nats-server", "nats-server-2"]
    for text in ("shardd", "shardd,nats-server,shardd", "shardd,mosquitto"):
        with pytest.raises(ValueError, match="server"):
            parse_contenders(text)


def test_loads_have_names_of_their_own_and_are_selected_by_pattern() -> None:
    names = [load.name for load in catalogue.all_loads()]
    assert len(names) == len(set(names))
    assert [load.name for load in catalogue.select("1x1-1*B, request-1")] == [
        "1x1-16B",
        "1x1-128B",
        "1x1-1024B",
        "1x1-16384B",
        "request-1",
    ]
    assert catalogue.select("none") == []
