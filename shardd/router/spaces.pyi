"""Accounts as the router sees them, beyond plain subjects: the Python face."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, final

from shardd.config import model
from shardd.router.dispatch import Dispatcher

class Randomness(Protocol):
    def random(self) -> float: ...
    def randrange(self, stop: int, /) -> int: ...

@final
class Space:
    @property
    def account(self) -> int: ...

@final
class Spaces:
    def __init__(
        self,
        dispatcher: Dispatcher,
        randomness: Randomness,
        prefix: bytes,
        describe: Callable[[int, bool], dict[str, object]] | None = None,
        secret: bytes = b"",
    ) -> None: ...
    def apply(
        self, accounts: Sequence[model.Account], ids: Mapping[str, int], cluster: str = ""
    ) -> None: ...
    def space(self, account: int) -> Space | None: ...
    def tick(self, now_ms: int) -> None: ...
    def pending(self) -> int: ...
    def close(self) -> None: ...
