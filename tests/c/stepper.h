/*
 * Runs a child one instruction at a time, so that a test can stop or kill it at each.
 *
 *   struct stepper s;
 *   stepper_start(&s, body, arg)     a child runs body(arg) up to its call of stepper_mark(), and stops there
 *   stepper_step(&s, n)              up to n instructions; true while it is still between its first and its second mark
 *   stepper_change(&s, at, copy, n)  up to a change of the n bytes at 'at', which it copies before; false: it came to
 *   its end
 *   stepper_kill(&s)                 SIGKILL, wherever it is; it has ended when this returns
 *   stepper_release(&s)              lets it run on by itself (after its second mark too); stepper_join(&s) gives its
 *   exit status
 *
 * body calls stepper_mark() where the steps begin and once more where they end, and returns the child's exit status.
 * What it shares with the test lies in shared memory. It runs after fork(), so it attaches to objects itself. A child
 * that blocks in a system call blocks stepper_step() as well, so what is stepped must have a bound on its sleep. Steps
 * in the kernel do not count.
 *
 * The kernel must allow ptrace: stepper_start() returns false where it does not. Both run on one processor: a step that
 * wakes another processor, and waits for it, takes up to twenty times as long.
 */
#ifndef DSM_TESTS_STEPPER_H
#define DSM_TESTS_STEPPER_H

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct stepper {
    pid_t pid;
    bool inside;    /* between the marks */
    uint64_t steps; /* since the first mark */
};

enum { STEPPER_MARK = SIGUSR2 };

static inline void stepper_mark(void)
{
    if (raise(STEPPER_MARK))
        abort();
}

/* The signal that the child stopped with, 0 when it has ended. */
static inline int stepper_wait(struct stepper *s)
{
    int status;
    while (waitpid(s->pid, &status, __WALL) != s->pid)
        if (errno != EINTR)
            return 0;
    return WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
}

static inline void stepper_kill(struct stepper *s)
{
    if (!s->pid)
        return;
    kill(s->pid, SIGKILL);
    while (stepper_wait(s))
        ;
    s->pid = 0;
}

static inline void stepper_pin(void)
{
    int cpu = sched_getcpu();
    cpu_set_t one;
    CPU_ZERO(&one);
    if (cpu >= 0 && cpu < CPU_SETSIZE) {
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one); /* it is only faster */
    }
}

static inline bool stepper_start(struct stepper *s, int (*body)(void *), void *arg)
{
    *s = (struct stepper){0};
    fflush(NULL);
    stepper_pin();
    s->pid = fork();
    if (s->pid < 0)
        return false;
    if (!s->pid) {
        signal(STEPPER_MARK, SIG_IGN); /* a mark that is not traced */
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
            _exit(126);
        _exit(body(arg));
    }
    if (stepper_wait(s) != STEPPER_MARK) {
        stepper_kill(s);
        return false;
    }
    ptrace(PTRACE_SETOPTIONS, s->pid, NULL, PTRACE_O_EXITKILL);
    s->inside = true;
    return true;
}

static inline bool stepper_step(struct stepper *s, uint64_t n)
{
    for (; n && s->inside; n--) {
        if (ptrace(PTRACE_SINGLESTEP, s->pid, NULL, NULL))
            s->inside = false;
        else if (stepper_wait(s) != SIGTRAP)
            s->inside = false; /* the second mark, or its end */
        else
            s->steps++;
    }
    return s->inside;
}

static inline bool stepper_change(struct stepper *s, const void *at, void *copy, size_t n)
{
    memcpy(copy, at, n);
    while (stepper_step(s, 1))
        if (memcmp(at, copy, n))
            return true;
    return false;
}

static inline void stepper_release(struct stepper *s)
{
    s->inside = false;
    ptrace(PTRACE_DETACH, s->pid, NULL, NULL);
}

/* After stepper_release(): the exit status, 128 + the signal that ended it. */
static inline int stepper_join(struct stepper *s)
{
    int status = 0;
    while (waitpid(s->pid, &status, 0) != s->pid)
        if (errno != EINTR)
            return -1;
    s->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif
