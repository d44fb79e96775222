"""Weighted rendezvous in plain Python: who gets a message of a sticky queue group.

Written from what docs/clustering.md promises, to compare the server with. The constants are those
of FNV-1a and of MurmurHash3's finalizer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

_MASK: Final = 2**64 - 1

Member = tuple[int, int]  # slot of its process, and its number there


def mixed(value: int) -> int:
    """The finalizer of MurmurHash3."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & _MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33


def hashed(text: bytes) -> int:
    """FNV-1a, finished."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = (value ^ byte) * 0x100000001B3 & _MASK
    return mixed(value)


def order_of(key: bytes, members: Sequence[Member]) -> list[Member]:
    """The members of one host, the one that gets the key first."""

    def number(member: Member) -> int:
        slot, serial = member
        return mixed(hashed(key) ^ mixed((slot + 1) << 32 | serial))

    return sorted(members, key=number, reverse=True)


def host_of(key: bytes, weights: Mapping[str, int]) -> str:
    """The host that gets a key, by name, from how many members each has."""

    def lateness(name: str) -> float:
        number = mixed(hashed(key) ^ hashed(name.encode()))
        return -math.log(((number >> 11) + 0.5) * 2.0**-53) / weights[name]

    return min(sorted(weights), key=lateness)


def chi_square(counts: Sequence[int], weights: Sequence[int]) -> float:
    """How far counts are from what the weights let expect."""
    total, whole = sum(counts), sum(weights)
    return sum(
        (count - total * weight / whole) ** 2 / (total * weight / whole)
        for count, weight in zip(counts, weights, strict=True)
    )
