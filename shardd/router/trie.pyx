"""The body of the trie. Nothing here recurses: a subject can have thousands of tokens."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from shardd.router.subject cimport is_token, token_end
from shardd.router.table cimport (
    hash_bytes,
    same_bytes,
    table_find,
    table_free,
    table_insert,
    table_next,
    table_remove,
)

cdef enum:
    VECTOR_KEPT = 1024        # pointers that an array keeps room for

# What a node is looked up by.
cdef struct NodeKey:
    Node* parent
    const unsigned char* token
    size_t token_len


cdef int vector_reserve(Vector* vector, size_t count) noexcept nogil:
    cdef size_t capacity = vector.capacity if vector.capacity else 16
    cdef void** items
    if count <= vector.capacity:
        return 0
    while capacity < count:
        capacity *= 2
    items = <void**>realloc(vector.items, capacity * sizeof(void*))
    if items == NULL:
        return -1
    vector.items = items
    vector.capacity = capacity
    return 0


cdef void vector_trim(Vector* vector) noexcept nogil:
    cdef size_t capacity = vector.capacity // 2
    cdef void** items
    if vector.capacity <= VECTOR_KEPT or vector.count * 8 > vector.capacity:
        return
    items = <void**>realloc(vector.items, capacity * sizeof(void*))
    if items != NULL:
        vector.items = items
        vector.capacity = capacity


cdef void vector_free(Vector* vector) noexcept nogil:
    free(vector.items)
    vector.items = NULL
    vector.count = 0
    vector.capacity = 0


cdef inline const unsigned char* token_of(const Node* node) noexcept nogil:
    return <const unsigned char*>(node + 1)


cdef bint is_same_node(const void* item, const void* key) noexcept nogil:
    cdef const Node* node = <const Node*>item
    cdef const NodeKey* wanted = <const NodeKey*>key
    return (
        node.parent == wanted.parent
        and node.token_len == wanted.token_len
        and same_bytes(token_of(node), wanted.token, wanted.token_len)
    )


cdef inline uint64_t node_hash(
    const Trie* trie, const Node* parent, const unsigned char* token, size_t length
) noexcept nogil:
    return hash_bytes(&trie.key, <uint64_t>parent, token, length)


cdef inline Node* find_node(
    const Trie* trie, Node* parent, const unsigned char* token, size_t length
) noexcept nogil:
    cdef NodeKey key
    key.parent = parent
    key.token = token
    key.token_len = length
    return <Node*>table_find(
        &trie.nodes, node_hash(trie, parent, token, length), is_same_node, &key
    )


cdef inline Node* find_root(const Trie* trie, uint32_t account) noexcept nogil:
    return find_node(trie, NULL, <const unsigned char*>&account, sizeof(account))


cdef Node* make_node(
    Trie* trie, Node* parent, const unsigned char* token, size_t length, bint is_star
) noexcept nogil:
    cdef Node* node = <Node*>malloc(sizeof(Node) + length)
    if node == NULL:
        return NULL
    node.parent = parent
    node.star = NULL
    node.here = NULL
    node.below = NULL
    node.children = 0
    node.token_len = <uint32_t>length
    memcpy(<unsigned char*>(node + 1), token, length)
    if is_star:
        parent.star = node
        trie.star_count += 1
        return node
    if table_insert(&trie.nodes, node_hash(trie, parent, token, length), node) < 0:
        free(node)
        return NULL
    if parent != NULL:
        parent.children += 1
    return node


cdef void prune(Trie* trie, Node* node) noexcept nogil:
    """Frees the node, and then its parents, as long as nothing hangs on them."""
    cdef Node* parent
    while node != NULL and node.star == NULL and node.children == 0:
        if node.here != NULL or node.below != NULL:
            return
        parent = node.parent
        if parent != NULL and parent.star == node:
            parent.star = NULL
            trie.star_count -= 1
        else:
            table_remove(
                &trie.nodes, node_hash(trie, parent, token_of(node), node.token_len), node
            )
            if parent != NULL:
                parent.children -= 1
        free(node)
        node = parent


cdef int trie_insert(
    Trie* trie, uint32_t account, const unsigned char* pattern, size_t length, void* value
) noexcept nogil:
    cdef Node* node = find_root(trie, account)
    cdef Node* child
    cdef size_t position = 0
    cdef size_t end
    cdef bint is_star
    if node == NULL:
        node = make_node(
            trie, NULL, <const unsigned char*>&account, sizeof(account), False
        )
        if node == NULL:
            return -1
    while position <= length:
        end = token_end(pattern, length, position)
        if is_token(pattern, position, end, c'>'):
            node.below = value
            return 0
        is_star = is_token(pattern, position, end, c'*')
        if is_star:
            child = node.star
        else:
            child = find_node(trie, node, pattern + position, end - position)
        if child == NULL:
            child = make_node(trie, node, pattern + position, end - position, is_star)
        if child == NULL:
            prune(trie, node)
            return -1
        node = child
        position = end + 1
    node.here = value
    return 0


cdef void trie_remove(
    Trie* trie, uint32_t account, const unsigned char* pattern, size_t length
) noexcept nogil:
    cdef Node* node = find_root(trie, account)
    cdef size_t position = 0
    cdef size_t end
    while node != NULL and position <= length:
        end = token_end(pattern, length, position)
        if is_token(pattern, position, end, c'>'):
            node.below = NULL
            prune(trie, node)
            return
        if is_token(pattern, position, end, c'*'):
            node = node.star
        else:
            node = find_node(trie, node, pattern + position, end - position)
        position = end + 1
    if node != NULL:
        node.here = NULL
        prune(trie, node)


cdef inline int push_branch(
    Trie* trie, size_t* count, Node* node, size_t position
) noexcept nogil:
    cdef Branch* grown
    cdef size_t room
    if count[0] == trie.branches_max:
        room = trie.branches_max * 2 if trie.branches_max else 16
        grown = <Branch*>realloc(trie.branches, room * sizeof(Branch))
        if grown == NULL:
            return -1
        trie.branches = grown
        trie.branches_max = room
    trie.branches[count[0]].node = node
    trie.branches[count[0]].position = position
    count[0] += 1
    return 0


cdef int trie_collect(
    Trie* trie, uint32_t account, const unsigned char* literal, size_t length, Vector* found
) noexcept nogil:
    cdef Node* node = find_root(trie, account) if trie.nodes.count else NULL
    cdef size_t position = 0
    cdef size_t waiting = 0
    cdef size_t end
    while True:
        # Down one branch, literal tokens first; a position beyond the length is the end.
        while node != NULL:
            if position > length:
                if node.here != NULL and vector_push(found, node.here) < 0:
                    return -1
                break
            if node.below != NULL and vector_push(found, node.below) < 0:
                return -1
            end = token_end(literal, length, position)
            if node.children == 0:
                node = node.star
            else:
                if node.star != NULL and push_branch(trie, &waiting, node.star, end + 1) < 0:
                    return -1
                node = find_node(trie, node, literal + position, end - position)
            position = end + 1
        if waiting == 0:
            return 0
        waiting -= 1
        node = trie.branches[waiting].node
        position = trie.branches[waiting].position


cdef void trie_free(Trie* trie) noexcept nogil:
    cdef size_t index = 0
    cdef Node* node = <Node*>table_next(&trie.nodes, &index)
    cdef Node* star
    # Each node is in the table or hangs, over a chain of stars, on one that is.
    while node != NULL:
        while node != NULL:
            star = node.star
            free(node)
            node = star
        node = <Node*>table_next(&trie.nodes, &index)
    table_free(&trie.nodes)
    free(trie.branches)
    trie.branches = NULL
    trie.branches_max = 0
    trie.star_count = 0


cdef size_t trie_nodes(const Trie* trie) noexcept nogil:
    return trie.nodes.count + trie.star_count
