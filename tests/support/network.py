"""Networks of a test's own: hosts with addresses, joined by a switch whose links can be cut.

Each host is a network namespace of the kernel and has one interface, a veth pair whose other end
is a port of a bridge; the bridge stands in a namespace too, the hub, and has an address there, so
that clients can be anywhere. A namespace has no name: it exists as long as this process holds a
descriptor of it or somebody lives in it. So nothing is left behind, however a test ends.

Only root may do this; `why_not` says why it cannot be done here.
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest

from tests.support.waiting import PATIENCE

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET
_COMMAND_S: Final = 10.0 * PATIENCE
_ALL_PROTOCOLS: Final = 0x0003  # ETH_P_ALL
_PREFIX: Final = "10.77.0."
_HUB_NUMBER: Final = 254
# A hardware address that no interface has: what is sent there is dropped by everybody.
_NOWHERE: Final = "02:00:00:00:00:01"
# Of the hub. A bridge that is not given one takes another whenever a port comes or goes.
_HUB_HARDWARE: Final = "02:00:00:00:00:fe"
_TAP_BYTES: Final = 4_194_304

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _new_namespace() -> int:
    before = _own_namespace()
    try:
        _check(_libc.unshare(_NEW_NETWORK))
        try:
            return _own_namespace()
        finally:
            _check(_libc.setns(before, _NEW_NETWORK))
    finally:
        os.close(before)


@cache
def why_not() -> str:
    """Why there can be no networks here; empty when there can be."""
    if shutil.which("ip") is None:
        return "there is no ip command (package iproute2)"
    network = None
    try:
        network = Network(1)
    except OSError as error:
        return f"network namespaces: {error.strerror}"
    except subprocess.CalledProcessError as error:
        return f"network namespaces: {error.stderr.strip()}"
    finally:
        if network is not None:
            network.close()
    return ""


def require_networks() -> None:
    """Skip the test where there can be none."""
    if why_not():
        pytest.skip(why_not())


class Namespace:
    """One network namespace. Closing it removes it once no process is in it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.fd = _new_namespace()

    @property
    def path(self) -> str:
        """What `ip` takes for its name."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside: sockets that it opens, and programs that it starts, belong
        to this network for good."""
        before = _own_namespace()
        try:
            _check(_libc.setns(self.fd, _NEW_NETWORK))
            try:
                yield
            finally:
                _check(_libc.setns(before, _NEW_NETWORK))
        finally:
            os.close(before)

    def ip(self, *commands: str) -> None:
        """Run these commands of `ip` inside. Raises CalledProcessError."""
        with self.entered():
            subprocess.run(
                ["ip", "-batch", "-"],
                input="\n".join(commands) + "\n",
                capture_output=True,
                text=True,
                timeout=_COMMAND_S,
                check=True,
            )

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


class Network:
    """Some hosts, and the hub that joins them.

    Args:
        count: of hosts; their addresses are 10.77.0.1 and so on.
    """

    def __init__(self, count: int) -> None:
        self._hosts: list[Namespace] = []
        self.hub = Namespace(f"{_PREFIX}{_HUB_NUMBER}")
        try:
            self.hub.ip(
                "link set lo up",
                f"link add bridge address {_HUB_HARDWARE} type bridge",
                f"address add {self.hub.address}/24 dev bridge",
                "link set bridge up",
            )
            for _ in range(count):
                self.add()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, index: int) -> Namespace:
        return self._hosts[index]

    def __len__(self) -> int:
        return len(self._hosts)

    def add(self) -> Namespace:
        """One more host."""
        number = len(self._hosts) + 1
        host = Namespace(f"{_PREFIX}{number}")
        self._hosts.append(host)
        self.hub.ip(
            f"link add port{number} type veth peer name eth0 netns {host.path}",
            f"link set port{number} master bridge",
            f"link set port{number} up",
        )
        host.ip(
            "link set lo up",
            f"address add {host.address}/24 dev eth0",
            "link set eth0 up",
        )
        return host

    def cut(self, one: int, other: int) -> None:
        """From now on every packet between these two is dropped, without a word to either."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def cut_one_way(self, origin: int, to: int) -> None:
        """Drop what goes in this direction only."""
        self[origin].ip(
            f"neighbour replace {self[to].address} lladdr {_NOWHERE} dev eth0 nud permanent"
        )

    def heal(self, one: int, other: int) -> None:
        """The end of `cut` and of `cut_one_way`."""
        for here, there in ((self[one], self[other]), (self[other], self[one])):
            with contextlib.suppress(subprocess.CalledProcessError):  # it was cut in one direction
                here.ip(f"neighbour del {there.address} dev eth0")

    def unplug(self, index: int) -> None:
        """The host's only link goes down."""
        self.hub.ip(f"link set port{index + 1} down")

    def plug(self, index: int) -> None:
        """The end of `unplug`."""
        self.hub.ip(f"link set port{index + 1} up")

    def tap(self, index: int) -> "Tap":
        """See all packets of a host from now on."""
        with self.hub.entered():
            return Tap(f"port{index + 1}")

    def close(self) -> None:
        """Remove all of it. Processes that still live in it keep their own part."""
        for host in (*self._hosts, self.hub):
            host.close()
        self._hosts.clear()


class Tap:
    """What passes by one port of the hub, both ways: packets as they are on the wire."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _TAP_BYTES)
        self._socket.bind((interface, _ALL_PROTOCOLS))
        self._socket.setblocking(False)
        self._payloads: list[tuple[str, str, bytes]] = []

    def seen(self, token: bytes) -> set[tuple[str, str]]:
        """Which addresses have sent this to which, until now, in TCP segments."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(self._socket.recv(65_536))
        return {(origin, to) for origin, to, text in self._payloads if token in text}

    def _take(self, frame: bytes) -> None:
        packet = frame[14:]
        if frame[12:14] != b"\x08\x00" or packet[9] != socket.IPPROTO_TCP:
            return
        header_bytes = (packet[0] & 15) * 4
        origin, to = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        self._payloads.append((origin, to, packet[header_bytes:]))

    def close(self) -> None:
        """Look no more."""
        self._socket.close()


@contextlib.contextmanager
def network_of(count: int) -> Iterator[Network]:
    """A network of so many hosts, or a skipped test."""
    require_networks()
    network = Network(count)
    try:
        yield network
    finally:
        network.close()
