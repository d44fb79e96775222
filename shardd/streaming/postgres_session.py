"""A connection to PostgreSQL that owns parts of the store, and the tables it works on.

A part has one owner at a time. Its connection holds an advisory lock for each part, which
PostgreSQL lets go of when the connection ends, so that another server can take over; and it has
given the part's row a new token. Every transaction begins by locking the rows of the parts it
changes, and goes no further unless they have that token still. So whoever lost its connection, was
stopped for a while, or sits behind a broken network cannot write any more once somebody else has
taken the part: the new owner's change of the token waits for a transaction that is under way, and
makes every later one fail.

Used by one thread at a time.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import conninfo, pq

from shardd.errors import StoreError, StoreUnavailableError
from shardd.streaming.subjects import PARTITIONS

logger = logging.getLogger("shardd.streaming.postgres_store")

VERSION: Final = 1
LEAD_PART: Final = PARTITIONS  # who has its row keeps the server and the clients

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]

STATEMENT_S: Final = 10  # for one statement, unless the role or the source says otherwise
ANSWER_S: Final = 2.0  # for an answer to come, beside the time that its statements may take
LOCK_S: Final = 5.0  # for the last owner's connection to end: its process may just have died
_LOCK_POLL_S: Final = 0.05
# What a source that does not say so itself gets.
_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "shardd",
}
# Errors after which a connection is of no use, though it may look alive for a moment: it was ended
# by the server, the server became a standby, a transaction took too long between statements.
_FATAL: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25006", "25P03"})

_TABLES: Final = f"""
CREATE TABLE shardd_store (version integer NOT NULL);
INSERT INTO shardd_store VALUES ({VERSION});
CREATE TABLE shardd_parts (
    part smallint PRIMARY KEY, token bigint NOT NULL DEFAULT 0, last_id bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT ''
);
INSERT INTO shardd_parts (part) SELECT generate_series(0, {LEAD_PART});
CREATE TABLE shardd_server (
    one boolean PRIMARY KEY CHECK (one), cluster_id text NOT NULL, discover bytea NOT NULL,
    pub bytea NOT NULL, sub bytea NOT NULL, unsub bytea NOT NULL, sub_close bytea NOT NULL,
    close bytea NOT NULL, inbox_prefix bytea NOT NULL, key_check bytea NOT NULL
);
CREATE TABLE shardd_clients (
    client_id bytea NOT NULL, heartbeat_inbox bytea NOT NULL, connection_id bytea NOT NULL,
    protocol bigint NOT NULL, ping_interval_s bigint NOT NULL, ping_max_out bigint NOT NULL
);
CREATE UNIQUE INDEX shardd_clients_id ON shardd_clients (sha256(client_id));
CREATE TABLE shardd_channels (
    id bigint PRIMARY KEY, part smallint NOT NULL, name bytea NOT NULL,
    first bigint NOT NULL DEFAULT 1, last bigint NOT NULL DEFAULT 0,
    last_ns bigint NOT NULL DEFAULT 0, is_deleted boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX shardd_channels_name ON shardd_channels (sha256(name)) WHERE NOT is_deleted;
CREATE TABLE shardd_messages (
    channel bigint NOT NULL, sequence bigint NOT NULL, time_ns bigint NOT NULL,
    data bytea NOT NULL, PRIMARY KEY (channel, sequence)
);
ALTER TABLE shardd_messages ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE shardd_subscriptions (
    channel bigint NOT NULL, id bigint NOT NULL, client_id bytea NOT NULL, inbox bytea NOT NULL,
    ack_inbox bytea NOT NULL, max_in_flight bigint NOT NULL, ack_wait_s bigint NOT NULL,
    durable_name bytea NOT NULL, queue_group bytea NOT NULL, last_sent bigint NOT NULL,
    is_durable boolean NOT NULL, is_closed boolean NOT NULL, pending bytea NOT NULL,
    owner bytea NOT NULL, PRIMARY KEY (channel, id)
) WITH (fillfactor = 50);
"""
# Tables that were made before there was encryption lack it.
_HAS_KEY_CHECK: Final = (
    "SELECT 1 FROM pg_attribute WHERE attrelid = 'shardd_server'::regclass"
    " AND attname = 'key_check' AND NOT attisdropped"
)
_ADD_KEY_CHECK: Final = (
    "ALTER TABLE shardd_server ADD COLUMN IF NOT EXISTS key_check bytea NOT NULL DEFAULT ''"
)
# Workers that begin at the same time make the tables once.
_LOCK_TABLES: Final = "SELECT pg_advisory_xact_lock(hashtext('shardd tables'))"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock('shardd_parts'::regclass::oid::bigint * 32 + %s)"


class FencedError(StoreUnavailableError):
    """Somebody else has taken a part: this process must not go on with what it remembers."""


class ConnectionLostError(Exception):
    """The database cannot be asked; the text says why, and nothing that is secret."""


class Session:
    """Owns these parts, through one connection at a time.

    Args:
        source: a connection string of libpq, or a `postgres://` URL.
        parts: the parts to own; `LEAD_PART` is one.
        lock_s: how long to wait for them while another connection has them.

    Raises:
        StoreError: that is no connection string.
    """

    def __init__(self, source: str, parts: Sequence[int], lock_s: float = LOCK_S) -> None:
        try:
            given = conninfo.conninfo_to_dict(source)
        except psycopg.Error:
            # libpq's text may quote the password.
            raise StoreError(
                "sql source: neither a list of key=value nor a postgres:// URL"
            ) from None
        self._parameters = _DEFAULTS | given
        self._password = str(given.get("password") or os.environ.get("PGPASSWORD", ""))
        host = given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST", "localhost")
        port = given.get("port") or os.environ.get("PGPORT", "5432")
        user = given.get("user") or os.environ.get("PGUSER", "")
        database = given.get("dbname") or os.environ.get("PGDATABASE", "") or user
        self.place = f'database "{database}" on {host}:{port}'
        self._owner = f"{socket.gethostname()}, pid {os.getpid()}"
        self._parts = sorted(parts)
        self._lock_s = lock_s
        self._token = 0
        self._connection: Connection | None = None
        self._is_leading = False  # the connection has the lead's part, and `open` goes on with it
        self._backend: tuple[Any, ...] = ()  # of the last connection: process and its start
        self._patience_s = 2 * STATEMENT_S + ANSWER_S
        self._asked_at_s = 0.0  # when what is under way was begun; 0: nothing is, or it may be long
        self._closing = threading.Lock()  # the connection is not closed while it is being cut

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    # --- opening ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connects, makes the tables if there are none, and takes the parts.

        Raises:
            StoreUnavailableError: the database cannot be reached now.
            FencedError: somebody else has, or had, a part since this session owned it.
            StoreError: something that the operator has to change.
        """
        with self._opening():
            if not self._is_leading:
                self.close()
                self._connect()
            self._is_leading = False
            with self._timed():
                self._take_parts()

    def try_lead(self) -> bool:
        """Takes the lead's part, if nobody has it, ahead of `open`; the connection stays.

        Raises:
            StoreError: as `open`.
        """
        with self._opening():
            if self._connection is None:
                self._connect()
            with self._timed():
                self._is_leading = bool(self._value(_TRY_LOCK, LEAD_PART))
        return self._is_leading

    def _connect(self) -> None:
        try:
            self._connection = psycopg.connect(**self._parameters, autocommit=True)
        except psycopg.Error as error:
            raise StoreUnavailableError(
                f"{self.place} cannot be reached: {self.reason(error)}"
            ) from None
        with self._timed():
            self._prepare()

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """What goes wrong leaves no connection."""
        try:
            yield
        except psycopg.Error as error:
            is_lost = self._is_lost(error)
            self.close()
            kind = StoreUnavailableError if is_lost else StoreError
            raise kind(f"{self.place}: {self.reason(error)}") from None
        except StoreError:
            self.close()
            raise

    def _prepare(self) -> None:
        connection = self._opened()
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(
                "SELECT set_config(%s, %s, false) WHERE current_setting(%s) = '0'",
                (name, f"{STATEMENT_S}s", name),
            )
        limit_ms = self._value("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'")
        self._patience_s = 2 * int(limit_ms) / 1000 + ANSWER_S
        for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"):
            # So that the database, too, notices soon when this host is gone, and frees its locks.
            seconds = self._parameters[name.removeprefix("tcp_")]
            connection.execute("SELECT set_config(%s, %s, false)", (name, str(seconds)))
        with connection.transaction():
            connection.execute(_LOCK_TABLES)
            if self._value("SELECT to_regclass('shardd_store')") is None:
                if self._value("SELECT current_schema()") is None:
                    raise StoreError(f"{self.place}: the search_path names no schema that exists")
                connection.execute(_TABLES)
                logger.info("%s: tables were made", self.place)
        version = self._value("SELECT max(version) FROM shardd_store")
        if version != VERSION:
            raise StoreError(
                f"{self.place}: the tables have version {version}, and this is a server for"
                f" version {VERSION}"
            )
        if self._value(_HAS_KEY_CHECK) is None:
            self._add_key_check()

    def _add_key_check(self) -> None:
        connection = self._opened()
        try:
            with connection.transaction():
                connection.execute(_LOCK_TABLES)
                connection.execute(_ADD_KEY_CHECK)
        except psycopg.errors.InsufficientPrivilege:
            raise StoreError(
                f"{self.place}: the tables are those of an older server, and another role's: let"
                f" it run `{_ADD_KEY_CHECK}`"
            ) from None
        logger.info("%s: the tables were brought up to date", self.place)

    def _take_parts(self) -> None:
        connection = self._opened()
        if self._backend:
            # The connection before this one may be half open, and hold the locks for long.
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid = %s AND backend_start = %s",
                self._backend,
            )
        until = time.monotonic() + self._lock_s
        # The lead's first: of two servers of a group each would else have what the other waits for.
        for part in reversed(self._parts):
            self._lock(part, until)
        with connection.transaction():
            rows = connection.execute(
                "SELECT token FROM shardd_parts WHERE part = ANY(%s) ORDER BY part"
                " FOR NO KEY UPDATE",
                (self._parts,),
            ).fetchall()
            self._check_tokens([row[0] for row in rows])
            token = max(row[0] for row in rows) + 1
            connection.execute(
                "UPDATE shardd_parts SET token = %s, owner = %s WHERE part = ANY(%s)",
                (token, self._owner, self._parts),
            )
        self._token = token
        self._backend = connection.execute(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchall()[0]

    def _lock(self, part: int, until: float) -> None:
        """Waits for the last owner's connection to end, for a while."""
        rows = "SELECT {} FROM shardd_parts WHERE part = %s"
        while not self._value(_TRY_LOCK, part):
            if self._token:
                self._check_tokens([self._value(rows.format("token"), part)])
            if time.monotonic() >= until:
                owner = self._value(rows.format("owner"), part)
                text = f"{self.place}: is in use by another server ({owner})"
                raise StoreUnavailableError(text) if self._token else StoreError(text)
            time.sleep(_LOCK_POLL_S)
            self._asked_at_s = time.monotonic()  # it answers, though not as is hoped for

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if self._token and any(token != self._token for token in tokens):
            self._backend = ()
            raise FencedError(f"{self.place}: another server has taken over; nothing is written")

    def _value(self, query: str, *parameters: object) -> Any:
        rows = self._opened().execute(query, parameters or None).fetchall()
        return rows[0][0] if rows else None

    def _opened(self) -> Connection:
        if self._connection is None:
            raise ConnectionLostError("the database cannot be reached")
        return self._connection

    def close(self, *, is_clean: bool = False) -> None:
        """Let go of the connection, and with it of the parts; if clean, for good."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                if is_clean:
                    with self._timed():
                        self._opened().execute(
                            "UPDATE shardd_parts SET owner = ''"
                            " WHERE part = ANY(%s) AND token = %s",
                            (self._parts, self._token),
                        )
            with self._closing, contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def cut_if_stuck(self, now_s: float) -> bool:
        """Cut the connection if the database has not answered for longer than all its own limits
        allow, as when its process or its machine hangs: whoever waits then finds it lost. Called
        in another thread than the session's; whether it was cut.

        Args:
            now_s: monotonic seconds.
        """
        with self._closing, contextlib.suppress(psycopg.Error, OSError):
            asked_at_s, connection = self._asked_at_s, self._connection
            if not asked_at_s or now_s - asked_at_s < self._patience_s or connection is None:
                return False
            with socket.socket(fileno=os.dup(connection.fileno())) as other:
                other.shutdown(socket.SHUT_RDWR)
            self._asked_at_s = 0.0
            return True
        return False

    # --- working ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self, parts: Collection[int], *, is_synced: bool = True) -> Iterator[Cursor]:
        """All or nothing, and nothing unless the parts are still this session's.

        Raises:
            FencedError: they are not.
            ConnectionLostError: the connection is gone; if this happens at the end, it is not
                known whether everything or nothing was written.
            psycopg.Error: a statement failed; nothing was written.
        """
        numbers = ", ".join(map(str, sorted(parts)))
        begin = "BEGIN" if is_synced else "BEGIN; SET LOCAL synchronous_commit TO off"
        begin += (
            f"; SELECT part FROM shardd_parts WHERE part IN ({numbers}) AND token = {self._token}"
            " ORDER BY part FOR NO KEY UPDATE"
        )
        with self._watched(), self._opened().cursor() as cursor:
            try:
                cursor.execute(begin, prepare=False)
                while cursor.nextset():
                    pass
                if cursor.rowcount != len(parts):
                    raise FencedError(
                        f"{self.place}: another server has taken over; nothing is written"
                    )
                yield cursor
                cursor.execute("COMMIT", prepare=False)
                if cursor.statusmessage != "COMMIT":
                    raise psycopg.InternalError("the transaction was rolled back")
            except BaseException:
                self._roll_back(cursor.connection)
                raise

    def _roll_back(self, connection: Connection) -> None:
        with contextlib.suppress(psycopg.Error):
            if connection.info.transaction_status != pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK", prepare=False)
        if connection.info.transaction_status != pq.TransactionStatus.IDLE:
            with self._closing:
                connection.close()

    @contextlib.contextmanager
    def reading(self, *, is_long: bool = False) -> Iterator[Cursor]:
        """What is read need not be protected; `is_long`: it may take any time.

        Raises:
            ConnectionLostError: the connection is gone.
            psycopg.Error: a statement failed.
        """
        with self._watched(), self._opened().cursor(binary=True) as cursor:
            if not is_long:
                yield cursor
                return
            self._asked_at_s = 0.0
            before = self._value("SHOW statement_timeout")
            cursor.execute("SET statement_timeout TO 0")
            yield cursor
            cursor.execute("SELECT set_config('statement_timeout', %s, false)", (before,))

    def ping(self) -> None:
        """Raises ConnectionLostError: the connection is gone."""
        with self._watched():
            self._opened().execute("SELECT 1")

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Errors that end the connection are told from those that end a statement."""
        try:
            with self._timed():
                yield
        except psycopg.Error as error:
            if not self._is_lost(error):
                raise
            reason = self.reason(error)
            self.close()
            raise ConnectionLostError(reason) from None

    def note_answer(self) -> None:
        """In a transaction that goes on: what was asked up to now has been answered."""
        self._asked_at_s = time.monotonic()

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """The database is being asked something that has to end in time."""
        self._asked_at_s = time.monotonic()
        try:
            yield
        finally:
            self._asked_at_s = 0.0

    def _is_lost(self, error: psycopg.Error) -> bool:
        connection = self._connection
        return connection is None or connection.closed or error.sqlstate in _FATAL

    def reason(self, error: psycopg.Error) -> str:
        """What the database says, on one line; without what libpq may repeat of the source."""
        text = error.diag.message_primary or str(error)
        if self._password:
            text = text.replace(self._password, "***")
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())
