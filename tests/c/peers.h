/* One user and many owners, in one process. The program that includes it defines CHECK. */
#ifndef DSM_TESTS_PEERS_H
#define DSM_TESTS_PEERS_H

#include "base/atomic.h"
#include "context.h"
#include "core/remote.h"
#include "dsm.h"

#include <pthread.h>

enum { OWNERS = TICKET_GROUPS + 2 };
#define MS INT64_C(1000000)
#define HOUR (INT64_C(3600) * 1000 * MS)

static dsm_ctx *owners[OWNERS], *user;
static dsm_region *regions[OWNERS];
static dsm_remote *remotes[OWNERS];
static uint8_t descriptors[OWNERS][DSM_DESC_MAX];
static size_t lengths[OWNERS];

static inline dsm_ctx *open_user(const char *fault, int64_t peer_timeout)
{
    dsm_options o = options_of("shm");
    o.fault = fault;
    o.peer_timeout_ns = peer_timeout;
    return open_with(o);
}

static inline void own(int i)
{
    owners[i] = open_context(NULL);
    CHECK(!dsm_alloc(owners[i], 4096, 7, &regions[i]));
    lengths[i] = (size_t)dsm_region_descriptor(regions[i], descriptors[i]);
}

static inline void disown(int i)
{
    CHECK(!dsm_region_close(regions[i]));
    dsm_close(owners[i]);
}

static inline void open_all(int n, const char *fault, int64_t peer_timeout)
{
    user = open_user(fault, peer_timeout);
    for (int i = 0; i < n; i++) {
        own(i);
        CHECK(!dsm_attach(user, descriptors[i], lengths[i], 10000 * MS, &remotes[i]));
    }
}

static inline void close_all(int n)
{
    for (int i = 0; i < n; i++)
        CHECK(!dsm_remote_close(remotes[i]));
    dsm_close(user);
    for (int i = 0; i < n; i++)
        disown(i);
}

static inline dsm_op add_one(int owner)
{
    return (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = remotes[owner], .nbytes = 8, .operand = 1};
}

static inline uint64_t word_of(int owner) { return load_acquire_u64(dsm_region_data(regions[owner])); }

static inline uint64_t connects(void)
{
    dsm_stats s;
    dsm_get_stats(user, &s);
    return s.connects;
}

static inline bool outstanding(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    bool some = p->ep && p->ep->inflight;
    pthread_mutex_unlock(&p->lock);
    return some;
}

/* On a busy host that takes longer than a short peer timeout. Each owner gets one op. */
static inline void connect_all(int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t word;
        int rc;
        do
            rc = dsm_read(remotes[i], 0, &word, 8, 10000 * MS);
        while (rc == -DSM_ETIME);
        CHECK(!rc);
    }
}

#endif
