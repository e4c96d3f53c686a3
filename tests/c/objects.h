/* Objects in memory of this process, under no name. The program that includes it defines CHECK. */
#ifndef DSM_TESTS_OBJECTS_H
#define DSM_TESTS_OBJECTS_H

#include "dsm.h"

#include <sys/mman.h>
#include <unistd.h>

static inline dsm_remote *map_of(int fd, uint64_t n)
{
    dsm_remote *r;
    CHECK(!dsm_map(fd, n, DSM_READ | DSM_WRITE | DSM_ATOMIC, &r));
    return r;
}

static inline dsm_remote *memory_of(uint64_t n)
{
    int fd = memfd_create("object", MFD_CLOEXEC);
    CHECK(fd >= 0 && !ftruncate(fd, (off_t)n));
    dsm_remote *r = map_of(fd, n);
    close(fd);
    return r;
}

static inline dsm_remote *object_of(int type, uint32_t members, uint32_t count)
{
    dsm_remote *r = memory_of(dsm_sync_bytes(type, members, count));
    CHECK(!dsm_sync_format(dsm_remote_mapped(r), type, members, count, 0));
    return r;
}

#endif
