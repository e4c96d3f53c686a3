/*
 * A user of other processes' memory, while one of them is slow, dead or silent: every wait ends, in time or for a
 * signal; no other connection is affected; and a peer that is gone leaves nothing behind.
 *
 * If a wait must not last until the peer timeout, that timeout is an hour, so that a wait that does never ends. Where
 * that timeout is short, or a call has little time, there is a connection before: to connect takes longer on a busy
 * host.
 */
#include "agent/agent.h"
#include "base/deadline.h"
#include "base/wire.h"
#include "check.h"
#include "files.h"
#include "outcome.h"
#include "peers.h"
#include "tickets.h"

#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- waits end ---- */

static void lost_completions(void)
{
    uint64_t old, data = 0;
    open_all(1, "drop=2&drop=4", HOUR);
    connect_all(1);
    CHECK(dsm_read(remotes[0], 0, &data, 8, 20 * MS) == -DSM_ETIME);
    CHECK(!dsm_fetch_add(remotes[0], 0, 1, &old, 10000 * MS));
    CHECK(is_unknown(dsm_fetch_add(remotes[0], 0, 1, &old, 20 * MS), DSM_ETIME));
    CHECK(word_of(0) == 2); /* both were executed, although one timed out */
    close_all(1);

    open_all(1, "drop=2", 20 * MS);
    connect_all(1);
    CHECK(dsm_read(remotes[0], 0, &data, 8, -1) == -DSM_ETIME); /* no deadline, but the wait does not last forever */
    connect_all(1);
    CHECK(!dsm_read(remotes[0], 0, &data, 8, -1));
    close_all(1);
}

static uint32_t looks;

static int third_look(void) { return fetch_add_u32(&looks, 1) >= 2; }

static void signals(void)
{
    uint64_t data;
    open_all(1, "drop=1", HOUR);
    store_relaxed_u32(&looks, 0);
    dsm_set_interrupt(third_look);
    CHECK(dsm_read(remotes[0], 0, &data, 8, -1) == -DSM_ETIME);
    CHECK(load_relaxed_u32(&looks) == 3);
    dsm_set_interrupt(NULL);
    CHECK(!dsm_read(remotes[0], 0, &data, 8, -1));
    close_all(1);
}

/* A handler makes its own call in the middle of another one, and both keep their deadlines. */
static int call_in_handler(void)
{
    CHECK(call_timeout(HOUR) == HOUR);
    dsm_call_until(clock_ns());
    CHECK(call_timeout(HOUR) < HOUR);
    dsm_call_until(DEADLINE_NEVER);
    return third_look();
}

static void calls_of_handlers(void)
{
    uint64_t data;
    open_all(1, "drop=1", HOUR);
    store_relaxed_u32(&looks, 0);
    dsm_set_interrupt(call_in_handler);
    dsm_call_until(clock_ns() + HOUR / 2);
    CHECK(dsm_read(remotes[0], 0, &data, 8, -1) == -DSM_ETIME);
    CHECK(call_timeout(HOUR) < HOUR);
    dsm_call_until(DEADLINE_NEVER);
    dsm_set_interrupt(NULL);
    close_all(1);
}

/* A handler asks the agent for which the interrupted call waits. */
static int ask_in_handler(void)
{
    dsm_remote *r;
    CHECK(dsm_attach(user, descriptors[0], lengths[0], -1, &r) == -DSM_EBUSY);
    return third_look();
}

static void questions_of_handlers(void)
{
    dsm_remote *r;
    open_all(1, NULL, HOUR);
    pthread_mutex_lock(&owners[0]->lock); /* its agent does not answer */
    store_relaxed_u32(&looks, 0);
    dsm_set_interrupt(ask_in_handler);
    CHECK(dsm_attach(user, descriptors[0], lengths[0], -1, &r) == -DSM_ETIME);
    dsm_set_interrupt(NULL);
    pthread_mutex_unlock(&owners[0]->lock);
    close_all(1);
}

static socklen_t unix_address(const char *address, struct sockaddr_un *out)
{
    CHECK(!strncmp(address, "unix:@", 6));
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(out->sun_path + 1, address + 6, strlen(address + 6));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address + 6));
}

/* An owner that accepts and says nothing, and one whose backlog is full. */
static void silent_owner(int backlog)
{
    struct sockaddr_un at;
    dsm_remote *r;
    user = open_user(NULL, HOUR);
    own(0);
    disown(0);
    dsm_descriptor d;
    CHECK(!dsm_descriptor_parse(descriptors[0], lengths[0], &d));
    socklen_t len = unix_address(d.ways[0].address, &at);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), first = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0 && first >= 0 && !bind(fd, (struct sockaddr *)&at, len) && !listen(fd, backlog));
    if (!backlog)
        CHECK(!connect(first, (struct sockaddr *)&at, len));
    store_relaxed_u32(&looks, 0);
    dsm_set_interrupt(third_look);
    CHECK(dsm_attach(user, descriptors[0], lengths[0], -1, &r) == -DSM_ETIME);
    dsm_set_interrupt(NULL);
    CHECK(dsm_attach(user, descriptors[0], lengths[0], 20 * MS, &r) == -DSM_ETIME);
    close(first);
    close(fd);
    dsm_close(user);
}

static int say_hello(const char *magic)
{
    struct sockaddr_un at;
    uint8_t hello[HELLO_SIZE] = {0};
    socklen_t len = unix_address(dsm_agent_address(owners[0], 0), &at);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memcpy(hello, magic, 4);
    put_u16(hello + 4, PROTOCOL_VERSION);
    CHECK(fd >= 0 && !connect(fd, (struct sockaddr *)&at, len) && write(fd, hello, sizeof hello) == sizeof hello);
    return fd;
}

/* A connection that ends before the agent answers its hello is not counted as rejected, but one with a wrong hello. */
static void left_before_the_answer(void)
{
    dsm_stats s;
    char byte;
    open_all(1, NULL, HOUR);
    pthread_mutex_lock(&owners[0]->agent->lock); /* it accepts no connection meanwhile */
    close(say_hello(HELLO_MAGIC));
    int fd = say_hello("DSMX");
    pthread_mutex_unlock(&owners[0]->agent->lock);
    CHECK(read(fd, &byte, 1) <= 0); /* until the agent closes it, which it has accepted last */
    close(fd);
    dsm_get_stats(owners[0], &s);
    CHECK(s.rejected == 1);
    close_all(1);
}

/* ---- event loops ---- */

static bool readable(void)
{
    struct pollfd on = {.fd = dsm_event_fd(user), .events = POLLIN};
    return poll(&on, 1, 0) == 1;
}

static void started_ops(void)
{
    enum { N = 200 };
    static dsm_op ops[N];
    static dsm_ticket *tickets[N];
    open_all(2, "delay=*:5ms", HOUR);
    for (int i = 0; i < N; i++) {
        ops[i] = add_one(i & 1);
        CHECK(!dsm_start(user, &ops[i], 1, &tickets[i], NULL));
    }
    for (int i = 0; i < N; i++) {
        dsm_ticket *t = next_completed(user);
        dsm_op *op = dsm_ticket_ops(t);
        CHECK(op >= ops && op < ops + N && tickets[op - ops] == t && !dsm_finish(t, -1, NULL));
        memset(op, 0xff, sizeof *op); /* it belongs to the caller again */
        tickets[op - ops] = NULL;
    }
    CHECK(word_of(0) + word_of(1) == N);
    CHECK(!dsm_completed(user) && !readable());
    close_all(2);
}

static void started_batch(void)
{
    dsm_op ops[OWNERS * 3];
    dsm_ticket *t;
    open_all(OWNERS, "", HOUR); /* more peers than a ticket has groups */
    for (int i = 0; i < OWNERS * 3; i++)
        ops[i] = add_one(i % OWNERS);
    CHECK(!dsm_start(user, ops, OWNERS * 3, &t, NULL));
    CHECK(next_completed(user) == t && !dsm_finish(t, -1, NULL));
    for (int i = 0; i < OWNERS; i++)
        CHECK(word_of(i) == 3);
    close_all(OWNERS);
}

/* No thread of the program waits for it, so the core's own thread gives it up. */
static void started_and_lost(void)
{
    dsm_op op;
    dsm_ticket *t;
    open_all(1, "drop=2", 20 * MS);
    connect_all(1);
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    CHECK(next_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ETIME));
    connect_all(1);
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    CHECK(next_completed(user) == t && !dsm_finish(t, -1, NULL));
    close_all(1);
    open_all(1, "drop=1", HOUR);
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && !dsm_completed(user) && !readable());
    while (!word_of(0)) /* it is executed, and its completion lost */
        usleep(1000);
    dsm_cancel(user);
    CHECK(dsm_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ECANCELED));
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    CHECK(next_completed(user) == t && !dsm_finish(t, -1, NULL));
    close_all(1);
}

/* Other ops on the connection complete all the while, which must not keep the op alive whose completion is lost. Newer
 * ops fail together with the connection, but are cancelled and not reported as timed out. */
static void lost_among_others(void)
{
    enum { N = 4 };
    dsm_op lost, ops[N];
    dsm_ticket *first, *tickets[N], *t = NULL;
    int64_t deadline = clock_ns() + 20000 * MS;
    uint64_t done = 0;
    open_all(1, "drop=2&delay=3-:1ms", 100 * MS);
    connect_all(1);
    lost = add_one(0);
    CHECK(!dsm_start(user, &lost, 1, &first, NULL));
    for (int i = 0; i < N; i++) {
        ops[i] = add_one(0);
        CHECK(!dsm_start(user, &ops[i], 1, &tickets[i], NULL));
    }
    while ((t = next_completed(user)) != first) {
        CHECK(clock_ns() < deadline);
        dsm_op *op = dsm_ticket_ops(t);
        int rc = dsm_finish(t, -1, NULL);
        CHECK(!rc || is_unknown(rc, DSM_ECANCELED));
        done++;
        *op = add_one(0);
        CHECK(!dsm_start(user, op, 1, &t, NULL));
    }
    CHECK(done >= N && is_unknown(dsm_finish(t, -1, NULL), DSM_ETIME));
    for (int left = N; left; left--) {
        int rc = dsm_finish(next_completed(user), -1, NULL);
        CHECK(!rc || rc == -DSM_ECANCELED || is_unknown(rc, DSM_ECANCELED));
    }
    close_all(1);
}

/* After one op has timed out, ops that fail later for another reason are not reported as timed out. */
static void fallen_after_a_late_one(void)
{
    enum { N = 4 };
    dsm_op lost, ops[N];
    dsm_ticket *first, *others[N];
    open_all(1, "drop=2&drop=4", 100 * MS);
    connect_all(1);
    lost = add_one(0);
    CHECK(!dsm_start(user, &lost, 1, &first, NULL));
    CHECK(next_completed(user) == first && is_unknown(dsm_finish(first, -1, NULL), DSM_ETIME));
    connect_all(1);
    int64_t begun = clock_ns();
    lost = add_one(0);
    CHECK(!dsm_start(user, &lost, 1, &first, NULL));
    dsm_ticket *t = NULL;
    int i = 0;
    for (; i < N && t != first; i++) { /* meanwhile the lost op gets older */
        ops[i] = add_one(0);
        CHECK(!dsm_start(user, &ops[i], 1, &others[i], NULL));
        t = next_completed(user);
        dsm_finish(t, -1, NULL);
    }
    bool slow = t == first || clock_ns() - begun > 150 * MS; /* a slow machine: the op may have timed out */
    dsm_cancel(user);
    while ((t = dsm_completed(user))) {
        int rc = dsm_finish(t, -1, NULL);
        CHECK(slow || is_unknown(rc, DSM_ECANCELED));
    }
    close_all(1);
}

/* Ops for which the ticket had no free group do not begin after the cancel. */
static void canceled_batch(void)
{
    dsm_op ops[OWNERS];
    dsm_ticket *t;
    open_all(OWNERS, "drop=*", HOUR);
    for (int i = 0; i < OWNERS; i++)
        ops[i] = add_one(i);
    CHECK(!dsm_start(user, ops, OWNERS, &t, NULL));
    for (int i = 0; i < TICKET_GROUPS; i++)
        while (!word_of(i)) /* it is executed, and its completion lost */
            usleep(1000);
    dsm_cancel(user);
    CHECK(dsm_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ECANCELED));
    for (int i = TICKET_GROUPS; i < OWNERS; i++)
        CHECK(!word_of(i) && ops[i].status == -DSM_ECANCELED);
    close_all(OWNERS);
}

/* ---- peers that are gone leave nothing behind ---- */

static bool knows_peers(void)
{
    pthread_mutex_lock(&user->lock);
    bool some = user->peers;
    pthread_mutex_unlock(&user->lock);
    return some;
}

/* order: 0 the remote is closed before its owner ends, 1 after that and an op that finds it dead, 2 at any moment */
static void owners_that_go(const char *fault, int order)
{
    uint64_t data;
    user = open_context(fault);
    int before = open_files();
    for (int i = 0; i < OWNERS; i++) {
        own(i);
        CHECK(!dsm_attach(user, descriptors[i], lengths[i], 10000 * MS, &remotes[i]));
        CHECK(!dsm_read(remotes[i], 0, &data, 8, -1));
        if (order == 0)
            CHECK(!dsm_remote_close(remotes[i]));
        disown(i);
        while (order == 1 && dsm_read(remotes[i], 0, &data, 8, -1) != -DSM_EPEER)
            usleep(1000);
        if (order)
            CHECK(!dsm_remote_close(remotes[i]));
        if (order == 1)
            CHECK(!knows_peers());
    }
    while (knows_peers() || open_files() != before) /* until the agent has noticed the end of the last owner */
        usleep(1000);
    CHECK(dsm_attach(user, descriptors[0], lengths[0], -1, &remotes[0]) == -DSM_EPEER);
    CHECK(!knows_peers() && open_files() == before);
    dsm_close(user);
}

/* The order in which a garbage collector may finalize them. */
static void context_closed_first(const char *fault)
{
    uint64_t data;
    open_all(2, fault, HOUR);
    CHECK(!dsm_read(remotes[0], 0, &data, 8, -1));
    dsm_close(user);
    for (int i = 0; i < 2; i++) {
        CHECK(dsm_read(remotes[i], 0, &data, 8, -1) == -DSM_EPEER);
        CHECK(!dsm_remote_close(remotes[i]));
        dsm_close(owners[i]);
        CHECK(!dsm_region_close(regions[i]));
    }
}

int main(void)
{
    lost_completions();
    signals();
    calls_of_handlers();
    questions_of_handlers();
    silent_owner(128);
    silent_owner(0);
    left_before_the_answer();
    started_ops();
    started_batch();
    started_and_lost();
    lost_among_others();
    fallen_after_a_late_one();
    canceled_batch();
    context_closed_first(NULL);
    context_closed_first("");
    for (int order = 0; order < 3; order++) {
        owners_that_go(NULL, order);
        owners_that_go("", order);
    }
    puts("ok");
    return 0;
}
