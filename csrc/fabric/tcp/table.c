/* What belongs to a device and is protected by its lock: files, and registrations by slot. */
#include "../../base/sha256.h"
#include "tcp.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void tcp_lock(struct tcp_dev *d)
{
    pthread_mutex_lock(&d->waiting);
    pthread_mutex_lock(&d->lock);
    pthread_mutex_unlock(&d->waiting);
}

void tcp_unlock(struct tcp_dev *d) { pthread_mutex_unlock(&d->lock); }

/* ---- files ---- */

void tcp_file_add(struct tcp_dev *d, struct tcp_file *f, int fd)
{
    f->fd = fd;
    f->next = d->files;
    d->files = f;
}

/* The agents' timeout for what is not acknowledged would also end a connection whose peer is slow to read. Ops have
 * limits of their own, and a host that is gone is noticed by the control connection. */
static void be_patient(int fd)
{
    unsigned never = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &never, sizeof never);
}

/* Whether both ends are on this host; false where that is not certain. */
static bool is_loopback(int fd)
{
    struct sockaddr_storage at[2];
    socklen_t len[2] = {sizeof at[0], sizeof at[1]};
    if (getsockname(fd, (struct sockaddr *)&at[0], &len[0]) || getpeername(fd, (struct sockaddr *)&at[1], &len[1]) ||
        at[0].ss_family != at[1].ss_family)
        return false;
    if (at[0].ss_family == AF_INET6)
        return IN6_ARE_ADDR_EQUAL(&((struct sockaddr_in6 *)&at[0])->sin6_addr,
                                  &((struct sockaddr_in6 *)&at[1])->sin6_addr);
    in_addr_t own = ((struct sockaddr_in *)&at[0])->sin_addr.s_addr,
              other = ((struct sockaddr_in *)&at[1])->sin_addr.s_addr, first_byte = htonl(0xff000000);
    return at[0].ss_family == AF_INET && (own == other || (own & other & first_byte) == htonl(0x7f000000));
}

/* BBR takes a process that waits for its processor for a path that is slow, and paces what follows. On loopback there
 * is no path that could be filled: there Reno, which every kernel has and lets everyone choose, takes its place. */
static void do_not_pace(int fd)
{
    static const char paces[] = "bbr", other[] = "reno";
    char now[16] = ""; /* TCP_CA_NAME_MAX */
    socklen_t len = sizeof now;
    if (!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, now, &len) && !strncmp(now, paces, sizeof paces - 1) &&
        is_loopback(fd))
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, other, sizeof other - 1);
}

void tcp_settle(int fd)
{
    be_patient(fd);
    do_not_pace(fd);
}

void tcp_file_close(struct tcp_dev *d, struct tcp_file *f)
{
    struct tcp_file **at = &d->files;
    if (f->fd < 0)
        return;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    close(f->fd);
    f->fd = -1;
}

/* ---- registrations ---- */

int tcp_slot_take(struct tcp_dev *d, struct tcp_mem *m)
{
    if (d->free_slot == d->nslots) {
        uint32_t n = d->nslots ? d->nslots * 2 : 16;
        struct tcp_slot *more = n > d->nslots ? realloc(d->slots, n * sizeof *more) : NULL;
        if (!more)
            return err_set(DSM_ENOMEM, 0, "%u regions", n);
        for (uint32_t i = d->nslots; i < n; i++)
            more[i] = (struct tcp_slot){.next_free = i + 1};
        d->slots = more;
        d->nslots = n;
    }
    m->slot = d->free_slot;
    d->free_slot = d->slots[m->slot].next_free;
    d->slots[m->slot].mem = m;
    return 0;
}

void tcp_slot_free(struct tcp_dev *d, struct tcp_mem *m)
{
    assert(d->slots[m->slot].mem == m);
    d->slots[m->slot] = (struct tcp_slot){.next_free = d->free_slot};
    d->free_slot = m->slot;
}

struct tcp_mem *tcp_find(struct tcp_dev *d, uint32_t slot, const uint8_t key[TCP_KEY])
{
    struct tcp_mem *m = slot < d->nslots ? d->slots[slot].mem : NULL;
    return m && same_bytes(m->key, key, TCP_KEY) ? m : NULL;
}
