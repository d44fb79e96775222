/*
 * Atomic accesses of memory that several processes share.
 *
 * Each function is one compiler builtin, so that its order is readable where it is called. Every
 * caller says why it needs that order and which access on the other side is its partner. All
 * fields accessed here are naturally aligned and lock-free, which also makes them safe between
 * processes.
 */
#ifndef SHARDD_RING_ATOMIC_H
#define SHARDD_RING_ATOMIC_H

#include <stdint.h>

_Static_assert(__atomic_always_lock_free(sizeof(uint64_t), 0), "64-bit atomics need a lock here");
_Static_assert(__atomic_always_lock_free(sizeof(uint32_t), 0), "32-bit atomics need a lock here");

static inline uint64_t atomic_load_u64(const uint64_t *field) {
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static inline uint32_t atomic_load_u32(const uint32_t *field) {
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static inline void atomic_store_u64(uint64_t *field, uint64_t value) {
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
}

static inline void atomic_store_u32(uint32_t *field, uint32_t value) {
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
}

/* Without order: a count that others may read a little late, or a flag beside an explicit fence. */
static inline uint64_t atomic_load_relaxed_u64(const uint64_t *field) {
    return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static inline uint32_t atomic_load_relaxed_u32(const uint32_t *field) {
    return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static inline void atomic_store_relaxed_u64(uint64_t *field, uint64_t value) {
    __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

static inline void atomic_store_relaxed_u32(uint32_t *field, uint32_t value) {
    __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

static inline uint32_t atomic_exchange_u32(uint32_t *field, uint32_t value) {
    return __atomic_exchange_n(field, value, __ATOMIC_ACQ_REL);
}

/* Stores `value` if the field still holds `expected`; tells whether it did. */
static inline int atomic_replace_u32(uint32_t *field, uint32_t expected, uint32_t value) {
    return __atomic_compare_exchange_n(field, &expected, value, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

static inline int atomic_replace_u64(uint64_t *field, uint64_t expected, uint64_t value) {
    return __atomic_compare_exchange_n(field, &expected, value, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

static inline uint64_t atomic_add_u64(uint64_t *field, uint64_t value) {
    return __atomic_add_fetch(field, value, __ATOMIC_ACQ_REL);
}

/* The full fence: no load after it is done before a store in front of it is visible. */
static inline void atomic_fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#endif
