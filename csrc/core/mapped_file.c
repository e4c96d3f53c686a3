/*
 * Files of shared memory as remotes: mapped, without a context, an agent or a peer.
 *
 * Every process that may write the file may also truncate it, and then its users get SIGBUS: the mode of the file
 * decides which users must be trusted.
 */
#include "remote.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const uint32_t live; /* always 0, for remote_check(): a file does not become stale */
static struct peer no_peer = {.address = "a mapped file", .fd = -1};

static int adopt(void *p, uint64_t nbytes, uint32_t access, dsm_remote **out)
{
    if (p == MAP_FAILED)
        return err_set_errno(errno, "mapping %llu bytes", (unsigned long long)nbytes);
    dsm_remote *r = calloc(1, sizeof *r);
    if (!r) {
        munmap(p, nbytes);
        return err_set(DSM_ENOMEM, 0, "remote");
    }
    *r = (dsm_remote){.mapped = p,
                      .state = &live,
                      .nbytes = nbytes,
                      .access = access,
                      .forks = load_relaxed_u32(&core_forks),
                      .peer = &no_peer};
    *out = r;
    return 0;
}

int dsm_map(int fd, uint64_t nbytes, uint32_t access, dsm_remote **out)
{
    struct stat st;
    if (!access || access > (DSM_READ | DSM_WRITE | DSM_ATOMIC))
        return err_set(DSM_EINVAL, 0, "access %u: rights are any of read, write and atomic", access);
    if (fstat(fd, &st))
        return err_set_errno(errno, "looking at a file");
    if (!nbytes || nbytes > (uint64_t)st.st_size)
        return err_set(DSM_EINVAL, 0, "mapping %llu bytes of a file that has %lld", (unsigned long long)nbytes,
                       (long long)st.st_size);
    int prot = PROT_READ | (access & (DSM_WRITE | DSM_ATOMIC) ? PROT_WRITE : 0);
    void *p = mmap(NULL, nbytes, prot, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED && errno == EACCES)
        return err_set(DSM_EACCESS, EACCES, "the file is not open for writing");
    return adopt(p, nbytes, access, out);
}

/* Whether 8 bytes can be read. The kernel tries to read them and returns EFAULT where a load would raise SIGBUS. */
static bool readable(const void *p) { return !syscall(SYS_rt_sigprocmask, ~0, p, NULL, 8) || errno != EFAULT; }

int dsm_map_again(dsm_remote *r, uint64_t nbytes, dsm_remote **out)
{
    uint64_t size = (nbytes + 4095) / 4096 * 4096;
    if (r->peer != &no_peer)
        return err_set(DSM_EINVAL, 0, "the memory is not a mapped file");
    if (!nbytes)
        return err_set(DSM_EINVAL, 0, "mapping no bytes");
    if (nbytes > 1ull << 46) /* corrupted: larger than an address space */
        return err_set(DSM_ECORRUPT, 0, "the file can't have %llu bytes", (unsigned long long)nbytes);
    /* With an old size of 0, mremap() creates another mapping of the same shared pages, of any size. */
    void *p = mremap(remote_at(r, 0), 0, size, MREMAP_MAYMOVE);
    if (p != MAP_FAILED && !readable((char *)p + size - 8)) {
        munmap(p, size);
        return err_set(DSM_ECORRUPT, 0, "the file has less than %llu bytes", (unsigned long long)nbytes);
    }
    return adopt(p, size, r->access, out);
}

int dsm_map_inherited(const dsm_remote *r, dsm_remote **out)
{
    if (r->peer != &no_peer)
        return err_set(DSM_EINVAL, 0, "the memory is not a mapped file");
    dsm_remote *own = malloc(sizeof *own);
    if (!own)
        return err_set(DSM_ENOMEM, 0, "remote");
    *own = *r;
    own->forks = load_relaxed_u32(&core_forks);
    own->users = 0;
    *out = own;
    return 0;
}

/* Also called in a child that has not used the remote: it unmaps the child's copy, and the parent keeps its mapping. */
void map_close(dsm_remote *r)
{
    munmap(remote_at(r, 0), r->nbytes);
    free(r);
}
