/* Regions of shm: shared memory with a status page, handed over as a file descriptor and mapped by the peer. */
#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct shm_remote {
    struct fabric_remote base;
    uint64_t map_bytes;
};

/* ---- memory of this process ---- */

static int reg_one(struct fabric_dev *d, struct memory *m, uint32_t access, struct fabric_mem **out)
{
    if (m->fd < 0)
        return err_set(DSM_ENOTSHARED, 0, "shm can't register memory that is already there");
    struct fabric_mem *r = malloc(sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "region");
    memory_hold(m);
    *r = (struct fabric_mem){.dev = d, .memory = m, .access = access};
    *(struct shm_status_page *)m->trailer =
        (struct shm_status_page){.magic = SHM_MAGIC, .version = SHM_VERSION, .state = SHM_LIVE, .nbytes = m->nbytes};
    *out = r;
    return 0;
}

int shm_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out)
{
    int rc = 0;
    size_t made = 0;
    for (; made < n && !rc; made += !rc)
        rc = reg_one(d, m[made], access, &out[made]);
    while (rc && made)
        shm_unreg(out[--made]);
    return rc;
}

void shm_unreg(struct fabric_mem *m)
{
    struct shm_status_page *s = m->memory->trailer;
    store_release_u32(&s->state, SHM_CLOSED);
    memory_drop(m->memory);
    free(m);
}

int shm_export(struct fabric_mem *m, struct fabric_blob *out)
{
    char path[40];
    int fd;
    if (m->access & (DSM_WRITE | DSM_ATOMIC)) {
        fd = fcntl(m->memory->fd, F_DUPFD_CLOEXEC, 0);
    } else { /* another open file description, read-only, so that the peer can't map it for writing */
        snprintf(path, sizeof path, "/proc/self/fd/%d", m->memory->fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0)
        return err_set_errno(errno, "handing over a region");
    out->fds[out->nfds++] = fd;
    return 0;
}

/* ---- memory of other processes ---- */

/* Checks what the owner has handed over. */
static int check(const struct fabric_grant *grant, uint64_t *map_bytes)
{
    struct stat st;
    if (grant->blob.nfds != 1 || grant->blob.nbytes)
        return err_set(DSM_EPROTO, 0, "the owner handed over no memory");
    int fd = grant->blob.fds[0];
    int seals = fcntl(fd, F_GET_SEALS); /* before fstat: a file that is not sealed may shrink afterwards */
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return err_set(DSM_EPROTO, 0, "the owner handed over memory that it could shrink");
    if (fstat(fd, &st))
        return err_set_errno(errno, "looking at a region");
    if (!grant->nbytes || grant->nbytes > (uint64_t)INT64_MAX - 2 * MEMORY_TRAILER ||
        (uint64_t)st.st_size < memory_shared_bytes(grant->nbytes))
        return err_set(DSM_EPROTO, 0, "the owner handed over %lld bytes for a region of %llu", (long long)st.st_size,
                       (unsigned long long)grant->nbytes);
    *map_bytes = (uint64_t)st.st_size;
    return 0;
}

static int check_status_page(const struct shm_status_page *s, uint64_t nbytes)
{
    if (s->magic != SHM_MAGIC || s->nbytes != nbytes)
        return err_set(DSM_EPROTO, 0, "the owner handed over something that is not a region");
    if (s->version != SHM_VERSION)
        return err_set(DSM_EVERSION, 0, "the region has layout version %u, this is %d", s->version, SHM_VERSION);
    return 0;
}

int shm_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out)
{
    uint64_t size = 0;
    int rc = check(grant, &size);
    if (rc)
        return rc;
    int prot = PROT_READ | (grant->access & (DSM_WRITE | DSM_ATOMIC) ? PROT_WRITE : 0);
    uint8_t *p = mmap(NULL, size, prot, MAP_SHARED, grant->blob.fds[0], 0);
    if (p == MAP_FAILED)
        return err_set_errno(errno, "mapping %llu bytes", (unsigned long long)size);
    const struct shm_status_page *s = (const void *)(p + memory_trailer_at(grant->nbytes));
    struct shm_remote *r = NULL;
    rc = check_status_page(s, grant->nbytes);
    if (!rc && !(r = calloc(1, sizeof *r)))
        rc = err_set(DSM_ENOMEM, 0, "remote");
    if (rc) {
        munmap(p, size);
        return rc;
    }
    madvise(p, size, MADV_HUGEPAGE); /* a hint; it may fail */
    r->map_bytes = size;
    r->base = (struct fabric_remote){
        .dev = d, .mapped = p, .state = &s->state, .nbytes = grant->nbytes, .access = grant->access};
    *out = &r->base;
    return 0;
}

void shm_forget(struct fabric_remote *base)
{
    struct shm_remote *r = (struct shm_remote *)base;
    munmap(base->mapped, r->map_bytes);
    free(r);
}
