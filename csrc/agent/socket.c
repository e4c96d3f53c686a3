/* The sockets of the control protocol. An agent's address is "unix:@dsmem-UID-NODE" (abstract: the kernel removes it
 * when the process ends) or "tcp:HOST:PORT". */
#include "../base/deadline.h"
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static socklen_t unix_address(const char *name, struct sockaddr_un *out)
{
    size_t n = strlen(name);
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (n >= sizeof out->sun_path)
        n = sizeof out->sun_path - 1;
    memcpy(out->sun_path + 1, name, n);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

int socket_listen_unix(const dsm_ctx *c, char address[DSM_ADDRESS_MAX], int *out)
{
    struct sockaddr_un at;
    char name[80];
    int n = snprintf(name, sizeof name, "dsmem-%u-", geteuid());
    for (int i = 0; i < DSM_NODE_ID; i++)
        n += snprintf(name + n, sizeof name - (size_t)n, "%02x", c->node[i]);
    socklen_t len = unix_address(name, &at);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set_errno(errno, "socket");
    if (bind(fd, (struct sockaddr *)&at, len) || listen(fd, SOMAXCONN)) {
        int sys = errno;
        close(fd);
        return err_set_errno(sys, "listening on %s", name);
    }
    snprintf(address, DSM_ADDRESS_MAX, "unix:@%s", name);
    *out = fd;
    return 0;
}

static bool is_port(const char *text)
{
    size_t n = strspn(text, "0123456789");
    return n && n < 8 && !text[n] && strtoul(text, NULL, 10) <= UINT16_MAX;
}

/* Splits "host", "host:port" or "[v6]:port". */
static int split(const char *text, char host[80], char port[8])
{
    const char *end, *colon, *whole = text;
    host[0] = port[0] = 0;
    if (text[0] == '[' && (end = strchr(text, ']'))) {
        text++;
        colon = end[1] == ':' ? end + 1 : NULL;
    } else {
        colon = strrchr(text, ':');
        if (colon && strchr(text, ':') != colon) /* a bare IPv6 address */
            colon = NULL;
        end = colon ? colon : text + strlen(text);
    }
    if ((size_t)(end - text) >= 80 || (colon && !is_port(colon + 1)))
        return err_set(DSM_EINVAL, 0, "'%.80s' is not host or host:port; a port is a number from 0 to 65535", whole);
    memcpy(host, text, (size_t)(end - text));
    host[end - text] = 0;
    if (colon)
        strcpy(port, colon + 1);
    return 0;
}

static int resolve(const char *host, const char *port, int flags, struct addrinfo **out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    int bad = getaddrinfo(*host ? host : NULL, *port ? port : "0", &hints, out);
    if (!bad)
        return 0;
    return err_set(DSM_EINVAL, 0, "'%s' is no address: %s; give it in numbers, or by a name that this host can resolve",
                   host, gai_strerror(bad));
}

/* An address at which other hosts may reach this one: the first IPv4 address of an interface that is up and not
 * loopback, or else 127.0.0.1. */
static void own_address(char host[80])
{
    struct ifaddrs *all = NULL;
    strcpy(host, "127.0.0.1");
    if (getifaddrs(&all))
        return;
    for (struct ifaddrs *i = all; i; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && (i->ifa_flags & IFF_UP) &&
            !(i->ifa_flags & IFF_LOOPBACK)) {
            inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, host, 80);
            break;
        }
    freeifaddrs(all);
}

static int bind_tcp(const char *host, const char *port, int *out, uint16_t *bound)
{
    struct addrinfo *to = NULL;
    int rc = resolve(host, port, AI_PASSIVE, &to);
    if (rc)
        return rc;
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    if (fd < 0 || bind(fd, to->ai_addr, to->ai_addrlen) || listen(fd, SOMAXCONN) ||
        getsockname(fd, (struct sockaddr *)&at, &len)) {
        rc = err_set_errno(errno, "listening on %s port %s", *host ? host : "any address", *port ? port : "any");
        if (fd >= 0)
            close(fd);
        freeaddrinfo(to);
        return rc;
    }
    freeaddrinfo(to);
    *bound = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&at)->sin6_port
                                            : ((struct sockaddr_in *)(void *)&at)->sin_port);
    *out = fd;
    return 0;
}

/* The address that peers are told, which is not that of an interface here: behind NAT, or of a container. */
static int advertised(const char *text, char host[80], uint16_t *bound)
{
    char port[8];
    int rc = split(text, host, port);
    if (rc)
        return rc;
    unsigned long number = *port ? strtoul(port, NULL, 10) : *bound;
    if (!*host || !number)
        return err_set(DSM_EINVAL, 0, "'%.80s' is not an address that peers can use; advertise host or host:port",
                       text);
    *bound = (uint16_t)number;
    return 0;
}

int socket_listen_tcp(const dsm_ctx *c, const dsm_options *o, char address[DSM_ADDRESS_MAX], int *out)
{
    char host[80] = "", port[8] = "";
    const char *listen_at = o->listen;
    uint16_t bound = 0;
    static const char mapped[] = "::ffff:";
    int rc = listen_at && *listen_at ? split(listen_at, host, port) : 0;
    if (rc)
        return rc;
    for (size_t i = 0; i < c->ndevs && !*host; i++) /* the IPv4 address of a RoCE port also serves TCP */
        if (!strncmp(c->devs[i]->caps.gid, mapped, sizeof mapped - 1))
            snprintf(host, sizeof host, "%s", c->devs[i]->caps.gid + sizeof mapped - 1);
    if ((rc = bind_tcp(host, port, out, &bound)))
        return rc;
    if (!*host || !strcmp(host, "0.0.0.0") || !strcmp(host, "::"))
        own_address(host);
    if (o->advertise && (rc = advertised(o->advertise, host, &bound)))
        return rc;
    snprintf(address, DSM_ADDRESS_MAX, strchr(host, ':') ? "tcp:[%s]:%u" : "tcp:%s:%u", host, bound);
    return 0;
}

void socket_arrived_at(int fd, char address[DSM_ADDRESS_MAX])
{
    struct sockaddr_storage at = {0};
    socklen_t len = sizeof at;
    char host[INET6_ADDRSTRLEN] = "";
    getsockname(fd, (struct sockaddr *)&at, &len);
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)&at;
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)&at;
    bool is_six = at.ss_family == AF_INET6, inside = is_six && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr);
    if (is_six && !inside)
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
    else
        inet_ntop(AF_INET, inside ? (const void *)&six->sin6_addr.s6_addr[12] : &four->sin_addr, host, sizeof host);
    snprintf(address, DSM_ADDRESS_MAX, is_six && !inside ? "tcp:[%s]:%u" : "tcp:%s:%u", host,
             ntohs(is_six ? six->sin6_port : four->sin_port));
}

/* ---- connecting ---- */

static int finish_connect(int fd, const char *address, int64_t deadline)
{
    struct pollfd on = {.fd = fd, .events = POLLOUT};
    while (poll(&on, 1, deadline_poll_ms(deadline, WAIT_SLICE_NS / 1000000)) <= 0)
        if (clock_ns() >= deadline || wait_interrupted())
            return err_set(DSM_ETIME, 0, "connecting to the agent at %s", address);
    int sys = 0;
    socklen_t len = sizeof sys;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &sys, &len);
    return sys ? err_set(DSM_EPEER, sys, "no agent at %s", address) : 0;
}

/* Blocks in the kernel while the backlog is full: a caller that only polls would lose every free place to processes
 * that block. */
static int connect_unix(int fd, const struct sockaddr *to, socklen_t len, const char *address, int64_t deadline)
{
    if (fcntl(fd, F_SETFL, 0)) /* blocking from here on, except for calls with MSG_DONTWAIT */
        return err_set_errno(errno, "socket");
    for (;;) {
        const struct timeval most = {.tv_usec = 1000 * (deadline_poll_ms(deadline, WAIT_SLICE_NS / 1000000) + 1)};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
        if (!connect(fd, to, len))
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            return err_set(DSM_EPEER, errno, "no agent at %s", address);
        if (clock_ns() >= deadline || wait_interrupted())
            return err_set(DSM_ETIME, 0, "the agent at %s accepts no connections", address);
    }
}

static int connect_tcp(int fd, const struct sockaddr *to, socklen_t len, const char *address, int64_t deadline)
{
    if (connect(fd, to, len) && errno != EINPROGRESS)
        return err_set(DSM_EPEER, errno, "no agent at %s", address);
    return finish_connect(fd, address, deadline);
}

static int open_socket(dsm_ctx *c, const struct sockaddr *to, socklen_t len, const char *address, int64_t deadline,
                       int *out)
{
    core_lock(&c->lock);
    int fd = *out = socket(to->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), sys = errno;
    core_unlock(&c->lock);
    if (fd < 0)
        return err_set_errno(sys, "socket");
    int rc = to->sa_family == AF_UNIX ? connect_unix(fd, to, len, address, deadline)
                                      : connect_tcp(fd, to, len, address, deadline);
    if (rc)
        socket_close(c, out);
    return rc;
}

void socket_close(dsm_ctx *c, int *fd)
{
    core_lock(&c->lock);
    close(*fd);
    *fd = -1;
    core_unlock(&c->lock);
}

/* Keepalive probes begin after about a quarter of the timeout. TCP_USER_TIMEOUT sets the same limit while sent data is
 * not acknowledged. */
void socket_keep_alive(int fd, int64_t peer_timeout_ns)
{
    enum { PROBES = 3, LONGEST_S = 4 * 32767 }; /* tcp(7): TCP_KEEPIDLE */
    int64_t seconds = (peer_timeout_ns + 999999999) / 1000000000;
    seconds = seconds < PROBES + 1 ? PROBES + 1 : seconds > LONGEST_S ? LONGEST_S : seconds;
    int on = 1, count = PROBES, every = (int)(seconds / (PROBES + 1)), idle = (int)seconds - PROBES * every;
    unsigned silent_ms = (unsigned)seconds * 1000;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silent_ms, sizeof silent_ms);
}

/* ---- the user of the other process ---- */

static bool is_unix(const char *address) { return !strncmp(address, "unix:@", 6); }

/* Returns true if fd is a Unix socket, and stores the user of the process at its other end. */
static bool other_user(int fd, uid_t *user)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
        return false;
    *user = peer.uid;
    return true;
}

bool socket_may_ask(int fd)
{
    uid_t user;
    return other_user(fd, &user) && (user == geteuid() || user == 0);
}

/* A server must run as the user of this process. If this process runs as root, the server may run as any user, but it
 * must be the one in the address: no other user's process may have taken that address. */
bool socket_serves_us(int fd, const char *address)
{
    uid_t user;
    unsigned named;
    if (!is_unix(address))
        return true;
    if (!other_user(fd, &user))
        return false;
    return user == geteuid() || (geteuid() == 0 && sscanf(address, "unix:@dsmem-%u-", &named) == 1 && user == named);
}

int socket_connect(dsm_ctx *c, const char *address, int64_t deadline, int *fd)
{
    if (is_unix(address)) {
        struct sockaddr_un at;
        socklen_t len = unix_address(address + 6, &at);
        return open_socket(c, (struct sockaddr *)&at, len, address, deadline, fd);
    }
    char host[80], port[8];
    struct addrinfo *to = NULL;
    if (strncmp(address, "tcp:", 4))
        return err_set(DSM_EDESC, 0, "an agent's address can't be '%s'", address);
    int rc = split(address + 4, host, port);
    if (!rc)
        rc = resolve(host, port, AI_NUMERICHOST, &to);
    if (rc)
        return rc;
    rc = open_socket(c, to->ai_addr, to->ai_addrlen, address, deadline, fd);
    freeaddrinfo(to);
    if (!rc)
        socket_keep_alive(*fd, c->peer_timeout_ns);
    return rc;
}
