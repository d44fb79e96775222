"""Which store the options ask for, opened for one worker's parts."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from shardd.config.streaming import StreamingOptions
from shardd.errors import StoreError
from shardd.streaming.memory_store import MemoryStore
from shardd.streaming.pool import LEAD
from shardd.streaming.store import Store
from shardd.streaming.subjects import partitions_of


def open_store(
    options: StreamingOptions, index: int, workers: int, loop: asyncio.AbstractEventLoop
) -> Store:
    """The store of worker `index` of so many. Its commits end in the thread of the event loop.

    Raises:
        StoreError: it cannot be opened; the text says what to do about it.
    """

    def later(callback: Callable[[], object]) -> None:
        """From a thread of the store's."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(callback)

    if not options.encrypt:
        return _open(options, index, workers, loop, later)
    # Ciphers are loaded where they are used only.
    from shardd.streaming.encrypted_store import EncryptedStore, Keys, key_of

    keys = Keys(key_of(options.encryption_key), options.encryption_cipher, later)
    return EncryptedStore(_open(options, index, workers, loop, later), keys)


def _open(
    options: StreamingOptions,
    index: int,
    workers: int,
    loop: asyncio.AbstractEventLoop,
    later: Callable[[Callable[[], object]], None],
) -> Store:
    if options.store == "MEMORY":
        return MemoryStore(loop.call_soon)
    if options.store == "FILE":
        from shardd.streaming.file_store import FileStore

        return FileStore(
            Path(options.directory),
            partitions_of(index, workers),
            options.file,
            is_lead=index == LEAD,
            call_soon=later,
        )
    try:
        from shardd.streaming.postgres_store import PostgresStore
    except ImportError:
        raise StoreError(
            "SQL stores need psycopg, which is not installed: pip install 'shardd[postgres]'"
        ) from None
    return PostgresStore(
        options.sql, partitions_of(index, workers), is_lead=index == LEAD, call_soon=later
    )
