"""The channels of one worker: how they come into being, what they may hold, and how they go.

With several workers each tells the others the names of its channels: how many there may be and that
names must not differ in case only are rules for the server as a whole (sheet 4, 11). Two channels
that come into being at two workers within the same moment can be one too many.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final

from shardd.errors import StoreError
from shardd.streaming import texts
from shardd.streaming.channel import Channel
from shardd.streaming.core import Core
from shardd.streaming.limits_of import LimitsOf
from shardd.streaming.log import ChannelLog
from shardd.streaming.subjects import shown

log = logging.getLogger("shardd.streaming")

# How soon messages that are too old go, at the earliest and at the latest (sheet 11: a second).
AGE_MS: Final = 1000
# How soon a channel that cannot be deleted yet is looked at again.
AGAIN_MS: Final = 1000


class Channels:
    """Those of one worker, and the names of all others."""

    def __init__(self, core: Core, limits_of: LimitsOf) -> None:
        self._core = core
        self._limits_of = limits_of
        self._names: dict[bytes, bytes] = {}  # lower case to the name, of this server's channels
        self._others: dict[int, set[bytes]] = {}  # by worker
        self._deleting: set[bytes] = set()
        self._watched: set[bytes] = set()
        self._aging: set[bytes] = set()
        # Called with names that came and names that went, for the other workers.
        self.on_names: Callable[[tuple[bytes, ...], tuple[bytes, ...]], object] | None = None

    @property
    def count(self) -> int:
        """Of the whole server."""
        return len(self._core.channels) + sum(map(len, self._others.values()))

    @property
    def names(self) -> list[bytes]:
        """Of the whole server, in order."""
        return sorted({*self._core.channels, *(n for each in self._others.values() for n in each)})

    def get_or_create(self, name: bytes) -> Channel | str:
        """The channel, or why there is none: a text for clients. The name is a valid one."""
        channel = self._core.channels.get(name)
        if channel is not None:
            return channel
        if name in self._deleting:
            return texts.CHANNEL_BEING_DELETED
        ours = self._names.get(name.lower())
        if ours is not None:
            return texts.CHANNEL_CASE.format(theirs=_shown(name), ours=_shown(ours))
        most = self._core.options.limits.max_channels
        if 0 < most <= self.count:
            return texts.TOO_MANY_CHANNELS
        try:
            made = self._core.store.create_channel(name)
        except StoreError as error:
            return str(error)  # the store has said why
        if self.on_names is not None:
            self.on_names((name,), ())
        return self.adopt(made)

    def adopt(self, channel_log: ChannelLog) -> Channel:
        """A log becomes a channel: it is new, or the store had it."""
        name = channel_log.name
        channel = Channel(name, channel_log, self._core.traffic)
        channel_log.on_loaded = lambda: self._on_loaded(channel)
        limits = channel.limits = self._limits_of(name)
        age_ns = int(limits.max_age_s * 1e9)
        channel_log.set_limits(limits.max_msgs, limits.max_bytes, age_ns)
        self._core.channels[name] = channel
        self._names.setdefault(name.lower(), name)
        self.watch_activity(channel)
        self.watch_age(channel)
        return channel

    def _on_loaded(self, channel: Channel) -> None:
        """What its log did not have in memory has been fetched."""
        channel.loaded()
        if self._core.on_wake is not None:
            self._core.on_wake()

    def delete(self, channel: Channel) -> None:
        """With its messages and its durables. Until that is stored nothing can be published."""
        name = channel.name
        core = self._core
        del core.channels[name]
        core.receiver.forget()
        channel.subscriptions.clear()  # whose positions nobody is to save any more
        if self._names.get(name.lower()) == name:
            del self._names[name.lower()]
        core.store.delete_channel(name)
        self._deleting.add(name)
        core.after_commit(lambda error: self._deleted(name, error))
        if self.on_names is not None:
            self.on_names((), (name,))

    def _deleted(self, name: bytes, error: str) -> None:
        if error:
            # It stays queued, and is written with what is tried again.
            self._core.after_commit(lambda error: self._deleted(name, error), is_urgent=False)
        else:
            self._deleting.discard(name)

    # --- what the other workers have -------------------------------------------------------------

    def learn(
        self, worker: int, added: Iterable[bytes], removed: Iterable[bytes], is_all: bool
    ) -> None:
        """Another worker told which channels it has."""
        known = self._others.setdefault(worker, set())
        if is_all:
            for name in known:
                self._unlearn(name)
            known.clear()
        for name in added:
            known.add(name)
            self._names.setdefault(name.lower(), name)
        for name in removed:
            known.discard(name)
            self._unlearn(name)

    def _unlearn(self, name: bytes) -> None:
        if self._names.get(name.lower()) == name and name not in self._core.channels:
            del self._names[name.lower()]

    # --- age and inactivity ----------------------------------------------------------------------

    def watch_age(self, channel: Channel) -> None:
        """Messages may become too old: asked after a commit, and when there is a new channel."""
        if channel.limits.max_age_s and channel.name not in self._aging:
            self._aging.add(channel.name)
            self._expire(channel)

    def _expire(self, channel: Channel) -> None:
        core = self._core
        self._aging.discard(channel.name)
        if core.channels.get(channel.name) is not channel:
            return
        next_ns = channel.log.expire(core.traffic.now_ns)
        if next_ns:
            self._aging.add(channel.name)
            wait_ms = max((next_ns - core.traffic.now_ns) // 1_000_000, AGE_MS)
            core.schedule.at(core.now_ms + wait_ms, lambda: self._expire(channel))

    def watch_activity(self, channel: Channel) -> None:
        """A channel may have become one that nobody uses (sheet 11)."""
        if channel.limits.max_inactivity_s and channel.name not in self._watched:
            self._watched.add(channel.name)
            self._watch_until(channel, channel.active_ms + _milliseconds(channel))

    def _watch_until(self, channel: Channel, deadline_ms: int) -> None:
        self._core.schedule.at(deadline_ms, lambda: self._look(channel))

    def _look(self, channel: Channel) -> None:
        core = self._core
        if core.channels.get(channel.name) is not channel or channel.is_active:
            # The end of its last subscription begins this anew.
            self._watched.discard(channel.name)
            return
        deadline_ms = channel.active_ms + _milliseconds(channel)
        if deadline_ms > core.now_ms:
            self._watch_until(channel, deadline_ms)
        elif channel.log.appended != channel.log.last:
            self._watch_until(channel, core.now_ms + AGAIN_MS)
        else:
            self._watched.discard(channel.name)
            log.info("channel %s: deleted, nobody used it", shown(channel.name))
            self.delete(channel)


def _milliseconds(channel: Channel) -> int:
    return max(int(channel.limits.max_inactivity_s * 1000), 1)


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")
