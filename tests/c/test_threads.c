/* Threads that use one context, on shm and on shm through fault, while others attach, fence, and send garbage to the
 * agent. */
#include "check.h"
#include "context.h"
#include "dsm.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 300, BATCH = 20 };

static dsm_ctx *owner, *user;
static dsm_remote *shared;
static uint8_t descriptor[DSM_DESC_MAX];
static int descriptor_len;

static void *work(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t old, data[8], offsets[4] = {512, 520, 1024, 4000};
        dsm_remote *own;
        dsm_op ops[BATCH];
        CHECK(!dsm_fetch_add(shared, 0, 1, &old, -1));
        memset(data, i, sizeof data);
        CHECK(!dsm_write(shared, 64, data, sizeof data, -1));
        CHECK(!dsm_read(shared, 64, data, sizeof data, -1));
        CHECK(!dsm_read_many(shared, offsets, 4, data, 8, -1));
        memset(ops, 0, sizeof ops);
        for (int k = 0; k < BATCH; k++)
            ops[k] = (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = shared, .offset = 8, .nbytes = 8, .operand = 1};
        CHECK(!dsm_execute(user, ops, BATCH, -1, NULL));
        if (i % 10 == 0) {
            CHECK(!dsm_attach(user, descriptor, (size_t)descriptor_len, -1, &own));
            CHECK(!dsm_fetch_add(own, 0, 0, &old, -1));
            CHECK(!dsm_remote_close(own));
        }
    }
    return NULL;
}

static void *knock(void *arg)
{
    (void)arg;
    const char *name = dsm_agent_address(owner, 0) + 6;
    for (int i = 0; i < 50; i++) {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        char noise[600];
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        memcpy(at.sun_path + 1, name, strlen(name));
        CHECK(fd >= 0);
        CHECK(!connect(fd, (struct sockaddr *)&at,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))));
        for (size_t k = 0; k < sizeof noise; k++)
            noise[k] = (char)rand();
        if (i & 1)
            memcpy(noise, "DSMH\2\0\0\0", 8);
        CHECK(send(fd, noise, (size_t)(i * 12 + 1), MSG_NOSIGNAL) > 0);
        close(fd);
    }
    return NULL;
}

static void run(const char *fault)
{
    dsm_region *region;
    pthread_t threads[THREADS + 1];
    uint64_t old;
    owner = open_context(NULL);
    user = open_context(fault);
    CHECK(!dsm_alloc(owner, 8192, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region));
    descriptor_len = dsm_region_descriptor(region, descriptor);
    CHECK(!dsm_attach(user, descriptor, (size_t)descriptor_len, -1, &shared));
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, work, NULL));
    CHECK(!pthread_create(&threads[THREADS], NULL, knock, NULL));
    for (int i = 0; i <= THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(!dsm_fetch_add(shared, 0, 0, &old, -1) && old == THREADS * ROUNDS);
    CHECK(!dsm_fetch_add(shared, 8, 0, &old, -1) && old == THREADS * ROUNDS * BATCH);
    uint8_t node[DSM_NODE_ID];
    dsm_node_id(user, node);
    CHECK(dsm_fence(owner, node) == -DSM_EUNSUPPORTED);
    CHECK(!dsm_remote_close(shared));
    CHECK(dsm_attach(user, descriptor, (size_t)descriptor_len, -1, &shared) == -DSM_EFENCED);
    CHECK(!dsm_region_close(region));
    dsm_close(user);
    dsm_close(owner);
}

int main(void)
{
    run(NULL);
    run("");
    puts("ok");
    return 0;
}
