/* wraps: epoll_wait recv recvmsg clock_gettime */
/*
 * The turns of an owner over tcp, whose progress thread lives in a time of the test's own: when it polls, when it
 * sleeps, and how much it does for one connection before it asks whether others have work.
 */
#include "base/deadline.h"
#include "base/wire.h"
#include "check.h"
#include "fabric/tcp/tcp.h"

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LONG = 8 << 20, PART = 100000, PARTS = 40, TURN = 1 << 18 };

static dsm_stats stats;
static struct fabric_dev *device;
static struct fabric_ep *ep;
static struct fabric_mem *registered;
static uint8_t *memory, slot_and_key[TCP_BLOB];
static int peer; /* our end of the connection */
static int64_t now_ns = INT64_C(1) << 40;

/* Of the progress thread. */
static uint64_t asked, sleeps, looks; /* calls of epoll_wait; those that may sleep; of recvmsg */
static uint64_t received;             /* bytes */
static int first_wait;                /* -2: there was no call of epoll_wait since; else the timeout of the first */
static size_t turn;                   /* bytes of a long WRITE in its turn so far */
static bool was_long;                 /* the last turn was, and epoll has not been asked since */
static uint64_t greedy;               /* turns that came behind such a one */

int __real_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
    (void)clock;
    int64_t now = load_acquire_u64((uint64_t *)&now_ns);
    *out = (struct timespec){now / 1000000000, now % 1000000000};
    return 0;
}

int __real_epoll_wait(int fd, struct epoll_event *events, int n, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int n, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int n, int timeout)
{
    int none = -2;
    turn = 0;
    was_long = false;
    __atomic_compare_exchange_n(&first_wait, &none, timeout, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    if (timeout)
        fetch_add_u64(&sleeps, 1);
    fetch_add_u64(&asked, 1);
    return __real_epoll_wait(fd, events, n, timeout);
}

static ssize_t count(ssize_t n)
{
    if (n > 0)
        fetch_add_u64(&received, (uint64_t)n);
    return n;
}

ssize_t __real_recv(int fd, void *to, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *to, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *to, size_t n, int flags)
{
    ssize_t got = __real_recv(fd, to, n, flags);
    return fd == peer ? got : count(got);
}

ssize_t __real_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags)
{
    ssize_t n = __real_recvmsg(fd, m, flags);
    fetch_add_u64(&greedy, was_long);
    if (n > 0) {
        turn += (size_t)n;
    } else {
        was_long = turn > TURN / 8;
        turn = 0;
    }
    fetch_add_u64(&looks, 1);
    return count(n);
}

static void wait_for(const uint64_t *word, uint64_t least)
{
    while (load_acquire_u64(word) < least)
        usleep(100);
}

/* The time in which the thread polls after work passes, and it sleeps. */
static void let_it_sleep(void)
{
    uint64_t before = load_acquire_u64(&sleeps);
    while (load_acquire_u64(&sleeps) == before) {
        fetch_add_u64((uint64_t *)&now_ns, 1000000000);
        usleep(100);
    }
}

static void open_device(void)
{
    struct memory *m;
    struct fabric_blob blob = {0};
    int fds[2];
    CHECK(!tcp_fabric.open(&(struct fabric_options){.text = ""}, &stats, &device));
    ((struct tcp_dev *)device)->spin_ns = 50000; /* also on a host with one processor */
    CHECK((memory = calloc(1, LONG)) && !memory_of_caller(memory, LONG, &m));
    CHECK(!tcp_fabric.reg(device, 1, &m, DSM_WRITE, &registered) && !tcp_fabric.export(registered, &blob));
    memory_drop(m);
    memcpy(slot_and_key, blob.bytes, TCP_BLOB);
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    CHECK(!tcp_fabric.ep_open(device, true, &ep) && !tcp_fabric.ep_stream(ep, fds[1]));
    peer = fds[0];
}

static void send_all(const uint8_t *bytes, size_t n)
{
    for (ssize_t got; n; bytes += got, n -= (size_t)got)
        CHECK((got = send(peer, bytes, n, 0)) > 0);
}

static void begin_a_long_write(uint64_t number)
{
    uint8_t head[TCP_REQUEST];
    struct tcp_request q = {
        .code = DSM_OP_WRITE, .pieces = 1, .slot = get_u32(slot_and_key), .nbytes = LONG, .number = number};
    memcpy(q.key, slot_and_key + 4, TCP_KEY);
    tcp_put_request(head, &q);
    uint64_t before = load_acquire_u64(&received);
    send_all(head, sizeof head);
    wait_for(&received, before + sizeof head);
}

/* Sends a part, and waits until the owner has it. */
static void send_part(size_t n)
{
    static uint8_t bytes[PART];
    uint64_t before = load_acquire_u64(&received);
    for (size_t i = 0; i < n; i += PART)
        send_all(bytes, n - i < PART ? n - i : PART);
    wait_for(&received, before + n);
}

static void expect_reply(void)
{
    uint8_t reply[TCP_REPLY];
    CHECK(recv(peer, reply, sizeof reply, MSG_WAITALL) == sizeof reply);
}

/* The owner does not fall asleep in front of the next part. */
static void a_part_of_a_write_is_work(void)
{
    begin_a_long_write(0);
    send_part(PART);
    let_it_sleep();
    __atomic_store_n(&first_wait, -2, __ATOMIC_RELEASE);
    send_part(PART);
    while (__atomic_load_n(&first_wait, __ATOMIC_ACQUIRE) == -2)
        usleep(100);
    CHECK(!first_wait);
    send_part(LONG - 2 * PART);
    expect_reply();
}

/* It looks at the socket whose parts come, and seldom asks epoll; but always after a long turn. */
static void a_connection_that_is_alone_is_polled_by_itself(void)
{
    wait_for(&asked, load_acquire_u64(&asked) + 2);
    begin_a_long_write(1);
    for (size_t i = 0; i < PARTS; i++)
        send_part(PART);
    uint64_t before = load_acquire_u64(&asked), looked = load_acquire_u64(&looks);
    wait_for(&asked, before + 100);
    CHECK(load_acquire_u64(&looks) - looked > 400);
    send_part(LONG - (size_t)PARTS * PART);
    expect_reply();
    CHECK(!load_acquire_u64(&greedy));
}

int main(void)
{
    alarm(120); /* ends a program in which a thread sleeps on */
    open_device();
    a_part_of_a_write_is_work();
    a_connection_that_is_alone_is_polled_by_itself();
    close(peer);
    tcp_fabric.ep_close(ep);
    tcp_fabric.unreg(registered);
    tcp_fabric.close(device);
    free(memory);
    puts("ok");
    return 0;
}
