"""Wildcard patterns by token, and which of them match a literal: the C face.

One tree per account. A node has a `*` child, a place for the pattern that ends in `>` below it, and
literal children. The children of all nodes live in one hash table keyed by parent and token, so a
node with one child costs one cell and no table of its own. Roots are children of nobody, their
token is the account's number. What a pattern leads to is the caller's: an opaque pointer.
"""

from libc.stdint cimport uint32_t, uint64_t

from shardd.router.table cimport HashKey, Table

# A growing array of pointers, kept between uses.
cdef struct Vector:
    void** items
    size_t count
    size_t capacity

# A token on the way to a pattern. The token's bytes stand right behind the struct.
cdef struct Node:
    Node* parent
    Node* star
    void* here                # the pattern that ends with this token
    void* below               # the pattern that goes on with `>` and ends
    uint32_t children         # literal ones
    uint32_t token_len

# A branch not walked yet: a node, and where the subject goes on.
cdef struct Branch:
    Node* node
    size_t position

cdef struct Trie:
    HashKey key
    Table nodes               # roots and literal children
    Branch* branches
    size_t branches_max
    size_t star_count         # nodes that are not in the table

cdef int vector_reserve(Vector* vector, size_t count) noexcept nogil
# Gives back most of an array that is much too large for what it holds.
cdef void vector_trim(Vector* vector) noexcept nogil
cdef void vector_free(Vector* vector) noexcept nogil

# A zeroed trie with a key is an empty one. `pattern` has been checked. -1 without memory.
cdef int trie_insert(
    Trie* trie, uint32_t account, const unsigned char* pattern, size_t length, void* value
) noexcept nogil
# Takes a pattern out and prunes what it alone held up.
cdef void trie_remove(
    Trie* trie, uint32_t account, const unsigned char* pattern, size_t length
) noexcept nogil
# Appends the values of all patterns that match a reachable literal. -1 without memory.
cdef int trie_collect(
    Trie* trie, uint32_t account, const unsigned char* literal, size_t length, Vector* found
) noexcept nogil
# Frees all nodes, not the values.
cdef void trie_free(Trie* trie) noexcept nogil
cdef size_t trie_nodes(const Trie* trie) noexcept nogil


cdef inline int vector_push(Vector* vector, void* item) noexcept nogil:
    if vector.count == vector.capacity and vector_reserve(vector, vector.count + 1) < 0:
        return -1
    vector.items[vector.count] = item
    vector.count += 1
    return 0
