"""A supervisor over a real shared page whose children and signals the test plays."""

import dataclasses
import os
import signal
import socket
from contextlib import ExitStack
from typing import Any, Final

from shardd import limits
from shardd.config.core import Config
from shardd.config.streaming import StreamingOptions
from shardd.host import HostSetup, number_accounts
from shardd.notify import Notifier
from shardd.orders import Order, OrderChannel, Shed
from shardd.process import Ended
from shardd.slots import Slots, State
from shardd.supervisor import Supervisor

SILENCE_S: Final = 5.0
WORKERS: Final = 2
CONFIG: Final = Config(heartbeat_silence_s=SILENCE_S)


class FakeSignals:
    """A queue that the test fills."""

    def __init__(self, fd: int) -> None:
        self.waiting: list[signal.Signals] = []
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def take(self) -> list[signal.Signals]:
        taken, self.waiting = self.waiting, []
        return taken


class FakeChildren:
    """Children that are numbers; they end when the test, or a kill, says so."""

    def __init__(self) -> None:
        self.next_pid = 100
        self.forked: list[int] = []  # slot of each fork, in order
        self.sent: list[tuple[int, signal.Signals]] = []
        self.ends: list[Ended] = []
        self.fork_error: OSError | None = None

    def start(self, index: int) -> int:
        if self.fork_error is not None:
            raise self.fork_error
        self.forked.append(index)
        self.next_pid += 1
        return self.next_pid

    def signal(self, pid: int, number: signal.Signals) -> None:
        self.sent.append((pid, number))
        if number == signal.SIGKILL:
            self.ends.append(Ended(pid, -signal.SIGKILL))

    def reap(self) -> list[Ended]:
        ends, self.ends = self.ends, []
        return ends


class Bench:
    """A supervisor over a real shared page, with everything else in the test's hand."""

    def __init__(
        self,
        stack: ExitStack,
        streaming: StreamingOptions | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        """With `streaming` there are that many streaming workers behind the workers."""

        def eventfd() -> int:
            fd = os.eventfd(0, os.EFD_NONBLOCK)
            stack.callback(os.close, fd)
            return fd

        self.now = 1000.0
        pool = 0 if streaming is None else streaming.workers
        self.count = WORKERS + pool
        config = dataclasses.replace(CONFIG, streaming=streaming)
        self.slots = Slots(self.count)
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.orders = tuple(OrderChannel() for _ in range(self.count))
        for channel in self.orders:
            stack.callback(channel.close)
        self.receivers = [channel.receiver() for channel in self.orders]
        self.file: Config | Exception = config  # what a reload finds
        self.setup = HostSetup(
            config=config,
            server_id="N",
            server_name="name",
            host="127.0.0.1",
            port=4222,
            worker_count=WORKERS,
            slots=self.slots,
            rings=(),
            doorbell_fds=tuple(eventfd() for _ in range(self.count)),
            listeners=(self.listener,),
            handovers=(),
            control_dir="",
            supervisor_fd=eventfd(),
            hash_seed=0,
            orders=self.orders,
            account_ids=number_accounts(CONFIG.account_names, {}),
            streaming_first=WORKERS,
            streaming_count=pool,
        )
        self.children = FakeChildren()
        self.signals = FakeSignals(eventfd())
        self.supervisor = Supervisor(
            *(self.setup, self.children, self.signals, lambda: self.now),
            *(None, self._reread, notifier),
        )

    def _reread(self) -> Config:
        if isinstance(self.file, Exception):
            raise self.file
        return self.file

    def signal(self, number: signal.Signals) -> None:
        """The operator sends a signal, and the supervisor handles it."""
        self.signals.waiting.append(number)
        self.supervisor.step()

    def reload(self, **changes: Any) -> None:
        """The file changes and the supervisor is told."""
        assert isinstance(self.file, Config)
        self.file = dataclasses.replace(self.file, **changes)
        self.signal(signal.SIGHUP)

    def take(self, index: int) -> list[Order]:
        """A worker takes its orders and carries them out."""
        orders = self.receivers[index].take()
        for order in orders:
            if not isinstance(order, Shed):
                self.receivers[index].answer(order.generation)
        return orders

    def boot(self) -> None:
        """Both workers forked and ready."""
        self.supervisor.step()
        for index in range(self.count):
            self.slots.set_state(index, State.READY)
        self.supervisor.step()

    def pid(self, index: int) -> int:
        return self.slots.pid(index)

    def end(self, index: int, code: int) -> None:
        """The worker of this slot ends, and the supervisor notices."""
        self.children.ends.append(Ended(self.pid(index), code))
        self.supervisor.step()

    def pass_time(self, seconds: float, *, mute: tuple[int, ...] = ()) -> None:
        """Passes, beat by beat; workers that are not mute beat."""
        for _ in range(round(seconds / limits.HEARTBEAT_S)):
            self.now += limits.HEARTBEAT_S
            for index in range(self.count):
                if index not in mute:
                    self.slots.beat(index)
            self.supervisor.step()
