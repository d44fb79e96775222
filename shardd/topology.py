"""What clients are told of the cluster: its name, and where else they can go."""

from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Topology:
    """The cluster as its clients see it. URLs are `host:port`. The router tells, workers show."""

    cluster: str = ""  # empty: no cluster
    own_urls: tuple[str, ...] = ()  # of this server
    urls: tuple[str, ...] = ()  # of the others
    own_websocket_urls: tuple[str, ...] = ()
    websocket_urls: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: tuple[Any, ...]) -> "Topology":
        """What `fields` was made of."""
        return cls(*fields)

    def fields(self) -> tuple[Any, ...]:
        """As it travels between processes."""
        return astuple(self)

    def for_clients(self, *, is_websocket: bool, is_lame_duck: bool) -> list[str]:
        """`connect_urls`: this server's first, but not when it is about to leave; nothing on a
        server that is alone (sheet 2.1)."""
        others = self.websocket_urls if is_websocket else self.urls
        own = self.own_websocket_urls if is_websocket else self.own_urls
        if not others:
            return []
        return list(dict.fromkeys(others if is_lame_duck else own + others))
