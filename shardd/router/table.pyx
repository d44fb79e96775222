"""The body of the hash table, and a door for tests.

Growing doubles at three quarters full, shrinking halves below one eighth: far enough apart that a
table at a boundary does not swing. When memory is short, shrinking is skipped, never an error.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

cdef size_t CAPACITY_MIN = 4


cdef HashKey hash_key(uint64_t seed) noexcept nogil:
    """Stretches one seed into two secrets."""
    cdef HashKey key
    key.first = fold(seed ^ <uint64_t>0xa0761d6478bd642f, <uint64_t>0x9e3779b97f4a7c15)
    key.second = fold(key.first ^ <uint64_t>0xd1b54a32d192ed03, seed ^ <uint64_t>0x8cb92ba72f3d8dd7)
    return key


cdef int resize(Table* table, size_t capacity) noexcept nogil:
    cdef Cell* cells = <Cell*>calloc(capacity, sizeof(Cell))
    cdef size_t mask = capacity - 1
    cdef size_t index, target
    if cells == NULL:
        return -1
    for index in range(table.capacity):
        if table.cells[index].item == NULL:
            continue
        target = table.cells[index].hash & mask
        while cells[target].item != NULL:
            target = (target + 1) & mask
        cells[target] = table.cells[index]
    free(table.cells)
    table.cells = cells
    table.capacity = capacity
    return 0


cdef int table_insert(Table* table, uint64_t hash, void* item) noexcept nogil:
    cdef size_t mask, index
    if (table.count + 1) * 4 > table.capacity * 3:
        if resize(table, table.capacity * 2 if table.capacity else CAPACITY_MIN) < 0:
            return -1
    mask = table.capacity - 1
    index = hash & mask
    while table.cells[index].item != NULL:
        index = (index + 1) & mask
    table.cells[index].hash = hash
    table.cells[index].item = item
    table.count += 1
    return 0


cdef bint table_remove(Table* table, uint64_t hash, const void* item) noexcept nogil:
    cdef size_t mask = table.capacity - 1
    cdef size_t hole, index, home
    if table.capacity == 0:
        return False
    hole = hash & mask
    while table.cells[hole].item != item:
        if table.cells[hole].item == NULL:
            return False
        hole = (hole + 1) & mask
    # A cell behind the hole moves into it unless that were before its home.
    index = hole
    while True:
        index = (index + 1) & mask
        if table.cells[index].item == NULL:
            break
        home = table.cells[index].hash & mask
        if ((index - home) & mask) >= ((index - hole) & mask):
            table.cells[hole] = table.cells[index]
            hole = index
    table.cells[hole].item = NULL
    table.count -= 1
    if table.capacity > CAPACITY_MIN and table.count * 8 < table.capacity:
        resize(table, table.capacity // 2)
    return True


cdef void table_free(Table* table) noexcept nogil:
    free(table.cells)
    table.cells = NULL
    table.capacity = 0
    table.count = 0


cdef void* table_next(const Table* table, size_t* index) noexcept nogil:
    cdef void* item
    while index[0] < table.capacity:
        item = table.cells[index[0]].item
        index[0] += 1
        if item != NULL:
            return item
    return NULL


def hash_of(seed: int, context: int, data: bytes) -> int:
    """The hash of some bytes in a context, for tests."""
    cdef HashKey key = hash_key(seed)
    cdef bytes owned = data
    return hash_bytes(
        &key, context, <const unsigned char*>PyBytes_AS_STRING(owned), PyBytes_GET_SIZE(owned)
    )


cdef bint is_same_bytes_object(const void* item, const void* key) noexcept nogil:
    with gil:
        return <bytes><object>item == <bytes><object>key


@cython.final
cdef class TableProbe:
    """A table of bytes objects whose hashes the test chooses."""

    cdef Table table

    def __dealloc__(self) -> None:
        cdef size_t index = 0
        cdef void* item = table_next(&self.table, &index)
        while item != NULL:
            Py_DECREF(<object>item)
            item = table_next(&self.table, &index)
        table_free(&self.table)

    @property
    def capacity(self) -> int:
        return self.table.capacity

    def __len__(self) -> int:
        return self.table.count

    def find(self, hash_value: int, data: bytes) -> bytes | None:
        """The stored object equal to these bytes."""
        cdef void* item = table_find(
            &self.table, hash_value, is_same_bytes_object, <PyObject*>data
        )
        return None if item == NULL else <object>item

    def insert(self, hash_value: int, data: bytes) -> None:
        """Adds the object, equal ones notwithstanding."""
        if table_insert(&self.table, hash_value, <void*><PyObject*>data) < 0:
            raise MemoryError
        Py_INCREF(data)

    def remove(self, hash_value: int, data: bytes) -> bool:
        """Takes out this very object."""
        if not table_remove(&self.table, hash_value, <PyObject*>data):
            return False
        Py_DECREF(data)
        return True

    def items(self) -> list[bytes]:
        """All that is stored, in the order of the cells."""
        cdef size_t index = 0
        cdef void* item = table_next(&self.table, &index)
        cdef list found = []
        while item != NULL:
            found.append(<object>item)
            item = table_next(&self.table, &index)
        return found
