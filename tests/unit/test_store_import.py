"""`shardd stream import`: a directory made by hand, and one that the original server wrote."""

import asyncio
import random
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from shardd.cli.main import main
from shardd.config.streaming import KEY_VARIABLE
from shardd.errors import StoreError
from shardd.streaming.encrypted_store import Keys
from shardd.streaming.importing import import_store
from shardd.streaming.msgproto import encode
from shardd.streaming.store import ClientRow, Recovered, SubscriptionRow
from shardd.streaming.verify import verify
from tests.support.stan_wire import OriginalServer, StanWire, original_server, protobuf
from tests.support.stores import (
    KEY,
    EncryptedFileHarness,
    FileHarness,
    encoded_messages,
    quick_directory,
)

VERSION = (1).to_bytes(4, "little")


@pytest.fixture
def place() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


def record(content: bytes, kind: int = 0) -> bytes:
    header = len(content) | kind << 24
    return header.to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little") + content


def typed(kind: int, fields: Mapping[int, int | str | bytes]) -> bytes:
    return record(protobuf(fields), kind)


def write_by_hand(directory: Path) -> list[bytes]:
    """A store of the original with two channels; the messages of `foo.bar`."""
    subjects = ["discover", "pub", "sub", "unsub", "close", "subclose"]
    server: dict[int, int | str | bytes] = {1: "hand"}
    for key, each in enumerate(subjects, 2):
        server[key] = f"_S.{each}.hand"
    directory.mkdir()
    (directory / "server.dat").write_bytes(VERSION + record(protobuf(server)))
    clients = [typed(1, {1: name, 2: f"hb.{name}", 3: b"id", 4: 1, 5: 5, 6: 88}) for name in "abc"]
    (directory / "clients.dat").write_bytes(VERSION + b"".join(clients) + typed(2, {1: "b"}))
    channel = directory / "foo.bar"
    channel.mkdir()
    messages = [
        encode(number, b"foo.bar", b"r", b"x" * number, number * 10) for number in range(5, 30)
    ]
    # Slices are counted by number, not by name.
    for name, part in (("2", messages[:3]), ("9", messages[3:7]), ("10", messages[7:])):
        data = VERSION + b"".join(map(record, part))
        (channel / f"msgs.{name}.dat").write_bytes(data)
    first: dict[int, int | str | bytes] = {
        1: 1,
        2: "a",
        4: "in",
        5: "ack",
        6: 10,
        7: 30,
        8: "dur",
        10: 1,
    }
    group = {1: 2, 3: "d:q", 4: "in2", 5: "ack2", 6: 1, 7: 3, 9: 7, 10: 1, 11: 1}
    moves = [typed(5, {1: 1, 2: number}) for number in (5, 6, 7, 8)]
    moves += [typed(4, {1: 1, 2: number}) for number in (5, 7)]
    moves += [typed(5, {1: 99, 2: 5}), typed(1, {1: 3, 2: "c"}), typed(3, {1: 3})]
    moves += [typed(2, {**first, 4: "in3"})]
    data = VERSION + typed(1, first) + typed(1, group) + b"".join(moves)
    (channel / "subs.dat").write_bytes(data)
    (directory / "empty").mkdir()
    (directory / "empty" / "subs.dat").write_bytes(VERSION)
    return messages


def opened(directory: Path, kind: type[FileHarness] = FileHarness) -> Iterator[Recovered]:
    with kind(directory) as harness:
        yield harness.open()


def encrypted(ciphers: Mapping[int, Any], code: int, sequence: int, data: bytes) -> bytes:
    """A payload as the original stores it."""
    nonce = b"four" + sequence.to_bytes(8)
    return bytes([code]) + nonce + ciphers[code].encrypt(nonce, data, None)


def test_a_store_made_by_hand_is_taken_over(place, capfd):
    messages = write_by_hand(place / "old")
    before = {path: path.read_bytes() for path in (place / "old").rglob("*.dat")}
    assert main(["stream", "import", str(place / "old"), "--into", str(place / "new")]) == 0
    out = capfd.readouterr().out
    assert out.endswith("hand: 2 channels, 25 messages, 2 subscriptions, 2 clients\n")
    assert {path: path.read_bytes() for path in (place / "old").rglob("*.dat")} == before
    assert sorted(path.name for path in place.iterdir()) == ["new", "old"]
    assert verify(place / "new").is_sound
    for found in opened(place / "new"):
        assert found.server is not None
        assert found.server.cluster_id == "hand"
        assert (found.server.pub, found.server.sub_close) == (b"_S.pub.hand", b"_S.subclose.hand")
        assert found.clients == tuple(
            ClientRow(name, b"hb." + name.encode(), b"id", 1, 5, 88) for name in "ac"
        )
        channels = {each.log.name: each for each in found.channels}
        assert channels.keys() == {b"foo.bar", b"empty"}
        assert encoded_messages(channels[b"foo.bar"].log) == messages
        assert (channels[b"foo.bar"].log.first, channels[b"foo.bar"].log.last) == (5, 29)
        assert channels[b"foo.bar"].subscriptions == (
            SubscriptionRow(1, "a", b"in3", b"ack", 10, 30, "dur", "", 8, True, False, (6, 8)),
            SubscriptionRow(2, "", b"in2", b"ack2", 1, 3, "", "d:q", 7, True, True, ()),
        )
        assert set(found.last_ids.values()) == {0, 2}


def test_a_target_that_holds_something_and_a_source_that_is_none_are_refused(place, capfd):
    write_by_hand(place / "old")
    (place / "new").mkdir()
    (place / "new" / "file").touch()
    assert main(["stream", "import", str(place / "old"), "--into", str(place / "new")]) == 1
    assert "there is something already" in capfd.readouterr().err
    with pytest.raises(StoreError, match=r"no server\.dat"):
        import_store(place / "new", place / "other")
    assert not (place / "other").exists()


@pytest.mark.parametrize(
    "name", ["server.dat", "clients.dat", "foo.bar/msgs.9.dat", "foo.bar/subs.dat"]
)
def test_damage_anywhere_is_refused_and_leaves_nothing_behind(place, name):
    write_by_hand(place / "old")
    path = place / "old" / name
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        with pytest.raises(StoreError, match=path.name):
            import_store(place / "old", place / "new")
        assert [each.name for each in place.iterdir()] == ["old"]


def test_a_file_that_ends_inside_a_record_is_cut_only_when_told(place, capfd):
    messages = write_by_hand(place / "old")
    path = place / "old" / "foo.bar" / "msgs.10.dat"
    path.write_bytes(path.read_bytes()[:-1])
    command = ["stream", "import", str(place / "old"), "--into", str(place / "new")]
    assert main(command) == 1
    assert "--truncate-bad-eof" in capfd.readouterr().err
    assert main([*command, "--truncate-bad-eof"]) == 0
    assert "msgs.10.dat: what is behind byte" in capfd.readouterr().out
    for found in opened(place / "new"):
        logs = {each.log.name: each.log for each in found.channels}
        assert encoded_messages(logs[b"foo.bar"]) == messages[:-1]


def test_zeros_at_the_end_and_missing_messages_are_noted(place):
    messages = write_by_hand(place / "old")
    channel = place / "old" / "foo.bar"
    (channel / "msgs.9.dat").unlink()
    with (channel / "msgs.10.dat").open("ab") as file:
        file.write(bytes(100))
    report = import_store(place / "old", place / "new")
    assert len(report.notes) == 2
    assert "zeros from byte" in report.notes[0]
    assert report.notes[1] == "channel foo.bar: 4 messages lacked, and are empty now"
    for found in opened(place / "new"):
        log = next(each.log for each in found.channels if each.log.name == b"foo.bar")
        kept = encoded_messages(log)
        assert kept[:3] + kept[7:] == messages[:3] + messages[7:]
        assert kept[3] == encode(8, b"foo.bar", b"", b"", 120)


# --- what the original encrypted -------------------------------------------------------------


def write_encrypted(directory: Path, key: bytes) -> list[bytes]:
    """A channel in which encryption was turned on later, and the cipher changed; as published."""
    write_by_hand(directory)
    # What was stored in the clear and looks like ciphertext to the original, or is short.
    messages = [b"", b"plain", b"\1" * 40, b"\2", b"with AES", b"", b"with ChaCha"]
    ciphers = Keys(key, "", print).ciphers(b"foo.bar")
    stored = list(messages)
    stored[4] = encrypted(ciphers, 1, 5, messages[4])
    stored[6] = encrypted(ciphers, 2, 6, messages[6])  # the empty one took no nonce
    encoded = [encode(at, b"foo.bar", b"r", each, at) for at, each in enumerate(stored, 1)]
    channel = directory / "foo.bar"
    for path in channel.glob("*"):
        path.unlink()
    (channel / "msgs.1.dat").write_bytes(VERSION + b"".join(map(record, encoded)))
    return [encode(at, b"foo.bar", b"r", each, at) for at, each in enumerate(messages, 1)]


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*.log"))


@pytest.mark.parametrize("way", ["environment", "option"])
def test_encrypted_messages_are_decrypted_and_stay_encrypted(place, capfd, monkeypatch, way):
    messages = write_encrypted(place / "old", KEY)
    command = ["stream", "import", str(place / "old"), "--into", str(place / "new")]
    if way == "environment":
        monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
        command.append("--encryption_key=not the one that holds")
    else:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        command += ["--encryption_key", KEY.decode(), "--encryption_cipher", "chacha"]
    assert main(command) == 0
    assert capfd.readouterr().out.endswith("clients, encrypted\n")
    assert b"plain" not in contents(place / "new")
    for found in opened(place / "new", EncryptedFileHarness):
        assert found.server is not None
        assert found.server.key_check == EncryptedFileHarness.key_check
        log = next(each.log for each in found.channels if each.log.name == b"foo.bar")
        assert encoded_messages(log) == messages
    assert main([*command[:4], str(place / "plain"), *command[5:], "--plain"]) == 0
    for found in opened(place / "plain"):
        log = next(each.log for each in found.channels if each.log.name == b"foo.bar")
        assert encoded_messages(log) == messages


def test_encrypted_messages_are_refused_without_their_key(place, capfd, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    write_encrypted(place / "old", KEY)
    command = ["stream", "import", str(place / "old"), "--into", str(place / "new")]
    assert main(command) == 1
    said = capfd.readouterr().err
    assert f"message 5 is encrypted: give the key of the original server in {KEY_VARIABLE}" in said
    assert main([*command, "--encryption_key=hush-hush"]) == 1
    said = capfd.readouterr().err
    assert "message 5 was encrypted with another key" in said
    assert "hush" not in said
    assert [each.name for each in place.iterdir()] == ["old"]


# --- what the original server wrote ----------------------------------------------------------


async def use_original(port: int, random_: random.Random) -> dict[str, list[bytes]]:
    """Channels, durables and queue groups in several states; all messages as they are delivered."""
    client = await StanWire.connect(port, "me")
    reader = await client.subscribe("foo", in_flight=1000)
    other = await client.subscribe("bar.baz", in_flight=1000)
    durable = await client.subscribe("foo", in_flight=20, durable="dur")
    group = await client.subscribe("bar.baz", in_flight=5, queue="q", durable="grp")
    for number in range(300):
        await client.publish(
            "foo", random_.randbytes(random_.choice([0, 10, 2000])), "r" * (number % 2)
        )
    for number in range(10):
        await client.publish("bar.baz", b"%d" % number)
    await reader.wait_for(300)
    await other.wait_for(10)
    await durable.wait_for(20)
    await group.wait_for(5)
    for sequence in (1, 2, 3, 7):
        await durable.ack(sequence)
    await durable.wait_for(24)
    for sequence in range(1, 6):
        await group.ack(sequence)
    await group.wait_for(10)
    await client.end_subscription(group)
    away = await StanWire.connect(port, "away")
    await away.leave()
    await client.leave()
    return {"foo": reader.messages, "bar.baz": other.messages}


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--file_slice_max_msgs=70",)], ids=["one", "slices"])
def test_what_the_original_wrote_is_taken_over_message_by_message(place, seed, flags):
    print(f"seed {seed}")
    original_server()
    with OriginalServer(place / "old", *flags) as server:
        delivered = asyncio.run(use_original(server.port, random.Random(seed)))
    report = import_store(place / "old", place / "new")
    assert report.notes == []
    assert verify(place / "new").is_sound
    for found in opened(place / "new"):
        assert found.server is not None
        assert found.server.discover == b"_STAN.discover.test-cluster"
        assert found.server.close == b"_STAN.close.test-cluster"
        assert [client.client_id for client in found.clients] == ["away", "me"]
        assert found.clients[1].connection_id == b"me".ljust(22, b"_")
        channels = {each.log.name.decode(): each for each in found.channels}
        assert channels.keys() == delivered.keys()
        for name, messages in delivered.items():
            assert encoded_messages(channels[name].log) == messages
        rows = {row.durable_name or row.queue_group: row for row in channels["foo"].subscriptions}
        assert rows.keys() == {"", "dur"}
        assert rows[""].last_sent == 300
        assert rows["dur"].last_sent == 24
        assert rows["dur"].pending == (4, 5, 6, *range(8, 25))
        assert rows["dur"].is_durable
        rows = {row.queue_group: row for row in channels["bar.baz"].subscriptions}
        group = rows["grp:q"]
        assert (group.last_sent, group.pending) == (10, (6, 7, 8, 9, 10))
        assert (group.client_id, group.durable_name, group.is_durable) == ("", "", True)


@pytest.mark.slow
def test_what_the_original_encrypted_is_taken_over_message_by_message(place, seed, monkeypatch):
    print(f"seed {seed}")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    key = f"--encryption_key={KEY.decode()}"

    async def more(port: int) -> list[bytes]:
        """Another start, with the other cipher."""
        client = await StanWire.connect(port, "again")
        for number in range(40):
            await client.publish("foo", b"secret %d" % number)
        reader = await client.subscribe("foo", in_flight=1000)
        await reader.wait_for(340)
        await client.leave()
        return reader.messages

    with OriginalServer(place / "old", key, "--encryption_cipher=AES") as server:
        delivered = asyncio.run(use_original(server.port, random.Random(seed)))
    with OriginalServer(place / "old", key, "--encryption_cipher=CHACHA") as server:
        delivered["foo"] = asyncio.run(more(server.port))
    with pytest.raises(StoreError, match="is encrypted"):
        import_store(place / "old", place / "new")
    with pytest.raises(StoreError, match="another key"):
        import_store(place / "old", place / "new", key=b"another")
    assert import_store(place / "old", place / "new", key=KEY).notes == []
    assert verify(place / "new").is_sound
    assert b"secret" not in contents(place / "new")
    for found in opened(place / "new", EncryptedFileHarness):
        for channel in found.channels:
            assert encoded_messages(channel.log) == delivered[channel.log.name.decode()]
