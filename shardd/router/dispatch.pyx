# cython: language_level=3str
"""One message to everybody who wants it: local subscriptions, and one record for all others.

`publish` is for messages of this process's own connections. It delivers to the local plain
subscriptions, chooses one member of each queue group, and writes one record for all processes that
have plain interest or were chosen for a group. `receive` is for records of other processes: it
delivers locally, and only hands on a queue group whose local members have all gone meanwhile.

The rules of the mesh that live here (design section 3): a batch never leaves before the interest
that was announced ahead of it (2); everything of one publisher goes through one ring in order,
also what is too large for it, by a record that stands for the message (3); the choice in a queue
group is uniform over members, not processes (4); a full ring makes a backlog and a flag that
pauses the publishers, it never waits (5); a record is for a process once, and a message that is
handed on is not for plain subscriptions again (7).
"""

from collections import deque

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from shardd.errors import InternalError
from shardd import limits
from shardd.router.policies import identity_of, rules_of

from shardd.router.frame cimport (
    MESSAGE_FOR_QUEUES,
    MESSAGE_IS_ROUTED,
    RECORD_MESSAGE,
    RECORD_OVERSIZE,
    TARGET_IS_ORIGIN,
    Message,
    Origin,
    RecordHeader,
    Target,
    read_record,
    read_target,
    record_length,
    write_record,
)
from shardd.router.policies cimport (
    POLICY_LOCAL,
    POLICY_ROUND_ROBIN,
    POLICY_STICKY,
    Policy,
    Share,
    first_of,
    key_of,
    lateness,
    member_id,
    mixed,
)
from shardd.router.ring cimport Producer
from shardd.router.sublist cimport Match, MatchGroup, Sublist, Subscriber, Subscription

cdef size_t BATCH_BYTES = limits.BATCH_BYTES
cdef uint64_t OVERSIZE_BYTES_MAX = limits.OVERSIZE_BYTES_MAX


cdef class Dispatcher:
    """Publishes for one process. Touched by its event loop only.

    Args:
        sublist: the subject index of this process.
        producer: this process's ring, or None when it has no peers and never will.
        index: its slot number.
        seed: for the choice of queue members.
        routers: the mask of the processes that lead to other hosts.
    """

    def __init__(
        self,
        Sublist sublist not None,
        Producer producer,
        uint32_t index,
        uint64_t seed,
        uint64_t routers=0,
    ):
        self.sublist = sublist
        self.offered = sublist
        self.routers = routers
        self.producer = producer
        self.index = index
        self._random = seed | 1
        self._first_turn = <uint32_t>(seed >> 32)
        self._backlog = deque()
        self._oversize = deque()

    def __dealloc__(self):
        free(self._targets)
        free(self._expired)

    def bind(self, mesh: object) -> None:
        """Name the mesh: its `announce()` and `sequence`, `send_oversize()`, `ring_doorbells()`."""
        self._mesh = mesh

    def set_policies(self, policies: object, account_ids: object, host: str) -> None:
        """Choose members of queue groups in these ways from now on.

        Args:
            policies: `config.model.QueuePolicy` each, the first that matches counts.
            account_ids: numbers of accounts, by name.
            host: what other hosts know this one by.
        """
        self.sublist.set_policies(rules_of(policies, account_ids), self.index, True)
        self._identity = identity_of(host)

    # --- out -----------------------------------------------------------------------------------

    cdef int publish(self, Message* message, Subscriber* publisher, bint echo) except -1:
        """Route one message of a local publisher. Returns how many took it; other processes that
        it was sent to count as one."""
        cdef const Match* match = self.sublist.match(
            message.account, message.subject, message.subject_len)
        cdef uint64_t processes = match.processes
        cdef Subscription* subscription
        cdef int takers = 0
        cdef uint32_t index
        # A delivery may publish: the targets of that message stand behind those of this one.
        cdef size_t first = self._target_count
        cdef size_t target
        for index in range(match.plain_count):
            subscription = match.plain[index]
            if echo or subscription.subscriber != publisher:
                takers += self._deliver(subscription, message)
        for index in range(match.group_count):
            takers += self._choose(&match.groups[index], message, publisher, echo)
        for target in range(first, self._target_count):
            processes |= <uint64_t>1 << self._targets[target].process
        if processes:
            self._forward(message, processes, 0, first)
            takers += 1
        self._target_count = first
        if self._expired_count:
            self._expire()
        return takers

    cdef int _deliver(self, Subscription* subscription, Message* message) except -1:
        """Hand the message to one local subscription: 1 when it took it, 0 when not."""
        cdef Subscription** grown
        cdef size_t capacity
        if subscription.is_removed:
            return 0
        if subscription.max_deliveries and subscription.delivered >= subscription.max_deliveries:
            return 0
        # Counted first: what it publishes on delivery may come back to it.
        subscription.delivered += 1
        if subscription.subscriber.deliver(
            subscription.subscriber.owner, subscription, message
        ) == 0:
            subscription.delivered -= 1
            return 0
        if subscription.delivered == subscription.max_deliveries:
            if self._expired_count == self._expired_capacity:
                capacity = self._expired_capacity * 2 if self._expired_capacity else 16
                grown = <Subscription**>realloc(
                    self._expired, capacity * sizeof(Subscription*))
                if grown == NULL:
                    raise MemoryError
                self._expired = grown
                self._expired_capacity = capacity
            self._expired[self._expired_count] = subscription
            self._expired_count += 1
        return 1

    cdef int _expire(self) except -1:
        """Let the owners remove what reached its maximum, now that no match is in use."""
        cdef Subscription* subscription
        while self._expired_count:
            self._expired_count -= 1
            subscription = self._expired[self._expired_count]
            if not subscription.is_removed:
                subscription.subscriber.expire(subscription.subscriber.owner, subscription)

    cdef int _choose(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo
    ) except -1:
        """One member of the group, uniformly over all members of the host: 1 when a local one
        took it; a remote one becomes a target."""
        cdef uint64_t pick
        if group.weight == 0:
            return 0
        if group.policy:
            return self._choose_by_policy(group, message, publisher, echo)
        pick = self._next_random() % group.weight
        if pick < group.local_count:
            if self._deliver_in_group(group, message, publisher, echo, pick):
                return 1
        self._hand_over(group, message, False)
        return 0

    cdef int _deliver_in_group(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo, uint64_t first
    ) except -1:
        """The member at `first`, else the next one that can take it (sheet 4.4)."""
        cdef uint32_t _tried
        cdef uint32_t at = <uint32_t>first
        for _tried in range(group.local_count):
            if echo or group.members[at].subscriber != publisher:
                if self._deliver(group.members[at], message):
                    return 1
            at += 1
            if at == group.local_count:
                at = 0
        return 0

    # --- queue groups with a policy ------------------------------------------------------------

    cdef int _choose_by_policy(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo
    ) except -1:
        """The same where a rule says who is chosen."""
        cdef int process = self._draw(self.sublist, group, message, 0)
        if process == <int>self.index:
            if self._deliver_by_policy(group, message, publisher, echo):
                return 1
            process = self._draw(self.sublist, group, message, <uint64_t>1 << self.index)
        if process >= 0:
            self._add_target(<uint32_t>process, group.name, group.name_len)
        return 0

    cdef int _deliver_by_policy(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo
    ) except -1:
        """One of the local members, of which there are some: 1 when one of them took it."""
        cdef const Policy* policy = self.sublist.policy_of(group)
        cdef uint64_t first
        if policy.kind == POLICY_STICKY:
            return self._deliver_sticky(
                group, message, publisher, echo, key_of(policy, message))
        if policy.kind == POLICY_ROUND_ROBIN:
            first = group.source.member_turn % group.local_count
            group.source.member_turn += 1
        else:
            first = self._next_random() % group.local_count
        return self._deliver_in_group(group, message, publisher, echo, first)

    cdef int _deliver_sticky(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo, uint64_t key
    ) except -1:
        """The local member that wins the key, else the next one that can take it."""
        cdef uint64_t number, highest, below = 0
        cdef uint32_t _tried, at, best
        cdef bint has_best
        for _tried in range(group.local_count):
            has_best = False
            highest = 0
            best = 0
            for at in range(group.local_count):
                number = mixed(key ^ member_id(self.index, group.members[at].serial))
                # No two members draw the same number for a key.
                if (_tried == 0 or number < below) and (not has_best or number > highest):
                    has_best = True
                    highest = number
                    best = at
            if not has_best:
                return 0
            below = highest
            if echo or group.members[best].subscriber != publisher:
                if self._deliver(group.members[best], message):
                    return 1
        return 0

    cdef int _draw(
        self, Sublist sublist, const MatchGroup* group, const Message* message, uint64_t skipped
    ) except -2:
        """The process that a message goes to by the group's rule, but for some; -1: none is left.
        """
        cdef const Policy* policy = sublist.policy_of(group)
        cdef uint64_t total, pick
        cdef uint32_t at
        if policy.kind == POLICY_STICKY:
            return self._rendezvous(group, key_of(policy, message), skipped)
        if policy.kind == POLICY_LOCAL and self._weight(group, skipped | self.routers):
            skipped |= self.routers
        total = self._weight(group, skipped)
        if total == 0:
            return -1
        if policy.kind == POLICY_ROUND_ROBIN:
            pick = <uint64_t>(group.source.process_turn + self._first_turn) % total
            group.source.process_turn += 1
        else:
            pick = self._next_random() % total
        if not skipped >> self.index & 1:
            if pick < group.local_count:
                return <int>self.index
            pick -= group.local_count
        for at in range(group.remote_count):
            if skipped >> group.remotes[at].process & 1:
                continue
            if pick < group.remotes[at].weight:
                return <int>group.remotes[at].process
            pick -= group.remotes[at].weight
        raise InternalError("weights of a queue group do not add up")

    cdef uint64_t _weight(self, const MatchGroup* group, uint64_t skipped) noexcept:
        """Members of the group, but for those that are reached by these processes."""
        cdef uint64_t total = 0 if skipped >> self.index & 1 else group.local_count
        cdef uint32_t at
        for at in range(group.remote_count):
            if not skipped >> group.remotes[at].process & 1:
                total += group.remotes[at].weight
        return total

    cdef int _rendezvous(self, const MatchGroup* group, uint64_t key, uint64_t skipped) noexcept:
        """The process of the winner: between the hosts first, then on this one."""
        cdef Share own
        cdef const Share* best = first_of(
            group.shares, group.share_count, key, ~self.routers | skipped)
        if best != NULL:
            if self._weight(group, self.routers | skipped) == 0:
                return <int>best.process
            own.id = self._identity
            own.weight = <uint32_t>self._weight(group, self.routers)
            if lateness(key, best) < lateness(key, &own):
                return <int>best.process
        best = first_of(group.shares, group.share_count, key, self.routers | skipped)
        return <int>best.process if best != NULL else -1

    # --- other processes -----------------------------------------------------------------------

    cdef int _hand_over(
        self, const MatchGroup* group, const Message* message, bint is_routed
    ) except -1:
        """Choose another process for the group, by weight; nothing when no other has a member. What
        came from another host stays here."""
        cdef uint64_t total = group.weight - group.local_count
        cdef uint64_t pick
        cdef uint32_t index
        cdef int process
        if group.policy:
            pick = <uint64_t>1 << self.index
            process = self._draw(
                self.sublist, group, message, pick | self.routers if is_routed else pick)
            if process >= 0:
                self._add_target(<uint32_t>process, group.name, group.name_len)
            return 0
        if is_routed and self.routers:
            for index in range(group.remote_count):
                if self.routers >> group.remotes[index].process & 1:
                    total -= group.remotes[index].weight
        if total == 0:
            return 0
        pick = self._next_random() % total
        for index in range(group.remote_count):
            if is_routed and self.routers >> group.remotes[index].process & 1:
                continue
            if pick < group.remotes[index].weight:
                break
            pick -= group.remotes[index].weight
        else:
            raise InternalError("weights of a queue group do not add up")
        self._add_target(group.remotes[index].process, group.name, group.name_len)

    cdef int _add_target(
        self, uint32_t process, const unsigned char* name, uint32_t name_len
    ) except -1:
        cdef Target* grown
        cdef size_t capacity
        if self._target_count == self._target_capacity:
            capacity = self._target_capacity * 2 if self._target_capacity else 8
            grown = <Target*>realloc(self._targets, capacity * sizeof(Target))
            if grown == NULL:
                raise MemoryError
            self._targets = grown
            self._target_capacity = capacity
        self._targets[self._target_count].process = process
        self._targets[self._target_count].name = name
        self._targets[self._target_count].name_len = name_len
        self._target_count += 1

    cdef int _forward(
        self, const Message* message, uint64_t processes, uint32_t hops, size_t first
    ) except -1:
        """Write one record for other processes, with the targets of this message: those from
        `first` on."""
        cdef size_t length
        cdef unsigned char* room
        if self.producer is None:
            raise InternalError("interest of another process, and no ring to reach it")
        length = record_length(message, self._targets + first, self._target_count - first)
        if self.is_full or length > self.producer.record_max:
            return self._forward_slowly(message, processes, hops, first, length)
        if self.producer.open_bytes() + length > BATCH_BYTES:
            self.commit()
        room = self.producer.claim(length, processes)
        if room == NULL:
            return self._forward_slowly(message, processes, hops, first, length)
        write_record(room, length, message, processes, self._targets + first,
                     self._target_count - first, RECORD_MESSAGE, hops)
        self.ring_bytes += length

    cdef int _forward_slowly(
        self, const Message* message, uint64_t processes, uint32_t hops, size_t first, size_t length
    ) except -1:
        """The same for a full ring, or for a message too large for it."""
        cdef bytes record = PyBytes_FromStringAndSize(NULL, length)
        write_record(<unsigned char*>PyBytes_AS_STRING(record), length, message, processes,
                     self._targets + first, self._target_count - first, RECORD_MESSAGE, hops)
        if not self.is_full and self._enter_ring(record, processes):
            return 0
        if not self.is_full:
            self.is_full = True
            self.ring_stalls += 1
        self._backlog.append((record, processes))

    cdef bint _enter_ring(self, bytes record, uint64_t processes) except -1:
        """Copy a record that was built aside into the ring. False: no room, a ring will come."""
        cdef size_t length = PyBytes_GET_SIZE(record)
        cdef unsigned char* room
        if length > self.producer.record_max:
            return self._enter_oversize(record, processes)
        room = self.producer.claim(length, processes)
        if room == NULL:
            if not self._wait_for_room(length):
                return False
            room = self.producer.claim(length, processes)
            if room == NULL:
                return False
        memcpy(room, PyBytes_AS_STRING(record), length)
        self.ring_bytes += length
        return True

    cdef bint _enter_oversize(self, bytes record, uint64_t processes) except -1:
        """Send a record over ZeroMQ and let a small one in the ring keep its place."""
        cdef Message stand_in
        cdef size_t length = PyBytes_GET_SIZE(record)
        cdef size_t room_length
        cdef unsigned char* room
        while self._oversize and self._oversize[0][0] <= self.producer.consumed():
            self._oversize_bytes -= <uint64_t>self._oversize.popleft()[1]
        if self._oversize_bytes and self._oversize_bytes + length > OVERSIZE_BYTES_MAX:
            # Room for a whole ring is there only when all is consumed: then the bound is free too.
            if not self._wait_for_room(self.producer.ring.size):
                return False
            self._oversize.clear()
            self._oversize_bytes = 0
        memset(&stand_in, 0, sizeof(Message))
        stand_in.tail = b"    "
        stand_in.tail_len = 4
        stand_in.subject = stand_in.tail
        room_length = record_length(&stand_in, NULL, 0)
        room = self.producer.claim(room_length, processes)
        if room == NULL:
            if not self._wait_for_room(room_length):
                return False
            room = self.producer.claim(room_length, processes)
            if room == NULL:
                return False
        stand_in.publisher = self._oversize_number
        write_record(room, room_length, &stand_in, processes, NULL, 0, RECORD_OVERSIZE, 0)
        self._mesh.send_oversize(processes, self._oversize_number, record)
        self._oversize_number += 1
        self.oversize_messages += 1
        self.commit()
        self._oversize.append((self.producer.published, length))
        self._oversize_bytes += length
        return True

    cdef bint _wait_for_room(self, size_t length) except -1:
        """Whether there is room once the open batch has left. If not, a ring will come.

        Consumers that nothing was for may sleep with all of it unread: they hold the ring as well.
        """
        self.commit()
        if self.producer.wait_for_room(length):
            return True
        self._mesh.ring_doorbells(self.producer.attached)
        return False

    cdef int commit(self) except -1:
        """Publish the open batch, after the interest that was new before it, and wake who it is
        for."""
        cdef uint64_t processes
        if self.offered.has_changes():
            self._mesh.announce()
        if self.producer is None or self.producer.open_bytes() == 0:
            return 0
        processes = self.producer.publish(self._mesh.sequence)
        if processes:
            self._mesh.ring_doorbells(processes)

    cdef int drain_backlog(self) except -1:
        """Move what found the ring full into it, in order. Clears `is_full` when all went."""
        while self._backlog:
            record, processes = self._backlog[0]
            if not self._enter_ring(record, processes):
                return 0
            self._backlog.popleft()
        self.is_full = False
        self.commit()

    def finish(self) -> None:
        """End a pass of an owner that has no pump: what can leave, leaves."""
        if self.is_full:
            self.drain_backlog()
        self.commit()
        self.sublist.release()

    # --- in ------------------------------------------------------------------------------------

    cdef int receive(
        self, const unsigned char* record, size_t length, uint32_t flags
    ) except -1:
        """Route one record of another process to local subscriptions. `flags` are added to the
        message's own: MESSAGE_IS_LENT when the record lies in a ring.

        Raises:
            InternalError: the record contradicts itself.
        """
        cdef Message message
        cdef const Match* match
        cdef const RecordHeader* header = <const RecordHeader*>record
        cdef Target target
        cdef size_t offset = 0
        cdef uint32_t index
        if not read_record(record, length, &message):
            raise InternalError("a record of a ring contradicts itself")
        message.flags |= flags
        if not message.flags & MESSAGE_FOR_QUEUES:
            match = self.sublist.match(message.account, message.subject, message.subject_len)
            for index in range(match.plain_count):
                self._deliver(match.plain[index], &message)
        while offset < header.targets_len:
            offset = read_target(record, offset, &target)
            if offset == 0:
                raise InternalError("a target of a record contradicts itself")
            if target.process == self.index:
                self._receive_target(&target, &message, header.hops)
        if self._expired_count:
            self._expire()

    cdef int _receive_target(
        self, const Target* target, Message* message, uint32_t hops
    ) except -1:
        """Deliver to a local member of the group this process was chosen for, or hand it on."""
        cdef const Match* match = self.sublist.match(
            message.account, message.subject, message.subject_len)
        cdef MatchGroup* group
        cdef size_t first = self._target_count
        cdef uint32_t index
        for index in range(match.group_count):
            group = &match.groups[index]
            if group.name_len != target.name_len:
                continue
            if memcmp(group.name, target.name, target.name_len) != 0:
                continue
            if group.policy:
                if group.local_count and self._deliver_by_policy(group, message, NULL, True):
                    return 0
            elif group.local_count and self._deliver_in_group(
                group, message, NULL, True, self._next_random() % group.local_count
            ):
                return 0
            self._hand_over(group, message, message.flags & MESSAGE_IS_ROUTED)
            if self._target_count > first and hops < HOPS_MAX:
                # Whoever gets it may answer, so it has to know the first publisher's interest.
                self._add_target(
                    TARGET_IS_ORIGIN, <const unsigned char*>&self.origin, sizeof(Origin))
                message.flags |= MESSAGE_FOR_QUEUES
                self._forward(
                    message, <uint64_t>1 << self._targets[first].process, hops + 1, first)
                self.handed_on += 1
            self._target_count = first
            return 0

    # --- questions -----------------------------------------------------------------------------

    cdef bint has_subscriber(
        self, uint32_t account, const unsigned char* subject, size_t length,
        Subscriber* subscriber, Subscription** found,
    ) except -1:
        """Whether this subscriber itself has a plain subscription that matches (sheet 4.6)."""
        cdef const Match* match = self.sublist.match(account, subject, length)
        cdef uint32_t index
        for index in range(match.plain_count):
            if match.plain[index].subscriber == subscriber:
                found[0] = match.plain[index]
                return True
        return False

    cdef uint64_t _next_random(self) noexcept nogil:
        """The next number of a xorshift64* generator (Vigna 2016): fast, good enough to choose."""
        self._random ^= self._random >> 12
        self._random ^= self._random << 25
        self._random ^= self._random >> 27
        return (self._random * <uint64_t>0x2545F4914F6CDD1D) >> 11
