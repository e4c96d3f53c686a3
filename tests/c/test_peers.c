/* wraps: peer_post */
/*
 * A user of other processes' memory, while one of them is slow, dead or silent: every wait ends, in time or for a
 * signal; no other connection is affected; and a peer that is gone leaves nothing behind.
 *
 * If a wait must not last until the peer timeout, that timeout is an hour, so that a wait that does never ends.
 */
#include "base/deadline.h"
#include "check.h"
#include "context.h"
#include "core/remote.h"
#include "files.h"
#include "outcome.h"
#include "tickets.h"

#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OWNERS = DSM_TICKET_GROUPS + 2 };
#define MS INT64_C(1000000)
#define HOUR (INT64_C(3600) * 1000 * MS)

static dsm_ctx *owners[OWNERS], *user;
static dsm_region *regions[OWNERS];
static dsm_remote *remotes[OWNERS];
static uint8_t descriptors[OWNERS][DSM_DESC_MAX];
static size_t lengths[OWNERS];

static dsm_ctx *open_user(const char *fault, int64_t peer_timeout)
{
    dsm_options o = options_of("shm");
    o.fault = fault;
    o.peer_timeout_ns = peer_timeout;
    return open_with(o);
}

static void own(int i)
{
    owners[i] = open_context(NULL);
    CHECK(!dsm_alloc(owners[i], 4096, 7, &regions[i]));
    lengths[i] = (size_t)dsm_region_descriptor(regions[i], descriptors[i]);
}

static void disown(int i)
{
    CHECK(!dsm_region_close(regions[i]));
    dsm_close(owners[i]);
}

static void open_all(int n, const char *fault, int64_t peer_timeout)
{
    user = open_user(fault, peer_timeout);
    for (int i = 0; i < n; i++) {
        own(i);
        CHECK(!dsm_attach(user, descriptors[i], lengths[i], 10000 * MS, &remotes[i]));
    }
}

static void close_all(int n)
{
    for (int i = 0; i < n; i++)
        CHECK(!dsm_remote_close(remotes[i]));
    dsm_close(user);
    for (int i = 0; i < n; i++)
        disown(i);
}

static dsm_op add_one(int owner)
{
    return (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = remotes[owner], .nbytes = 8, .operand = 1};
}

static uint64_t word_of(int owner) { return load_acquire_u64(dsm_region_data(regions[owner])); }

static uint64_t connects(void)
{
    dsm_stats s;
    dsm_get_stats(user, &s);
    return s.connects;
}

/* ---- waits end ---- */

static void lost_completions(void)
{
    uint64_t old, data = 0;
    open_all(1, "drop=1&drop=3", HOUR);
    CHECK(dsm_read(remotes[0], 0, &data, 8, 20 * MS) == -DSM_ETIME);
    CHECK(!dsm_fetch_add(remotes[0], 0, 1, &old, 10000 * MS));
    CHECK(is_unknown(dsm_fetch_add(remotes[0], 0, 1, &old, 20 * MS), DSM_ETIME));
    CHECK(word_of(0) == 2); /* both were executed, although one timed out */
    close_all(1);

    open_all(1, "drop=1", 20 * MS);
    CHECK(dsm_read(remotes[0], 0, &data, 8, -1) == -DSM_ETIME); /* no deadline, but the wait does not last forever */
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

/* An owner that accepts and says nothing, and one whose backlog is full. */
static void silent_owner(int backlog)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    dsm_remote *r;
    user = open_user(NULL, HOUR);
    own(0);
    disown(0);
    dsm_descriptor d;
    CHECK(!dsm_descriptor_parse(descriptors[0], lengths[0], &d));
    CHECK(!strncmp(d.ways[0].address, "unix:@", 6));
    memcpy(at.sun_path + 1, d.ways[0].address + 6, strlen(d.ways[0].address + 6));
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(d.ways[0].address + 6));
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
    static dsm_ticket tickets[N];
    open_all(2, "delay=*:5ms", HOUR);
    for (int i = 0; i < N; i++) {
        ops[i] = add_one(i & 1);
        CHECK(!dsm_start(user, &ops[i], 1, &tickets[i], NULL));
    }
    for (int i = 0; i < N; i++) {
        dsm_ticket *t = next_completed(user);
        CHECK(t >= tickets && t < tickets + N && !dsm_finish(t, -1, NULL));
        memset(t, 0xff, sizeof *t); /* it belongs to the caller again */
    }
    CHECK(word_of(0) + word_of(1) == N);
    CHECK(!dsm_completed(user) && !readable());
    close_all(2);
}

static void started_batch(void)
{
    dsm_op ops[OWNERS * 3];
    dsm_ticket t;
    open_all(OWNERS, "", HOUR); /* more peers than a ticket has groups */
    for (int i = 0; i < OWNERS * 3; i++)
        ops[i] = add_one(i % OWNERS);
    CHECK(!dsm_start(user, ops, OWNERS * 3, &t, NULL));
    CHECK(next_completed(user) == &t && !dsm_finish(&t, -1, NULL));
    for (int i = 0; i < OWNERS; i++)
        CHECK(word_of(i) == 3);
    close_all(OWNERS);
}

/* No thread of the program waits for it, so the core's own thread gives it up. */
static void started_and_lost(void)
{
    dsm_op op;
    dsm_ticket t;
    open_all(1, "drop=1", 20 * MS);
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    CHECK(next_completed(user) == &t && is_unknown(dsm_finish(&t, -1, NULL), DSM_ETIME));
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    CHECK(next_completed(user) == &t && !dsm_finish(&t, -1, NULL));
    close_all(1);
    open_all(1, "drop=1", HOUR);
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && !dsm_completed(user) && !readable());
    while (!word_of(0)) /* it is executed, and its completion lost */
        usleep(1000);
    dsm_cancel(user);
    CHECK(dsm_completed(user) == &t && is_unknown(dsm_finish(&t, -1, NULL), DSM_ECANCELED));
    op = add_one(0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    CHECK(next_completed(user) == &t && !dsm_finish(&t, -1, NULL));
    close_all(1);
}

/* Other ops on the connection complete all the while, which must not keep the op alive whose completion is lost. Newer
 * ops fail together with the connection, but are cancelled and not reported as timed out. */
static void lost_among_others(void)
{
    enum { N = 4 };
    dsm_op lost, ops[N];
    dsm_ticket first, tickets[N], *t = NULL;
    int64_t deadline = clock_ns() + 20000 * MS;
    uint64_t done = 0;
    open_all(1, "drop=1&delay=2-:1ms", 100 * MS);
    lost = add_one(0);
    CHECK(!dsm_start(user, &lost, 1, &first, NULL));
    for (int i = 0; i < N; i++) {
        ops[i] = add_one(0);
        CHECK(!dsm_start(user, &ops[i], 1, &tickets[i], NULL));
    }
    while ((t = next_completed(user)) != &first) {
        CHECK(clock_ns() < deadline);
        int rc = dsm_finish(t, -1, NULL);
        CHECK(!rc || is_unknown(rc, DSM_ECANCELED));
        done++;
        ops[t - tickets] = add_one(0);
        CHECK(!dsm_start(user, &ops[t - tickets], 1, t, NULL));
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
    dsm_ticket first, others[N];
    open_all(1, "drop=1&drop=2", 100 * MS);
    lost = add_one(0);
    CHECK(!dsm_start(user, &lost, 1, &first, NULL));
    CHECK(next_completed(user) == &first && is_unknown(dsm_finish(&first, -1, NULL), DSM_ETIME));
    int64_t begun = clock_ns();
    lost = add_one(0);
    CHECK(!dsm_start(user, &lost, 1, &first, NULL));
    dsm_ticket *t = NULL;
    int i = 0;
    for (; i < N && t != &first; i++) { /* meanwhile the lost op gets older */
        ops[i] = add_one(0);
        CHECK(!dsm_start(user, &ops[i], 1, &others[i], NULL));
        t = next_completed(user);
        dsm_finish(t, -1, NULL);
    }
    bool slow = t == &first || clock_ns() - begun > 150 * MS; /* a slow machine: the op may have timed out */
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
    dsm_ticket t;
    open_all(OWNERS, "drop=*", HOUR);
    for (int i = 0; i < OWNERS; i++)
        ops[i] = add_one(i);
    CHECK(!dsm_start(user, ops, OWNERS, &t, NULL));
    for (int i = 0; i < DSM_TICKET_GROUPS; i++)
        while (!word_of(i)) /* it is executed, and its completion lost */
            usleep(1000);
    dsm_cancel(user);
    CHECK(dsm_completed(user) == &t && is_unknown(dsm_finish(&t, -1, NULL), DSM_ECANCELED));
    for (int i = DSM_TICKET_GROUPS; i < OWNERS; i++)
        CHECK(!word_of(i) && ops[i].status == -DSM_ECANCELED);
    close_all(OWNERS);
}

/* ---- batches ---- */

static void late_batch(void)
{
    dsm_op ops[OWNERS];
    size_t failed = OWNERS;
    open_all(OWNERS, "drop=11", HOUR);
    for (int i = 0; i < OWNERS; i++) { /* ops 1 … 10: one connection to each owner */
        uint64_t old;
        CHECK(!dsm_fetch_add(remotes[i], 0, 1, &old, -1));
        ops[i] = add_one(i);
    }
    CHECK(connects() == OWNERS);
    CHECK(is_unknown(dsm_execute(user, ops, OWNERS, 20 * MS, &failed), DSM_ETIME) && failed == 0);
    for (int i = 0; i < OWNERS; i++) {
        bool began = i < DSM_TICKET_GROUPS; /* the others were never posted */
        CHECK(word_of(i) == (began ? 2 : 1));
        CHECK(ops[i].status == (!i ? -DSM_EUNKNOWN : began ? 0 : -DSM_ETIME));
    }
    for (int i = 0; i < OWNERS; i++)
        CHECK(!dsm_fetch_add(remotes[i], 0, 0, &(uint64_t){0}, -1));
    CHECK(connects() == OWNERS + 1); /* one more, to the owner whose op timed out */
    close_all(OWNERS);
}

/* Op 1 fails the connection to owner 0, so the first op of the batch is cancelled. The second one fails by itself. */
static void first_that_failed_of_itself(void)
{
    dsm_op before, ops[2];
    dsm_ticket t;
    size_t failed = 9;
    open_all(2, "fail=1&delay=1:100ms&fail=3", HOUR);
    before = add_one(0);
    CHECK(!dsm_submit(user, &before, 1, &t, NULL));
    ops[0] = add_one(0);
    ops[1] = add_one(1);
    CHECK(is_unknown(dsm_execute(user, ops, 2, -1, &failed), DSM_EIO) && failed == 1);
    CHECK(ops[0].status == -DSM_EUNKNOWN && ops[0].cause == -DSM_ECANCELED);
    CHECK(ops[1].status == -DSM_EUNKNOWN && ops[1].cause == -DSM_EIO);
    CHECK(is_unknown(dsm_finish(&t, -1, NULL), DSM_EIO));
    close_all(2);
}

/* What happens to postings: in those in 'spoiled' an op of another thread comes first, and fails; none comes before a
 * time; and an abort comes right after the first that finds no connection (0), or after the first that finds one (1). */
static uint32_t postings, spoiled, stop_word;
static int64_t no_posting_before;
static int stop_after = -1;

static bool post_behind_another(struct peer *p, dsm_op *list);
bool __real_peer_post(struct peer *p, dsm_op *list);
bool __wrap_peer_post(struct peer *p, dsm_op *list);
bool __wrap_peer_post(struct peer *p, dsm_op *list)
{
    while (clock_ns() < no_posting_before)
        usleep(1000);
    bool spoil = postings < 32 && spoiled & 1u << postings;
    bool posted = spoil ? post_behind_another(p, list) : __real_peer_post(p, list);
    postings += posted;
    if (posted == stop_after)
        store_release_u32(&stop_word, 1);
    return posted;
}

static bool post_behind_another(struct peer *p, dsm_op *list)
{
    static dsm_op others[32];
    static struct dsm_group groups[32];
    uint32_t i = postings;
    groups[i] = (struct dsm_group){.pending = 1, .peer = p, .head = &others[i], .tail = &others[i]};
    others[i] = add_one(0);
    others[i].group = &groups[i];
    others[i].next = list;
    bool posted = __real_peer_post(p, &others[i]);
    CHECK(!posted || others[i].status == -DSM_EACCESS);
    return posted;
}

/* Two ops of a batch. mask: the postings that are spoiled; the plan refuses the first op of each. */
static void spoiled_by_others(uint32_t mask, const char *plan, uint64_t posts, int first, int second)
{
    dsm_op ops[2];
    dsm_stats s;
    open_all(1, plan, HOUR);
    for (int i = 0; i < 2; i++)
        ops[i] = add_one(0);
    postings = 0;
    spoiled = mask;
    CHECK(dsm_execute_as(user, ops, 2, &(dsm_choice){.go_on = true}, -1, NULL) == first);
    spoiled = 0;
    CHECK(ops[0].status == first && ops[1].status == second && word_of(0) == (uint64_t)!first + !second);
    dsm_get_stats(user, &s);
    CHECK(s.posts == posts);
    close_all(1);
}

/* Ops that are cancelled again and again are given up at the ninth time in a row that none of them has ended. */
static void given_up(void)
{
#define FIVE "refuse=1&refuse=4&refuse=7&refuse=10&refuse=13"
    spoiled_by_others(0xff, FIVE "&refuse=16&refuse=19&refuse=22", 18, 0, 0);
    spoiled_by_others(0x1ff, FIVE "&refuse=16&refuse=19&refuse=22&refuse=25", 18, -DSM_ECANCELED, -DSM_ECANCELED);
    /* the first op is refused itself after five times, so the second one is tried more often */
    spoiled_by_others(0x1fdf, FIVE "&refuse=16&refuse=18&refuse=20&refuse=22&refuse=24&refuse=26&refuse=28&refuse=30",
                      20, -DSM_EACCESS, 0);
}

static bool outstanding(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    bool some = p->ep && p->ep->inflight;
    pthread_mutex_unlock(&p->lock);
    return some;
}

/* The first op is executed, and has taken all of the time: none of the others is sent. */
static void late_between_two_postings(bool go_on)
{
    dsm_op ops[OWNERS];
    size_t failed = OWNERS;
    open_all(OWNERS, "", HOUR);
    for (int i = 0; i < OWNERS; i++) {
        uint64_t old;
        CHECK(!dsm_fetch_add(remotes[i], 0, 1, &old, -1)); /* there is a connection */
        ops[i] = add_one(i);
    }
    no_posting_before = clock_ns() + 20 * MS;
    CHECK(dsm_execute_as(user, ops, OWNERS, &(dsm_choice){.go_on = go_on}, 10 * MS, &failed) == -DSM_ETIME);
    CHECK(failed == 1 && !ops[0].status && word_of(0) == 2);
    for (int i = 1; i < OWNERS; i++)
        CHECK(ops[i].status == -DSM_ETIME && !ops[i].cause && word_of(i) == 1);
    close_all(OWNERS);
}

/* The owner ends while it has an op whose answer does not come. */
static void owner_that_dies(uint8_t code, bool started)
{
    dsm_op op;
    dsm_ticket t;
    uint64_t word;
    open_all(1, "drop=1", HOUR);
    op = add_one(0);
    op.code = code;
    op.local = &word;
    CHECK(!(started ? dsm_start(user, &op, 1, &t, NULL) : dsm_submit(user, &op, 1, &t, NULL)));
    while (!outstanding(remotes[0]->peer))
        usleep(1000);
    disown(0);
    CHECK(!started || next_completed(user) == &t);
    int rc = dsm_finish(&t, -1, NULL);
    CHECK(code == DSM_OP_READ ? rc == -DSM_EPEER : is_unknown(rc, DSM_EPEER));
    CHECK(!dsm_remote_close(remotes[0]));
    dsm_close(user);
}

/* The helper connects meanwhile: the group that waits for it ends at once, and the others on the list stay. */
static void stopped_before_there_is_a_connection(void)
{
    dsm_op ops[3];
    dsm_ticket tickets[3];
    uint32_t stop = 0;
    open_all(1, "", HOUR);
    struct peer *p = remotes[0]->peer;
    pthread_mutex_lock(&p->control_lock); /* so the helper waits */
    for (int i = 0; i < 3; i++) {
        ops[i] = add_one(0);
        CHECK(!dsm_start_as(user, &ops[i], 1, &(dsm_choice){.stop = i == 1 ? &stop : NULL}, &tickets[i], NULL));
    }
    CHECK(!dsm_completed(user));
    dsm_stop(user, &ops[1], 1, &stop, &tickets[1]);
    CHECK(dsm_completed(user) == &tickets[1] && dsm_finish(&tickets[1], -1, NULL) == -DSM_ECANCELED);
    dsm_op last = add_one(0); /* the end of the list is still known */
    dsm_ticket t;
    CHECK(!dsm_start(user, &last, 1, &t, NULL) && !dsm_completed(user));
    pthread_mutex_unlock(&p->control_lock);
    for (int i = 0; i < 3; i++)
        CHECK(!dsm_finish(next_completed(user), -1, NULL));
    CHECK(word_of(0) == 3);
    close_all(1);
}

/* A word that is set already: nothing is posted. */
static void stopped_before_it_began(bool started)
{
    uint32_t stop = 1;
    dsm_ticket t;
    open_all(1, "", HOUR);
    dsm_op op = add_one(0);
    dsm_choice how = {.stop = &stop};
    int rc = started ? dsm_start_as(user, &op, 1, &how, &t, NULL) : dsm_execute_as(user, &op, 1, &how, -1, NULL);
    CHECK(started ? rc == 1 && dsm_finish(&t, -1, NULL) == -DSM_ECANCELED : rc == -DSM_ECANCELED);
    CHECK(!word_of(0));
    close_all(1);
}

static int stop_from_handler(void)
{
    store_release_u32(&stop_word, 1);
    return 0;
}

/* The first op takes long, and those behind it wait for it. After the abort they are not posted again. */
static void stopped_in_the_middle(bool started)
{
    dsm_ticket t;
    dsm_stats s;
    uint64_t word = 1;
    open_all(1, "duplicate=1:60000ms", HOUR);
    dsm_op ops[] = {add_one(0), add_one(0), add_one(0)};
    ops[0].code = DSM_OP_WRITE;
    ops[0].local = &word;
    dsm_choice how = {.go_on = true, .stop = &stop_word};
    stop_word = 0;
    if (started) {
        CHECK(!dsm_start_as(user, ops, 3, &how, &t, NULL));
        while (word_of(0) != 1)
            usleep(1000);
        dsm_stop(user, ops, 3, &stop_word, &t);
        CHECK(next_completed(user) == &t && is_unknown(dsm_finish(&t, -1, NULL), DSM_ECANCELED));
    } else {
        dsm_set_interrupt(stop_from_handler);
        CHECK(is_unknown(dsm_execute_as(user, ops, 3, &how, -1, NULL), DSM_ECANCELED));
        dsm_set_interrupt(NULL);
    }
    CHECK(ops[1].status == -DSM_ECANCELED && ops[2].status == -DSM_ECANCELED && word_of(0) == 1);
    dsm_get_stats(user, &s);
    CHECK(s.posts == 3);
    close_all(1);
}

/* An abort between the postings of two groups, and before the posting that a connection was made for. */
static void stopped_between(int after, int posted)
{
    open_all(2, "", HOUR);
    for (int i = 0; i < 2 && after; i++) {
        uint64_t old;
        CHECK(!dsm_fetch_add(remotes[i], 0, 0, &old, -1)); /* there is a connection */
    }
    dsm_op ops[] = {add_one(0), add_one(1)};
    stop_word = 0;
    stop_after = after;
    CHECK(dsm_execute_as(user, ops, 2, &(dsm_choice){.stop = &stop_word}, -1, NULL) == -DSM_ECANCELED);
    stop_after = -1;
    CHECK(ops[0].status == (posted ? 0 : -DSM_ECANCELED) && ops[1].status == -DSM_ECANCELED);
    CHECK(word_of(0) == (uint64_t)posted && !word_of(1));
    close_all(2);
}

/* An abort while the call waits for another thread that makes the connection. */
static void *execute_one(void *arg)
{
    dsm_op op = add_one(0);
    CHECK(dsm_execute_as(user, &op, 1, &(dsm_choice){.stop = &stop_word}, -1, NULL) == -DSM_ECANCELED);
    return arg;
}

static void stopped_while_another_connects(void)
{
    pthread_t thread;
    open_all(1, "", HOUR);
    stop_word = 0;
    dsm_set_interrupt(stop_from_handler);
    pthread_mutex_lock(&remotes[0]->peer->control_lock);
    CHECK(!pthread_create(&thread, NULL, execute_one, NULL));
    pthread_join(thread, NULL);
    pthread_mutex_unlock(&remotes[0]->peer->control_lock);
    dsm_set_interrupt(NULL);
    close_all(1);
}

/* An op that was refused before that keeps its status. */
static void stopped_with_a_refused_op(bool started)
{
    uint32_t stop = 1;
    dsm_ticket t;
    open_all(1, "", HOUR);
    dsm_op ops[] = {add_one(0), add_one(0)};
    ops[0].offset = 1 << 20;
    dsm_choice how = {.go_on = true, .stop = &stop};
    if (started)
        CHECK(dsm_start_as(user, ops, 2, &how, &t, NULL) == 1 && dsm_finish(&t, -1, NULL) == -DSM_EBOUNDS);
    else
        CHECK(dsm_execute_as(user, ops, 2, &how, -1, NULL) == -DSM_EBOUNDS);
    CHECK(ops[0].status == -DSM_EBOUNDS && ops[1].status == -DSM_ECANCELED && !word_of(0));
    close_all(1);
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
    started_ops();
    started_batch();
    started_and_lost();
    lost_among_others();
    fallen_after_a_late_one();
    canceled_batch();
    late_batch();
    first_that_failed_of_itself();
    stopped_before_there_is_a_connection();
    stopped_before_it_began(false);
    stopped_before_it_began(true);
    stopped_between(1, 1);
    stopped_between(0, 0);
    stopped_while_another_connects();
    given_up();
    late_between_two_postings(false);
    late_between_two_postings(true);
    for (int started = 0; started < 2; started++) {
        stopped_with_a_refused_op(started);
        stopped_in_the_middle(started);
        owner_that_dies(DSM_OP_FETCH_ADD, started);
        owner_that_dies(DSM_OP_READ, started);
    }
    context_closed_first(NULL);
    context_closed_first("");
    for (int order = 0; order < 3; order++) {
        owners_that_go(NULL, order);
        owners_that_go("", order);
    }
    puts("ok");
    return 0;
}
