"""One log's part in a commit: the Python face."""

from typing import Any

def reason_of(error: OSError) -> str:
    """What a publisher is told of it."""

def sync_directory(path: str) -> None:
    """Have the names in a directory on disk; OSError is not caught."""

class WriteJob:
    @property
    def log(self) -> Any: ...
    @property
    def error(self) -> OSError | None: ...
    def run(self) -> None:
        """Write, and have it on disk. In any thread. What failed is in `error`."""
