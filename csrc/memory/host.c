/* Host memory: allocating, mapping, sealing, and its reference count. */
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* linux/fcntl.h */
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26) /* log2 of the size, linux/memfd.h */
#endif
#define PAGE 4096ull
#define HUGE_PAGE (2ull << 20)

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static int refuse_size(uint64_t size, int sys)
{
    return err_set(sys == ENOSPC || sys == ENOMEM || sys == EFBIG ? DSM_ENOMEM : DSM_ESYS, sys, "%llu bytes of memory",
                   (unsigned long long)size);
}

/* ---- shared ---- */

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

/* Creates a memfd in huge pages of *size bytes, rounded up. Returns -1 if that is not possible. */
static int make_huge_file(uint64_t *size)
{
    uint64_t huge = round_up(*size, HUGE_PAGE);
    if (!huge_pages_free(huge))
        return -1;
    int fd = memfd_create("dsmem", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);
    if (fd >= 0 && fallocate(fd, 0, 0, (off_t)huge)) { /* another process was faster: use ordinary pages */
        close(fd);
        return -1;
    }
    if (fd >= 0)
        *size = huge;
    return fd;
}

/* Creates a memfd of *size bytes, allocates its pages and sets m->fd. In huge pages *size is rounded up. */
static int make_file(struct memory *m, uint64_t *size, unsigned flags)
{
    m->fd = flags & MEMORY_HUGE && *size >= HUGE_PAGE ? make_huge_file(size) : -1;
    m->huge = m->fd >= 0;
    if (m->huge)
        return 0;
    if (*size > memory_room("")) /* otherwise the kernel's OOM killer would kill this process or another one */
        return refuse_size(*size, ENOMEM);
    m->fd = memfd_create("dsmem", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->fd < 0)
        return err_set_errno(errno, "memfd_create");
    if (ftruncate(m->fd, (off_t)*size) || fallocate(m->fd, 0, 0, (off_t)*size))
        return refuse_size(*size, errno);
    return 0;
}

/* Seals the file, which is mapped already: the mapping stays writable also if F_SEAL_FUTURE_WRITE forbids new writable
 * mappings. */
static int seal(int fd, unsigned flags)
{
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (flags & MEMORY_READONLY && !fcntl(fd, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE))
        return 0;
    /* Before Linux 5.1 a process of the same user can make a read-only file descriptor writable again. */
    return fcntl(fd, F_ADD_SEALS, seals) ? err_set_errno(errno, "sealing a memfd") : 0;
}

static int alloc_shared(struct memory *m, unsigned flags)
{
    uint64_t size = memory_shared_bytes(m->nbytes);
    int rc = make_file(m, &size, flags);
    if (rc)
        return rc;
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (p == MAP_FAILED)
        return err_set_errno(errno, "mapping %llu bytes", (unsigned long long)size);
    m->data = p;
    m->mapped = size;
    m->trailer = p + memory_trailer_at(m->nbytes);
    return seal(m->fd, flags);
}

/* ---- private ---- */

/* Mapping huge pages fails at once unless enough are free. */
static int alloc_private(struct memory *m, unsigned flags)
{
    uint64_t size = round_up(m->nbytes, HUGE_PAGE);
    int how = MAP_PRIVATE | MAP_ANONYMOUS;
    void *p = flags & MEMORY_HUGE && m->nbytes >= HUGE_PAGE
                  ? mmap(NULL, size, PROT_READ | PROT_WRITE, how | MAP_HUGETLB, -1, 0)
                  : MAP_FAILED;
    m->huge = p != MAP_FAILED;
    if (!m->huge) {
        size = round_up(m->nbytes, PAGE);
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, how, -1, 0);
    }
    if (p == MAP_FAILED)
        return err_set_errno(errno, "mapping %llu bytes", (unsigned long long)size);
    m->data = p;
    m->mapped = size;
    return 0;
}

/* ---- both ---- */

static void memory_free(struct memory *m)
{
    if (m->mapped)
        munmap(m->data, m->mapped);
    if (m->fd >= 0)
        close(m->fd);
    free(m);
}

int memory_of_caller(void *p, uint64_t nbytes, struct memory **out)
{
    struct memory *m = malloc(sizeof *m);
    if (!m)
        return err_set(DSM_ENOMEM, 0, "memory");
    *m = (struct memory){.data = p, .nbytes = nbytes, .fd = -1, .holders = 1};
    *out = m;
    return 0;
}

int memory_alloc(uint64_t nbytes, unsigned flags, struct memory **out)
{
    struct memory *m = NULL;
    if (nbytes > (uint64_t)INT64_MAX - 2 * HUGE_PAGE) /* rounded up, it must fit into an off_t */
        return refuse_size(nbytes, ENOMEM);
    int rc = memory_of_caller(NULL, nbytes, &m);
    if (rc)
        return rc;
    rc = flags & MEMORY_SHARED ? alloc_shared(m, flags) : alloc_private(m, flags);
    if (rc) {
        memory_free(m);
        return rc;
    }
    if (!m->huge)
        madvise(m->data, m->mapped, MADV_HUGEPAGE); /* a hint; it may fail */
    *out = m;
    return 0;
}

void memory_hold(struct memory *m) { fetch_add_u32(&m->holders, 1); }

void memory_drop(struct memory *m)
{
    assert(load_relaxed_u32(&m->holders));
    if (fetch_sub_u32(&m->holders, 1) == 1)
        memory_free(m);
}
