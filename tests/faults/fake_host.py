"""A host with the real supervisor over workers that only say who they are.

Run as a script with a JSON object: `config` for `Config`, `behaviour` for the workers. A worker
answers each connection with one line, "index incarnation pid", and closes it.
"""

import json
import logging
import os
import select
import signal
import sys

from shardd import log, supervisor
from shardd.config.core import Config
from shardd.host import HostSetup
from shardd.slots import State

arguments = json.loads(sys.argv[1])
behaviour: str = arguments.get("behaviour", "")
is_told_to_end = False


def tell_to_end(number: int, frame: object) -> None:
    """The handler of TERM."""
    global is_told_to_end
    is_told_to_end = True


def boot(index: int) -> None:
    """Fails, or takes forever, where the test wants that."""
    if behaviour == "exit while booting":
        os._exit(7)
    if behaviour == "raise while booting":
        raise RuntimeError("no way to boot")
    if behaviour == "first worker never boots" and index == 0:
        signal.pause()
    if behaviour != "stubborn":
        signal.signal(signal.SIGTERM, tell_to_end)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def hang() -> None:
    """Not a beat more, and only a signal that kills gets it out."""
    while True:
        signal.pause()


def work(setup: HostSetup, index: int) -> int:
    """A worker's life."""
    slots = setup.slots
    boot(index)
    listener = setup.listeners[index]
    line = f"{index} {slots.incarnation(index)} {os.getpid()}\n".encode()
    slots.beat(index)
    slots.set_state(index, State.READY)
    os.eventfd_write(setup.supervisor_fd, 1)
    if behaviour == "first worker hangs" and index == 0 and slots.incarnation(index) == 1:
        hang()
    while not is_told_to_end:
        ready, _, _ = select.select([listener], [], [], 0.05)
        slots.beat(index)
        if ready:
            connection, _ = listener.accept()
            connection.sendall(line)
            connection.close()
    logging.getLogger("shardd.fake").info("Worker %d has stopped by itself", index)
    return 0


if __name__ == "__main__":
    config = Config(**arguments["config"])
    log.configure(config)
    sys.exit(supervisor.run(config, work))
