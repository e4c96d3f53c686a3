/* What belongs to a device and is protected by its lock: files, and registrations by slot. */
#include "../../base/sha256.h"
#include "tcp.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
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
void tcp_patient(int fd)
{
    unsigned never = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &never, sizeof never);
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
