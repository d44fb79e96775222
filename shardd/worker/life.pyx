# cython: language_level=3str
"""How a client comes in, how long it may stay, and how it ends.

It begins at a `Door`: INFO first, or a handshake first, or whichever the client's first byte asks
for. Until its credentials are good it is nobody and may only send CONNECT, unless the server has
no users or a `no_auth_user`. Credentials that take long to check are checked in a thread, and
nothing of the client is handled meanwhile. A reload asks every client anew.

Closing happens at once and only between operations, never while a match is in use: a delivery can
mark a connection as overflowing or broken, and the flush at the end of the pass closes it.
"""

import logging

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.time cimport monotonic
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from shardd import errors
from shardd.auth.authenticator import Verdict
from shardd.auth.identity import Credentials
from shardd.errors import CloseReason, ProtocolError
from shardd.log import TRACE
from shardd.worker import session

from shardd.wire cimport Operation
from shardd.worker.reader cimport Reader
from shardd.worker.shared cimport Shared

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_DONTWAIT
        MSG_PEEK
        SHUT_WR
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    int shutdown(int fd, int how)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN

cdef enum:
    # A peer that keeps sending while it is closed is read this often, so that what it was told
    # last arrives before the reset.
    LAST_READS_MAX = 16
    RTT_AGE_MS_MAX = 3_600_000
    TLS_HANDSHAKE = 0x16           # the first byte of a ClientHello (RFC 8446, section 5.1)

log = logging.getLogger("shardd.worker")


cdef uint64_t now_us() except? 0:
    """Monotonic."""
    return <uint64_t>(monotonic() * 1_000_000.0)


cdef class Life(Reader):
    """A client from its first byte to its last. `Connection` adds what its operations do.

    Args:
        shared: the worker's common parts.
        fd: the accepted socket, non-blocking; the connection closes it.
        client_id: unique on the host.
        ip, port: of the peer, for INFO and the log.
        door: the way it came in by.
        unix_user: whom the peer's uid stands for, on a socket in the file system.
    """

    def __init__(
        self, Shared shared not None, int fd, uint64_t client_id, str ip, int port,
        object door not None, str unix_user="",
    ):
        Reader.__init__(self, shared, fd, client_id, ip, port)
        self.door = door
        self.verbose = True
        self.pedantic = True
        self.echo = True
        self._nonce = shared.new_nonce() if door.needs_nonce else ""
        self._unix_user = unix_user
        self.started_ms = shared.poller.now_ms
        self.active_ms = self.started_ms
        self._ping_at_ms = self.started_ms + shared.ping_interval_ms
        self._asked_us = now_us()

    # --- the beginning -------------------------------------------------------------------------

    def open(self) -> None:
        """Greet the client, as its door does, and start to listen."""
        cdef object tls = self.door.tls
        self.shared.poller.add(self, EPOLLIN)
        self.shared.deadlines.add(self, self._ping_at_ms)
        self.shared.connections[self.client_id] = self
        log.debug("%s - Client connection created", self)
        if tls is not None and not self.door.throttle.admits(self.started_ms):
            self.close(CloseReason.MAXIMUM_CONNECTIONS_EXCEEDED, errors.ERR_THROTTLED)
            return
        if self.door.websocket is not None:
            self.attach(self.door.websocket_layer(), b"")
            self._open_within(int(self.door.websocket.handshake_timeout_s * 1000))
        elif tls is None:
            self._greet()
        elif tls.handshake_first_s is None:
            if self.door.allows_plain:
                self.is_peeking = True
                self._greet()
            else:
                self._begin_tls(self._info())
        elif tls.handshake_first_s == 0:
            self._begin_tls(b"")
        else:
            # Whoever does not begin a handshake in this time wants to read INFO first.
            self.is_peeking = True
            self._open_within(int(tls.handshake_first_s * 1000))
        self.settle()

    def _info(self) -> bytes:
        return self.door.info.first(self.client_id, self.ip, self._nonce)

    cdef int _begin_tls(self, bytes info) except -1:
        """From here on it is TLS; `info` still goes in clear."""
        self.is_peeking = False
        self.attach(self.door.tls_layer(), info)
        self.is_greeted = self.is_greeted or len(info) > 0
        self._open_within(int(self.door.tls.timeout_s * 1000))

    cdef int _greet(self) except -1:
        """Say INFO, and wait for the client to say who it is."""
        cdef bytes info = self._info()
        self.append(<const unsigned char*>PyBytes_AS_STRING(info), PyBytes_GET_SIZE(info))
        self.is_greeted = True
        self._wait_for_connect()

    cdef int _wait_for_connect(self) except -1:
        """From here on it may send CONNECT, and has to if the server knows its users."""
        cdef object identity
        self._open_until_ms = 0
        if self.door.requires_authentication:
            identity = self.shared.gate.anonymous(self.door.kind)
            self._is_anonymous_allowed = identity is not None
            self.needs_connect = True
            if identity is None:
                self._open_within(self.door.auth_timeout_ms)
        else:
            self.admit_anonymous()
        self._set_deadline()

    def admit_anonymous(self) -> None:
        """Let it in as whoever needs no credentials."""
        identity = self.shared.gate.anonymous(self.door.kind)
        self.needs_connect = False
        self._open_until_ms = 0
        if identity is None:
            self._refuse(ProtocolError(
                CloseReason.AUTHENTICATION_FAILURE, errors.ERR_AUTHORIZATION_VIOLATION,
                "nobody may come in without credentials"))
            return
        try:
            self._let_in(identity)
        except ProtocolError as error:
            self._refuse(error)

    def _open_within(self, uint64_t milliseconds) -> None:
        self._open_until_ms = self.shared.poller.now_ms + milliseconds
        self._set_deadline()

    cdef int on_first_bytes(self) except -1:
        """It may begin with TLS or with a CONNECT: its first byte tells, and stays where it is."""
        cdef unsigned char first = 0
        if recv(self.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) != 1:
            return 0
        self.is_peeking = False
        if first == TLS_HANDSHAKE:
            self._begin_tls(b"")
            return 0
        if not self.is_greeted:
            if not self.door.allows_plain:
                # It takes the server for one without TLS; INFO tells it better.
                self._begin_tls(self._info())
                return 0
            self._greet()

    cdef int on_open(self) except -1:
        self._certificate = self.layer.peer_certificate
        # A proxy's word, or anybody's: for the log, never for who may come in.
        self._shown_ip = self.layer.client_ip
        if self.is_greeted:
            return self._wait_for_connect()
        return self._greet()

    cdef int on_stranger(self, unsigned char first) except -1:
        """Its first operation is no CONNECT (sheet 2.3)."""
        if self._is_anonymous_allowed:
            self.admit_anonymous()
            return 0
        self.close(CloseReason.AUTHENTICATION_FAILURE, errors.ERR_AUTHORIZATION_VIOLATION)

    def describe(self, is_shared: bool, server_id: str) -> dict[str, object]:
        """What a service of another account is told of this client when it asks."""
        rtt_ns = self.rtt_us * 1000
        if not is_shared:
            return {"rtt": rtt_ns}
        options = self.options
        told = {"host": self.ip, "id": self.client_id, "user": self.admission.identity.user}
        told |= {"name": options.name, "lang": options.lang, "ver": options.version}
        told |= {"rtt": rtt_ns, "server": server_id, "kind": "Client", "client_type": "nats"}
        return {name: value for name, value in told.items() if value != ""}

    # --- who it is -----------------------------------------------------------------------------

    def __str__(self) -> str:
        """How the log names a client, its user behind it (sheet 13.6)."""
        text = Reader.__str__(self)
        if self.admission is not None and self.admission.identity.user:
            identity = self.admission.identity
            kind = "nkey" if identity.is_nkey else "user"
            text += f' - "{identity.account}/{kind}:{identity.user}"'
        return text

    cdef int connect(self, Operation* operation) except -1:
        """CONNECT, the first one or another one (sheet 2.2, 2.3)."""
        cdef Shared shared = self.shared
        cdef object credentials
        if shared.is_tracing:
            self.trace_in("CONNECT", session.redacted(operation.args[:operation.args_len]))
        self.needs_connect = False
        try:
            self.options = session.connect(
                operation.args[:operation.args_len], self.options)
            credentials = self._credentials()
            if shared.gate.is_slow(credentials):
                self.is_waiting = True
                self.pause()
                self._checked_by = shared.gate
                # Its time to prove who it is goes on: who waits in vain makes room for others.
                shared.check_aside(credentials, self.on_checked, self.is_there)
                return 0
            self._open_until_ms = 0
            self._let_in(shared.gate.identify(credentials))
            self._take_options()
        except ProtocolError as error:
            self._refuse(error)

    def on_checked(self, identity: object, error: ProtocolError | None) -> None:
        """Its credentials were checked in a thread."""
        if self.is_closed:
            return
        if self._checked_by is not self.shared.gate:
            # A reload came in between: what was good may be so no more.
            self._checked_by = self.shared.gate
            self.shared.check_aside(self._credentials(), self.on_checked, self.is_there)
            return
        self._checked_by = None
        self._open_until_ms = 0
        try:
            if error is not None:
                raise error
            self._let_in(identity)
            self._take_options()
        except ProtocolError as refusal:
            self._refuse(refusal)
            return
        self.read_on()

    def is_there(self) -> bool:
        """Whether it still waits for an answer; asked from another thread."""
        return not self.is_closed

    def _credentials(self) -> Credentials:
        """What it proves itself with: of its CONNECT, of its certificate, of its socket."""
        options = self.options
        cookies = self.layer.cookies if self.layer is not None else None
        return Credentials(
            user=options.user or (cookies.user if cookies else ""),
            password=options.password or (cookies.password if cookies else ""),
            auth_token=options.auth_token or (cookies.token if cookies else ""),
            jwt=options.jwt or (cookies.jwt if cookies else ""),
            nkey=options.nkey,
            sig=options.sig,
            nonce=self._nonce,
            connection_type=self.door.kind,
            certificate=self._certificate,
            unix_user=self._unix_user,
            ip=self.ip,
        )

    def _refuse(self, error: ProtocolError) -> None:
        self.close(error.reason, error.text, str(error))

    cdef int _let_in(self, object identity) except -1:
        """Become this user. Raises ProtocolError when there is no room for it."""
        cdef Shared shared = self.shared
        cdef object previous = self.admission
        if self.is_connected or (previous is not None and previous.identity != identity):
            self.remove_all()
        if previous is not None:
            shared.gate.leave(previous)
            self.admission = None
        self._apply(shared.gate.admit(identity))

    def _apply(self, object admission) -> None:
        """Copy what the hot path needs to know of its user."""
        cdef Shared shared = self.shared
        identity = admission.identity
        self.admission = admission
        self.account = admission.account
        self.space = admission.space
        self.set_rules(admission.permissions)
        self.is_charged = bool(admission.charges)
        self.read_bytes_max = admission.read_bytes_max
        self._read_bytes = min(self._read_bytes, self.read_bytes_max)
        self.limits.payload_max = shared.limits.payload_max
        for limit in (identity.max_payload, identity.account_limits.max_payload):
            if limit >= 0 and (self.limits.payload_max < 0 or limit < self.limits.payload_max):
                self.limits.payload_max = limit
        self.subscriptions_max = shared.subscriptions_max
        # The account's limit too is one of each connection (seen on nats-server).
        for limit in (identity.max_subscriptions, identity.account_limits.max_subscriptions):
            if limit >= 0 and (self.subscriptions_max < 0 or limit < self.subscriptions_max):
                self.subscriptions_max = limit
        if self.layer is not None:
            self.layer.trust()
        self._expires_ms = 0
        if identity.expires_at is not None:
            left_s = max(0.0, identity.expires_at - shared.clock())
            self._expires_ms = shared.poller.now_ms + <uint64_t>(min(left_s, 1e9) * 1000)
        self._set_deadline()

    cdef int _take_options(self) except -1:
        """Its credentials were good: what else its CONNECT asks for holds from now on."""
        cdef Shared shared = self.shared
        cdef object options = self.options
        session.check_options(options, shared.has_headers)
        self.verbose = options.verbose
        self.pedantic = options.pedantic
        self.echo = options.echo
        self.headers = options.headers and shared.has_headers
        self.limits.headers = self.headers
        self.no_responders = options.no_responders and self.headers
        if not self.is_connected:
            self.is_connected = True
            self._note_answer()
            self._ping_at_ms = shared.poller.now_ms + <uint64_t>(
                shared.first_ping_ms * (1.0 + 0.2 * shared.random.random()))
            self._set_deadline()
            self.shared.observer.admitted(self)
        if self.verbose:
            self.ok()

    def recheck(self, previous: object) -> None:
        """A reload has made another gate: may it stay, and as whom?"""
        cdef object gate = self.shared.gate
        if self.is_closed:
            return
        self.limits.control_line_max = self.shared.limits.control_line_max
        if self.admission is None or self.is_waiting:
            return
        verdict, identity = gate.recheck(self.admission.identity, self._credentials(), previous)
        if verdict is Verdict.REMOVED:
            self.close(CloseReason.AUTHENTICATION_FAILURE)
            return
        if verdict is Verdict.REFUSED:
            self.close(CloseReason.AUTHENTICATION_FAILURE, errors.ERR_AUTHORIZATION_VIOLATION)
            return
        if verdict is Verdict.ASK:
            self.is_waiting = True
            self.pause()
            self._checked_by = gate
            self.shared.check_aside(self._credentials(), self.on_rechecked, self.is_there)
            return
        self._stay(identity)

    def on_rechecked(self, identity: object, error: ProtocolError | None) -> None:
        """Whether it may stay was found out in a thread."""
        if self.is_closed:
            return
        if self._checked_by is not self.shared.gate:
            self._checked_by = self.shared.gate
            self.shared.check_aside(self._credentials(), self.on_rechecked, self.is_there)
            return
        self._checked_by = None
        if error is not None:
            self.close(CloseReason.AUTHENTICATION_FAILURE, errors.ERR_AUTHORIZATION_VIOLATION)
            return
        self._stay(identity)
        if not self.is_closed:
            self.read_on()

    def _stay(self, identity: object) -> None:
        """It goes on as this user, by the gate of now."""
        cdef object gate = self.shared.gate
        old = self.admission
        gate.leave(old)
        self.admission = None
        try:
            self._apply(gate.admit(identity))
        except ProtocolError as error:
            self._refuse(error)
            return
        if self.account != <uint32_t>old.account:
            self.remove_all()
        else:
            self.withdraw_refused()
            self.import_again()

    @property
    def has_output(self) -> bool:
        """Whether it has not yet been sent all that is queued for it, and still may be."""
        return self.pending > 0 and self.is_blocked and not self.is_broken

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait to be written to it."""
        return self.pending

    def drain(self) -> None:
        """Read no more; what is queued still goes."""
        if not self.is_closed:
            self.is_waiting = True
            self.pause()

    def tell_lame_duck(self) -> None:
        """Tell a client that listens that the server is about to leave (sheet 6)."""
        self.door.info.start_lame_duck()
        self.tell_info()

    def tell_info(self) -> None:
        """Tell a client that listens what INFO says by now."""
        if not self.is_closed and self.has_ponged and self.options.protocol >= 1:
            info = self.door.info.again(self.client_id, self.ip)
            self.say(<const unsigned char*>PyBytes_AS_STRING(info), PyBytes_GET_SIZE(info))

    # --- time ----------------------------------------------------------------------------------

    cdef int note_ping(self) except -1:
        """The client asked, and was answered: the second INFO follows (sheet 2.1)."""
        cdef bytes info
        if not self.is_connected or self.has_ponged:
            return 0
        self.has_ponged = True
        if self.options.protocol >= 1 and self.admission is not None:
            identity = self.admission.identity
            info = self.door.info.connect_info(
                self.client_id, self.ip, identity.account, identity.is_system,
                self.limits.payload_max)
            self.say(<const unsigned char*>PyBytes_AS_STRING(info), PyBytes_GET_SIZE(info))

    cdef int note_pong(self) except -1:
        """PONG: the peer lives."""
        self._pings_out = 0
        if self._asked_us:
            self._note_answer()
            self._is_rtt_known = True

    cdef int _note_answer(self) except -1:
        """What the peer was asked last, or its being let in, took until now."""
        # The clock of the pass is one of milliseconds.
        self.rtt_us = max(<uint64_t>1, now_us() - self._asked_us)
        self._asked_us = 0

    cdef int _set_deadline(self) except -1:
        cdef uint64_t deadline = self._ping_at_ms
        if self.is_blocked and self.write_until_ms < deadline:
            deadline = self.write_until_ms
        if self._open_until_ms and self._open_until_ms < deadline:
            deadline = self._open_until_ms
        if self._expires_ms and self._expires_ms < deadline:
            deadline = self._expires_ms
        self.shared.deadlines.move(self, deadline)

    cdef int on_blocked(self) except -1:
        self._set_deadline()

    cdef int on_deadline(self, uint64_t now_ms) except -1:
        if self.is_blocked and now_ms >= self.write_until_ms:
            self.shared.counters.slow_consumers += 1
            log.info("%s - Slow Consumer Detected: WriteDeadline of %gs exceeded with %d bytes",
                     self, self.outbounds.write_deadline_ms / 1000, self.pending)
            self.close(CloseReason.SLOW_CONSUMER_WRITE_DEADLINE)
        elif self._open_until_ms and now_ms >= self._open_until_ms:
            self._on_open_deadline()
        elif self._expires_ms and now_ms >= self._expires_ms:
            self.close(CloseReason.AUTHENTICATION_EXPIRED, self.admission.identity.expiry_text)
        elif now_ms >= self._ping_at_ms:
            self._on_ping_deadline(now_ms)
        if not self.is_closed:
            self._set_deadline()

    cdef int _on_open_deadline(self) except -1:
        """It took too long to begin."""
        self._open_until_ms = 0
        if self.is_peeking and not self.is_greeted:
            if self.door.allows_plain:
                self._greet()
            else:
                self._begin_tls(self._info())
            self.settle()
        elif self.layer is not None and not self.layer.is_open:
            self.close(CloseReason.TLS_HANDSHAKE_FAILURE, detail="TLS handshake timeout")
        else:
            self.close(
                CloseReason.AUTHENTICATION_TIMEOUT, errors.ERR_AUTHENTICATION_TIMEOUT)

    cdef int _on_ping_deadline(self, uint64_t now_ms) except -1:
        """Ask whether the peer lives, if nothing was heard of it (sheet 5.1)."""
        self._ping_at_ms = now_ms + self.shared.ping_interval_ms
        if not self._is_ping_due(now_ms):
            return 0
        if self._pings_out + 1 > self.shared.pings_out_max:
            self.shared.counters.stale_connections += 1
            self.close(CloseReason.STALE_CONNECTION, errors.ERR_STALE_CONNECTION)
            return 0
        self._pings_out += 1
        self._asked_us = now_us()
        self._has_pinged = True
        if self.shared.is_tracing:
            log.log(TRACE, "%s - ->> [PING]", self)
        self.append(b"PING\r\n", 6)

    def _is_ping_due(self, uint64_t now_ms) -> bool:
        """A ping is left out when the client was heard of, but for the first one (sheet 5.1)."""
        if not self._has_pinged:
            return True
        if now_ms - self.active_ms >= self.shared.ping_interval_ms:
            return True
        return not self._is_rtt_known and now_ms - self.started_ms > RTT_AGE_MS_MAX

    # --- the end -------------------------------------------------------------------------------

    cdef int on_broken(self) except -1:
        self.close(CloseReason.WRITE_ERROR)

    cdef int on_overflow(self) except -1:
        self.shared.counters.slow_consumers += 1
        log.info("%s - Slow Consumer Detected: MaxPending of %d Exceeded", self, self.pending_max)
        self.close(CloseReason.SLOW_CONSUMER_PENDING_BYTES)

    def close(self, reason: CloseReason, text: str | None = None, detail: str = "") -> None:
        """End the connection: the last word if there is one, then everything it had."""
        cdef bytes line
        if self.is_closed:
            return
        self.shared.observer.closed(self, reason)
        self.is_closed = True
        self.shared.poller.remove(self)
        self.shared.deadlines.remove(self)
        self.remove_all()
        if self.admission is not None:
            self.shared.gate.leave(self.admission)
        if self._deferred is not None and text is not None:
            # Its interest has ended with it: what waited promises nothing any more.
            for _, waiting in self._deferred:
                self.append(<const unsigned char*>PyByteArray_AS_STRING(waiting), len(waiting))
        self._deferred = None
        if text is not None:
            line = b"-ERR '%b'\r\n" % (text.encode("utf-8", "surrogateescape"),)
            self.append(<const unsigned char*>PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        if not self.is_overflowing and not self.is_blocked:
            self.flush()
            if self.layer is not None and not self.is_blocked and not self.is_broken:
                self.layer.close()
                self.flush()
        if self.shared.outbounds.has_loans:
            # What others were lent may lie where the last reads go.
            self.shared.outbounds.return_loans()
        self._hang_up()
        self.shared.connections.pop(self.client_id, None)
        self.shared.counters.connections -= 1
        if text is not None or detail:
            log.error("%s - %s", self, detail or text)
        log.debug("%s - Client connection closed: %s", self, reason.text)

    cdef int _hang_up(self) except -1:
        """Close the socket so that the peer reads the last word."""
        cdef int reads = 0
        shutdown(self.fd, SHUT_WR)
        # Unread input would turn the end into a reset, and a reset can overtake the last word.
        while reads < LAST_READS_MAX and recv(
            self.fd, self.shared.buffer + self.shared.buffer_bytes, self.shared.buffer_bytes,
            MSG_DONTWAIT,
        ) > 0:
            reads += 1
        close(self.fd)
        self.fd = -1
        self.discard()
