#include "handle.h"

#include <string.h>
#include <unistd.h>

/* ---- layout ---- */

struct kind {
    bool members;                /* it has a member table */
    bool first_value;            /* count is the initial value of the word; else count, if the type has one, is > 0 */
    uint32_t most;               /* largest count; 0: the type has no count */
    uint64_t fixed, each, place; /* own bytes: fixed, per member, per count */
};

static const struct kind kinds[] = {
    [DSM_LOCK] = {.members = true},
    [DSM_SPINLOCK] = {.members = true},
    [DSM_RWLOCK] = {.members = true, .each = SYNC_LINE},
    [DSM_SEMAPHORE] = {.most = SEMAPHORE_MOST, .place = 8},
    [DSM_EVENT] = {0},
    [DSM_CONDITION] = {.members = true, .most = 1024, .place = SYNC_LINE},
    [DSM_BARRIER] = {.members = true, .most = 1024, .fixed = SYNC_LINE, .place = 8},
    [DSM_ONCE] = {.members = true},
    [DSM_RLOCK] = {.members = true},
    [DSM_COUNTING] = {.first_value = true, .most = COUNTING_MOST},
};

static uint64_t round_line(uint64_t n) { return (n + SYNC_LINE - 1) / SYNC_LINE * SYNC_LINE; }

static uint64_t own_offset(uint32_t members) { return SYNC_TABLE + round_line(8ull * members); }

uint64_t dsm_sync_bytes(int type, uint32_t members, uint32_t count)
{
    if (type <= 0 || (size_t)type >= sizeof kinds / sizeof *kinds || type == DSM_SEGMENT || type == DSM_QUEUE)
        return 0;
    const struct kind *k = &kinds[type];
    if (members > (k->members ? MEMBERS_MAX : 0) || (k->members && !members) || count > k->most ||
        (k->most && !count && !k->first_value))
        return 0;
    return own_offset(members) + round_line(k->fixed + k->each * members + k->place * count);
}

int dsm_sync_format(void *memory, int type, uint32_t members, uint32_t count, uint64_t lock)
{
    uint64_t nbytes = dsm_sync_bytes(type, members, count);
    if (!nbytes)
        return err_set(DSM_EINVAL, 0, "a %s of %u members and count %u", dsm_type_name(type), members, count);
    int rc = object_format(memory, (enum dsm_type)type, nbytes);
    struct sync_layout *o = memory;
    o->members = members;
    o->count = count;
    o->lock = lock;
    if (kinds[type].first_value)
        o->word = count;
    return rc;
}

/* ---- the handle ---- */

static int64_t default_spin(void) { return sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 1000 : 0; }

/* Repeated with the same identity, so that an entry that was taken although the answer was lost is found, not
 * leaked. */
static int join(struct sync_handle *s, member_sweep *sweep, void *arg)
{
    int rc, tries = 0;
    do
        rc = member_join(s->r, SYNC_TABLE, s->members, s->identity, sweep, arg, &s->number);
    while (rc && sure_again(rc, &tries));
    return sure_error(rc);
}

int handle_take(struct sync_handle *s, dsm_remote *r, enum dsm_type type, int64_t spin_ns, member_sweep *sweep,
                void *arg)
{
    struct object_header h;
    struct {
        uint32_t members, count;
        uint64_t lock;
    } shape;
    int rc = object_check(r, type, &h);
    if (!rc)
        rc = h.nbytes < SYNC_TABLE ? err_set(DSM_ECORRUPT, 0, "%llu bytes are too few for type %s",
                                             (unsigned long long)h.nbytes, dsm_type_name((int)type))
                                   : sure_read(r, SYNC_SHAPE, &shape, sizeof shape);
    if (rc)
        return rc;
    if (dsm_sync_bytes((int)type, shape.members, shape.count) != h.nbytes)
        return err_set(DSM_ECORRUPT, 0, "a %s of %u members and count %u does not have %llu bytes",
                       dsm_type_name((int)type), shape.members, shape.count, (unsigned long long)h.nbytes);
    for (uint32_t right = DSM_READ; right <= DSM_ATOMIC; right <<= 1)
        if ((rc = remote_check(r, 0, 8, right)))
            return rc;
    *s = (struct sync_handle){.r = r,
                              .mapped = dsm_remote_mapped(r),
                              .id = h.id,
                              .lock = shape.lock,
                              .own = own_offset(shape.members),
                              .members = shape.members,
                              .count = shape.count,
                              .spin_ns = spin_ns < 0 ? default_spin() : spin_ns};
    rc = member_identity(s->r, &s->identity);
    s->chance = s->identity ^ (uint64_t)clock_ns();
    return rc || !s->members ? rc : join(s, sweep, arg);
}

int handle_leave(struct sync_handle *s)
{
    return s->members ? member_leave(s->r, SYNC_TABLE, s->number, s->identity) : 0;
}

/* ---- words ---- */

int handle_read_all(const struct sync_handle *s, uint64_t offset, void *out, uint64_t nbytes)
{
    return sure_read(s->r, offset, out, nbytes);
}

int handle_read(const struct sync_handle *s, uint64_t offset, uint64_t *out)
{
    return sure_words(s->r, offset, out, 1);
}

/* ---- the mutex of a handle ---- */

void handle_lock_init(pthread_mutex_t *own)
{
    pthread_mutexattr_t checked;
    pthread_mutexattr_init(&checked);
    pthread_mutexattr_settype(&checked, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(own, &checked);
    pthread_mutexattr_destroy(&checked);
}

int handle_lock(pthread_mutex_t *own) { return pthread_mutex_lock(own) ? dsm_refuse_reentry("handle") : 0; }

/* ---- waiting ---- */

void wait_begin(struct waiting *w, struct sync_handle *s, uint64_t eventcount, int64_t timeout_ns)
{
    *w = (struct waiting){.s = s,
                          .eventcount = handle_is_mapped(s) && eventcount
                                            ? (struct eventcount *)(void *)handle_word(s, eventcount)
                                            : NULL,
                          .deadline = deadline_after(timeout_ns),
                          .backoff = HANDLE_BACKOFF_MIN};
}

/* xorshift. Threads that race here only get different numbers. */
static uint64_t chance(struct sync_handle *s)
{
    uint64_t x = load_relaxed_u64(&s->chance) | 1;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    store_relaxed_u64(&s->chance, x);
    return x;
}

void wait_sleep(struct waiting *w)
{
    if (w->eventcount) {
        eventcount_wait(w->eventcount, w->seen, w->deadline);
        return;
    }
    int64_t ns = w->backoff / 2 + (int64_t)(chance(w->s) % (uint64_t)(w->backoff / 2)), left = w->deadline - clock_ns();
    w->backoff = w->backoff * 2 > HANDLE_BACKOFF_MAX ? HANDLE_BACKOFF_MAX : w->backoff * 2;
    struct timespec t = {.tv_nsec = ns < left ? ns : left};
    if (left > 0)
        nanosleep(&t, NULL);
}

void wait_spin(const struct waiting *w, const uint64_t *word, uint64_t was)
{
    if (w->s->spin_ns <= 0)
        return;
    int64_t until = deadline_after(w->s->spin_ns);
    if (until > w->deadline)
        until = w->deadline;
    do
        for (int i = 0; i < 16; i++) {
            if (load_acquire_u64(word) != was)
                return;
            cpu_relax();
        }
    while (clock_ns() < until);
}

bool handle_time_to_look(uint64_t *last)
{
    uint64_t now = (uint64_t)clock_ns(), then = load_relaxed_u64(last);
    if (then && now - then < HANDLE_LOOK_NS)
        return false;
    store_relaxed_u64(last, now);
    return true;
}
