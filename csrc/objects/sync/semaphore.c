/*
 * A semaphore of n permits. Each has an owner, so that the permits of a dead process come back.
 *
 * The own bytes of the object are n slots of 8 bytes, which only compare-swaps change: 0 -> value (acquire), value -> 0
 * (release), a dead process's value -> value (taken over). On local memory the value is the identity of the process
 * (member.h), which no other process writes. On remote memory, where an outcome may be unknown, it is one of VALUES
 * identities of the handle, in turn, so that the values of its permits differ, and those of a slot from one grant to
 * the next.
 *
 * A permit is released by the handle that acquired it.
 *
 * If a process dies                     others see
 *   with permits                        slots of a dead process: a waiter takes one over within 50 ms, with owner_died
 *                                       set
 *   after a release, before the wake    a free slot: a newcomer takes it at once, a sleeper within 50 ms
 */
#include "handle.h"

#include <pthread.h>
#include <stdlib.h>

enum { VALUES = 8192 }; /* more than there are permits */

struct permit {
    uint32_t slot;
    uint32_t unsure; /* 1: a release of it ended with an error */
    uint64_t value;
};

struct dsm_semaphore {
    struct sync_handle handle;
    pthread_mutex_t own; /* guards the fields below; held across an attempt, see handle_lock() */
    uint32_t held;       /* store-release under own, load-acquire in dsm_semaphore_held() without it */
    uint32_t owner_died; /* the last permit was a dead process's; stored before 'held', read after it */
    uint32_t unsure;     /* permits whose release ended with an error; stored under own */
    struct permit doubt; /* remote: an attempt ended with an error; value 0: none */
    bool doubt_died;     /* it was to take over a dead process's permit */
    uint32_t hint;
    uint64_t serial, looked;
    uint64_t values;         /* remote: the first of this handle's VALUES identities */
    uint64_t *copy;          /* remote: copy of the slots */
    struct permit permits[]; /* 'held' of them, in the order in which they were acquired */
};

static uint64_t slot_at(const dsm_semaphore *m, uint32_t slot) { return m->handle.own + 8ull * slot; }

static int keep(dsm_semaphore *m, struct permit p, bool owner_died)
{
    m->permits[m->held] = p;
    m->hint = (p.slot + 1) % m->handle.count;
    store_relaxed_u32(&m->owner_died, owner_died);
    store_release_u32(&m->held, m->held + 1);
    return 1;
}

static bool is_of_a_permit(const dsm_semaphore *m, uint64_t value)
{
    for (uint32_t i = 0; i < m->held; i++)
        if (m->permits[i].value == value)
            return true;
    return false;
}

static uint64_t new_value(dsm_semaphore *m)
{
    uint64_t value;
    do
        value = handle_is_mapped(&m->handle) ? m->handle.identity : m->values + m->serial % VALUES;
    while (!handle_is_mapped(&m->handle) && m->serial++ >= VALUES && is_of_a_permit(m, value));
    return value;
}

/* 1: got the permit, 0: not. */
static int take(dsm_semaphore *m, uint32_t slot, uint64_t from)
{
    struct permit p = {.slot = slot, .value = new_value(m)};
    uint64_t found;
    int rc = handle_swap(&m->handle, slot_at(m, slot), from, p.value, &found);
    if (rc < 0 && !handle_is_mapped(&m->handle)) {
        m->doubt = p;
        m->doubt_died = from != 0;
    }
    return rc == SWAP_DONE ? keep(m, p, from != 0) : rc < 0 ? rc : 0;
}

static int settle(dsm_semaphore *m)
{
    uint64_t now;
    struct permit p = m->doubt;
    int rc = handle_read(&m->handle, slot_at(m, p.slot), &now);
    if (rc)
        return rc;
    m->doubt.value = 0;
    return now == p.value ? keep(m, p, m->doubt_died) : 0;
}

static bool is_free(const uint64_t *word) { return !load_acquire_u64(word); }

static int read_slots(dsm_semaphore *m, const uint64_t **slots)
{
    *slots = handle_is_mapped(&m->handle) ? handle_word(&m->handle, m->handle.own) : m->copy;
    return handle_is_mapped(&m->handle) ? handle_check(&m->handle)
                                        : handle_read_all(&m->handle, m->handle.own, m->copy, 8ull * m->handle.count);
}

static int take_dead_remote(dsm_semaphore *m)
{
    uint8_t ended[SEMAPHORE_MOST];
    int rc = 0;
    members_ended(m->handle.r, m->copy, m->handle.count, ended);
    for (uint32_t i = 0; i < m->handle.count && !rc; i++)
        if (ended[i])
            rc = take(m, i, m->copy[i]);
    return rc;
}

static int take_dead_mapped(dsm_semaphore *m)
{
    uint64_t alive = m->handle.identity;
    int rc = 0;
    for (uint32_t i = 0; i < m->handle.count && !rc; i++) {
        uint64_t now = load_acquire_u64(handle_word(&m->handle, slot_at(m, i)));
        if (!now || now == alive)
            continue;
        if (identity_ended(now))
            rc = take(m, i, now);
        else
            alive = now;
    }
    return rc;
}

/* With m->own held. */
static int try(dsm_semaphore *m)
{
    const uint64_t *slots;
    int rc = 0;
    if (m->doubt.value && (rc = settle(m)))
        return rc;
    if (m->held == m->handle.count)
        return 0;
    if (!handle_is_mapped(&m->handle) && (rc = take(m, m->hint, 0)))
        return rc;
    rc = read_slots(m, &slots);
    for (uint32_t i = 0; i < m->handle.count && !rc; i++) {
        uint32_t slot = (m->hint + i) % m->handle.count;
        if (is_free(&slots[slot]))
            rc = take(m, slot, 0);
    }
    if (!rc && handle_time_to_look(&m->looked))
        rc = handle_is_mapped(&m->handle) ? take_dead_mapped(m) : take_dead_remote(m);
    return rc;
}

static int try_locked(dsm_semaphore *m)
{
    int rc = handle_lock(&m->own);
    if (rc)
        return rc;
    rc = try(m);
    pthread_mutex_unlock(&m->own);
    return rc;
}

int dsm_semaphore_acquire(dsm_semaphore *m, int64_t timeout_ns)
{
    struct waiting w;
    int rc = handle_check(&m->handle);
    if (rc || (rc = try_locked(m)) || !timeout_ns)
        return rc;
    wait_begin(&w, &m->handle, SYNC_EVENTCOUNT, timeout_ns);
    for (;;) {
        wait_prepare(&w);
        if ((rc = try_locked(m)))
            return rc;
        if (wait_over(&w))
            return 0;
        wait_sleep(&w);
    }
}

static int give_back(dsm_semaphore *m, struct permit p)
{
    uint64_t found;
    for (int i = 0; i < SWAP_TRIES; i++) {
        int rc = handle_swap(&m->handle, slot_at(m, p.slot), p.value, 0, &found);
        if (rc < 0)
            return rc;
        if (rc == SWAP_DONE || (rc == SWAP_UNKNOWN && found != p.value) || (rc == SWAP_REFUSED && p.unsure))
            return 0;
        if (rc == SWAP_REFUSED)
            return err_set(DSM_ENOTHELD, 0, "permit %u has another owner", p.slot);
    }
    return err_set(DSM_EIO, 0, "%d times", SWAP_TRIES);
}

/* Releases the permit that was acquired last. With m->own held. */
static int release(dsm_semaphore *m)
{
    struct permit *p = &m->permits[m->held - 1];
    int rc = give_back(m, *p);
    bool gone = sure_gone(m->handle.r, rc);
    if (gone)
        store_release_u32(&m->held, 0);
    uint32_t unsure = rc && rc != -DSM_ENOTHELD && !gone;
    store_relaxed_u32(&m->unsure, gone ? 0 : m->unsure + unsure - p->unsure);
    p->unsure = unsure;
    if (m->held && !unsure) {
        store_release_u32(&m->held, m->held - 1);
        m->hint = m->permits[m->held].slot;
    }
    if (!rc)
        handle_notify(&m->handle, SYNC_EVENTCOUNT, 1);
    return rc;
}

int dsm_semaphore_release(dsm_semaphore *m, uint32_t n)
{
    if (handle_forked(&m->handle))
        return refuse_forked();
    int rc = handle_lock(&m->own);
    if (rc)
        return rc;
    if (n > m->held)
        rc = err_set(DSM_ENOTHELD, 0, "%u of %u permits that this handle has", n, m->held);
    for (uint32_t i = 0; !rc && i < n; i++)
        rc = release(m);
    pthread_mutex_unlock(&m->own);
    return rc;
}

int dsm_semaphore_value(dsm_semaphore *m)
{
    const uint64_t *slots;
    if (handle_forked(&m->handle))
        return refuse_forked();
    int rc = handle_lock(&m->own), n = 0;
    if (rc)
        return rc;
    rc = read_slots(m, &slots);
    for (uint32_t i = 0; i < m->handle.count && !rc; i++)
        n += is_free(&slots[i]);
    pthread_mutex_unlock(&m->own);
    return rc ? rc : n;
}

int dsm_semaphore_held(dsm_semaphore *m, int *owner_died)
{
    uint32_t held = handle_forked(&m->handle) ? 0 : load_acquire_u32(&m->held); /* a child has no permit */
    *owner_died = held && load_relaxed_u32(&m->owner_died);
    return (int)held;
}

int dsm_semaphore_unsure(const dsm_semaphore *m) { return load_relaxed_u32(&m->unsure) != 0; }

/* ---- by choice ---- */

int dsm_semaphore_holders(dsm_semaphore *m, uint64_t *values)
{
    const uint64_t *slots;
    if (handle_forked(&m->handle))
        return refuse_forked();
    int rc = handle_lock(&m->own), n = 0;
    if (rc)
        return rc;
    rc = read_slots(m, &slots);
    for (uint32_t i = 0; i < m->handle.count && !rc; i++) {
        values[n] = load_acquire_u64(&slots[i]);
        n += values[n] != 0;
    }
    pthread_mutex_unlock(&m->own);
    return rc ? rc : n;
}

/* Frees the slots with this value. On local memory the value is that of a process, whose permits cannot be told apart.
 * On remote memory it is that of one grant. */
static int break_slots(dsm_semaphore *m, uint64_t holder)
{
    const uint64_t *slots;
    int rc = read_slots(m, &slots), n = 0;
    for (uint32_t i = 0; i < m->handle.count && !rc; i++) {
        uint64_t found = load_acquire_u64(&slots[i]);
        int swapped = SWAP_UNKNOWN;
        for (int k = 0; k < SWAP_TRIES && swapped == SWAP_UNKNOWN && found == holder; k++)
            swapped = handle_swap(&m->handle, slot_at(m, i), holder, 0, &found);
        if (swapped < 0 || (swapped == SWAP_UNKNOWN && found == holder))
            rc = swapped < 0 ? swapped : err_set(DSM_EIO, 0, "%d times", SWAP_TRIES);
        n += swapped == SWAP_DONE;
    }
    if (n)
        handle_notify(&m->handle, SYNC_EVENTCOUNT, n);
    return rc ? rc : n != 0;
}

int dsm_semaphore_break(dsm_semaphore *m, uint64_t holder)
{
    if (handle_forked(&m->handle))
        return refuse_forked();
    int rc = handle_lock(&m->own);
    if (rc)
        return rc;
    rc = holder ? break_slots(m, holder) : 0;
    pthread_mutex_unlock(&m->own);
    return rc;
}

/* ---- handles ---- */

int dsm_semaphore_open(dsm_remote *r, int64_t spin_ns, dsm_semaphore **out)
{
    struct sync_handle s;
    int rc = handle_take(&s, r, DSM_SEMAPHORE, spin_ns, NULL, NULL);
    if (rc)
        return rc;
    dsm_semaphore *m = calloc(1, sizeof *m + s.count * sizeof *m->permits);
    if (m && !handle_is_mapped(&s))
        m->copy = malloc(8ull * s.count);
    if (!m || (!handle_is_mapped(&s) && !m->copy)) {
        free(m);
        return err_set(DSM_ENOMEM, 0, "semaphore");
    }
    m->handle = s;
    m->hint = (uint32_t)(s.chance % s.count);
    if (!handle_is_mapped(&s) && (rc = member_identities(r, VALUES, &m->values))) {
        free(m->copy);
        free(m);
        return rc;
    }
    handle_lock_init(&m->own);
    *out = m;
    return 0;
}

int dsm_semaphore_leave(dsm_semaphore *m)
{
    if (handle_check(&m->handle)) /* the memory is gone, or this is a child */
        return 0;
    int rc = handle_lock(&m->own);
    if (rc)
        return rc;
    if (m->doubt.value)
        rc = settle(m);
    while (m->held && (rc >= 0 || rc == -DSM_ENOTHELD))
        rc = release(m);
    pthread_mutex_unlock(&m->own);
    return rc < 0 && rc != -DSM_ENOTHELD && !sure_lost(rc) ? rc : 0;
}

void dsm_semaphore_close(dsm_semaphore *m)
{
    dsm_semaphore_leave(m);
    pthread_mutex_destroy(&m->own);
    free(m->copy);
    free(m);
}
