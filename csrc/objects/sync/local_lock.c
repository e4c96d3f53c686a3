/* One local lock per remote object and process, shared by all handles on the object. */
#include "handle.h"

#include <pthread.h>
#include <stdlib.h>

struct local_lock {
    struct local_lock *next;
    uint64_t id;
    uint32_t handles; /* under 'all' */
    bool taken;       /* under 'lock', like the fields below */
    uint64_t worker;  /* the thread whose call is in progress behind it; 0: none, although the object may be held */
    pthread_mutex_t lock;
    pthread_cond_t free;
};

static pthread_mutex_t all = PTHREAD_MUTEX_INITIALIZER;
static struct local_lock *local_locks;

/* In a child the parent's handles are refused, and what the child opens needs local locks of its own. */
static void in_child(void)
{
    pthread_mutex_init(&all, NULL);
    local_locks = NULL;
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

static struct local_lock *local_lock_new(uint64_t id)
{
    struct local_lock *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g->free, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&g->lock, NULL);
    g->id = id;
    g->next = local_locks;
    return local_locks = g;
}

int local_lock_open(uint64_t id, struct local_lock **out)
{
    pthread_mutex_lock(&all);
    struct local_lock *g = local_locks;
    while (g && g->id != id)
        g = g->next;
    if (!g)
        g = local_lock_new(id);
    if (g)
        g->handles++;
    pthread_mutex_unlock(&all);
    *out = g;
    return g ? 0 : err_set(DSM_ENOMEM, 0, "a local lock");
}

void local_lock_close(struct local_lock *g)
{
    pthread_mutex_lock(&all);
    struct local_lock **at = &local_locks;
    assert(g->handles);
    if (!--g->handles) {
        while (*at != g)
            at = &(*at)->next;
        *at = g->next;
        pthread_cond_destroy(&g->free);
        pthread_mutex_destroy(&g->lock);
        free(g);
    }
    pthread_mutex_unlock(&all);
}

int local_lock_enter(struct local_lock *g, int64_t deadline)
{
    struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
    bool late = false;
    pthread_mutex_lock(&g->lock);
    bool again = g->taken && g->worker == this_thread();
    while (g->taken && !late && !again) {
        if (deadline == DEADLINE_NEVER)
            pthread_cond_wait(&g->free, &g->lock);
        else
            late = pthread_cond_timedwait(&g->free, &g->lock, &until) != 0;
    }
    bool mine = !g->taken;
    if (mine)
        g->worker = this_thread();
    g->taken = true;
    pthread_mutex_unlock(&g->lock);
    return again ? dsm_refuse_reentry("object") : mine;
}

/* Another thread may be releasing what this thread has acquired, so that 'worker' is that thread. Or it has released it
 * already, and the local lock is free or another thread's. Then nothing is changed. */
void local_lock_rest(struct local_lock *g)
{
    pthread_mutex_lock(&g->lock);
    if (g->worker == this_thread())
        g->worker = 0;
    pthread_mutex_unlock(&g->lock);
}

void local_lock_work(struct local_lock *g)
{
    pthread_mutex_lock(&g->lock);
    g->worker = this_thread();
    pthread_mutex_unlock(&g->lock);
}

void local_lock_leave(struct local_lock *g)
{
    pthread_mutex_lock(&g->lock);
    g->taken = false;
    g->worker = 0;
    pthread_cond_signal(&g->free);
    pthread_mutex_unlock(&g->lock);
}
