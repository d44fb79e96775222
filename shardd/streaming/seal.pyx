# cython: language_level=3str
"""The payloads of one channel, encrypted on their way into a log and decrypted on their way out.

A payload that is stored encrypted begins with eight bytes that say so and with which cipher; the
nonce follows, then the ciphertext with its tag. Everything else is taken as it is: what was stored
before encryption was turned on, and empty payloads. Nonces begin anywhere in 96 bits, anew whenever
a store is opened, and are counted up, so that no two of one key are the same, whoever begins again.

What was decrypted is held until control returns to the event loop, as what a log finds is, so that
a message which goes to many subscribers in one pass is decrypted once.
"""

import logging

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

from shardd.streaming.msgproto cimport MsgProto, message_size, read_message, write_message

from shardd.errors import printable

cdef enum:
    MARK_BYTES = 8                 # with the cipher's code as the last one
    NONCE_BYTES = 12
    TAG_BYTES = 16

MARK = b"\0\xe5seal\0"
OVERHEAD = <int>(MARK_BYTES + NONCE_BYTES + TAG_BYTES)

cdef bytes THE_MARK = MARK
assert len(MARK) == MARK_BYTES - 1

logger = logging.getLogger("shardd.streaming.store")


@cython.final
cdef class Seal:
    """One channel's. Touched by the event loop only.

    Args:
        name: the channel.
        code: of the cipher that encrypts.
        ciphers: all that decrypt, by code: each with the `encrypt` and `decrypt` of an AEAD.
        nonce: twelve random bytes, where nonces begin.
        on_held: called when something decrypted is held; it is to call `release` in a turn of the
            event loop of its own.
    """

    def __init__(
        self, bytes name not None, int code, dict ciphers not None, bytes nonce not None, on_held
    ) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
        self._name = name
        self._code = <unsigned char>code
        self._encrypt = ciphers[code].encrypt
        self._decrypt = {number: cipher.decrypt for number, cipher in ciphers.items()}
        self._on_held = on_held
        self._held = {}
        memcpy(self._nonce, PyBytes_AS_STRING(nonce), NONCE_BYTES)

    cdef bytes close(self, const unsigned char* data, size_t length):
        """A payload as it is stored."""
        cdef bytes nonce = PyBytes_FromStringAndSize(<const char*>self._nonce, NONCE_BYTES)
        cdef bytes sealed = self._encrypt(
            nonce, PyBytes_FromStringAndSize(<const char*>data, length), None
        )
        cdef size_t sealed_len = PyBytes_GET_SIZE(sealed)
        cdef bytes stored = PyBytes_FromStringAndSize(NULL, MARK_BYTES + NONCE_BYTES + sealed_len)
        cdef char* at = PyBytes_AS_STRING(stored)
        cdef int index = NONCE_BYTES - 1
        memcpy(at, PyBytes_AS_STRING(THE_MARK), MARK_BYTES - 1)
        at[MARK_BYTES - 1] = <char>self._code
        memcpy(at + MARK_BYTES, self._nonce, NONCE_BYTES)
        memcpy(at + MARK_BYTES + NONCE_BYTES, PyBytes_AS_STRING(sealed), sealed_len)
        while index >= 0:
            self._nonce[index] = self._nonce[index] + 1
            if self._nonce[index]:
                break
            index -= 1
        return stored

    cdef bint open(
        self, uint64_t sequence, const unsigned char** message, size_t* length
    ) except -1:
        """An encoded message with its payload decrypted; good until control returns to the event
        loop. False: that cannot be done, and the log has been told."""
        cdef MsgProto parsed
        cdef bytes opened
        held = self._held.get(sequence)
        if held is None:
            if not read_message(message[0], length[0], &parsed):
                return self._report(sequence)
            if parsed.data_len < MARK_BYTES or memcmp(
                parsed.data, PyBytes_AS_STRING(THE_MARK), MARK_BYTES - 1
            ) != 0:
                return True
            plain = self._plain(parsed.data, parsed.data_len)
            if plain is None:
                return self._report(sequence)
            opened = <bytes>plain
            parsed.data = <const unsigned char*>PyBytes_AS_STRING(opened)
            parsed.data_len = PyBytes_GET_SIZE(opened)
            held = PyBytes_FromStringAndSize(NULL, message_size(&parsed))
            write_message(<unsigned char*>PyBytes_AS_STRING(held), &parsed)
            if not self._held:
                self._on_held(self)
            self._held[sequence] = held
        message[0] = <const unsigned char*>PyBytes_AS_STRING(held)
        length[0] = PyBytes_GET_SIZE(held)
        return True

    cdef object _plain(self, const unsigned char* data, size_t length):
        """A payload that is stored encrypted; None: it is not as it was, or another key's."""
        decrypt = self._decrypt.get(data[MARK_BYTES - 1])
        if decrypt is None or length < MARK_BYTES + NONCE_BYTES + TAG_BYTES:
            return None
        nonce = PyBytes_FromStringAndSize(<const char*>data + MARK_BYTES, NONCE_BYTES)
        data += MARK_BYTES + NONCE_BYTES
        length -= MARK_BYTES + NONCE_BYTES
        try:
            return decrypt(nonce, PyBytes_FromStringAndSize(<const char*>data, length), None)
        except Exception:  # InvalidTag, which this module need not import
            return None

    cdef bint _report(self, uint64_t sequence) except -1:
        """A message that was acknowledged cannot be delivered: said once for each channel."""
        if not self._is_reported:
            self._is_reported = True
            logger.error(
                "channel %s: message %d cannot be decrypted: it is damaged, or was encrypted with"
                " another key; it is passed over, and others like it",
                printable(self._name.decode("utf-8", "backslashreplace")),
                sequence,
            )
        return False

    def encrypted(self, bytes data not None) -> bytes:
        """A payload as it is stored."""
        return self.close(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def decrypted(self, bytes data not None) -> bytes | None:
        """A payload as it was published; None: it is not as it was, or another key's."""
        if data[:MARK_BYTES - 1] != MARK or len(data) < MARK_BYTES:
            return data
        return self._plain(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def release(self) -> None:
        """Let go of what was decrypted: control has returned to the event loop."""
        self._held.clear()
