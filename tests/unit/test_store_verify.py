"""`shardd stream verify`: what it says of sound stores and of damaged ones, and that it changes
nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shardd.cli.main import main
from shardd.errors import StoreError
from shardd.streaming.file_log import FileLog
from shardd.streaming.log_probe import append_many
from shardd.streaming.store import ClientRow, SubscriptionRow
from shardd.streaming.verify import verify
from tests.support.stores import FileHarness, quick_directory


@pytest.fixture
def store() -> Iterator[Path]:
    """A store that was closed: 300 messages in one channel, 5 in another, a subscription."""
    with quick_directory() as place:
        with FileHarness(place / "store") as harness:
            harness.open()
            for name, count in ((b"foo", 300), (b"bar", 5)):
                log = harness.opened.create_channel(name)
                for _ in range(count // 5):
                    append_many(log, 1, b"x" * 20, 5)
                    harness.commit_well()
                assert isinstance(log, FileLog)
            row = SubscriptionRow(1, "me", b"in", b"ack", 1, 1, last_sent=300)
            harness.opened.save_subscription(b"foo", row)
            harness.opened.save_client(ClientRow("me", b"hb"))
        yield place / "store"


def segments(store: Path, channel: str) -> list[Path]:
    return sorted(store.glob(f"p*/{channel}/*.log"))


def change(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def contents(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_sound_store_is_counted_and_left_as_it_was(store, capfd):
    before = contents(store)
    report = verify(store)
    assert report.is_sound
    assert not report.notes
    assert (report.channels, report.messages) == (2, 305)
    assert (report.subscriptions, report.clients) == (1, 1)
    assert report.segments == len(segments(store, "*")) > 5
    assert main(["stream", "verify", str(store)]) == 0
    out = capfd.readouterr().out
    assert f": 2 channels, 305 messages, {report.bytes} bytes, 1 subscriptions, 1 clients" in out
    assert out.endswith(": sound\n")
    after = contents(store)
    assert {path: data for path, data in after.items() if "-" not in path.suffix} == before


def test_a_damaged_message_is_named_and_the_others_are_counted(store, capfd):
    second = segments(store, "foo")[1]
    change(second, len(second.read_bytes()) // 2)
    change(segments(store, "bar")[0], -1)
    assert main(["stream", "verify", str(store)]) == 1
    *lines, last = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert any(f"{second}: at byte" in line and "is lost" in line for line in lines)
    assert any(line.endswith("message 5 is lost") for line in lines)
    assert "303 messages" in last
    assert last.endswith("damaged in 2 places")


def test_a_damaged_message_is_found_without_a_sidecar_too(store):
    second = segments(store, "foo")[1]
    for sidecar in store.glob("p*/*/*.idx"):
        sidecar.unlink()
    change(second, -1)
    report = verify(store)
    assert len(report.damages) == 1
    assert "are lost" in report.damages[0]


def test_a_missing_segment_and_a_damaged_header_are_damage(store):
    change(segments(store, "bar")[0], 9)
    second = segments(store, "foo")[1]
    second.unlink()
    texts = verify(store).damages
    assert len(texts) == 2
    assert any("header is damaged" in text for text in texts)
    assert any("are lost" in text for text in texts)


def test_a_damaged_database_is_damage(store):
    (store / "clients.db").write_bytes(b"x" * 5000)
    database = next(store.glob("p*/foo")).parent / "state.db"
    database.unlink()
    texts = verify(store).damages
    assert "move it away" in texts[0]
    assert "missing" in texts[1]


def test_a_torn_tail_is_a_note(store):
    for sidecar in store.glob("p*/*/*.idx"):
        sidecar.unlink()
    newest = segments(store, "foo")[-1]
    newest.write_bytes(newest.read_bytes() + b"torn")
    report = verify(store)
    assert report.is_sound
    assert len(report.notes) == 1
    assert "not acknowledged" in report.notes[0]


def test_a_store_in_use_and_what_is_no_store_are_refused(store, tmp_path, capfd):
    with FileHarness(store) as harness:
        harness.open()
        with pytest.raises(StoreError, match="end it first"):
            verify(store)
    assert main(["stream", "verify", str(tmp_path)]) == 1
    assert "there is no store here" in capfd.readouterr().err
    (tmp_path / "server.dat").touch()
    with pytest.raises(StoreError, match="original server"):
        verify(tmp_path)
