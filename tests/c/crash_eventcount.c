/*
 * Stops a process after every instruction of eventcount_notify(eventcount, 1), lets two threads fall asleep meanwhile,
 * and lets the process go on. Then either 'sleepers' is still set, so that the next notify wakes the thread that is
 * left, or no thread is left asleep.
 * Exit status 77: this kernel does not allow ptrace here.
 */
#include "base/deadline.h"
#include "objects/eventcount.h"
#include "stepper.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s after %d steps\n", __FILE__, __LINE__, #x, point); \
            abort(); \
        } \
    } while (0)

static int point;
static struct eventcount *eventcount;

struct waiter {
    pthread_t thread;
    uint32_t tid;
};

static int rings(void *arg)
{
    (void)arg;
    stepper_mark();
    eventcount_notify(eventcount, 1);
    stepper_mark();
    return 0;
}

static void *sleeps(void *arg)
{
    struct waiter *w = arg;
    uint32_t seen = eventcount_prepare(eventcount);
    store_release_u32(&w->tid, (uint32_t)syscall(SYS_gettid));
    eventcount_wait(eventcount, seen, clock_ns() + 1000000000);
    return NULL;
}

static void until_asleep(struct waiter *w)
{
    char path[64], text[512];
    while (!load_acquire_u32(&w->tid))
        cpu_relax();
    snprintf(path, sizeof path, "/proc/self/task/%u/stat", load_acquire_u32(&w->tid));
    for (FILE *f; (f = fopen(path, "r"));) {
        bool asleep = fgets(text, sizeof text, f) && strrchr(text, ')')[2] == 'S';
        fclose(f);
        if (asleep)
            return;
    }
}

static bool try_at(int n)
{
    struct stepper s;
    struct waiter w[2] = {{0}};
    point = n;
    *eventcount = (struct eventcount){.sleepers = 1}; /* a waiter has prepared, and then saw what it wanted */
    if (!stepper_start(&s, rings, NULL))
        exit(77);
    bool inside = stepper_step(&s, (uint64_t)n);
    for (int i = 0; i < 2; i++) {
        CHECK(!pthread_create(&w[i].thread, NULL, sleeps, &w[i]));
        until_asleep(&w[i]);
    }
    stepper_release(&s);
    CHECK(!stepper_join(&s));
    bool heard = load_acquire_u32(&eventcount->sleepers);
    long left = syscall(SYS_futex, &eventcount->sequence, FUTEX_WAKE, NOTIFY_ALL, NULL, NULL, 0);
    CHECK(heard || !left);
    for (int i = 0; i < 2; i++)
        pthread_join(w[i].thread, NULL);
    return inside;
}

int main(void)
{
    eventcount = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int n = 0;
    while (try_at(n))
        n++;
    printf("stopped at %d instructions\nok\n", n);
    return n > 10 ? 0 : 1;
}
