"""Queue groups: one member per group, by name over all matching subjects, each equally likely."""

import pytest

from tests.support.fixtures import Join
from tests.support.wireclient import WireClient

# The chance that a fair server exceeds this with up to nine degrees of freedom is below 1e-8.
CHI_SQUARE_MAX = 60.0


def collect(clients: list[WireClient]) -> list[tuple[int, bytes, bytes, bytes]]:
    """All messages up to the end marker at each: (index of client, subject, sid, payload)."""
    messages = []
    for index, client in enumerate(clients):
        while True:
            _, subject, sid, size = client.expect_line().split()
            payload = client.read(int(size) + 2)[:-2]
            if payload == b"end":
                break
            messages.append((index, subject, sid, payload))
    return messages


def run_group(
    join: Join, members: list[WireClient], subjects: list[bytes], publishers: list[WireClient]
) -> list[tuple[int, bytes, bytes, bytes]]:
    """Publish to the subjects in turn, from the publishers in turn, and collect what arrives."""
    for member in members:
        member.subscribe(b"group.end", b"end")
    for number, subject in enumerate(subjects):
        publishers[number % len(publishers)].publish(subject, b"%d" % number)
    messages = []
    # Order holds within one publisher: each sends its own end marker.
    for publisher in publishers:
        publisher.publish(b"group.end", b"end")
    for _ in publishers:
        messages += collect(members)
    return messages


def assert_uniform(counts: list[int]) -> None:
    """Each count is what chance allows around the same mean."""
    mean = sum(counts) / len(counts)
    chi_square = sum((count - mean) ** 2 / mean for count in counts)
    print(f"members got {counts}, chi-square {chi_square:.1f}")
    assert chi_square < CHI_SQUARE_MAX


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_one_member_gets_each_message_and_all_are_equally_likely(join: Join, size: int) -> None:
    subject = b"uniform.%d" % size
    members = [join() for _ in range(size)]
    for member in members:
        member.subscribe(subject, b"1", b"workers")
    total = 400 * size
    messages = run_group(join, members, [subject] * total, [join()])
    assert sorted(int(payload) for _, _, _, payload in messages) == list(range(total))
    assert_uniform([sum(index == i for index, *_ in messages) for i in range(size)])


def test_choice_is_uniform_for_every_publisher(join: Join) -> None:
    """Members near a publisher are not preferred: all together and each alone are fair."""
    members = [join() for _ in range(6)]
    for member in members:
        member.subscribe(b"fair.a", b"1", b"workers")
    publishers = [join() for _ in range(6)]
    messages = run_group(join, members, [b"fair.a"] * 6000, publishers)
    assert len(messages) == 6000
    for number in range(6):
        mine = [index for index, _, _, payload in messages if int(payload) % 6 == number]
        assert_uniform([mine.count(i) for i in range(6)])


def test_choice_is_uniform_over_subscriptions_of_uneven_connections(join: Join) -> None:
    """Members are subscriptions: a connection with three gets three times as much as one."""
    many, one = join(), join()
    for sid in (b"1", b"2", b"3"):
        many.subscribe(b"uneven.a", sid, b"workers")
    one.subscribe(b"uneven.a", b"4", b"workers")
    messages = run_group(join, [many, one], [b"uneven.a"] * 2000, [join()])
    assert_uniform([sum(sid == s for _, _, sid, _ in messages) for s in (b"1", b"2", b"3", b"4")])


def test_plain_subscriptions_and_each_group_get_their_own_copy(join: Join) -> None:
    clients = [join() for _ in range(6)]
    for number, queue in enumerate([b"", b"", b"red", b"red", b"blue", b"blue"]):
        clients[number].subscribe(b"mixed.a", b"1", queue)
    messages = run_group(join, clients, [b"mixed.a"] * 300, [join()])
    got = [sorted(int(p) for index, _, _, p in messages if index == i) for i in range(6)]
    everything = list(range(300))
    assert got[0] == got[1] == everything
    assert sorted(got[2] + got[3]) == everything
    assert sorted(got[4] + got[5]) == everything


def test_a_group_spans_all_subjects_that_match(join: Join) -> None:
    """`overlap.*` and `overlap.>` under one name are one group for `overlap.q`."""
    members = [join() for _ in range(4)]
    for member, subject in zip(
        members, [b"overlap.*", b"overlap.>", b"overlap.q", b"*.q"], strict=True
    ):
        member.subscribe(subject, b"1", b"workers")
    messages = run_group(join, members, [b"overlap.q"] * 2000, [join()])
    assert sorted(int(payload) for _, _, _, payload in messages) == list(range(2000))
    assert_uniform([sum(index == i for index, *_ in messages) for i in range(4)])


def test_group_names_are_case_sensitive(join: Join) -> None:
    upper, lower = join(), join()
    upper.subscribe(b"names.a", b"1", b"Workers")
    lower.subscribe(b"names.a", b"1", b"workers")
    messages = run_group(join, [upper, lower], [b"names.a"] * 10, [join()])
    assert len(messages) == 20


def test_a_group_inside_one_connection_gets_one_copy(join: Join) -> None:
    client = join()
    client.send(b"SUB inside.a g 1\r\nSUB inside.* g 2\r\nPUB inside.a 0\r\n\r\n")
    line = client.expect_line()
    assert line in (b"MSG inside.a 1 0\r\n", b"MSG inside.a 2 0\r\n")
    client.expect(b"\r\n")
    client.expect_silence()


def test_a_member_that_left_gets_nothing_more(join: Join) -> None:
    leaving, staying, publisher = join(), join(), join()
    leaving.subscribe(b"leave.a", b"1", b"workers")
    staying.subscribe(b"leave.a", b"1", b"workers")
    leaving.send(b"UNSUB 1\r\n")
    messages_after = 200
    leaving.ping()
    # A message may be on its way to the leaving member; it must then reach the other one.
    for number in range(messages_after):
        publisher.publish(b"leave.a", b"%d" % number)
    got = []
    for _ in range(messages_after):
        _, _, _, size = staying.expect_line().split()
        got.append(int(staying.read(int(size) + 2)))
    assert sorted(got) == list(range(messages_after))
    leaving.expect_silence()


def test_a_member_whose_connection_ended_is_passed_over(join: Join) -> None:
    ending, staying, publisher = join(), join(), join()
    ending.subscribe(b"ended.a", b"1", b"workers")
    staying.subscribe(b"ended.a", b"1", b"workers")
    ending.send(b"UNSUB 1\r\nFOO\r\n")
    ending.expect_fatal(b"Unknown Protocol Operation")
    for number in range(100):
        publisher.publish(b"ended.a", b"%04d" % number)
    got = []
    for _ in range(100):
        staying.expect(b"MSG ended.a 1 4\r\n")
        got.append(int(staying.read(6)))
    assert sorted(got) == list(range(100))


def test_without_echo_another_member_is_chosen(join: Join) -> None:
    silent, other = join(echo=False), join()
    silent.subscribe(b"noecho.a", b"1", b"workers")
    other.subscribe(b"noecho.a", b"1", b"workers")
    for number in range(100):
        silent.publish(b"noecho.a", b"%04d" % number)
    got = []
    for _ in range(100):
        other.expect(b"MSG noecho.a 1 4\r\n")
        got.append(int(other.read(6)))
    assert sorted(got) == list(range(100))
    silent.expect_silence()


def test_order_is_kept_for_each_member(join: Join) -> None:
    members = [join() for _ in range(4)]
    for member in members:
        member.subscribe(b"qorder.a", b"1", b"workers")
    messages = run_group(join, members, [b"qorder.a"] * 2000, [join()])
    for i in range(4):
        mine = [int(payload) for index, _, _, payload in messages if index == i]
        assert mine == sorted(mine)


def test_a_request_to_a_group_gets_one_answer(join: Join) -> None:
    members, requester = [join() for _ in range(4)], join()
    for member in members:
        member.subscribe(b"ask.a", b"1", b"workers")
        member.subscribe(b"ask.end", b"end")
    requester.send(b"SUB ask.inbox 1\r\n")
    for _ in range(50):
        requester.publish(b"ask.a", b"?", b"ask.inbox")
    requester.publish(b"ask.end", b"")
    for member in members:
        while True:
            line = member.expect_line()
            member.read(int(line.split()[-1]) + 2)
            if line == b"MSG ask.end end 0\r\n":
                break
            assert line == b"MSG ask.a 1 ask.inbox 1\r\n"
            member.publish(b"ask.inbox", b"!")
    requester.expect(b"MSG ask.inbox 1 1\r\n!\r\n" * 50)
    requester.expect_silence()
