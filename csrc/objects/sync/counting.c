/*
 * A counting semaphore: permits without owners, so that one process may release what another one acquires.
 *
 * The word, which only compare-swaps change: bits 0-31: the value; bits 32-63: a random tag of the change that wrote
 * it, so that after a failure of the transport the word tells whether a change took effect. If another process has
 * changed it since, it does not tell: then the error says that the outcome is unknown, and the op is not repeated.
 *
 * No permit has an owner, so none comes back when a process dies.
 *
 * If a process dies                             others find
 *   before the compare-swap                     nothing has happened
 *   after that of a release, before the wake    the value: a newcomer takes it at once, a sleeper within
 *                                               EVENTCOUNT_RECHECK_NS
 */
#include "handle.h"

#include <stdlib.h>

struct dsm_counting {
    struct sync_handle handle;
    uint64_t serial; /* counts the changes of this handle; threads share it */
};

static uint32_t value_of(uint64_t word) { return (uint32_t)word; }

/* A word with a tag that differs for every change of every handle, but for a chance of 2^-32. */
static uint64_t word_of(dsm_counting *c, uint32_t value)
{
    uint64_t x = c->handle.chance + (fetch_add_u64(&c->serial, 1) + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u; /* splitmix64, Steele, Lea and Flood 2014 */
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (x ^ x >> 31) << 32 | value;
}

/* Changes the word from *now to 'value'. 1: done. 0: the word has changed, and *now is its new value. */
static int change(dsm_counting *c, uint64_t *now, uint32_t value)
{
    uint64_t found;
    bool lost = false;
    int rc = handle_is_mapped(&c->handle)
                 ? handle_swap(&c->handle, SYNC_WORD, *now, word_of(c, value), &found)
                 : sure_swap_lost(c->handle.r, SYNC_WORD, *now, word_of(c, value), &found, &lost);
    if (rc == SWAP_DONE)
        return 1;
    if (lost)
        return err_set_op(DSM_EUNKNOWN, -rc, 0, 0, "the semaphore may or may not have changed; look at its value");
    if (rc == SWAP_UNKNOWN && found != *now)
        return err_set_op(DSM_EUNKNOWN, DSM_EIO, 0, 0,
                          "the semaphore may or may not have changed, and others have changed it; look at its value");
    *now = found;
    return rc < 0 ? rc : 0;
}

/* 1: got a permit, 0: there is none. */
static int take(dsm_counting *c)
{
    uint64_t now;
    int rc = handle_read(&c->handle, SYNC_WORD, &now);
    while (!rc && value_of(now))
        rc = change(c, &now, value_of(now) - 1);
    return rc;
}

int dsm_counting_acquire(dsm_counting *c, int64_t timeout_ns)
{
    struct waiting w;
    int rc = take(c);
    if (rc || !timeout_ns)
        return rc;
    wait_begin(&w, &c->handle, SYNC_EVENTCOUNT, timeout_ns);
    for (;;) {
        wait_prepare(&w);
        if ((rc = take(c)))
            return rc;
        if (wait_over(&w))
            return 0;
        wait_sleep(&w);
    }
}

int dsm_counting_release(dsm_counting *c, uint32_t n)
{
    uint64_t now;
    int rc = handle_read(&c->handle, SYNC_WORD, &now);
    while (!rc) {
        if (n > COUNTING_MOST - value_of(now))
            return err_set(DSM_EINVAL, 0, "%u more than %u; the most is %u", n, value_of(now), (uint32_t)COUNTING_MOST);
        rc = change(c, &now, value_of(now) + n);
    }
    if (rc == 1)
        handle_notify(&c->handle, SYNC_EVENTCOUNT, (int)n);
    return rc < 0 ? rc : 0;
}

int64_t dsm_counting_value(dsm_counting *c)
{
    uint64_t now;
    int rc = handle_read(&c->handle, SYNC_WORD, &now);
    return rc ? rc : (int64_t)value_of(now);
}

int dsm_counting_open(dsm_remote *r, int64_t spin_ns, dsm_counting **out)
{
    dsm_counting *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(DSM_ENOMEM, 0, "counting semaphore");
    int rc = handle_take(&c->handle, r, DSM_COUNTING, spin_ns, NULL, NULL);
    if (rc)
        free(c);
    else
        *out = c;
    return rc;
}

void dsm_counting_close(dsm_counting *c) { free(c); }
