# cython: language_level=3str
"""A door to the C face of rings and doorbells, for tests and the micro-benchmark.

Numbered records fill a ring at C speed and are checked byte by byte on the other side. The races
let two processes take the steps of a protocol at the same instant, many times, and count how often
neither saw the other: with a full fence missing it happens wherever two cores run them at once.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memset

from shardd.router.doorbell cimport Doorbell
from shardd.router.ring cimport Batch, Consumer, Producer
from shardd.shm cimport Segment

from shardd.errors import InternalError

cdef extern from "ring_atomic.h" nogil:
    uint64_t atomic_load_u64(const uint64_t* field)
    uint32_t atomic_load_u32(const uint32_t* field)
    void atomic_store_u64(uint64_t* field, uint64_t value)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    NUMBERED_BYTES = 16        # number and length in front of a numbered record
    LINE_WORDS = 8
    SPINS_MAX = 1000           # before the core is given away, so that one core is enough
    YIELDS_MAX = 1 << 26       # before the other process is given up


# --- numbered records -------------------------------------------------------------------------


def write_numbered(
    Producer producer not None,
    uint64_t first,
    uint64_t end,
    size_t length,
    size_t spread,
    size_t batch_bytes,
    uint64_t processes,
) -> int:
    """Publishes numbered records from `first` to below `end`, in batches of `batch_bytes`.

    Record n is `length` bytes plus n modulo `spread`: its number, its length, then bytes that all
    have the low byte of the number. Returns the first number for which there was no room.
    """
    cdef uint64_t number = first
    cdef size_t record_len
    cdef unsigned char* room
    if length < NUMBERED_BYTES or spread < 1:
        raise ValueError(f"a numbered record has at least {NUMBERED_BYTES} bytes, a spread of 1")
    with nogil:
        while number < end:
            record_len = length + <size_t>(number % spread)
            room = producer.claim(record_len, processes)
            if room is NULL:
                break
            (<uint64_t*>room)[0] = number
            (<uint64_t*>room)[1] = record_len
            memset(room + NUMBERED_BYTES, <int>(number & 0xFF), record_len - NUMBERED_BYTES)
            number += 1
            if producer.open_bytes() >= batch_bytes:
                producer.publish(0)
        producer.publish(0)
    return number


def read_numbered(Consumer consumer not None, uint64_t expected) -> int:
    """Checks every byte of what `write_numbered` has published, from number `expected` on.

    Returns the next number expected; releases nothing.
    """
    cdef Batch batch
    with nogil:
        while consumer.peek(&batch):
            if batch.processes >> consumer.slot & 1 and not check_numbered(&batch, &expected):
                with gil:
                    raise InternalError(f"record {expected} is not what was written")
            consumer.advance(&batch)
    return expected


cdef bint check_numbered(const Batch* batch, uint64_t* expected) noexcept nogil:
    """Whether a batch holds the numbered records from `expected` on, which it moves."""
    cdef const unsigned char* record = batch.records
    cdef size_t left = batch.records_len
    cdef uint64_t length
    while left:
        if left < NUMBERED_BYTES or (<const uint64_t*>record)[0] != expected[0]:
            return False
        length = (<const uint64_t*>record)[1]
        if length < NUMBERED_BYTES or length > left:
            return False
        # The first byte is right, and each of the others equals the one before it.
        if length > NUMBERED_BYTES and (
            record[NUMBERED_BYTES] != (expected[0] & 0xFF)
            or memcmp(
                record + NUMBERED_BYTES,
                record + NUMBERED_BYTES + 1,
                <size_t>length - NUMBERED_BYTES - 1,
            )
        ):
            return False
        length = (length + 7) & ~<uint64_t>7
        record += length
        left -= length
        expected[0] += 1
    return True


# --- races ------------------------------------------------------------------------------------

# What the two processes of a race share; index 0 is the producer's, 1 the consumer's.
cdef struct Race:
    uint64_t* turn             # its own, a count of meetings
    const uint64_t* turn_of_other
    uint64_t* seen             # whether it saw the other one's step
    const uint64_t* seen_by_other
    uint64_t* published        # stands for a ring's published position
    uint32_t delay             # loops after a meeting


cdef Race race_in(Segment words, bint consumes):
    cdef Race race
    cdef uint64_t* lines = <uint64_t*>words.address
    race.turn = lines + LINE_WORDS * consumes
    race.turn_of_other = lines + LINE_WORDS * (not consumes)
    race.seen = lines + LINE_WORDS * (2 + consumes)
    race.seen_by_other = lines + LINE_WORDS * (2 + (not consumes))
    race.published = lines + LINE_WORDS * 4
    race.delay = 0
    return race


cdef bint meet(Race* race) noexcept nogil:
    """Waits for the other process; False when it does not come.

    Then spends `delay` loops: which step of the one meets which of the other is what a race is
    about, so that differs from round to round.
    """
    cdef uint64_t turn = race.turn[0] + 1
    cdef uint64_t spins = 0
    cdef uint32_t _loop
    # Release and acquire: what each did before the meeting, the other one sees after it.
    atomic_store_u64(race.turn, turn)
    while atomic_load_u64(race.turn_of_other) < turn:
        spins += 1
        if spins > SPINS_MAX:
            sched_yield()
            if spins > YIELDS_MAX:
                return False
    for _loop in range(race.delay):
        atomic_load_u64(race.turn)
    return True


def race_for_room(
    Producer producer, Consumer consumer, Segment words not None, uint32_t rounds
) -> int:
    """`wait_for_room` against `release` at a full ring; returns how often nobody saw anybody.

    One process hands in its producer, the other one its consumer, and None for the other side;
    `words` is zeroed and shared. Both return the same count.
    """
    cdef bint consumes = producer is None
    cdef Race race = race_in(words, consumes)
    cdef Batch batch
    cdef uint32_t number, lost = 0
    cdef bint all_met = True
    with nogil:
        for number in range(rounds):
            if not consumes:
                while producer.claim(producer.record_max, ~<uint64_t>0) is not NULL:
                    pass
                producer.publish(0)
            all_met = all_met and meet(&race)
            if consumes:
                while consumer.peek(&batch):
                    consumer.advance(&batch)
            race.delay = number % 64 * (not consumes)
            all_met = all_met and meet(&race)
            race.delay = 0
            if consumes:
                race.seen[0] = consumer.release()
            else:
                race.seen[0] = producer.wait_for_room(producer.record_max)
            all_met = all_met and meet(&race)
            lost += not (race.seen[0] or race.seen_by_other[0])
    if not all_met:
        raise InternalError("the other process did not come to the race")
    return lost


def race_for_sleep(
    Doorbell bell not None, Segment words not None, uint32_t rounds, bint sleeps
) -> int:
    """Publishing and `ring` against `fall_asleep` and a last look; returns how often nobody saw
    anybody.

    One process calls it with `sleeps` and the other without; `words` is zeroed and shared. Both
    return the same count.
    """
    cdef Race race = race_in(words, sleeps)
    cdef uint32_t number, lost = 0
    cdef bint all_met = True
    with nogil:
        for number in range(1, rounds + 1):
            all_met = all_met and meet(&race)
            # Both lines are in both caches then, so that loads are quick and stores slow.
            race.seen[0] = (
                atomic_load_u64(race.published) + atomic_load_u32(&bell._slot.is_asleep)
            )
            race.delay = number % 64 * (not sleeps)
            all_met = all_met and meet(&race)
            race.delay = 0
            # Release and acquire on the word, as on a ring's published position.
            if sleeps:
                bell.fall_asleep()
                race.seen[0] = atomic_load_u64(race.published) == number
            else:
                atomic_store_u64(race.published, number)
                race.seen[0] = bell.ring()
            all_met = all_met and meet(&race)
            lost += not (race.seen[0] or race.seen_by_other[0])
            if sleeps:
                bell.clear()
                bell.wake_up()
    if not all_met:
        raise InternalError("the other process did not come to the race")
    return lost
