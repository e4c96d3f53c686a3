/*
 * A thread with a table of descriptors of its own.
 *
 * A program may close a descriptor at any time, put another file in its place, and put the first one back: no check
 * before or after a system call proves which file that call used. So what must be true is done by a thread with a
 * descriptor table of its own, which nothing else can change.
 */
#ifndef DSM_BASE_APART_H
#define DSM_BASE_APART_H

/* Runs body(arg) in such a thread, and waits for it. Its table has the descriptors below 'from', and 0 to 2. What the
 * body opens is closed with the table. Returns 0 if the body has run, or an errno. */
int run_apart(int from, void (*body)(void *), void *arg);

#endif
