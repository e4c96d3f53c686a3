/* tcp under threads: many users of one owner, regions that are closed and users that are fenced in the midst of their
 * ops, and a fork of the process beside all of it. */
#include "agent/agent.h"
#include "check.h"
#include "context.h"
#include "dsm.h"
#include "objects/member.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { USERS = 4, ROUNDS = 200, BATCH = 40, LONG = 1 << 18 };

static dsm_ctx *owner;
static uint64_t counted; /* by all users */

static dsm_remote *attach(dsm_ctx *user, dsm_region *r)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_remote *remote;
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(r, raw), -1, &remote));
    return remote;
}

/* ---- many users ---- */

static dsm_region *shared;

static void a_round(dsm_ctx *user, dsm_remote *remote, uint8_t *data, uint64_t mine)
{
    dsm_op ops[BATCH];
    uint64_t words[BATCH];
    for (size_t i = 0; i < BATCH; i += 4) {
        uint64_t at = 64 + mine * 2 * LONG;
        words[i] = i;
        ops[i] = (dsm_op){.code = DSM_OP_WRITE, .offset = at + 8 * i, .local = &words[i], .nbytes = 8};
        ops[i + 1] = (dsm_op){.code = DSM_OP_READ, .offset = at + 8 * i, .local = &words[i + 1], .nbytes = 8};
        ops[i + 2] = (dsm_op){.code = DSM_OP_FETCH_ADD, .nbytes = 8, .operand = 1};
        bool out = i & 4;
        ops[i + 3] = (dsm_op){
            .code = out ? DSM_OP_WRITE : DSM_OP_READ, .offset = at + LONG, .local = data, .nbytes = out ? LONG : 4097};
    }
    for (size_t i = 0; i < BATCH; i++)
        ops[i].remote = remote;
    CHECK(!dsm_execute(user, ops, BATCH, -1, NULL));
    for (size_t i = 0; i < BATCH; i += 4)
        CHECK(words[i + 1] == i);
    __atomic_fetch_add(&counted, BATCH / 4, __ATOMIC_RELAXED);
}

static void *use(void *arg)
{
    dsm_ctx *user = open_with(options_of("tcp"));
    dsm_remote *remote = attach(user, shared);
    uint8_t *data = calloc(1, LONG);
    for (int i = 0; i < ROUNDS / 10; i++)
        a_round(user, remote, data, (uint64_t)(uintptr_t)arg);
    free(data);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    return NULL;
}

static void many_users(void)
{
    pthread_t threads[USERS];
    CHECK(!dsm_alloc(owner, 64 + USERS * 2 * (uint64_t)LONG, DSM_READ | DSM_WRITE | DSM_ATOMIC, &shared));
    for (uintptr_t i = 0; i < USERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, use, (void *)i));
    for (int i = 0; i < 5; i++) { /* a fork finds every lock free, and its child ends at once */
        pid_t child = fork();
        if (!child)
            _exit(0);
        int status;
        CHECK(waitpid(child, &status, 0) == child && !status);
    }
    for (int i = 0; i < USERS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(*(uint64_t *)dsm_region_data(shared) == counted);
    CHECK(!dsm_region_close(shared));
}

/* ---- closed in the midst ---- */

static uint32_t closing;

static void *write_until_refused(void *arg)
{
    dsm_ctx *user = open_with(options_of("tcp"));
    dsm_remote *remote = attach(user, arg);
    uint8_t *data = malloc(LONG);
    memset(data, 1, LONG);
    __atomic_fetch_add(&closing, 1, __ATOMIC_RELEASE);
    int rc;
    do
        rc = dsm_write(remote, 0, data, LONG, -1);
    while (!rc);
    CHECK(rc == -DSM_ESTALE);
    free(data);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    return NULL;
}

/* Memory of the caller outlives its registration, so what comes in later would be seen, and found by the sanitizers. */
static void closed_in_the_midst(void)
{
    pthread_t threads[USERS];
    dsm_region *r;
    uint8_t *memory = aligned_alloc(64, LONG);
    CHECK(!dsm_register(owner, memory, LONG, DSM_WRITE, &r));
    for (int i = 0; i < USERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, write_until_refused, r));
    while (__atomic_load_n(&closing, __ATOMIC_ACQUIRE) < USERS)
        usleep(100);
    CHECK(!dsm_region_close(r));
    memset(memory, 0, LONG); /* not a byte comes in any more: the thread sanitizer would see one */
    for (int i = 0; i < USERS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    for (size_t i = 0; i < LONG; i++)
        CHECK(!memory[i]);
    free(memory);
}

/* ---- fenced in the midst ---- */

static void *add_until_fenced(void *arg)
{
    dsm_ctx *user = arg;
    dsm_remote *remote = attach(user, shared);
    uint64_t old, n = 0;
    __atomic_fetch_add(&closing, 1, __ATOMIC_RELEASE);
    while (!dsm_fetch_add(remote, 0, 1, &old, -1))
        n++;
    CHECK(!dsm_remote_close(remote));
    return (void *)(uintptr_t)n;
}

static void fenced_in_the_midst(void)
{
    pthread_t thread;
    void *n;
    uint8_t node[DSM_NODE_ID];
    dsm_ctx *user = open_with(options_of("tcp"));
    closing = 0;
    CHECK(!dsm_alloc(owner, 64, DSM_READ | DSM_WRITE | DSM_ATOMIC, &shared));
    CHECK(!pthread_create(&thread, NULL, add_until_fenced, user));
    while (!__atomic_load_n(&closing, __ATOMIC_ACQUIRE))
        usleep(100);
    dsm_node_id(user, node);
    CHECK(!dsm_fence(owner, node));
    uint64_t at_once = __atomic_load_n((uint64_t *)dsm_region_data(shared), __ATOMIC_ACQUIRE);
    CHECK(!pthread_join(thread, &n));
    CHECK(__atomic_load_n((uint64_t *)dsm_region_data(shared), __ATOMIC_ACQUIRE) == at_once);
    CHECK((uintptr_t)n == at_once || (uintptr_t)n + 1 == at_once); /* the last answer may have been lost */
    CHECK(!dsm_region_close(shared));
    dsm_close(user);
}

/* The agent of a user has not noticed yet that its connections have ended: the next op finds out why. */
static void an_end_that_was_not_noticed(void)
{
    uint8_t node[DSM_NODE_ID];
    uint64_t word;
    dsm_ctx *user = open_with(options_of("tcp"));
    CHECK(!dsm_alloc(owner, 64, DSM_READ | DSM_WRITE | DSM_ATOMIC, &shared));
    dsm_remote *remote = attach(user, shared);
    CHECK(!dsm_read(remote, 0, &word, 8, -1));
    dsm_node_id(user, node);
    pthread_mutex_lock(&user->agent->turn);
    CHECK(!dsm_fence(owner, node));
    CHECK(dsm_read(remote, 0, &word, 8, -1) == -DSM_EFENCED);
    pthread_mutex_unlock(&user->agent->turn);
    CHECK(!dsm_remote_close(remote) && !dsm_region_close(shared));
    dsm_close(user);
}

/* The owner's memory is served, and its agent does not answer. */
static void an_agent_that_does_not_answer(void)
{
    static uint64_t identities[1000];
    static uint8_t ended[1000];
    uint64_t word;
    dsm_ctx *user = open_with(options_of("tcp"));
    CHECK(!dsm_alloc(owner, 64, DSM_READ | DSM_WRITE | DSM_ATOMIC, &shared));
    dsm_remote *remote = attach(user, shared);
    CHECK(!dsm_read(remote, 0, &word, 8, -1));
    for (size_t i = 0; i < 1000; i++)
        CHECK(!identity_random(&identities[i]));
    memset(ended, 1, sizeof ended);
    uint64_t asked = client_session(user->peers)->number;
    pthread_mutex_lock(&owner->agent->turn);
    int64_t before = dsm_call_until(1); /* as in a call whose time is over */
    members_ended(remote, identities, 1000, ended);
    dsm_call_until(before);
    CHECK(client_session(user->peers)->number - asked == 1);
    pthread_mutex_unlock(&owner->agent->turn);
    CHECK(!memchr(ended, 1, sizeof ended));
    members_ended(remote, identities, 1000, ended);
    CHECK(client_session(user->peers)->number - asked == 9);
    CHECK(!dsm_remote_close(remote) && !dsm_region_close(shared));
    dsm_close(user);
}

static void the_longest_peer_timeout(void)
{
    dsm_options o = options_of("tcp");
    dsm_region *r;
    uint64_t word;
    o.peer_timeout_ns = INT64_MAX;
    dsm_ctx *user = open_with(o), *none;
    CHECK(!dsm_alloc(owner, 4096, DSM_READ, &r));
    dsm_remote *remote = attach(user, r);
    CHECK(!dsm_read(remote, 0, &word, 8, -1));
    CHECK(!dsm_remote_close(remote) && !dsm_region_close(r));
    dsm_close(user);
    o.fabric = "tcp,tcp";
    CHECK(dsm_open(&o, &none) == -DSM_EINVAL);
}

int main(void)
{
    owner = open_with(options_of("tcp"));
    many_users();
    closed_in_the_midst();
    fenced_in_the_midst();
    an_end_that_was_not_noticed();
    an_agent_that_does_not_answer();
    the_longest_peer_timeout();
    dsm_close(owner);
    puts("ok");
    return 0;
}
