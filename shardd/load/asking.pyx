# cython: language_level=3str
"""The loops of request and reply. A request says which one it is in the last token of its reply
subject, so any service that answers, whatever it answers, tells how long it took.

Without a rate, each connection has one request under way, and the token is the moment at which it
left. With a rate, request k leaves at start + k / rate, however many are under way, and the token
is its number: the answer's time counts from when it was due, with what it waited to leave. Second
answers to a request count for nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from shardd.load.histogram cimport Histogram
from shardd.load.links cimport GLANCE_MS, Link, Reader, Watch
from shardd.load.page cimport (
    SLOT_FINISHED, SLOT_PUBLISHED, SLOT_RECEIVED, SLOT_STOPPED, Page,
)
from shardd.load.sending cimport QUEUED_BYTES_MAX, Schedule, due, moment, span_to
from shardd.load.system cimport EPOLLIN, EPOLLOUT, SECOND_NS, now_ns
from shardd.streaming.client_wire cimport SERVER_MSG, ServerOperation

from shardd.load.links import LinkError

cdef enum:
    STAMP_LEN = 16      # hexadecimal digits

cdef const unsigned char* DIGITS = b"0123456789abcdef"


cdef void write_stamp(unsigned char* place, uint64_t value) noexcept nogil:
    cdef int index
    for index in range(STAMP_LEN):
        place[STAMP_LEN - 1 - index] = DIGITS[value & 15]
        value >>= 4


cdef uint64_t read_stamp(const unsigned char* subject, size_t length) noexcept nogil:
    """The number at the end of a subject; 0 when there is none."""
    cdef uint64_t value = 0
    cdef size_t index
    cdef unsigned char digit
    if length < STAMP_LEN:
        return 0
    for index in range(length - STAMP_LEN, length):
        digit = subject[index]
        if 48 <= digit <= 57:
            value = value << 4 | <uint64_t>(digit - 48)
        elif 97 <= digit <= 102:
            value = value << 4 | <uint64_t>(digit - 87)
        else:
            return 0
    return value


cdef class Requester:
    """One run of `request`; its fields are what the turns of the loop share."""
    cdef Watch watch
    cdef Reader reader
    cdef list frames
    cdef list stamps_at
    cdef size_t payload_bytes
    cdef Histogram latency
    cdef Histogram lateness
    cdef Page page
    cdef Schedule schedule
    cdef bint is_paced
    cdef uint64_t duration_ns
    cdef uint64_t asked
    cdef uint64_t answered
    cdef unsigned char[::1] seen    # with a rate: a bit for each request that was answered

    cdef int ask(self, Py_ssize_t index, uint64_t stamp) except -1:
        """Queue one request of a connection."""
        cdef Link link = self.watch.links[index]
        cdef bytes frame = self.frames[index]
        cdef size_t stamp_at = self.stamps_at[index]
        cdef unsigned char* place = link.reserve(<size_t>PyBytes_GET_SIZE(frame))
        memcpy(place, PyBytes_AS_STRING(frame), <size_t>PyBytes_GET_SIZE(frame))
        write_stamp(place + stamp_at, stamp)
        link.asked_ns = stamp
        self.asked += 1
        link.is_dirty = True

    cdef uint64_t settled(self, Link link, uint64_t stamp) noexcept:
        """When the request left, or was due, that is answered now; 0: none waits for this."""
        cdef uint64_t number = stamp - 1
        cdef unsigned char bit
        if stamp == 0:
            return 0
        if not self.is_paced:
            if stamp != link.asked_ns:
                return 0
            link.asked_ns = 0
            return stamp
        if number >= self.asked:
            return 0
        bit = <unsigned char>(1 << (number & 7))
        if self.seen[<Py_ssize_t>(number >> 3)] & bit:
            return 0
        self.seen[<Py_ssize_t>(number >> 3)] |= bit
        return moment(&self.schedule, number)

    cdef bint is_over(self, uint64_t now) noexcept:
        """Whether no further request may leave."""
        return (
            self.page.load(SLOT_STOPPED) != 0
            or (self.schedule.total and self.asked >= self.schedule.total)
            or (self.duration_ns and now - self.schedule.start_ns >= self.duration_ns)
        )

    cdef int hear(self, Py_ssize_t index) except -1:
        """Take the answers that have arrived on a connection, and ask again where that is due."""
        cdef Link link = self.watch.links[index]
        cdef size_t length = <size_t>self.reader.fill(link)
        cdef uint64_t now = now_ns()
        cdef size_t at = 0
        cdef size_t taken
        cdef uint64_t asked_ns
        cdef ServerOperation operation
        while at < length:
            taken = <size_t>self.reader.take(link, at, length, &operation)
            if taken == 0:
                break
            at += taken
            if operation.verb != SERVER_MSG:
                link.answer(&operation)
                continue
            if (
                operation.message.header_len >= 12
                and operation.message.payload_len == 0
                and memcmp(operation.message.header, b"NATS/1.0 503", 12) == 0
            ):
                raise LinkError("no responders: nobody answers on this subject")
            asked_ns = self.settled(
                link, read_stamp(operation.message.subject, operation.message.subject_len))
            if asked_ns == 0:
                continue
            self.latency.add(now - asked_ns if now > asked_ns else 0)
            self.answered += 1
            link.messages += 1
            link.payload_bytes += self.payload_bytes
            link.end_ns = now
            if not self.is_paced and not self.is_over(now):
                self.ask(index, now)
        self.reader.keep(link, at, length)
        self.send(index)

    cdef int send(self, Py_ssize_t index) except -1:
        """Let what is queued leave, and be told when the rest can."""
        cdef Link link = self.watch.links[index]
        cdef bint was_full = link.is_full
        link.flush()
        link.is_dirty = False
        link.is_full = link.out_len > 0
        if link.is_full != was_full:
            self.watch.watch(
                index, <uint32_t>(EPOLLIN | EPOLLOUT if link.is_full else EPOLLIN))

    cdef int ask_what_is_due(self, uint64_t now) except -1:
        """Queue the requests whose time has come."""
        cdef uint64_t until = due(&self.schedule, now)
        cdef Py_ssize_t connections = len(self.watch.links)
        cdef Py_ssize_t index
        cdef uint64_t intended
        while self.asked < until:
            index = <Py_ssize_t>(self.asked % <uint64_t>connections)
            if (<Link>self.watch.links[index]).out_len > QUEUED_BYTES_MAX:
                break
            intended = moment(&self.schedule, self.asked)
            self.lateness.add(now - intended if now > intended else 0)
            self.ask(index, self.asked + 1)
        for index in range(connections):
            if (<Link>self.watch.links[index]).is_dirty:
                self.send(index)

    cdef int run(self, uint64_t patience_ns, double patience_s) except -1:
        """The loop."""
        cdef uint64_t now = now_ns()
        cdef uint64_t moved_ns = now
        cdef Py_ssize_t index
        cdef int ready, i
        cdef bint is_over = False
        self.schedule.start_ns = now
        for index, each in enumerate(self.watch.links):
            (<Link>each).start_ns = (<Link>each).end_ns = now
            if not self.is_paced and not self.is_over(now):
                self.ask(index, now)
                self.send(index)
        while True:
            now = now_ns()
            is_over = is_over or self.is_over(now)
            if is_over and self.answered >= self.asked:
                return 0
            if self.is_paced and not is_over:
                self.ask_what_is_due(now)
                # Until the next request is due, or an answer is there.
                ready = self.watch.doze(span_to(&self.schedule, self.asked))
            else:
                ready = self.watch.wait(GLANCE_MS)
            for i in range(ready):
                self.hear(<Py_ssize_t>self.watch.events[i].data.u64)
            self.page.store(SLOT_PUBLISHED, self.asked)
            self.page.store(SLOT_RECEIVED, self.answered)
            if ready or self.answered >= self.asked:
                moved_ns = now_ns()
                continue
            self.page.check()
            if now_ns() - moved_ns > patience_ns:
                raise LinkError(
                    f"{self.answered} of {self.asked} requests were answered, then none for"
                    f" {patience_s:g} s"
                )


def request(
    links,
    frames,
    stamps_at,
    size_t payload_bytes,
    Page page,
    double rate,
    uint64_t messages,
    double seconds,
    double patience_s,
):
    """Ask until so many `messages` were answered in all, or for `seconds`; at `rate` if it is not
    0, and then `messages` is not, either.

    Each connection sends its frame; the sixteen bytes at its place of `stamps_at` say which request
    it is. Returns how long the answers took, and how late the requests left.
    """
    cdef Requester run = Requester()
    run.watch = Watch(links)
    run.reader = Reader()
    run.frames = list(frames)
    run.stamps_at = list(stamps_at)
    run.payload_bytes = payload_bytes
    run.latency = Histogram()
    run.lateness = Histogram()
    run.page = page
    run.is_paced = rate > 0
    run.schedule.total = messages
    run.schedule.interval_ns = SECOND_NS / rate if rate > 0 else 0.0
    run.seen = bytearray((messages >> 3) + 1 if rate > 0 else 1)
    run.duration_ns = <uint64_t>(seconds * SECOND_NS)
    run.run(<uint64_t>(patience_s * SECOND_NS), patience_s)
    return run.latency, run.lateness


# --- answering --------------------------------------------------------------------------------

cdef int answer_all(Reader reader, Link link) except -1:
    """Queue an answer, with its own payload, to each request that has arrived."""
    cdef ServerOperation operation
    cdef size_t length = <size_t>reader.fill(link)
    cdef size_t at = 0
    cdef size_t taken
    cdef bytes size_text
    while at < length:
        taken = <size_t>reader.take(link, at, length, &operation)
        if taken == 0:
            break
        at += taken
        if operation.verb != SERVER_MSG:
            link.answer(&operation)
            continue
        if link.messages == 0:
            link.start_ns = now_ns()
        link.messages += 1
        link.payload_bytes += operation.message.payload_len + operation.message.header_len
        if operation.message.reply_len == 0:
            continue
        size_text = b" %d\r\n" % operation.message.payload_len
        link.queue(b"PUB ", 4)
        link.queue(operation.message.reply, operation.message.reply_len)
        link.send(size_text)
        link.queue(operation.message.payload, operation.message.payload_len)
        link.queue(b"\r\n", 2)
    link.end_ns = now_ns()
    reader.keep(link, at, length)


def respond(links, Page page, bint is_told, uint64_t messages, double seconds):
    """Answer requests until the requesting side has finished (`is_told`), or so many `messages` or
    `seconds` from the first one on (0: no limit), or until the user stops it."""
    cdef Watch watch = Watch(links)
    cdef Reader reader = Reader()
    cdef Link link
    cdef uint64_t duration_ns = <uint64_t>(seconds * SECOND_NS)
    cdef uint64_t total, now
    cdef uint64_t first_ns = 0
    cdef Py_ssize_t index
    cdef int ready, i
    while True:
        now = now_ns()
        total = sum([(<Link>each).messages for each in watch.links])
        if total and not first_ns:
            first_ns = now
        if is_told:
            if page.load(SLOT_FINISHED):
                return
            page.check()
        else:
            page.store(SLOT_RECEIVED, total)
            if (
                page.load(SLOT_STOPPED)
                or (messages and total >= messages)
                or (duration_ns and first_ns and now - first_ns >= duration_ns)
            ):
                return
        ready = watch.wait(GLANCE_MS)
        for i in range(ready):
            index = <Py_ssize_t>watch.events[i].data.u64
            link = watch.links[index]
            # Requests of a requester that takes no answers wait in its socket.
            if not link.is_full:
                answer_all(reader, link)
            link.flush()
            if link.is_full != (link.out_len > 0):
                link.is_full = link.out_len > 0
                watch.watch(index, <uint32_t>(EPOLLOUT if link.is_full else EPOLLIN))
