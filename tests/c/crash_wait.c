/*
 * Kills a process at every step of what would wake another one that sleeps on a queue: a put, a get, a shutdown. A step
 * is a change of what they share. The sleeper goes on within LIMIT_NS. If the dead process had done what is waited for,
 * that happens without help, although the eventcount may not have been notified; otherwise it happens once a successor
 * does it.
 * Exit status 77: this kernel does not allow ptrace here.
 */
#include "crash_queue.h"

#include <sys/prctl.h>

#define LONG_NS 60000000000ll /* the timeout of sleepers, long enough that none of them returns because of it */

/* ---- victims ---- */

static int puts_one(void *arg)
{
    dsm_queue *q = producer_at(reach());
    (void)arg;
    stepper_mark();
    CHECK(!dsm_queue_push(q, batch, now->length, 1) && !dsm_queue_flush(q));
    return finish();
}

static int takes_one(void *arg)
{
    dsm_queue *q = consumer_at(reach());
    const void *p;
    uint64_t length;
    uint8_t kind;
    (void)arg;
    stepper_mark();
    CHECK(!dsm_queue_next(q, &p, &length, &kind) && !dsm_queue_done(q));
    return finish();
}

static int shut_down(int at_once)
{
    dsm_queue *q = handle_at(reach());
    stepper_mark();
    CHECK(!dsm_queue_shutdown(q, at_once));
    return finish();
}

static int shuts_down(void *arg) { return (void)arg, shut_down(0); }
static int shuts_down_at_once(void *arg) { return (void)arg, shut_down(1); }

/* ---- sleepers ---- */

static void gets(void)
{
    struct taken t;
    dsm_queue *c = consumer_at(reach());
    store_release_u64(&said->begun, 1);
    CHECK(!dsm_queue_wait_item(c, LONG_NS, 0, -1));
    drain(c, &t);
    CHECK(t.n == 1 && t.number[0] == 0);
}

static void puts_more(void)
{
    dsm_queue *p = producer_at(reach());
    store_release_u64(&said->begun, 1);
    CHECK(!dsm_queue_wait_room(p, now->length, LONG_NS, 0, -1));
    CHECK(put_some(p, waiting, 1) == waiting + 1);
}

static void hears_that_nothing_comes(void)
{
    dsm_queue *c = consumer_at(reach());
    store_release_u64(&said->begun, 1);
    CHECK(dsm_queue_wait_item(c, LONG_NS, 0, -1) == -DSM_ESHUTDOWN);
}

static void hears_that_nothing_goes(void)
{
    dsm_queue *p = producer_at(reach());
    store_release_u64(&said->begun, 1);
    CHECK(dsm_queue_wait_room(p, now->length, LONG_NS, 0, -1) == -DSM_ESHUTDOWN);
}

/* ---- successors: 'instead' does what the dead process has not ---- */

static void put_instead(void)
{
    dsm_queue *p = producer_at(own);
    if (lane_lines(p, 0)->tail == now->position && p->head == now->position)
        put_some(p, 0, 1);
    leave(p);
}

static void take_instead(void)
{
    dsm_queue *c = consumer_at(own);
    const void *p;
    uint64_t length;
    uint8_t kind;
    if (lane_lines(c, 0)->tail == now->position)
        CHECK(!dsm_queue_next(c, &p, &length, &kind) && !dsm_queue_done(c));
    leave(c);
}

static void shut_down_instead(void)
{
    dsm_queue *q = handle_at(own);
    if (!queue_shutdown(q))
        CHECK(!dsm_queue_shutdown(q, now->victim == shuts_down_at_once));
    leave(q);
}

/* ---- scenes ---- */

#define ONE \
    { \
        .lanes = 1, .lane_bytes = LANE, .max_message = LONGEST \
    }

static const struct {
    struct scene scene;
    void (*sleeps)(void), (*instead)(void);
} scenes[] = {
    {{"a put for a sleeping consumer", ONE, LANE + 512, 0, 40, 1, .victim = puts_one}, gets, put_instead},
    {{"a get for a sleeping producer", ONE, LANE + 512, FULL, 40, 1, .victim = takes_one}, puts_more, take_instead},
    {{"a shutdown for a sleeping consumer", ONE, LANE + 512, 0, 40, 1, .victim = shuts_down},
     hears_that_nothing_comes,
     shut_down_instead},
    {{"a shutdown for a sleeping producer", ONE, LANE + 512, FULL, 40, 1, .victim = shuts_down},
     hears_that_nothing_goes,
     shut_down_instead},
    {{"a shutdown at once", ONE, LANE + 512, 0, 40, 1, .victim = shuts_down_at_once},
     hears_that_nothing_comes,
     shut_down_instead},
};

static pid_t sleeper;

/* The process state in /proc: 'S', 'Z' and so on. */
static char state_of(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    CHECK(f && fgets(text, sizeof text, f));
    fclose(f);
    return strrchr(text, ')')[2];
}

static void begin_sleeper(void (*sleeps)(void))
{
    fflush(NULL);
    sleeper = fork();
    CHECK(sleeper >= 0);
    if (!sleeper) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sleeps();
        _exit(0);
    }
    int64_t until = clock_ns() + LIMIT_NS;
    while (!load_acquire_u64(&said->begun) || state_of(sleeper) != 'S')
        CHECK(clock_ns() < until);
}

static void end_sleeper(void)
{
    int status;
    pid_t ended;
    int64_t until = clock_ns() + LIMIT_NS;
    while (!(ended = waitpid(sleeper, &status, WNOHANG)))
        CHECK(clock_ns() < until && !usleep(500));
    CHECK(ended == sleeper);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static bool try_at(size_t i)
{
    struct stepper v;
    begin();
    begin_sleeper(scenes[i].sleeps);
    start(&v, now->victim);
    bool inside = advance(&v, point);
    stepper_kill(&v);
    scenes[i].instead();
    end_sleeper();
    return inside;
}

int main(void)
{
    make();
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
        now = &scenes[i].scene;
        for (point = 0; try_at(i); point++)
            ;
        CHECK(point > 2);
        printf("%s: killed at %llu points\n", now->name, (unsigned long long)point);
    }
    puts("ok");
    return 0;
}
