#include "apart.h"

#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1u << 1)
#endif

struct apart {
    void (*body)(void *);
    void *arg;
    unsigned from;
    pid_t tid;
    int error;
};

/* The new table has the descriptors below 'from'. The table is in use by the thread that waits, too, so this never
 * closes a descriptor of the program. */
static void *run(void *arg)
{
    struct apart *a = arg;
    a->tid = (pid_t)syscall(SYS_gettid);
    if (syscall(SYS_close_range, a->from, ~0u, CLOSE_RANGE_UNSHARE))
        a->error = errno;
    else
        a->body(a->arg);
    return NULL;
}

/* pthread_join() returns shortly before the kernel stops to count the thread, and some calls of a program (unshare, a
 * fork in Python) require that it has no other thread. */
static void wait_until_gone(pid_t tid)
{
    for (int i = 0; i < 100 && !syscall(SYS_tgkill, getpid(), tid, 0); i++)
        usleep(20);
}

int run_apart(int from, void (*body)(void *), void *arg)
{
    struct apart a = {.body = body, .arg = arg, .from = (unsigned)(from > 3 ? from : 3)};
    pthread_t thread;
    int error = thread_start(&thread, run, &a);
    if (error)
        return error;
    pthread_join(thread, NULL);
    wait_until_gone(a.tid);
    return a.error;
}
