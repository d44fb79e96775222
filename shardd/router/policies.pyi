"""How a member of a queue group is chosen: the Python face."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from shardd.config import model

Rule: TypeAlias = tuple[int, int | None, bytes, bytes, bytes]

def rules_of(
    policies: Sequence[model.QueuePolicy], account_ids: Mapping[str, int]
) -> list[Rule]: ...
def identity_of(name: str) -> int: ...
