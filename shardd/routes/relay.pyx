# cython: language_level=3str
"""What goes between this host and the others: messages both ways, and interest both ways.

The router is a process of the mesh with two indexes, and both of them relay. `sublist` holds what
the host's processes want; its changes, the union over the processes, are told to the other
servers. `offered` holds what the other servers want, each of them under a number as if it were a
process; its changes are announced to the host's processes as this process's own interest. So this
process is the one place where interest is put in order before it leaves (sheet 10.5), and a
server gets one line for a message, whatever its subscribers are (sheet 10.6).

What came from another server never goes to one: full mesh, one hop.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from shardd import limits
from shardd.errors import InternalError
from shardd.router.policies import identity_of, rules_of

from shardd.router.dispatch cimport HOPS_MAX, Dispatcher
from shardd.router.frame cimport (
    MESSAGE_FOR_QUEUES,
    MESSAGE_HAS_HEADER,
    MESSAGE_IS_LENT,
    MESSAGE_IS_ROUTED,
    TARGET_IS_ORIGIN,
    Message,
    Origin,
    RecordHeader,
    Target,
    read_record,
    read_target,
)
from shardd.router.ring cimport Producer
from shardd.router.sublist cimport Match, MatchGroup, Sublist
from shardd.router.permissions cimport Permissions
from shardd.routes.peer cimport Link, Peer
from shardd.routes.wire cimport next_name

PEERS_MAX = limits.PEERS_MAX
cdef uint32_t PRIVATE_ACCOUNT = limits.PRIVATE_ACCOUNT
SNAPSHOT_ENTRIES = limits.SNAPSHOT_ENTRIES

cdef enum:
    # Verb and blanks of a line, beside account, subject, reply and queue groups.
    HEAD_ROOM = 16
    # From here on a reference is cheaper than a copy, as for clients.
    LENT_BYTES_MIN = 6144


cdef class Relay(Dispatcher):
    """Publishes for the router. Touched by its event loop only.

    Args:
        host: what the processes of this host want; a relay.
        cluster: what other servers want; a relay.
        producer: the router's ring.
        index: its slot.
        seed: for the choice among queue members.
        learn: called when this host's processes speak of an account whose number is not known
            here; `set_accounts` may follow at once.
    """

    def __init__(
        self,
        Sublist host not None,
        Sublist cluster not None,
        Producer producer not None,
        uint32_t index,
        uint64_t seed,
        object learn=None,
    ):
        Dispatcher.__init__(self, host, producer, index, seed)
        self.offered = cluster
        self._peers = [None] * PEERS_MAX
        self._names = []
        self._accounts = {}
        self._learn = learn
        self._waiting = []

    def __dealloc__(self):
        free(self._choices)
        free(self._head)

    def set_accounts(self, numbers: dict[str, int]) -> None:
        """The numbers of the host's accounts; none is ever given to another name. What other
        servers have wanted of an account until now counts from here on."""
        cdef Peer peer
        self._accounts = {name.encode(): number for name, number in numbers.items()}
        self._names = [b""] * len(self._accounts)
        for name, number in self._accounts.items():
            self._names[number] = name
        for peer in self.peers:
            for name in [name for name in peer.foreign if name in self._accounts]:
                for (subject, queue), count in peer.foreign.pop(name).items():
                    self.offered.set_remote(
                        peer.number, self._accounts[name], subject, queue, count)

    cdef bint _is_known(self, size_t account) except -1:
        """Whether the account's number has a name, after asking for it if need be."""
        if account >= <size_t>len(self._names) and self._learn is not None:
            self._learn()
        return account < <size_t>len(self._names)

    @property
    def peers(self) -> list[Peer]:
        """The servers that are connected."""
        return [peer for peer in self._peers if peer is not None]

    def set_policies(self, policies: object, account_ids: object, host: str) -> None:
        """As any process; the host's processes are told which hosts have members of a group that
        is sticky, other servers know nothing of it."""
        rules = rules_of(policies, account_ids)
        self.sublist.set_policies(rules, self.index, False)
        self.offered.set_policies(rules, self.index, True)
        self._identity = identity_of(host)

    def add_peer(
        self, str server_id, int pool_size, tuple accounts=(), str name not None="",
        bint tells_handed_on=False,
    ) -> Peer:
        """A server that has just connected, by one of so many connections and those that are for
        one of these accounts each; None when there are too many servers. `tells_handed_on`: lines
        for queue groups only are understood by it, and come from it."""
        cdef uint32_t number
        for number in range(<uint32_t>PEERS_MAX):
            if self._peers[number] is None:
                self._telling &= ~(<uint64_t>1 << number)
                self._telling |= <uint64_t>tells_handed_on << number
                self._peers[number] = Peer(number, server_id, pool_size, accounts)
                self.offered.identify(number, identity_of(name or server_id))
                return self._peers[number]
        return None

    def remove_peer(self, Peer peer not None) -> None:
        """Its last connection has ended: it wants nothing any more."""
        if self._peers[peer.number] is peer:
            self._peers[peer.number] = None
            self.offered.drop_process(peer.number)

    def remove_link(self, Peer peer not None, Link link not None) -> None:
        """One of its connections has ended: what it wanted by this one it does not any more."""
        if peer.has_others(link):
            for account, subject, queue, _ in self._known_wishes(peer):
                if peer.link_for(account, self._names[account]) is link:
                    self.offered.set_remote(peer.number, account, subject, queue, 0)
            for name in [name for name in peer.foreign if peer.carries(name, link)]:
                del peer.foreign[name]
        peer.remove(link)

    # --- answers -------------------------------------------------------------------------------

    def answer_when_applied(self, link: Link) -> None:
        """PONG, once every process of the host knows what this server has asked for until now: as
        with clients it vouches for that."""
        self.commit()
        self._waiting.append((self._mesh.sequence, link))
        self.answer()

    cpdef answer(self):
        """Say the PONGs that may go by now."""
        cdef Link link
        while self._waiting and self._mesh.applied(self._waiting[0][0]):
            link = self._waiting.pop(0)[1]
            if not link.is_closed:
                link.append(b"PONG\r\n", 6)

    def has_answers(self) -> bool:
        """Whether some may go that could not before."""
        return bool(self._waiting) and self._mesh.applied(self._waiting[0][0])

    # --- permissions ---------------------------------------------------------------------------

    def set_permissions(self, Permissions permissions) -> None:
        """What may come from other servers (`publish`) and go to them (`subscribe`); None: all.
        They are told what they were not told before, and what they wanted and may not have any
        more is dropped."""
        cdef Permissions before = self._permissions
        cdef Peer peer
        self.tell()
        for account, subject, queue, count in self._host_interest():
            could, can = may_import(before, subject), may_import(permissions, subject)
            if could != can:
                # Under no permissions, so that what is withdrawn is told as well.
                self._permissions = None
                for peer in self.peers:
                    link = peer.link_for(account, self._names[account])
                    self._tell_one(link, account, subject, queue, count if can else 0)
        self._permissions = permissions
        for peer in self.peers:
            self._drop_refused(peer)

    def _drop_refused(self, Peer peer):
        """Forget what another server wants and may not have."""
        for account, subject, queue, _ in self._known_wishes(peer):
            if may_export(self._permissions, subject):
                continue
            self._drop(peer, self._names[account], subject, queue)
        for name, wishes in list(peer.foreign.items()):
            for subject, queue in list(wishes):
                if not may_export(self._permissions, subject):
                    self._drop(peer, name, subject, queue)

    def _drop(self, Peer peer, name, subject, queue):
        cdef Link link = peer.link_of(name)
        cdef int64_t change = self.want(peer.number, name, subject, queue, 0)
        if link is not None:
            link.subscriptions += <uint64_t>change

    def tell_more(
        self, Link link not None, Peer peer not None, Permissions before, Permissions after
    ) -> None:
        """The other end takes more than before: tell it what it has refused until now."""
        self.tell()
        for account, subject, queue, count in self._host_interest():
            if may_export(after, subject) and not may_export(before, subject):
                if peer.carries(self._names[account], link):
                    self._tell_one(link, account, subject, queue, count)

    def _host_interest(self):
        """All that this host's processes want, but of what they only say to each other."""
        return [each for each in self._all_of(self.sublist.snapshot) if each[0] != PRIVATE_ACCOUNT]

    def _known_wishes(self, Peer peer):
        """All that another server wants of the accounts of this host."""
        # The index lists what is announced, so what is new is announced first.
        self.commit()
        return self._all_of(
            lambda position, limit: self.offered.snapshot_of(peer.number, position, limit))

    def _all_of(self, snapshot):
        """Every entry of an index."""
        entries, position = [], 0
        while position >= 0:
            part, position = snapshot(position, SNAPSHOT_ENTRIES)
            entries += part
        return entries

    # --- interest ------------------------------------------------------------------------------

    def want(
        self, uint32_t peer, bytes account, bytes subject not None, bytes queue, uint32_t count
    ) -> int:
        """What another server wants. For an account that this host does not have it is kept until
        it does; what may not leave is not. Returns by how much the number of its subscriptions
        has changed."""
        cdef Peer other
        if count and not may_export(self._permissions, subject):
            return 0
        number = self._accounts.get(account)
        if number is not None:
            return self.offered.set_remote(peer, number, subject, queue, count)
        other = self._peers[peer]
        wishes = other.foreign.setdefault(account, {})
        before = len(wishes)
        if count:
            wishes[subject, queue] = count
        else:
            wishes.pop((subject, queue), None)
        change = len(wishes) - before
        if not wishes:
            del other.foreign[account]
        return change

    def wanted_by(
        self, Peer peer not None, Link link not None, int position = 0
    ) -> tuple[list[tuple[bytes, bytes, bytes | None, int]], int]:
        """One part of what another server wants by one of its connections, as (account, subject,
        queue, members): from position 0 on, until the next one is -1. Some may come twice."""
        known, position = self.offered.snapshot_of(peer.number, position, SNAPSHOT_ENTRIES)
        entries = [
            (self._names[account], subject, queue, count)
            for account, subject, queue, count in known
        ]
        if position < 0:
            entries += [
                (name, subject, queue, count)
                for name, wishes in peer.foreign.items()
                for (subject, queue), count in wishes.items()
            ]
        return [entry for entry in entries if peer.carries(entry[0], link)], position

    def tell(self) -> None:
        """Tell the other servers what the host wants more or less than before."""
        cdef Peer peer
        for account, subject, queue, count in self.sublist.take_changes():
            if account == PRIVATE_ACCOUNT:  # what processes of this host say to each other
                continue
            if not self._is_known(account):
                raise InternalError("the supervisor has told nobody of an account that is in use")
            for peer in self._peers:
                if peer is not None:
                    link = peer.link_for(account, self._names[account])
                    self._tell_one(link, account, subject, queue, count)

    def tell_all(self, Link link not None, Peer peer not None, position: int = 0) -> int:
        """Tell a connection that is new one part of all that the host wants by it: from position
        0 on, until the answer is -1."""
        if position == 0:
            self.tell()
        entries, position = self.sublist.snapshot(position, SNAPSHOT_ENTRIES)
        for account, subject, queue, count in entries:
            if account < len(self._names) and peer.carries(self._names[account], link):
                self._tell_one(link, account, subject, queue, count)
        return position

    def _tell_one(self, Link link, account, subject, queue, count):
        cdef bytes line
        if link is None or link.is_closed or not may_import(self._permissions, subject):
            return
        name = self._names[account] + b" " if link.names_accounts else b""
        if count == 0:
            line = b"RS- " + name + subject + (b" " + queue if queue is not None else b"")
        elif queue is None:
            line = b"RS+ " + name + subject
        else:
            line = b"RS+ %b%b %b %d" % (name, subject, queue, count)
        line += b"\r\n"
        link.append(<const unsigned char*>PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))

    # --- from other servers --------------------------------------------------------------------

    cdef int publish_routed(
        self, uint32_t peer, Message* message, const unsigned char* queues, size_t queues_len
    ) except -1:
        """Hand a message of another server to the host: to all plain subscriptions, and to one
        member of each queue group that is named. A first name that comes twice says that plain
        subscriptions have had it."""
        cdef const Match* match = self.sublist.match(
            message.account, message.subject, message.subject_len)
        cdef uint64_t processes = match.processes
        cdef const unsigned char* name
        cdef const unsigned char* first_name = NULL
        cdef size_t name_len
        cdef size_t first_len = 0
        cdef size_t first = self._target_count
        cdef size_t target
        cdef uint32_t index
        while queues != NULL and next_name(&queues, &queues_len, &name, &name_len):
            if first_name == NULL:
                first_name, first_len = name, name_len
            elif self._telling >> peer & 1 and first_len == name_len and (
                memcmp(first_name, name, name_len) == 0
            ):
                processes = 0
                message.flags |= MESSAGE_FOR_QUEUES
                continue
            for index in range(match.group_count):
                if match.groups[index].name_len == name_len and (
                    memcmp(match.groups[index].name, name, name_len) == 0
                ):
                    self._hand_over(&match.groups[index], message, True)
        for target in range(first, self._target_count):
            processes |= <uint64_t>1 << self._targets[target].process
        if processes:
            message.flags |= MESSAGE_IS_ROUTED
            self._forward(message, processes, 0, first)
        self._target_count = first

    # --- to other servers ----------------------------------------------------------------------

    cdef int receive(
        self, const unsigned char* record, size_t length, uint32_t flags
    ) except -1:
        """Send one record of a process of this host to the servers that want it."""
        cdef Message message
        cdef Target target
        cdef Peer peer
        cdef Link link
        cdef const RecordHeader* header = <const RecordHeader*>record
        cdef const Match* match
        cdef bint is_denied = False
        cdef uint64_t peers = 0
        cdef uint64_t served = 0
        cdef size_t offset = 0
        cdef size_t index
        cdef bytes name
        if not read_record(record, length, &message):
            raise InternalError("a record of a ring contradicts itself")
        if message.flags & MESSAGE_IS_ROUTED or not self._is_known(message.account):
            return 0
        if self.sublist.has_changes():
            # What was wanted before this message is known before it (rule 2).
            self.tell()
        message.flags |= flags
        if self._permissions is not None and self._permissions.limits_subscribe:
            # What is denied may be wanted by a pattern that is wider.
            is_denied = not self._permissions.may_receive(
                message.subject, message.subject_len, NULL, 0)
        match = self.offered.match(message.account, message.subject, message.subject_len)
        if message.flags & MESSAGE_FOR_QUEUES:
            # Handed on by a process whose member had left. A nats-server takes a line for a queue
            # group as one for plain subscriptions, and those have had this message (rule 7).
            served = match.processes & ~self._telling
        elif not is_denied:
            peers = match.processes
        self._choice_count = 0
        while offset < header.targets_len:
            offset = read_target(record, offset, &target)
            if offset == 0:
                raise InternalError("a target of a record contradicts itself")
            if target.process == self.index and (
                is_denied or not self._choose_peer(
                    match, &message, target.name, target.name_len, served)
            ):
                self._hand_back(&message, target.name, target.name_len, header.hops)
        for index in range(self._choice_count):
            peers |= <uint64_t>1 << self._choices[index].peer
        name = self._names[message.account]
        for index in range(<size_t>PEERS_MAX):
            if peers >> index & 1:
                peer = self._peers[index]
                link = peer.link_for(message.account, name) if peer is not None else None
                if link is not None and not link.is_closed:
                    self._write(link, <uint32_t>index, name, &message)

    cdef int _choose_peer(
        self, const Match* match, const Message* message, const unsigned char* name,
        uint32_t name_len, uint64_t served
    ) except -1:
        """One server for a queue group, but none of `served`: 1, or 0 when no other has members any
        more."""
        cdef const MatchGroup* group
        cdef Choice* grown
        cdef size_t capacity
        cdef uint32_t index
        cdef int peer
        for index in range(match.group_count):
            group = &match.groups[index]
            if group.name_len == name_len and memcmp(group.name, name, name_len) == 0:
                break
        else:
            return 0
        peer = self._draw_peer(group, message, served)
        if peer < 0:
            return 0
        if self._choice_count == self._choice_capacity:
            capacity = self._choice_capacity * 2 if self._choice_capacity else 8
            grown = <Choice*>realloc(self._choices, capacity * sizeof(Choice))
            if grown == NULL:
                raise MemoryError
            self._choices = grown
            self._choice_capacity = capacity
        self._choices[self._choice_count].peer = <uint32_t>peer
        self._choices[self._choice_count].name = name
        self._choices[self._choice_count].name_len = name_len
        self._choice_count += 1
        return 1

    cdef int _draw_peer(
        self, const MatchGroup* group, const Message* message, uint64_t served
    ) except -2:
        """One of the servers that have members, but for some, by the group's policy or by weight;
        -1: none is left."""
        cdef uint64_t pick
        cdef uint64_t weight = 0
        cdef uint32_t at
        if group.policy:
            return self._draw(self.offered, group, message, served)
        for at in range(group.remote_count):
            if not served >> group.remotes[at].process & 1:
                weight += group.remotes[at].weight
        if weight == 0:
            return -1
        pick = self._next_random() % weight
        for at in range(group.remote_count):
            if served >> group.remotes[at].process & 1:
                continue
            if pick < group.remotes[at].weight:
                return <int>group.remotes[at].process
            pick -= group.remotes[at].weight
        raise InternalError("weights of a queue group do not add up")

    cdef int _hand_back(
        self, Message* message, const unsigned char* name, uint32_t name_len, uint32_t hops
    ) except -1:
        """The members elsewhere have gone meanwhile: one of this host gets it."""
        cdef const Match* match = self.sublist.match(
            message.account, message.subject, message.subject_len)
        cdef size_t first = self._target_count
        cdef uint32_t flags = message.flags
        cdef uint32_t index
        if hops >= HOPS_MAX:
            return 0
        for index in range(match.group_count):
            if match.groups[index].name_len == name_len and (
                memcmp(match.groups[index].name, name, name_len) == 0
            ):
                self._hand_over(&match.groups[index], message, False)
        if self._target_count > first:
            self._add_target(TARGET_IS_ORIGIN, <const unsigned char*>&self.origin, sizeof(Origin))
            message.flags |= MESSAGE_FOR_QUEUES
            self._forward(message, <uint64_t>1 << self._targets[first].process, hops + 1, first)
            message.flags = flags
            self.handed_on += 1
        self._target_count = first

    cdef int _write(
        self, Link link, uint32_t peer, bytes account, const Message* message
    ) except -1:
        """One line for one server, with every queue group it was chosen for. One that is for queue
        groups only has the first of them twice, for who understands that."""
        cdef const unsigned char* tail = message.tail
        cdef size_t tail_len = message.tail_len
        cdef size_t account_len = PyBytes_GET_SIZE(account) + 1 if link.names_accounts else 0
        cdef size_t room = HEAD_ROOM + account_len + message.subject_len + message.reply_len
        cdef size_t index
        cdef bint has_queues = False
        cdef unsigned char* head
        cdef unsigned char* at
        cdef bint is_told = (message.flags & MESSAGE_FOR_QUEUES) != 0 and (
            self._telling >> peer & 1) != 0
        for index in range(self._choice_count):
            if self._choices[index].peer == peer:
                has_queues = True
                room += 2 * (<size_t>self._choices[index].name_len + 1)
        head = self._head_for(room)
        memcpy(head, b"HMSG " if message.flags & MESSAGE_HAS_HEADER else b"RMSG ", 5)
        at = head + 5
        if account_len:
            memcpy(at, PyBytes_AS_STRING(account), account_len - 1)
            at[account_len - 1] = c" "
            at += account_len
        memcpy(at, message.subject, message.subject_len)
        at += message.subject_len
        if has_queues:
            at[0] = c" "
            at[1] = c"+" if message.reply_len else c"|"
            at += 2
            if message.reply_len:
                memcpy(at, tail, 1 + message.reply_len)
                at += 1 + message.reply_len
                tail += 1 + message.reply_len
                tail_len -= 1 + message.reply_len
            for index in range(self._choice_count):
                if self._choices[index].peer != peer:
                    continue
                at = self._append_name(at, &self._choices[index])
                if is_told:
                    is_told = False
                    at = self._append_name(at, &self._choices[index])
        link.messages_out += 1
        link.bytes_out += message.total_len
        if message.flags & MESSAGE_IS_LENT and tail_len >= LENT_BYTES_MIN and not link.is_blocked:
            link.lend(head, at - head, tail, tail_len)
        else:
            link.append(head, at - head)
            link.append(tail, tail_len)

    cdef unsigned char* _append_name(self, unsigned char* at, const Choice* choice) noexcept:
        at[0] = c" "
        memcpy(at + 1, choice.name, choice.name_len)
        return at + 1 + choice.name_len

    cdef unsigned char* _head_for(self, size_t length) except NULL:
        cdef unsigned char* grown
        if length > self._head_bytes:
            grown = <unsigned char*>realloc(self._head, length)
            if grown == NULL:
                raise MemoryError
            self._head = grown
            self._head_bytes = length
        return self._head


cdef bint may_import(Permissions permissions, bytes subject) except -1:
    """Whether what others publish there may come in: others are told that it is wanted."""
    return permissions is None or not permissions.limits_publish or permissions.may_publish(
        <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))


cdef bint may_export(Permissions permissions, bytes subject) except -1:
    """Whether others may have what is published there."""
    return permissions is None or not permissions.limits_subscribe or permissions.may_subscribe(
        <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject), NULL, 0)
