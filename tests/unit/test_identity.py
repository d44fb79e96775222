"""The server id has the form of a public nkey."""

import base64
import re

from shardd.identity import new_server_id


def crc16_xmodem(data: bytes) -> int:
    """Bit by bit, from the definition: polynomial 0x1021, start 0, nothing reflected."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1
    return crc


def test_a_server_id_is_n_and_55_characters_of_base32():
    assert re.fullmatch(r"N[A-Z2-7]{55}", new_server_id())


def test_a_server_id_is_prefix_key_and_checksum():
    raw = base64.b32decode(new_server_id())

    assert len(raw) == 35
    assert raw[0] == 13 << 3
    assert int.from_bytes(raw[33:], "little") == crc16_xmodem(raw[:33])


def test_the_checksum_is_that_of_a_real_server_id():
    seen = base64.b32decode("NDHF7QVO7L3FZFFYJJQ6MR6T4DRHWBCDPJ7TCALSGTOYWMA6NQSHIOXD")

    assert int.from_bytes(seen[33:], "little") == crc16_xmodem(seen[:33])


def test_each_server_id_is_new():
    assert len({new_server_id() for _ in range(100)}) == 100
