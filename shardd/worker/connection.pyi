"""One client: the Python face."""

from typing import final

from shardd.worker.life import Life

@final
class Connection(Life): ...
