"""The streaming pool's documents under `/streaming`: asked of its workers, put together here.

Paths, fields and errors are the original's (streaming sheet 17); what they mean is the streaming
package's affair.
"""

from collections.abc import Mapping
from typing import Final

from shardd.host import HostSetup
from shardd.monitor.asker import Asker
from shardd.streaming import questions, statistics
from shardd.streaming.core import State

PATHS: Final = statistics.PATHS
INDEX: Final = """<!doctype html>
<html lang="en"><title>shardd streaming</title>
<a href="streaming/serverz">server</a><br/>
<a href="streaming/storez">store</a><br/>
<a href="streaming/clientsz">clients</a><br/>
<a href="streaming/channelsz">channels</a><br/>
</html>
"""
_NOT_READY: Final = "Streaming Server is not ready"


class StreamingDocuments:
    """Touched by the monitor's event loop only.

    Args:
        setup: the host.
        asker: the way to the streaming workers.
    """

    def __init__(self, setup: HostSetup, asker: Asker) -> None:
        self._slots = setup.streaming_slots
        self._asker = asker

    @property
    def is_served(self) -> bool:
        """Whether the host has a streaming pool."""
        return len(self._slots) > 0

    async def answer(self, path: str, query: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Status, content type and body. A pool whose workers are not all there is not ready."""
        question = {"ask": questions.QUESTION, "path": path, "query": dict(query)}
        answers = await self._asker.last(self._slots, question)
        if len(answers) < len(self._slots):
            return 503, *statistics.encoded(_NOT_READY, query)
        status, document = questions.assemble(answers, path, query)
        return status, *statistics.encoded(document, query)

    async def is_active(self) -> bool:
        """Whether this is the active server of a fault-tolerance group; the lead knows."""
        question = {"ask": questions.QUESTION, "path": "serverz", "query": {}}
        answers = await self._asker.last(self._slots[:1], question)
        return any(answer["state"] == State.FT_ACTIVE for answer in answers)
