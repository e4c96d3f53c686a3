/* Threads that wait for each other through objects; the alarm ends a program in which one is left asleep. It begins
 * again with each group, since a slow machine needs longer for all of them. Wants CHECK of the file that includes
 * it. */
#ifndef DSM_TESTS_TOGETHER_H
#define DSM_TESTS_TOGETHER_H

#include <pthread.h>
#include <unistd.h>

enum { THREADS = 4 };

/* Objects and handles are freed by the end of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }

static void together(int n, void *(*body)(void *), void *arg)
{
    pthread_t started[THREADS];
    alarm(60);
    for (int i = 0; i < n; i++)
        CHECK(!pthread_create(&started[i], NULL, body, arg));
    for (int i = 0; i < n; i++)
        CHECK(!pthread_join(started[i], NULL));
}

#endif
