/*
 * Control connections that end while the owner keeps identities for the user: they are made again without any op, as
 * long as that makes sense, and beside everything else that a context does.
 */
#include "agent/agent.h"
#include "check.h"
#include "context.h"
#include "core/remote.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 20, USERS = 3, LIMIT_US = 60000000, STEP_US = 1000 };
#define MINUTE (INT64_C(60) * 1000000000)

static dsm_ctx *owner;
static dsm_region *shared;

#define AWAIT(condition) \
    do { \
        for (int us = 0; !(condition); us += STEP_US) { \
            CHECK(us < LIMIT_US); \
            usleep(STEP_US); \
        } \
    } while (0)

static dsm_remote *attach(dsm_ctx *user)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_remote *remote;
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(shared, raw), MINUTE, &remote));
    return remote;
}

static void begin(void)
{
    owner = open_with(options_of("tcp"));
    CHECK(!dsm_alloc(owner, 4096, DSM_READ | DSM_WRITE | DSM_ATOMIC, &shared));
}

static void end(void)
{
    CHECK(!dsm_region_close(shared));
    dsm_close(owner);
}

static uint64_t draw(dsm_remote *remote)
{
    uint64_t identity;
    CHECK(!remote_identities(remote, 1, &identity) && identity);
    return identity;
}

/* Ends the control connections of the context, as a network does. */
static void cut(dsm_ctx *user)
{
    core_lock(&user->lock);
    for (struct peer *p = user->peers; p; p = p->next)
        if (p->fd >= 0)
            shutdown(p->fd, SHUT_RDWR);
    core_unlock(&user->lock);
}

/* The number of the control connection of the only peer; 0: there is none. Each has another one. */
static uint64_t connection(dsm_ctx *user)
{
    core_lock(&user->lock);
    const struct peer *p = user->peers;
    uint64_t id = p && !load_relaxed_u32(&p->dead) ? p->id : 0;
    core_unlock(&user->lock);
    return id;
}

/* It has a new socket, and no answer. */
static bool is_connecting(dsm_ctx *user)
{
    core_lock(&user->lock);
    bool yes = user->peers->fd >= 0 && !user->peers->id;
    core_unlock(&user->lock);
    return yes;
}

static bool has_peers(dsm_ctx *user)
{
    core_lock(&user->lock);
    bool yes = user->peers;
    core_unlock(&user->lock);
    return yes;
}

static bool keeps(dsm_ctx *user)
{
    core_lock(&user->lock);
    bool yes = user->peers && load_relaxed_u32(&user->peers->identities.kept);
    core_unlock(&user->lock);
    return yes;
}

static bool has_ended(dsm_remote *remote, uint64_t identity)
{
    uint8_t ended = 0;
    CHECK(!remote_ended(remote, &identity, 1, &ended));
    return ended;
}

/* ---- one after the other ---- */

static void again_and_again(void)
{
    begin();
    dsm_ctx *user = open_with(options_of("tcp"));
    dsm_remote *remote = attach(user);
    uint64_t identity = draw(remote);
    for (int i = 0; i < 4; i++) {
        uint64_t before = connection(user), now = 0;
        cut(user);
        AWAIT((now = connection(user)) && now != before);
    }
    CHECK(!has_ended(remote, identity));
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    end();
}

/* Without identities a connection waits for the next op, as ever. */
static void nothing_to_keep(void)
{
    begin();
    dsm_ctx *user = open_with(options_of("tcp"));
    dsm_remote *remote = attach(user);
    cut(user);
    AWAIT(!connection(user));
    core_lock(&user->peers->lock);
    CHECK(!user->peers->helped && !user->peers->rejoin.wanted);
    core_unlock(&user->peers->lock);
    CHECK(!dsm_remote_close(remote)); /* and frees the peer */
    CHECK(!user->peers);
    dsm_close(user);
    end();
}

/* A user that holds nothing any more says so, and is not waited for. */
static void goodbye(void)
{
    begin();
    dsm_ctx *user = open_with(options_of("tcp")), *other = open_with(options_of("tcp"));
    dsm_remote *remote = attach(user), *theirs = attach(other);
    uint64_t identity = draw(remote);
    CHECK(!dsm_remote_close(remote));
    CHECK(connection(user) && !has_ended(theirs, identity));
    cut(user);
    AWAIT(has_ended(theirs, identity));
    AWAIT(!keeps(user));
    remote = attach(user); /* with identities of their own */
    uint64_t next = draw(remote);
    CHECK(next != identity && keeps(user) && !has_ended(theirs, next));
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    AWAIT(has_ended(theirs, next));
    CHECK(!dsm_remote_close(theirs));
    dsm_close(other);
    end();
}

/* An owner gives identities to so many of a node's peers: those that are gone are none of them. */
static void many_goodbyes(void)
{
    enum { MORE_THAN_AN_OWNER_GIVES = 40 };
    begin();
    dsm_ctx *user = open_with(options_of("tcp"));
    for (int i = 0; i < MORE_THAN_AN_OWNER_GIVES; i++) {
        dsm_remote *remote = attach(user);
        draw(remote);
        CHECK(!dsm_remote_close(remote));
        cut(user);
        AWAIT(!has_peers(user));
    }
    dsm_close(user);
    end();
}

static void cut_off(void)
{
    uint64_t word;
    begin();
    dsm_ctx *user = open_with(options_of("tcp"));
    dsm_remote *remote = attach(user);
    draw(remote);
    CHECK(!dsm_fence(owner, user->node));
    AWAIT(!keeps(user)); /* it has been told, and does not ask again */
    CHECK(dsm_read(remote, 0, &word, 8, MINUTE) == -DSM_EFENCED);
    CHECK(!dsm_remote_close(remote));
    CHECK(!user->peers);
    dsm_close(user);
    end();
}

/* The context is closed, and the process forks, while the helper tries again and again. */
static void an_owner_that_is_gone(bool open)
{
    begin();
    dsm_ctx *user = open_with(options_of("tcp"));
    dsm_remote *remote = attach(user);
    draw(remote);
    end();
    AWAIT(!connection(user));
    core_lock(&user->peers->lock);
    CHECK(user->peers->helped && user->peers->rejoin.wanted);
    core_unlock(&user->peers->lock);
    pid_t child = fork();
    if (!child)
        _exit(0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && !status);
    dsm_cancel(user);
    CHECK(keeps(user) && user->peers->helped);
    if (!open)
        CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    if (open)
        CHECK(!dsm_remote_close(remote));
}

/* The context is closed while its helper waits for the answer of an owner that is stopped. */
static void an_owner_that_does_not_answer(void)
{
    begin();
    dsm_options o = options_of("tcp");
    o.peer_timeout_ns = MINUTE;
    dsm_ctx *user = open_with(o);
    dsm_remote *remote = attach(user);
    draw(remote);
    CHECK(!pthread_mutex_lock(&owner->agent->turn));
    cut(user);
    AWAIT(is_connecting(user));
    dsm_close(user);
    CHECK(!dsm_remote_close(remote));
    CHECK(!pthread_mutex_unlock(&owner->agent->turn));
    end();
}

/* ---- beside ops ---- */

static uint32_t stops;
static uint64_t added;

/* Adds until 'stops'. A call that failed may have added, as far as it says so. */
static void *use(void *arg)
{
    dsm_remote *remote = arg;
    dsm_ctx *user = remote->ctx;
    while (!load_relaxed_u32(&stops)) {
        uint64_t old;
        int rc = dsm_fetch_add(remote, 0, 1, &old, MINUTE);
        CHECK(rc == 0 || rc == -DSM_EPEER || rc == -DSM_ECANCELED || rc == -DSM_EUNKNOWN);
        fetch_add_u64(&added, !rc);
        rc = remote_identities(remote, 1, &old);
        CHECK(rc == 0 || rc == -DSM_EPEER);
        dsm_op op = {.code = DSM_OP_READ, .remote = remote, .local = &old, .nbytes = 8};
        dsm_ticket *t;
        CHECK(!dsm_start(user, &op, 1, &t, NULL));
        dsm_ticket *done;
        while (!(done = dsm_completed(user)))
            usleep(10);
        CHECK(done == t);
        dsm_finish(t, -1, NULL);
    }
    CHECK(!dsm_remote_close(remote));
    return NULL;
}

static void beside_ops(void)
{
    pthread_t threads[USERS];
    dsm_ctx *users[USERS];
    begin();
    for (int i = 0; i < USERS; i++) {
        users[i] = open_with(options_of("tcp"));
        CHECK(!pthread_create(&threads[i], NULL, use, attach(users[i])));
    }
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t before = load_relaxed_u64(&added);
        for (int k = 0; k < USERS; k++)
            cut(users[k]);
        AWAIT(load_relaxed_u64(&added) > before);
    }
    store_relaxed_u32(&stops, 1);
    for (int i = 0; i < USERS; i++) {
        CHECK(!pthread_join(threads[i], NULL));
        cut(users[i]);
        dsm_close(users[i]);
    }
    CHECK(*(uint64_t *)dsm_region_data(shared) >= added);
    end();
}

int main(void)
{
    again_and_again();
    nothing_to_keep();
    goodbye();
    many_goodbyes();
    cut_off();
    an_owner_that_is_gone(true);
    an_owner_that_is_gone(false);
    an_owner_that_does_not_answer();
    beside_ops();
    puts("ok");
    return 0;
}
