/*
 * Files of shared memory as remotes: near, without a context, an agent or a peer.
 *
 * Whoever may write the file may also cut it short, and then its users meet SIGBUS: a name is as safe as its file mode.
 */
#include "core.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint32_t live; /* remote_check(): a file is never closed under its users */
static struct peer nobody = {.address = "a mapped file", .fd = -1};

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
    dsm_remote *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    int prot = PROT_READ | (access & (DSM_WRITE | DSM_ATOMIC) ? PROT_WRITE : 0);
    void *p = mmap(NULL, nbytes, prot, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        int sys = errno;
        free(r);
        return sys == EACCES ? err_set(DSM_EACCESS, sys, "the file is not open for writing")
                             : err_set_errno(sys, "mapping %llu bytes", (unsigned long long)nbytes);
    }
    *r = (dsm_remote){
        .near = p, .state = &live, .nbytes = nbytes, .access = access, .forks = peek_u32(&core_forks), .peer = &nobody};
    *out = r;
    return 0;
}

void map_close(dsm_remote *r)
{
    if (r->forks == peek_u32(&core_forks)) /* a child forgets: the mapping is its parent's, too */
        munmap(r->near, r->nbytes);
    free(r);
}
