/* wraps: peer_post peer_ready */
/*
 * Batches: what becomes of each op when one of them fails, is late or is aborted, or its owner ends; and that what was
 * given up is not sent.
 *
 * If a wait must not last until the peer timeout, that timeout is an hour, so that a wait that does never ends.
 */
#include "agent/agent.h"
#include "base/deadline.h"
#include "check.h"
#include "outcome.h"
#include "peers.h"
#include "tickets.h"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- failures ---- */

/* Returns whether the deadline left time to post to as many owners as a ticket has room for. */
static bool late_batch_after(int64_t timeout)
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
    CHECK(is_unknown(dsm_execute(user, ops, OWNERS, timeout, &failed), DSM_ETIME) && failed == 0);
    bool all = ops[TICKET_GROUPS - 1].status != -DSM_ETIME;
    for (int i = 0; i < OWNERS; i++) {
        bool began = i < TICKET_GROUPS; /* the others were never posted */
        bool sent = all ? began : ops[i].status != -DSM_ETIME;
        CHECK(word_of(i) == (sent ? 2 : 1));
        CHECK(ops[i].status == (!i ? -DSM_EUNKNOWN : sent ? 0 : -DSM_ETIME));
    }
    for (int i = 0; i < OWNERS; i++)
        CHECK(!dsm_fetch_add(remotes[i], 0, 0, &(uint64_t){0}, -1));
    CHECK(connects() == OWNERS + 1); /* one more, to the owner whose op timed out */
    close_all(OWNERS);
    return all;
}

static void late_batch(void)
{
    CHECK(late_batch_after(20 * MS) || late_batch_after(500 * MS) || late_batch_after(5000 * MS));
}

/* Op 1 fails the connection to owner 0, so the first op of the batch is cancelled. The second one fails by itself. */
static void first_that_failed_of_itself(void)
{
    dsm_op before, ops[2];
    dsm_ticket *t;
    size_t failed = 9;
    open_all(2, "fail=1&delay=1:100ms&fail=3", HOUR);
    before = add_one(0);
    CHECK(!dsm_submit(user, &before, 1, &t, NULL));
    ops[0] = add_one(0);
    ops[1] = add_one(1);
    CHECK(is_unknown(dsm_execute(user, ops, 2, -1, &failed), DSM_EIO) && failed == 1);
    CHECK(ops[0].status == -DSM_EUNKNOWN && ops[0].cause == -DSM_ECANCELED);
    CHECK(ops[1].status == -DSM_EUNKNOWN && ops[1].cause == -DSM_EIO);
    CHECK(is_unknown(dsm_finish(t, -1, NULL), DSM_EIO));
    close_all(2);
}

/* The remotes of a ticket are in use until it is finished, also those on mapped memory, whose ops are done before. */
static void mapped_in_use(void)
{
    dsm_ctx *c = open_context(NULL);
    uint8_t raw[DSM_DESC_MAX];
    dsm_region *region;
    dsm_remote *remote;
    dsm_ticket *t;
    CHECK(!dsm_alloc(c, 4096, 7, &region));
    CHECK(!dsm_attach(c, raw, (size_t)dsm_region_descriptor(region, raw), -1, &remote));
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .remote = remote, .nbytes = 8, .operand = 5};
    CHECK(!dsm_submit(c, &op, 1, &t, NULL) && *(uint64_t *)dsm_region_data(region) == 5);
    CHECK(dsm_remote_close(remote) == -DSM_EBUSY);
    CHECK(!dsm_finish(t, -1, NULL) && !op.result && !dsm_remote_close(remote) && !dsm_region_close(region));
    dsm_close(c);
}

/* What happens to postings: in those in 'spoiled' an op of another thread comes first, and fails; the next one takes a
 * time; and an abort comes right after the first that finds no connection (0), or after the first that finds
 * one (1). */
static uint32_t postings, spoiled, stop_word;
static int64_t next_takes;
static int stop_after = -1;

static uint32_t connecting; /* calls that make a connection, or wait for it */

int __real_peer_ready(struct peer *p, bool atomics, int64_t deadline);
int __wrap_peer_ready(struct peer *p, bool atomics, int64_t deadline);
int __wrap_peer_ready(struct peer *p, bool atomics, int64_t deadline)
{
    fetch_add_u32(&connecting, 1);
    return __real_peer_ready(p, atomics, deadline);
}

static bool post_behind_another(struct peer *p, const struct op_group *g);
bool __real_peer_post(struct peer *p, const struct op_group *g);
bool __wrap_peer_post(struct peer *p, const struct op_group *g);
bool __wrap_peer_post(struct peer *p, const struct op_group *g)
{
    for (int64_t until = clock_ns() + next_takes; clock_ns() < until;)
        usleep(1000);
    next_takes = 0;
    bool spoil = postings < 32 && spoiled & 1u << postings;
    bool posted = spoil ? post_behind_another(p, g) : __real_peer_post(p, g);
    postings += posted;
    if (posted == stop_after)
        store_release_u32(&stop_word, 1);
    return posted;
}

static bool post_behind_another(struct peer *p, const struct op_group *g)
{
    static dsm_op others[32];
    static struct fabric_op work[32];
    static struct fabric_group groups[32];
    uint32_t i = postings;
    groups[i] = (struct fabric_group){.pending = 1};
    others[i] = add_one(0);
    work[i] = (struct fabric_op){.op = &others[i], .group = &groups[i], .next = g->head};
    struct op_group both = *g;
    both.head = &work[i];
    bool posted = __real_peer_post(p, &both);
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
    next_takes = 20 * MS;
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
    dsm_ticket *t;
    uint64_t word;
    open_all(1, "drop=1", HOUR);
    op = add_one(0);
    op.code = code;
    op.local = &word;
    CHECK(!(started ? dsm_start(user, &op, 1, &t, NULL) : dsm_submit(user, &op, 1, &t, NULL)));
    while (!outstanding(remotes[0]->peer))
        usleep(1000);
    disown(0);
    CHECK(!started || next_completed(user) == t);
    int rc = dsm_finish(t, -1, NULL);
    CHECK(code == DSM_OP_READ ? rc == -DSM_EPEER : is_unknown(rc, DSM_EPEER));
    CHECK(!dsm_remote_close(remotes[0]));
    dsm_close(user);
}

/* The helper connects meanwhile: the group that waits for it ends at once, and the others on the list stay. */
static void stopped_before_there_is_a_connection(int which)
{
    dsm_op ops[4];
    dsm_ticket *tickets[4];
    uint32_t stop = 0;
    open_all(1, "", HOUR);
    struct peer *p = remotes[0]->peer;
    pthread_mutex_lock(&p->control_lock); /* so the helper waits */
    for (int i = 0; i < 3; i++) {
        ops[i] = add_one(0);
        dsm_choice how = {.stop = i == which ? &stop : NULL};
        CHECK(!dsm_start_as(user, &ops[i], 1, &how, &tickets[i], NULL));
    }
    CHECK(!dsm_completed(user));
    dsm_stop(user, &ops[which], 1, &stop, tickets[which]);
    CHECK(dsm_completed(user) == tickets[which] && dsm_finish(tickets[which], -1, NULL) == -DSM_ECANCELED);
    ops[3] = add_one(0); /* the end of the list is still known */
    CHECK(!dsm_start(user, &ops[3], 1, &tickets[3], NULL) && !dsm_completed(user));
    pthread_mutex_unlock(&p->control_lock);
    for (int i = 0; i < 3; i++)
        CHECK(!dsm_finish(next_completed(user), -1, NULL));
    CHECK(word_of(0) == 3);
    close_all(1);
}

/* Another thread connects all the while. The op says why it was not sent. */
static void ended_before_there_is_a_connection(bool late)
{
    dsm_ticket *t;
    open_all(1, "", late ? 20 * MS : HOUR);
    struct peer *p = remotes[0]->peer;
    pthread_mutex_lock(&p->control_lock);
    dsm_op op = add_one(0);
    store_relaxed_u32(&connecting, 0);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    while (!load_relaxed_u32(&connecting))
        usleep(1000);
    if (!late)
        dsm_cancel(user);
    CHECK(next_completed(user) == t && dsm_finish(t, -1, NULL) == (late ? -DSM_ETIME : -DSM_ECANCELED));
    CHECK(!word_of(0));
    pthread_mutex_unlock(&p->control_lock);
    close_all(1);
}

/* A word that is set already: nothing is posted. */
static void stopped_before_it_began(bool started)
{
    uint32_t stop = 1;
    dsm_ticket *t;
    open_all(1, "", HOUR);
    dsm_op op = add_one(0);
    dsm_choice how = {.stop = &stop};
    int rc = started ? dsm_start_as(user, &op, 1, &how, &t, NULL) : dsm_execute_as(user, &op, 1, &how, -1, NULL);
    CHECK(started ? rc == 1 && dsm_finish(t, -1, NULL) == -DSM_ECANCELED : rc == -DSM_ECANCELED);
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
    dsm_ticket *t;
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
        dsm_stop(user, ops, 3, &stop_word, t);
        CHECK(next_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ECANCELED));
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
    dsm_ticket *t;
    open_all(1, "", HOUR);
    dsm_op ops[] = {add_one(0), add_one(0)};
    ops[0].offset = 1 << 20;
    dsm_choice how = {.go_on = true, .stop = &stop};
    if (started)
        CHECK(dsm_start_as(user, ops, 2, &how, &t, NULL) == 1 && dsm_finish(t, -1, NULL) == -DSM_EBOUNDS);
    else
        CHECK(dsm_execute_as(user, ops, 2, &how, -1, NULL) == -DSM_EBOUNDS);
    CHECK(ops[0].status == -DSM_EBOUNDS && ops[1].status == -DSM_ECANCELED && !word_of(0));
    close_all(1);
}

/* Ops that wait for room in the ticket are not posted once one of those before them is late. */
static void late_started_batch(bool go_on)
{
    dsm_op ops[OWNERS];
    dsm_ticket *t;
    open_all(OWNERS, "drop=11-18", 50 * MS);
    connect_all(OWNERS);
    for (int i = 0; i < OWNERS; i++)
        ops[i] = add_one(i);
    CHECK(!dsm_start_as(user, ops, OWNERS, &(dsm_choice){.go_on = go_on}, &t, NULL));
    CHECK(next_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ETIME));
    for (int i = 0; i < OWNERS; i++) {
        bool began = i < TICKET_GROUPS;
        CHECK(word_of(i) == began && ops[i].status == (began ? -DSM_EUNKNOWN : -DSM_ETIME));
    }
    close_all(OWNERS);
}

/* One of two groups is late; the other ends after it, and was in time. */
static void late_and_in_time(void)
{
    dsm_ticket *t;
    open_all(2, "drop=3&delay=4:20ms", 50 * MS);
    connect_all(2);
    dsm_op ops[] = {add_one(0), add_one(1)};
    CHECK(!dsm_start(user, ops, 2, &t, NULL));
    struct peer *p = remotes[1]->peer;
    struct pollfd on = {.fd = dsm_event_fd(user), .events = POLLIN};
    pthread_mutex_lock(&p->lock); /* no thread sees meanwhile that it has ended */
    CHECK(poll(&on, 1, -1) == 1);
    pthread_mutex_unlock(&p->lock);
    CHECK(next_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ETIME));
    CHECK(ops[0].status == -DSM_EUNKNOWN && ops[0].cause == -DSM_ETIME && word_of(1) == 1);
    close_all(2);
}

/* An abort costs the connections on which something is outstanding, no others. */
static void stopped_where_it_is_outstanding(void)
{
    dsm_ticket *t;
    uint64_t old;
    open_all(2, "drop=4", HOUR);
    connect_all(2);
    dsm_op ops[] = {add_one(0), add_one(1)};
    stop_word = 0;
    CHECK(!dsm_start_as(user, ops, 2, &(dsm_choice){.stop = &stop_word}, &t, NULL));
    while (outstanding(remotes[0]->peer) || !word_of(1))
        usleep(1000);
    uint64_t before = connects();
    dsm_stop(user, ops, 2, &stop_word, t);
    CHECK(next_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ECANCELED));
    CHECK(!ops[0].status && ops[1].status == -DSM_EUNKNOWN);
    for (int i = 0; i < 2; i++)
        CHECK(!dsm_fetch_add(remotes[i], 0, 0, &old, -1) && old == 1);
    CHECK(connects() == before + 1);
    close_all(2);
}

/* A file of this host stands beside memory of an owner, and one of its ops is refused: no owner is asked why, and the
 * file is free again afterwards. */
static void refused_on_a_file(bool started)
{
    dsm_ticket *t;
    dsm_remote *file;
    uint64_t word = 1;
    open_all(1, "", HOUR);
    int fd = memfd_create("file", MFD_CLOEXEC);
    CHECK(fd >= 0 && !ftruncate(fd, 4096) && !dsm_map(fd, 4096, DSM_READ, &file));
    close(fd);
    dsm_op ops[] = {{.code = DSM_OP_WRITE, .remote = file, .local = &word, .nbytes = 8},
                    add_one(0),
                    {.code = DSM_OP_READ, .remote = file, .local = &word, .nbytes = 8}};
    dsm_choice how = {.go_on = true};
    if (started) {
        CHECK(!dsm_start_as(user, ops, 3, &how, &t, NULL) && next_completed(user) == t);
        CHECK(dsm_finish(t, -1, NULL) == -DSM_EACCESS);
    } else {
        CHECK(dsm_execute_as(user, ops, 3, &how, -1, NULL) == -DSM_EACCESS);
    }
    CHECK(ops[0].status == -DSM_EACCESS && !ops[1].status && !ops[2].status && !word && word_of(0) == 1);
    CHECK(!dsm_remote_close(file));
    close_all(1);
}

/* ---- why an op was refused ---- */

static uint32_t asked;
static struct control counting;

static int counted_status(struct peer *p, uint64_t id, uint64_t generation, int64_t deadline)
{
    fetch_add_u32(&asked, 1);
    return client_status(p, id, generation, deadline);
}

static void count_questions(int (*status)(struct peer *p, uint64_t id, uint64_t generation, int64_t deadline))
{
    counting = *user->control;
    counting.status = status;
    user->control = &counting;
    store_relaxed_u32(&asked, 0);
}

/* The plan refuses ops as soon as they are posted, from the second one on. Questions to their owner are counted. */
static void open_refused(const char *plan)
{
    open_all(1, plan, HOUR);
    connect_all(1);
    count_questions(counted_status);
}

/* No event loop has seen yet that the op was refused. */
static void stopped_before_it_asks(bool go_on)
{
    uint32_t stop = 0;
    dsm_ticket *t;
    open_refused("refuse=2");
    dsm_op op = add_one(0);
    CHECK(!dsm_start_as(user, &op, 1, &(dsm_choice){.go_on = go_on, .stop = &stop}, &t, NULL));
    dsm_stop(user, &op, 1, &stop, t);
    CHECK(dsm_completed(user) == t && dsm_finish(t, -1, NULL) == -DSM_EACCESS);
    CHECK(!load_relaxed_u32(&asked) && !word_of(0));
    close_all(1);
}

/* The owner does not say why: the wait for its answer is stopped all the same. */
static void *execute_refused(void *arg)
{
    dsm_op op = add_one(0);
    CHECK(dsm_execute_as(user, &op, 1, &(dsm_choice){.go_on = true, .stop = &stop_word}, -1, NULL) == -DSM_EACCESS);
    return arg;
}

static void stopped_while_it_asks(bool started)
{
    pthread_t thread;
    dsm_ticket *t;
    open_refused("refuse=2");
    store_relaxed_u32(&stop_word, 0);
    dsm_op op = add_one(0);
    pthread_mutex_lock(&owners[0]->lock); /* its agent does not answer */
    if (started)
        CHECK(!dsm_start_as(user, &op, 1, &(dsm_choice){.go_on = true, .stop = &stop_word}, &t, NULL));
    else
        CHECK(!pthread_create(&thread, NULL, execute_refused, NULL));
    for (; !load_relaxed_u32(&asked); usleep(1000))
        CHECK(!started || !dsm_completed(user)); /* settles the ticket, which lets the helper ask */
    dsm_stop(user, &op, 1, &stop_word, started ? t : NULL);
    if (started)
        CHECK(next_completed(user) == t && dsm_finish(t, -1, NULL) == -DSM_EACCESS);
    else
        CHECK(!pthread_join(thread, NULL));
    pthread_mutex_unlock(&owners[0]->lock);
    close_all(1);
}

/* Ops of one peer that were all refused, whose owner does not say why: one is asked about, the others wait. The time
 * for all of them runs from when the event loop saw that they were refused. */
enum { WAITING = 4 };
static uint32_t told;
static int64_t until[WAITING];

static int status_when_told(struct peer *p, uint64_t id, uint64_t generation, int64_t deadline)
{
    until[fetch_add_u32(&asked, 1)] = deadline;
    while (!load_acquire_u32(&told) && !wait_stopped())
        usleep(1000);
    return client_status(p, id, generation, deadline);
}

static size_t count_waiting(struct peer *p)
{
    size_t n = 0;
    pthread_mutex_lock(&p->lock);
    for (const struct op_group *g = p->ask; g; g = g->next)
        n++;
    pthread_mutex_unlock(&p->lock);
    return n;
}

static void several_that_ask(void)
{
    dsm_op ops[WAITING];
    dsm_ticket *tickets[WAITING];
    uint32_t stops[WAITING] = {0};
    open_refused("refuse=2-5");
    count_questions(status_when_told);
    store_relaxed_u32(&told, 0);
    struct peer *p = remotes[0]->peer;
    for (int i = 0; i < WAITING; i++) {
        ops[i] = add_one(0);
        CHECK(!dsm_start_as(user, &ops[i], 1, &(dsm_choice){.stop = &stops[i]}, &tickets[i], NULL));
        while (load_acquire_u32(&p->async[0]) || load_acquire_u32(&p->async[1]))
            usleep(1000);
    }
    for (; !load_relaxed_u32(&asked) || count_waiting(p) < WAITING - 1; usleep(1000))
        CHECK(!dsm_completed(user));
    int64_t seen = clock_ns();
    dsm_stop(user, &ops[2], 1, &stops[2], tickets[2]); /* it waits between others */
    CHECK(dsm_completed(user) == tickets[2] && dsm_finish(tickets[2], -1, NULL) == -DSM_EACCESS);
    dsm_stop(user, &ops[3], 1, &stops[3], tickets[3]); /* the last one */
    CHECK(dsm_completed(user) == tickets[3] && dsm_finish(tickets[3], -1, NULL) == -DSM_EACCESS);
    while (clock_ns() == seen)
        usleep(1000);
    store_release_u32(&told, 1);
    for (int i = 0; i < 2; i++) { /* in the order in which they were started */
        CHECK(next_completed(user) == tickets[i] && dsm_finish(tickets[i], -1, NULL) == -DSM_EACCESS);
        CHECK(until[i] <= seen + HOUR);
    }
    CHECK(load_relaxed_u32(&asked) == 2 && !word_of(0));
    close_all(1);
}

/* Ops of two owners are refused: one time for both questions, and the owner that is dead is the second to be asked. */
static struct peer *which_peer[2];

static int status_never(struct peer *p, uint64_t id, uint64_t generation, int64_t deadline)
{
    (void)id;
    (void)generation;
    uint32_t i = fetch_add_u32(&asked, 1);
    CHECK(i < 2);
    which_peer[i] = p;
    until[i] = deadline;
    for (int64_t now = clock_ns(); clock_ns() == now;)
        usleep(1);
    return -DSM_ETIME;
}

static void several_owners_are_asked(bool started)
{
    dsm_ticket *t;
    open_all(2, "refuse=3-4", HOUR);
    connect_all(2);
    count_questions(status_never);
    dsm_op ops[] = {add_one(0), add_one(1)};
    struct peer *dead = remotes[0]->peer;
    CHECK(!(started ? dsm_start(user, ops, 2, &t, NULL) : dsm_submit(user, ops, 2, &t, NULL)));
    store_release_u32(&dead->dead, 1);
    CHECK(!started || next_completed(user) == t);
    CHECK(dsm_finish(t, -1, NULL) == -DSM_EACCESS);
    store_release_u32(&dead->dead, 0);
    CHECK(load_relaxed_u32(&asked) == 2 && which_peer[1] == dead && until[0] == until[1] && until[0] < DEADLINE_NEVER);
    close_all(2);
}

/* The helper waits for the answer when the ops are cancelled: that of one which waits for a connection ends, too. */
static void canceled_while_it_asks(void)
{
    dsm_ticket *tickets[2], *t;
    open_refused("refuse=2");
    dsm_op ops[] = {add_one(0), add_one(0)};
    pthread_mutex_lock(&owners[0]->lock);
    CHECK(!dsm_start(user, &ops[0], 1, &tickets[0], NULL));
    for (; !load_relaxed_u32(&asked); usleep(1000))
        CHECK(!dsm_completed(user));
    CHECK(!dsm_start(user, &ops[1], 1, &tickets[1], NULL) && !dsm_completed(user));
    dsm_cancel(user);
    for (int i = 0; i < 2; i++) {
        CHECK((t = dsm_completed(user)));
        CHECK(dsm_finish(t, -1, NULL) == (t == tickets[0] ? -DSM_EACCESS : -DSM_ECANCELED));
    }
    pthread_mutex_unlock(&owners[0]->lock);
    CHECK(!word_of(0));
    close_all(1);
}

/* An op is refused, and then its owner ends. */
static void refused_by_one_that_ends(bool started)
{
    dsm_ticket *t;
    open_refused("refuse=2");
    dsm_op op = add_one(0);
    CHECK(!(started ? dsm_start(user, &op, 1, &t, NULL) : dsm_submit(user, &op, 1, &t, NULL)));
    CHECK(op.status == -DSM_EACCESS);
    disown(0);
    CHECK(!started || next_completed(user) == t);
    CHECK(dsm_finish(t, -1, NULL) == -DSM_EPEER && load_relaxed_u32(&asked) == 1);
    CHECK(!dsm_remote_close(remotes[0]));
    dsm_close(user);
}

int main(void)
{
    late_batch();
    first_that_failed_of_itself();
    mapped_in_use();
    for (int which = 0; which < 3; which++)
        stopped_before_there_is_a_connection(which);
    ended_before_there_is_a_connection(false);
    ended_before_there_is_a_connection(true);
    stopped_before_it_began(false);
    stopped_before_it_began(true);
    stopped_between(1, 1);
    stopped_between(0, 0);
    stopped_while_another_connects();
    given_up();
    late_between_two_postings(false);
    late_between_two_postings(true);
    late_started_batch(false);
    late_started_batch(true);
    late_and_in_time();
    stopped_where_it_is_outstanding();
    canceled_while_it_asks();
    several_that_ask();
    for (int started = 0; started < 2; started++) {
        refused_on_a_file(started);
        stopped_with_a_refused_op(started);
        stopped_in_the_middle(started);
        owner_that_dies(DSM_OP_FETCH_ADD, started);
        owner_that_dies(DSM_OP_READ, started);
        stopped_before_it_asks(started);
        stopped_while_it_asks(started);
        several_owners_are_asked(started);
        refused_by_one_that_ends(started);
    }
    puts("ok");
    return 0;
}
