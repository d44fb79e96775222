"""The listening sockets: one per worker on one port, opened by the supervisor and kept by it.

The kernel spreads connections over sockets that share a port by SO_REUSEPORT, but it also lets a
second server of the same user share it, unasked. So the first socket is bound and set listening
without that option, which fails if anybody else has the port; only then is it opened for sharing
(to sockets of this user) and the others are bound beside it.

As with nats-server, either wildcard address means IPv4 and IPv6, on one dual-stack socket: an IPv4
client's address then arrives as ::ffff:a.b.c.d, which whoever shows it must undo (`plain_address`).
"""

import contextlib
import os
import socket
import stat
from contextlib import ExitStack
from typing import Final

from shardd import limits
from shardd.errors import BootError

_WILDCARDS: Final = ("", "0.0.0.0", "::")
_MAPPED_PREFIX: Final = "::ffff:"
_PORT_MAX: Final = 65_535

_Address = tuple[str, int] | tuple[str, int, int, int]


def open_listeners(host: str, port: int, count: int) -> tuple[socket.socket, ...]:
    """Opens `count` listening sockets on one address; port -1 lets the kernel choose.

    Raises BootError with the one line that tells the operator why it cannot be.
    """
    port = max(port, 0)
    if port > _PORT_MAX:
        raise BootError(_listen_error(host, port, f"listen tcp: address {port}: invalid port"))
    family, address = _resolve(host, port)
    with ExitStack() as opened:
        try:
            first = opened.enter_context(_open(family, address))
            # From here on the port is ours alone; let our own other sockets in.
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listeners = [first]
            address = first.getsockname()
            for _ in range(count - 1):
                listeners.append(opened.enter_context(_open(family, address, is_shared=True)))
        except OSError as error:
            detail = f"listen tcp {join_address(host, port)}: bind: {error_text(error)}"
            raise BootError(_listen_error(host, port, detail)) from error
        opened.pop_all()
        return tuple(listeners)


def open_unix_listener(path: str, mode: int) -> socket.socket:
    """Opens the one listening socket at a path, with these permissions before it takes anybody.

    A socket that nobody listens on any more is replaced; anything else at the path stays, and is
    in the way.
    Raises BootError with the one line that tells the operator why it cannot be.
    """
    if "\0" in path:
        raise BootError(f"Error listening on {path!r}: embedded null byte")
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with ExitStack() as opened:
        try:
            _remove_stale_socket(path)
            listener = opened.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(path)
            os.chmod(path, mode)  # nobody can connect before it listens
            listener.listen(limits.LISTEN_BACKLOG)
        except OSError as error:
            raise BootError(f"Error listening on {path}: {error_text(error)}") from error
        opened.pop_all()
        return listener


def remove_unix_socket(path: str, inode: int) -> None:
    """Removes the file of a listening socket, unless another server's stands there by now."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _remove_stale_socket(path: str) -> None:
    """Removes a socket file whose server has gone. Raises OSError if somebody listens."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:  # somebody listens, with as many waiting as may wait
            return


def open_handovers(count: int) -> tuple[tuple[socket.socket, socket.socket], ...]:
    """Opens one pair of connected sockets per worker, over which accepted connections travel."""
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
    with ExitStack() as opened:
        pairs = []
        for _ in range(count):
            inlet, outlet = socket.socketpair(socket.AF_UNIX, kind)
            opened.callback(inlet.close)
            opened.callback(outlet.close)
            pairs.append((inlet, outlet))
        opened.pop_all()
        return tuple(pairs)


def listener_urls(listener: socket.socket, scheme: str = "nats") -> list[str]:
    """Every address that clients of this host can use, as URLs: what the ports file lists."""
    host, port = listener.getsockname()[:2]
    hosts = _interface_addresses(listener.family) if host in _WILDCARDS else [host]
    return [f"{scheme}://{join_address(each, port)}" for each in hosts]


def join_address(host: str, port: int) -> str:
    """Host and port as one word, with brackets where the host has colons itself."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_address(host: str) -> str:
    """An IPv4 address that came through a dual-stack socket as IPv4 again; others as they are."""
    if host.startswith(_MAPPED_PREFIX) and "." in host:
        return host[len(_MAPPED_PREFIX) :]
    return host


def error_text(error: OSError) -> str:
    """The system's own words for an error, spelled as nats-server spells them."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _listen_error(host: str, port: int, detail: str) -> str:
    return f'Error listening on port: {join_address(host, port)}, "{detail}"'


def _resolve(host: str, port: int) -> tuple[int, _Address]:
    """The family and the one address to bind: IPv4 where a name has both, as nats-server."""
    if host in _WILDCARDS:
        if _has_ipv6():
            return socket.AF_INET6, ("::", port)
        return socket.AF_INET, ("0.0.0.0", port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        detail = f"listen tcp: lookup {host}: no such host"
        raise BootError(_listen_error(host, port, detail)) from error
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    assert isinstance(address[0], str), "a kernel without IPv6 resolves to IPv4"
    return family, address


def _has_ipv6() -> bool:
    """Whether this kernel speaks IPv6 at all: containers are often without."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM):
            return os.path.exists("/proc/net/if_inet6")
    except OSError:
        return False


def _open(family: int, address: _Address, *, is_shared: bool = False) -> socket.socket:
    """One socket, bound and listening; no other server's connections in TIME_WAIT hinder it."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            is_single = address[0] != "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, is_single)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(limits.LISTEN_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _interface_addresses(family: int) -> list[str]:
    """The host's own addresses, interface by interface, IPv4 before IPv6 in each."""
    import psutil  # costs 20 ms that only a start with a ports file shall pay

    families = (socket.AF_INET,) if family == socket.AF_INET else (socket.AF_INET, socket.AF_INET6)
    return [
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for each_family in families
        for address in addresses
        if address.family == each_family
    ]
