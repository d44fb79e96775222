"""Subjects into other subjects: what mappings and imports do to them.

A transform has a source pattern and a destination. The destination's tokens are literals, or stand
for tokens that the source's wildcards matched, as they are (`$1`, `{{wildcard(1)}}`, or `*` for the
next one), cut, split, or hashed into a number of partitions (sheet 9; the functions and their
results are nats-server's). No IO; randomness is handed in.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

_FUNCTION: Final = re.compile(r"\{\{\s*([A-Za-z]+)\s*\(\s*(.*?)\s*\)\s*\}\}")
_DOLLAR: Final = re.compile(r"\$([0-9]+)")
_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193

Piece = Callable[[Sequence[str]], str]  # the tokens that the wildcards matched, to one token


class Transform:
    """One source and one destination.

    Args:
        source: a pattern.
        destination: as above; a source that ends in `>` may have one that does.
        random_below: gives a random number below its argument, for `{{random(n)}}`.

    Raises:
        ValueError: the destination asks for what the source does not have.
    """

    def __init__(
        self, source: str, destination: str, random_below: Callable[[int], int] | None = None
    ) -> None:
        self.source = source
        self.destination = destination
        self._tokens = source.split(".")
        self._wildcards = [i for i, token in enumerate(self._tokens) if token == "*"]
        self._has_tail = self._tokens[-1] == ">"
        self._random_below = random_below
        self.is_random = False  # the same subject may go elsewhere next time
        self._next = 0
        pieces = destination.split(".") if "{{" not in destination else _split(destination)
        self._pieces: list[Piece | str] = []
        self._keeps_tail = False
        for index, piece in enumerate(pieces):
            if piece == ">" and index == len(pieces) - 1 and self._has_tail:
                self._keeps_tail = True
            elif piece in ("", ">"):
                raise ValueError(f'invalid mapping destination "{destination}"')
            else:
                self._pieces.append(self._piece(piece))

    def matches(self, subject: str) -> bool:
        """Whether a literal subject is one of the source's."""
        return matches(self._tokens, subject.split("."))

    def apply(self, subject: str) -> str:
        """Where a literal subject that matches goes."""
        tokens = subject.split(".")
        matched = [tokens[index] for index in self._wildcards]
        parts = [piece if isinstance(piece, str) else piece(matched) for piece in self._pieces]
        if self._keeps_tail:
            parts += tokens[len(self._tokens) - 1 :]
        return ".".join(parts)

    # --- the destination -----------------------------------------------------------------------

    def _piece(self, text: str) -> Piece | str:
        if text == "*":
            self._next += 1
            return self._wildcard(str(self._next))
        dollar = _DOLLAR.fullmatch(text)
        if dollar:
            return self._wildcard(dollar[1])
        call = _FUNCTION.fullmatch(text)
        if call is None:
            if "{{" in text:
                raise ValueError(f'unknown function in mapping destination "{text}"')
            return text
        name = call[1].lower()
        arguments = [part.strip() for part in call[2].split(",")] if call[2] else []
        makers: dict[str, Callable[[list[str]], Piece]] = {
            "wildcard": lambda given: self._wildcard(*_exactly(given, 1, text)),
            "partition": lambda given: self._partition(given, text),
            "split": lambda given: self._split(*_exactly(given, 2, text)),
            "splitfromleft": lambda given: self._cut(given, text, _split_left),
            "splitfromright": lambda given: self._cut(given, text, _split_right),
            "slicefromleft": lambda given: self._cut(given, text, _slice_left),
            "slicefromright": lambda given: self._cut(given, text, _slice_right),
            "left": lambda given: self._cut(given, text, _left),
            "right": lambda given: self._cut(given, text, _right),
            "random": lambda given: self._random(given, text),
        }
        if name not in makers:
            raise ValueError(f'unknown function in mapping destination "{text}"')
        return makers[name](arguments)

    def _index(self, text: str) -> int:
        """The number of a wildcard, counted from 1, as an index."""
        if not text.isdigit() or not 1 <= int(text) <= len(self._wildcards):
            raise ValueError(
                f'mapping destination "{self.destination}" asks for wildcard {text} of'
                f' "{self.source}"'
            )
        return int(text) - 1

    def _wildcard(self, text: str) -> Piece:
        index = self._index(text)
        return lambda matched: matched[index]

    def _partition(self, arguments: list[str], text: str) -> Piece:
        if not arguments or not arguments[0].isdigit() or int(arguments[0]) < 1:
            raise ValueError(f'mapping destination "{text}" needs a number of partitions')
        count = int(arguments[0])
        indexes = [self._index(each) for each in arguments[1:]] or list(range(len(self._wildcards)))
        return lambda matched: str(fnv_1a("".join(matched[i] for i in indexes)) % count)

    def _split(self, index_text: str, delimiter: str) -> Piece:
        index = self._index(index_text)
        return lambda matched: ".".join(part for part in matched[index].split(delimiter) if part)

    def _cut(self, arguments: list[str], text: str, cut: Callable[[str, int], str]) -> Piece:
        first, second = _exactly(arguments, 2, text)
        if not second.isdigit():
            raise ValueError(f'mapping destination "{text}" needs a number')
        index, length = self._index(first), int(second)
        return lambda matched: cut(matched[index], length)

    def _random(self, arguments: list[str], text: str) -> Piece:
        (number,) = _exactly(arguments, 1, text)
        if not number.isdigit() or int(number) < 1 or self._random_below is None:
            raise ValueError(f'mapping destination "{text}" needs a positive number')
        self.is_random = True
        below, draw = int(number), self._random_below
        return lambda matched: str(draw(below))


def matches(pattern: Sequence[str], tokens: Sequence[str]) -> bool:
    """Whether the tokens of a pattern match those of a literal."""
    for index, token in enumerate(pattern):
        if token == ">":
            return index < len(tokens)
        if index >= len(tokens) or (token != "*" and token != tokens[index]):
            return False
    return len(pattern) == len(tokens)


def intersection(a: Sequence[str], b: Sequence[str]) -> list[str] | None:
    """The pattern of all literals that match both patterns; None when there is none."""
    result: list[str] = []
    for index in range(max(len(a), len(b))):
        if index < len(a) and a[index] == ">":
            return result + list(b[index:]) if index < len(b) else None
        if index < len(b) and b[index] == ">":
            return result + list(a[index:]) if index < len(a) else None
        if index >= len(a) or index >= len(b):
            return None
        if a[index] == "*":
            result.append(b[index])
        elif b[index] == "*" or a[index] == b[index]:
            result.append(a[index])
        else:
            return None
    return result


def fnv_1a(text: str) -> int:
    """The 32-bit FNV-1a hash (Fowler, Noll, Vo), which partitions are numbered by."""
    value = _FNV_OFFSET
    for byte in text.encode("utf-8", "surrogateescape"):
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return value


def _split(destination: str) -> list[str]:
    """A destination's tokens; dots inside a function's braces are not separators."""
    return re.findall(r"(?:\{\{.*?\}\}|[^.])+", destination)


def _exactly(arguments: list[str], count: int, text: str) -> list[str]:
    if len(arguments) != count:
        raise ValueError(f'mapping destination "{text}" takes {count} arguments')
    return arguments


def _split_left(token: str, position: int) -> str:
    if 0 < position < len(token):
        return f"{token[:position]}.{token[position:]}"
    return token


def _split_right(token: str, position: int) -> str:
    return _split_left(token, len(token) - position)


def _slice_left(token: str, size: int) -> str:
    if not 0 < size < len(token):
        return token
    return ".".join(token[start : start + size] for start in range(0, len(token), size))


def _slice_right(token: str, size: int) -> str:
    if not 0 < size < len(token):
        return token
    first = len(token) % size
    parts = [token[:first]] if first else []
    return ".".join([*parts, *(token[i : i + size] for i in range(first, len(token), size))])


def _left(token: str, length: int) -> str:
    return token[:length] if 0 < length < len(token) else token


def _right(token: str, length: int) -> str:
    return token[-length:] if 0 < length < len(token) else token
