/* What /proc says of a process. */
#ifndef DSM_BASE_PROCESS_H
#define DSM_BASE_PROCESS_H

#include <stdint.h>

/* 0 and when it started, in clock ticks since boot, or 0 if it has ended and only waits to be reaped; -1: nothing can be read
 * of it, which may have many reasons (no such process, no file descriptors left, another user's /proc). */
int process_started(int pid, uint64_t *start);

#endif
