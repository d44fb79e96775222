"""Which store the options ask for, opened for one worker's parts."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shardd.config.streaming import KEY_VARIABLE, StreamingOptions
from shardd.errors import StoreError
from shardd.streaming import texts
from shardd.streaming.memory_store import MemoryStore
from shardd.streaming.pool import LEAD
from shardd.streaming.store import Recovered, Store
from shardd.streaming.subjects import partitions_of

_LOCK_S: Final = 5.0

log = logging.getLogger("shardd.streaming")


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
            # The processes of the last active server may be about to end.
            lock_s=_LOCK_S if options.ft_group else 0.0,
        )
    try:
        from shardd.streaming.postgres_store import PostgresStore
    except ImportError:
        raise StoreError(
            "SQL stores need psycopg, which is not installed: pip install 'shardd[postgres]'"
        ) from None
    return PostgresStore(
        options.sql,
        partitions_of(index, workers),
        is_lead=index == LEAD,
        call_soon=later,
        is_exclusive=bool(options.ft_group),
    )


def recover(store: Store, options: StreamingOptions) -> Recovered:
    """Opens the store and reads it; what was mended stands in the log. Raises StoreError."""
    recovered = store.recover()
    for line in recovered.repairs:
        log.warning("STREAM: %s", line)
    if recovered.server is not None and recovered.server.cluster_id != options.cluster_id:
        raise StoreError(
            texts.OTHER_CLUSTER.format(asked=options.cluster_id, stored=recovered.server.cluster_id)
        )
    if recovered.server is not None and recovered.server.key_check and not options.encrypt:
        raise StoreError(
            "the store holds encrypted messages: set `encrypt: true`, or --encrypt, and give the"
            f" key in {KEY_VARIABLE}"
        )
    return recovered
