"""The parameters of a monitoring request, read as nats-server reads them (sheet 12.2).

A value that cannot be read is refused with the words of Go's `strconv`, which tools and people
know.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from shardd.errors import ShardError

_TRUE: Final = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_INT_MAX: Final = 2**63 - 1
_UINT_MAX: Final = 2**64 - 1

# What a page holds unless the query says otherwise.
LIMIT: Final = 1024


class QueryError(ShardError):
    """A request that cannot be answered: the text of the response, whose status is 400."""


class Query:
    """The parameters of one request.

    Args:
        parameters: the values of each name, in the order in which they came.
    """

    def __init__(self, parameters: Mapping[str, Sequence[str]]) -> None:
        self._parameters = parameters

    def text(self, name: str) -> str:
        """The first value of a name; empty when there is none."""
        values = self._parameters.get(name)
        return values[0] if values else ""

    def boolean(self, name: str) -> bool:
        """A truth value; False when there is none. Raises QueryError."""
        value = self.text(name)
        if not value or value in _FALSE:
            return False
        if value in _TRUE:
            return True
        raise _error("boolean", name, "ParseBool", value)

    def integer(self, name: str) -> int:
        """A number of 64 bits with a sign; 0 when there is none. Raises QueryError."""
        return self._number("int", name, "Atoi", -_INT_MAX - 1, _INT_MAX)

    def unsigned(self, name: str) -> int:
        """A number of 64 bits without a sign; 0 when there is none. Raises QueryError."""
        return self._number("uint64", name, "ParseUint", 0, _UINT_MAX)

    def _number(self, kind: str, name: str, function: str, least: int, most: int) -> int:
        value = self.text(name)
        if not value:
            return 0
        digits = value[1:] if least < 0 and value[0] in "+-" else value
        if not (digits.isascii() and digits.isdigit()):
            raise _error(kind, name, function, value)
        number = int(value) if len(value) <= 32 else _UINT_MAX + 1
        if not least <= number <= most:
            raise _error(kind, name, function, value, "value out of range")
        return number


def _error(
    kind: str, name: str, function: str, value: str, why: str = "invalid syntax"
) -> QueryError:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return QueryError(
        f"Error decoding {kind} for '{name}': strconv.{function}: parsing {quoted}: {why}"
    )


def read_page(query: Query) -> tuple[int, int]:
    """Offset and limit of a page: nothing below zero, no limit means LIMIT. Raises QueryError."""
    offset = max(query.integer("offset"), 0)
    limit = query.integer("limit")
    return offset, limit if limit > 0 else LIMIT
