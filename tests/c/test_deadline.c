/* wraps: nanosleep clock_gettime */
/* Deadlines, and sleeps between looks at a word, under a clock that stands still. */
#include "check.h"
#include "objects/backoff.h"

int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out);

enum { NOW = 7000000 };
static int64_t slept;
static int sleeps;

int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    (void)left;
    CHECK(t->tv_sec == 0 && t->tv_nsec > 0 && t->tv_nsec <= 999999999);
    slept = t->tv_nsec;
    sleeps++;
    return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
    (void)clock;
    *out = (struct timespec){.tv_nsec = NOW};
    return 0;
}

static void deadlines(void)
{
    CHECK(deadline_after(-1) == DEADLINE_NEVER && deadline_after(INT64_MAX) == DEADLINE_NEVER);
    CHECK(deadline_after(0) == NOW && deadline_after(5) == NOW + 5);
    CHECK(deadline_earlier(3, 4) == 3 && deadline_earlier(4, 3) == 3 && deadline_earlier(DEADLINE_NEVER, 4) == 4);
    CHECK(deadline_poll_ms(DEADLINE_NEVER, 50) == 50 && deadline_poll_ms(NOW + 60000000, 50) == 50);
    CHECK(deadline_poll_ms(NOW + 1, 50) == 1 && deadline_poll_ms(NOW + 1000001, 50) == 2);
    CHECK(deadline_poll_ms(NOW, 50) == 0 && deadline_poll_ms(NOW - 1, 50) == 0);
    struct timespec t = clock_time(3000000004);
    CHECK(t.tv_sec == 3 && t.tv_nsec == 4);
}

/* Between a half of the bound and the bound, which doubles. */
static void sleeps_grow(int64_t deadline)
{
    struct backoff b = BACKOFF_INIT;
    int64_t bound = b.longest;
    for (int i = 1; i <= 20; i++) {
        sleeps = 0;
        backoff_sleep(&b, deadline);
        CHECK(sleeps == 1 && slept >= bound / 2 && slept < bound);
        bound = bound < BACKOFF_MAX_NS ? 2 * bound : bound;
        CHECK(b.longest == bound && bound < 2 * BACKOFF_MAX_NS);
    }
}

static void sleeps_end_at_the_deadline(void)
{
    struct backoff b = BACKOFF_INIT;
    sleeps = 0;
    backoff_sleep(&b, NOW + 10);
    CHECK(sleeps == 1 && slept == 10);
    backoff_sleep(&b, NOW);
    backoff_sleep(&b, NOW - 1);
    CHECK(sleeps == 1);
}

int main(void)
{
    deadlines();
    sleeps_grow(DEADLINE_NEVER);
    sleeps_grow(NOW + 3600ll * 1000000000);
    sleeps_end_at_the_deadline();
    puts("ok");
    return 0;
}
