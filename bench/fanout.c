/*
 * The bounds of a store over tcp: messages of the same lengths to several processes over loopback, by nothing but
 * send() and recv().
 *
 * Usage: fanout PEERS LOOKS. Reads lines "N PHASES" from its standard input, with two numbers for each phase and peer
 * behind: the bytes that go there, and the bytes that come back. A phase sends all of them, then waits for all answers.
 * Answers each line with the seconds of N times all phases. Both sides look all the time if LOOKS is 1, or sleep.
 */
#include "raw.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEERS = 8, PHASES = 4 };

struct lengths {
    uint32_t up, down;
};

struct plan {
    uint32_t n, phases;
    struct lengths of[PHASES];
};

static int flags; /* of recv() and send() */

static void serve(int fd)
{
    for (struct plan plan; recv(fd, &plan, sizeof plan, MSG_WAITALL) == sizeof plan;)
        for (uint32_t i = 0; i < plan.n; i++)
            for (uint32_t phase = 0; phase < plan.phases; phase++)
                if (plan.of[phase].up) {
                    hear(fd, plan.of[phase].up, flags);
                    say(fd, plan.of[phase].down, flags);
                }
}

static void once(const int *fds, int peers, const struct plan *plans, uint32_t phase)
{
    for (int peer = 0; peer < peers; peer++)
        say(fds[peer], plans[peer].of[phase].up, flags);
    for (int peer = 0; peer < peers; peer++)
        hear(fds[peer], plans[peer].of[phase].up ? plans[peer].of[phase].down : 0, flags);
}

static double measure(const int *fds, int peers, const struct plan *plans)
{
    for (int peer = 0; peer < peers; peer++)
        if (send(fds[peer], &plans[peer], sizeof *plans, 0) != sizeof *plans)
            exit(1);
    double start = now();
    for (uint32_t i = 0; i < plans[0].n; i++)
        for (uint32_t phase = 0; phase < plans[0].phases; phase++)
            once(fds, peers, plans, phase);
    return now() - start;
}

/* A process that serves, over a connection of its own. */
static int peer_of_its_own(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&a, len) || listen(listener, 1) || getsockname(listener, (void *)&a, &len) ||
        connect(fd, (void *)&a, len))
        exit(1);
    if (!fork()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fd);
        serve(quick(accept(listener, NULL, NULL)));
        _exit(0);
    }
    close(listener);
    return quick(fd);
}

static int read_plans(struct plan *plans, int peers)
{
    if (scanf("%u %u", &plans[0].n, &plans[0].phases) != 2 || plans[0].phases > PHASES)
        return 0;
    for (uint32_t phase = 0; phase < plans[0].phases; phase++)
        for (int peer = 0; peer < peers; peer++) {
            struct lengths *of = &plans[peer].of[phase];
            if (scanf("%u %u", &of->up, &of->down) != 2 || of->up > LONGEST || of->down > LONGEST)
                return 0;
        }
    for (int peer = 1; peer < peers; peer++) {
        plans[peer].n = plans[0].n;
        plans[peer].phases = plans[0].phases;
    }
    return 1;
}

int main(int argc, char **argv)
{
    struct plan plans[PEERS];
    int peers = argc == 3 ? atoi(argv[1]) : 0, fds[PEERS];
    if (peers < 1 || peers > PEERS)
        return 1;
    flags = atoi(argv[2]) ? MSG_DONTWAIT : 0;
    for (int peer = 0; peer < peers; peer++)
        fds[peer] = peer_of_its_own();
    while (read_plans(plans, peers)) {
        printf("%.9f\n", measure(fds, peers, plans));
        fflush(stdout);
    }
    return 0;
}
