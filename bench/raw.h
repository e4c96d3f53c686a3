/* What bare sockets are measured with: send() and recv() of so many bytes. They look all the time with MSG_DONTWAIT. */
#ifndef BENCH_RAW_H
#define BENCH_RAW_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

enum { LONGEST = 1 << 20 };

static uint8_t bytes[LONGEST];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void hear(int fd, size_t n, int flags)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = recv(fd, bytes + done, n - done, flags);
        if (got > 0)
            done += (size_t)got;
        else if (!got || errno != EAGAIN)
            exit(0);
    }
}

static void say(int fd, size_t n, int flags)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = send(fd, bytes + done, n - done, flags | MSG_NOSIGNAL);
        if (got > 0)
            done += (size_t)got;
        else if (errno != EAGAIN)
            exit(0);
    }
}

static int quick(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

#endif
