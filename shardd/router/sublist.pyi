"""The subject index as the mesh sees it; connections and dispatch use its C face."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeAlias

from shardd.router.policies import Rule

# (account, subject, queue or None, count), and who the members of a sticky group are
Entry: TypeAlias = tuple[Any, ...]

@dataclasses.dataclass(frozen=True)
class SublistStatistics:
    subscriptions: int
    interests: int
    groups: int
    trie_nodes: int
    cache_entries: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    inserts: int
    removes: int

class Sublist:
    def __init__(
        self,
        *,
        seed: int = ...,
        cache_entries: int = ...,
        cache_bytes_max: int = ...,
        is_relay: bool = ...,
    ) -> None: ...
    @property
    def subscriptions(self) -> int: ...
    @property
    def inserts(self) -> int: ...
    @property
    def removes(self) -> int: ...
    def has_changes(self) -> bool: ...
    def take_changes(self) -> list[Entry]: ...
    def snapshot(self, position: int, limit: int) -> tuple[list[Entry], int]: ...
    def snapshot_of(
        self, process: int, position: int, limit: int
    ) -> tuple[list[tuple[int, bytes, bytes | None, int]], int]: ...
    def set_remote(
        self,
        process: int,
        account: int,
        subject: bytes,
        queue: bytes | None,
        count: int,
        shares: list[int] | None = ...,
    ) -> int: ...
    def set_remote_many(self, process: int, entries: Iterable[Entry]) -> None: ...
    def set_policies(self, rules: list[Rule], process: int, tells_shares: bool) -> None: ...
    def identify(self, process: int, identity: int) -> None: ...
    def drop_process(self, process: int) -> None: ...
    def statistics(self) -> SublistStatistics: ...
    def fanout(self) -> tuple[int, int]: ...
