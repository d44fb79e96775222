"""Stores that were made before there was encryption: served, and brought up to date."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from shardd.errors import StoreError
from shardd.streaming.file_store import LEAD_DATABASE
from shardd.streaming.log_probe import append
from shardd.streaming.msgproto import decode
from shardd.streaming.store import ClientRow, ServerRow
from shardd.streaming.verify import verify
from tests.support.postgres import shared_cluster
from tests.support.stores import (
    EncryptedFileHarness,
    EncryptedPostgresHarness,
    FileHarness,
    PostgresHarness,
    StoreHarness,
    encoded_messages,
    quick_directory,
)

SERVER: Final = ServerRow("c", b"d.c", b"p", b"s", b"u", b"sc", b"cl", b"_INBOX.abc")

# As they were.
OLD_TABLES: Final = """
CREATE TABLE server (
    one INTEGER PRIMARY KEY CHECK (one = 1), cluster_id TEXT NOT NULL, discover BLOB NOT NULL,
    pub BLOB NOT NULL, sub BLOB NOT NULL, unsub BLOB NOT NULL, sub_close BLOB NOT NULL,
    close BLOB NOT NULL, inbox_prefix BLOB NOT NULL
);
CREATE TABLE clients (
    client_id BLOB PRIMARY KEY, heartbeat_inbox BLOB NOT NULL, connection_id BLOB NOT NULL,
    protocol INTEGER NOT NULL, ping_interval_s INTEGER NOT NULL, ping_max_out INTEGER NOT NULL
) WITHOUT ROWID;
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "store"


def fill(harness: StoreHarness) -> None:
    harness.open()
    harness.opened.save_server(SERVER)
    append(harness.opened.create_channel(b"foo"), 1, b"old")
    harness.commit_well()
    harness.close()


def make_old(directory: Path) -> None:
    path = directory / LEAD_DATABASE
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(f"BEGIN; {OLD_TABLES} PRAGMA user_version = 1; COMMIT;")
        subjects = (SERVER.discover, SERVER.pub, SERVER.sub, SERVER.unsub, SERVER.sub_close)
        values = (1, SERVER.cluster_id, *subjects, SERVER.close, SERVER.inbox_prefix)
        database.execute(f"INSERT INTO server VALUES ({'?, ' * 8}?)", values)


def check(old: StoreHarness, encrypted: StoreHarness) -> None:
    """Everything is there, can be changed, and may be encrypted from now on."""
    with old:
        assert old.open().server == SERVER
        old.opened.save_server(SERVER)
        old.opened.save_client(ClientRow("me", b"hb"))
        old.commit_well()
        recovered = old.reopen()
        assert (recovered.server, [each.client_id for each in recovered.clients]) == (
            SERVER,
            ["me"],
        )
    with encrypted:
        (channel,) = encrypted.open().channels
        append(channel.log, 1, b"new")
        encrypted.commit_well()
        recovered = encrypted.reopen()
        assert recovered.server is not None
        assert recovered.server.key_check == encrypted.key_check
        (channel,) = recovered.channels
        assert [decode(each)[3] for each in encoded_messages(channel.log)] == [b"old", b"new"]


def test_a_directory(place):
    fill(FileHarness(place))
    make_old(place)
    assert verify(place).is_sound  # which changes nothing
    check(FileHarness(place), EncryptedFileHarness(place))


def test_a_directory_that_is_encrypted_at_once(place):
    fill(FileHarness(place))
    make_old(place)
    with EncryptedFileHarness(place) as harness:
        harness.open()
        harness.commit_well()
        recovered = harness.reopen()
        assert recovered.server is not None
        assert recovered.server.key_check == harness.key_check


def test_a_database_and_one_whose_tables_belong_to_another_role(tmp_path):
    cluster = shared_cluster()
    schema = cluster.schema()
    source = cluster.source(schema)
    fill(PostgresHarness(tmp_path, source))
    cluster.execute(f"ALTER TABLE {schema}.shardd_server DROP COLUMN key_check")
    role = f"guest_{schema}"
    cluster.execute(f"CREATE ROLE {role}")
    cluster.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    cluster.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
    guest = PostgresHarness(tmp_path, f"{source}%20-crole%3D{role}")
    with pytest.raises(StoreError) as refusal:
        guest.open()
    text = str(refusal.value)
    assert "another role's: let it run `ALTER TABLE shardd_server ADD COLUMN" in text
    assert "\n" not in text
    check(PostgresHarness(tmp_path, source), EncryptedPostgresHarness(tmp_path, source))
    with guest:
        guest.open()
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
