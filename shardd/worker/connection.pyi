"""One client: the Python face."""

from typing import Any, final

from shardd.worker.life import Life

@final
class Connection(Life):
    def row(self, wall_ns: int) -> dict[str, Any]: ...
    def subscription_rows(self) -> list[dict[str, Any]]: ...
