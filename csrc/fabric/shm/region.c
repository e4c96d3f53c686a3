#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct shm_mem {
    struct fabric_mem base;
    int fd;
    uint64_t map_bytes;
    struct shm_status_page *status_page;
};

struct shm_remote {
    struct fabric_remote base;
    uint64_t map_bytes;
};

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static uint64_t status_page_at(uint64_t nbytes) { return round_up(nbytes, SHM_STATUS_PAGE); }

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* linux/fcntl.h */
#endif
#define HUGE_PAGE (2ull << 20)
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26) /* log2 of the size, linux/memfd.h */
#endif

static bool huge_pages_free(uint64_t want)
{
    unsigned long long n = 0;
    FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
    if (!f)
        return false;
    bool known = fscanf(f, "%llu", &n) == 1;
    fclose(f);
    return known && n >= want / HUGE_PAGE;
}

static int refuse_size(uint64_t size, int sys)
{
    return err_set(sys == ENOSPC || sys == ENOMEM || sys == EFBIG ? DSM_ENOMEM : DSM_ESYS, sys,
                   "%llu bytes of shared memory", (unsigned long long)size);
}

/* Creates a memfd of *size bytes and allocates its pages. In huge pages if enough are free; then *size is rounded
 * up. */
static int make_file(uint64_t *size, int *out)
{
    int fd = -1;
    uint64_t huge = round_up(*size, HUGE_PAGE);
    if (*size >= HUGE_PAGE && huge_pages_free(huge)) {
        fd = memfd_create("dsmem", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);
        if (fd >= 0 && !fallocate(fd, 0, 0, (off_t)huge)) {
            *size = huge;
        } else if (fd >= 0) { /* another process was faster: use ordinary pages */
            close(fd);
            fd = -1;
        }
    }
    if (fd < 0) {
        if (*size > shm_room("")) /* otherwise the kernel's OOM killer would kill this process or another one */
            return refuse_size(*size, ENOMEM);
        fd = memfd_create("dsmem", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
            return err_set_errno(errno, "memfd_create");
        if (ftruncate(fd, (off_t)*size) || fallocate(fd, 0, 0, (off_t)*size)) {
            int sys = errno;
            close(fd);
            return refuse_size(*size, sys);
        }
    }
    *out = fd;
    return 0;
}

/* Seals the file, which is mapped already: the mapping stays writable also if F_SEAL_FUTURE_WRITE forbids new writable
 * mappings. */
static int seal(int fd, uint32_t access)
{
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (!(access & (DSM_WRITE | DSM_ATOMIC)) && !fcntl(fd, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE))
        return 0;
    /* Before Linux 5.1 a process of the same user can make a read-only file descriptor writable again. */
    return fcntl(fd, F_ADD_SEALS, seals) ? err_set_errno(errno, "sealing a memfd") : 0;
}

int shm_mem_alloc(struct fabric_dev *d, uint64_t nbytes, uint32_t access, struct fabric_mem **out)
{
    uint64_t size = status_page_at(nbytes) + SHM_STATUS_PAGE;
    struct shm_mem *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(DSM_ENOMEM, 0, "region");
    int rc = make_file(&size, &m->fd);
    if (rc) {
        free(m);
        return rc;
    }
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    rc = p == MAP_FAILED ? err_set_errno(errno, "mapping %llu bytes", (unsigned long long)size) : seal(m->fd, access);
    if (rc) {
        if (p != MAP_FAILED)
            munmap(p, size);
        close(m->fd);
        free(m);
        return rc;
    }
    madvise(p, size, MADV_HUGEPAGE); /* a hint; it may fail */
    m->map_bytes = size;
    m->status_page = (struct shm_status_page *)(void *)(p + status_page_at(nbytes));
    *m->status_page =
        (struct shm_status_page){.magic = SHM_MAGIC, .version = SHM_VERSION, .state = SHM_LIVE, .nbytes = nbytes};
    m->base = (struct fabric_mem){.dev = d, .data = p, .nbytes = nbytes, .access = access};
    *out = &m->base;
    return 0;
}

int shm_mem_register(struct fabric_dev *d, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access,
                     struct fabric_mem **out)
{
    (void)d, (void)n, (void)p, (void)nbytes, (void)access, (void)out;
    return err_set(DSM_ENOTSHARED, 0, "shm can't register memory that is already there");
}

void shm_mem_free(struct fabric_mem *base)
{
    struct shm_mem *m = (struct shm_mem *)base;
    store_release_u32(&m->status_page->state, SHM_CLOSED);
    munmap(base->data, m->map_bytes);
    close(m->fd);
    free(m);
}

int shm_mem_export(struct fabric_mem *base, int *fd)
{
    struct shm_mem *m = (struct shm_mem *)base;
    char path[40];
    if (base->access & (DSM_WRITE | DSM_ATOMIC)) {
        *fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 0);
    } else { /* another open file description, read-only, so that the peer can't map it for writing */
        snprintf(path, sizeof path, "/proc/self/fd/%d", m->fd);
        *fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    return *fd < 0 ? err_set_errno(errno, "handing over a region") : 0;
}

int shm_mem_import(struct fabric_dev *d, const dsm_descriptor *grant, int fd, struct fabric_remote **out)
{
    struct stat st;
    if (fd < 0)
        return err_set(DSM_EPROTO, 0, "the owner handed over no memory");
    int seals = fcntl(fd, F_GET_SEALS); /* before fstat: a file that is not sealed may shrink afterwards */
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return err_set(DSM_EPROTO, 0, "the owner handed over memory that it could shrink");
    if (fstat(fd, &st))
        return err_set_errno(errno, "looking at a region");
    if (!grant->nbytes || grant->nbytes > (uint64_t)INT64_MAX - 2 * SHM_STATUS_PAGE ||
        (uint64_t)st.st_size < status_page_at(grant->nbytes) + SHM_STATUS_PAGE)
        return err_set(DSM_EPROTO, 0, "the owner handed over %lld bytes for a region of %llu", (long long)st.st_size,
                       (unsigned long long)grant->nbytes);
    uint64_t size = (uint64_t)st.st_size;
    int prot = PROT_READ | (grant->access & (DSM_WRITE | DSM_ATOMIC) ? PROT_WRITE : 0);
    uint8_t *p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return err_set_errno(errno, "mapping %llu bytes", (unsigned long long)size);
    const struct shm_status_page *t = (const struct shm_status_page *)(const void *)(p + status_page_at(grant->nbytes));
    struct shm_remote *r = NULL;
    if (t->magic != SHM_MAGIC || t->nbytes != grant->nbytes) {
        munmap(p, size);
        return err_set(DSM_EPROTO, 0, "the owner handed over something that is not a region");
    }
    if (t->version != SHM_VERSION) {
        munmap(p, size);
        return err_set(DSM_EVERSION, 0, "the region has layout version %u, this is %d", t->version, SHM_VERSION);
    }
    if (!(r = calloc(1, sizeof *r))) {
        munmap(p, size);
        return err_set(DSM_ENOMEM, 0, "remote");
    }
    madvise(p, size, MADV_HUGEPAGE);
    r->map_bytes = size;
    r->base = (struct fabric_remote){
        .dev = d, .mapped = p, .state = &t->state, .nbytes = grant->nbytes, .access = grant->access};
    *out = &r->base;
    return 0;
}

void shm_mem_forget(struct fabric_remote *base)
{
    struct shm_remote *r = (struct shm_remote *)base;
    munmap(base->mapped, r->map_bytes);
    free(r);
}
