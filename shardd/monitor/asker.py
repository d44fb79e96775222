"""Questions to the other processes of the host, all at once (`inquiry`).

A process that does not answer in time is left out: monitoring tells what it can, and a worker that
is just being replaced has no clients to tell of.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shardd import limits

_log = logging.getLogger("shardd.monitor")

Part = dict[str, Any]


class Asker:
    """Asks through the sockets in the runtime directory. Touched by one event loop only.

    Args:
        paths: the socket of each process, by slot.
    """

    def __init__(self, paths: Mapping[int, Path]) -> None:
        self._paths = paths
        # A process answers so many at a time, those of others among them.
        self._turns = {slot: asyncio.Semaphore(limits.INQUIRIES_MAX // 2) for slot in paths}

    async def ask(self, slots: Iterable[int], question: Mapping[str, Any]) -> list[list[Part]]:
        """The parts of each answer, in the order of the slots; empty parts are left out, and so
        is a process that does not answer to the end."""
        answers = await asyncio.gather(*(self._ask(slot, question) for slot in slots))
        return [answer for answer in answers if answer is not None]

    async def last(self, slots: Iterable[int], question: Mapping[str, Any]) -> list[Part]:
        """The last part of each answer: the one that counts."""
        return [parts[-1] for parts in await self.ask(slots, question) if parts]

    async def _ask(self, slot: int, question: Mapping[str, Any]) -> list[Part] | None:
        path = self._paths.get(slot)
        if path is None:
            return None
        try:
            async with self._turns[slot], asyncio.timeout(limits.INQUIRY_S_MAX):
                return await _converse(path, question)
        except (OSError, TimeoutError, EOFError, ValueError) as error:
            _log.debug("process %d does not answer %s: %r", slot, question.get("ask"), error)
            return None


async def _converse(path: Path, question: Mapping[str, Any]) -> list[Part]:
    """One question, and all parts of its answer. Raises EOFError when it breaks off."""
    reader, writer = await asyncio.open_unix_connection(
        str(path), limit=limits.INQUIRY_PART_BYTES_MAX
    )
    parts: list[Part] = []
    try:
        writer.write(json.dumps(question, separators=(",", ":")).encode() + b"\n")
        while True:
            line = await reader.readline()
            if line == b"\n":
                return parts
            if not line.endswith(b"\n"):
                raise EOFError("the answer breaks off")
            part = json.loads(line)
            if part:
                parts.append(part)
    finally:
        writer.close()
