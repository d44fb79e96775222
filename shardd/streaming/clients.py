"""The clients that are connected, as one streaming worker knows them (sheet 3).

The lead decides who is one; the other workers hear of it. Publishers are looked up by the id of
their connection or, with the old protocol, by their own id, for every message: the two dictionaries
are the receiver's.
"""

from collections.abc import Iterator

from shardd.streaming.store import ClientRow
from shardd.streaming.subscription import Subscription


class Client:
    """One connected client."""

    __slots__ = ("fail_count", "is_checked", "is_failing", "number", "row", "subscriptions")

    def __init__(self, row: ClientRow, number: int) -> None:
        self.row = row
        self.number = number  # unlike the id, it is not given again while the lead runs
        self.subscriptions: set[Subscription] = set()  # of this worker
        self.fail_count = 0  # heartbeats in a row that were not answered
        self.is_failing = False
        self.is_checked = False  # whether it lives is being asked, for somebody with the same id

    def set_failing(self, is_failing: bool) -> None:
        """Whether it answers heartbeats; its subscriptions know, because each delivery asks."""
        self.is_failing = is_failing
        for subscription in self.subscriptions:
            subscription.is_failing = is_failing


class Clients:
    """All of them."""

    def __init__(self, by_id: dict[bytes, Client], by_connection: dict[bytes, Client]) -> None:
        self._by_id = by_id
        self._by_connection = by_connection
        self._numbers: set[int] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._by_id.values())

    def find(self, client_id: str) -> Client | None:
        """By the client's id."""
        return self._by_id.get(client_id.encode())

    def find_connection(self, connection_id: bytes) -> Client | None:
        """By the id of the connection, which only protocol 1 has."""
        return self._by_connection.get(connection_id)

    def add(self, row: ClientRow, number: int) -> Client:
        """A client whose id nobody else has."""
        client = Client(row, number)
        self._by_id[row.client_id.encode()] = client
        self._numbers.add(number)
        if row.connection_id:
            self._by_connection[row.connection_id] = client
        return client

    def remove(self, client: Client) -> None:
        """It is no client any more; whoever has its id now stays."""
        if self.find(client.row.client_id) is client:
            del self._by_id[client.row.client_id.encode()]
        if self._by_connection.get(client.row.connection_id) is client:
            del self._by_connection[client.row.connection_id]
        self._numbers.discard(client.number)

    def has_number(self, number: int) -> bool:
        """Whether it is the number of a client; asked at the lead, which gives them."""
        return number in self._numbers
