/*
 * The bounds of ops over tcp: two processes and one connection over loopback, nothing but send() and recv().
 *
 * Usage: tcp_raw CPU CPU. Reads lines "MODE N" from its standard input, and answers each with the seconds of N round
 * trips. Modes: 0 eight bytes to and fro; 2 eight bytes to the other side and 1 MiB back; 4 the other way round. Both
 * sides look all the time, or sleep if 1 is added.
 */
#include "raw.h"

#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SMALL = 8, LARGE = LONGEST };
enum { SLEEPS = 1, DOWN = 2, UP = 4 };

static void pin(const char *cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(atoi(cpu), &set);
    sched_setaffinity(0, sizeof set, &set);
}

static int flags_of(uint32_t mode) { return mode & SLEEPS ? 0 : MSG_DONTWAIT; }
static size_t there(uint32_t mode) { return mode & UP ? LARGE : SMALL; }
static size_t back(uint32_t mode) { return mode & DOWN ? LARGE : SMALL; }

/* What the other side is asked to do comes first. */
static void serve(int fd)
{
    for (uint32_t ask[2];;) {
        if (recv(fd, ask, sizeof ask, MSG_WAITALL) != sizeof ask)
            return;
        for (uint32_t i = 0; i < ask[1]; i++) {
            hear(fd, there(ask[0]), flags_of(ask[0]));
            say(fd, back(ask[0]), flags_of(ask[0]));
        }
    }
}

static double measure(int fd, uint32_t mode, uint32_t n)
{
    uint32_t ask[2] = {mode, n};
    if (send(fd, ask, sizeof ask, 0) != sizeof ask)
        exit(1);
    double start = now();
    for (uint32_t i = 0; i < n; i++) {
        say(fd, there(mode), flags_of(mode));
        hear(fd, back(mode), flags_of(mode));
    }
    return now() - start;
}

int main(int argc, char **argv)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    if (argc != 3 || bind(listener, (void *)&a, len) || listen(listener, 1) ||
        getsockname(listener, (void *)&a, &len) || connect(fd, (void *)&a, len))
        return 1;
    if (!fork()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fd);
        pin(argv[2]);
        serve(quick(accept(listener, NULL, NULL)));
        return 0;
    }
    close(listener);
    pin(argv[1]);
    quick(fd);
    for (unsigned mode, n; scanf("%u %u", &mode, &n) == 2;) {
        printf("%.9f\n", measure(fd, mode, n));
        fflush(stdout);
    }
    shutdown(fd, SHUT_RDWR);
    wait(NULL);
    return 0;
}
