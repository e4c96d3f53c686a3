/*
 * Memory of this process that other processes may access, by kind. Fabrics register it and never allocate it, so one
 * region can be served by several fabrics.
 *
 *   shared    a sealed memfd, for fabrics whose peers map the memory. Its pages are allocated at the beginning, and it
 *             can neither grow nor shrink, so no process gets SIGBUS. It has no name that could outlive a process
 *   private   anonymous pages, for fabrics whose peers reach it through a device
 *   caller's  any memory of the application, which keeps it alive
 *
 * Memory is counted: the region has a reference, and so has every registration, since a device may use it as the local
 * buffer of an op after the region is closed.
 */
#ifndef DSM_MEMORY_MEMORY_H
#define DSM_MEMORY_MEMORY_H

#include "../base/atomic.h"
#include "../base/error.h"

#include <stdbool.h>
#include <stddef.h>

enum memory_kind { MEMORY_HOST = 0, MEMORY_DEVICE = 1 }; /* in descriptors; DEVICE: of a GPU, not supported yet */

enum { MEMORY_TRAILER = 4096 }; /* the trailer begins at a multiple of this, and has this many bytes */

struct memory {
    uint8_t *data;
    uint64_t nbytes;
    enum memory_kind kind;
    int fd;           /* shared: the memfd; otherwise -1 */
    void *trailer;    /* shared: MEMORY_TRAILER bytes behind the data that only the owner writes; otherwise NULL */
    uint64_t mapped;  /* bytes to unmap; 0: the caller's */
    bool huge;        /* in huge pages */
    uint32_t holders; /* reference count */
};

enum memory_flags {
    MEMORY_SHARED = 1,   /* a memfd with a trailer */
    MEMORY_READONLY = 2, /* shared: no other process can map it for writing */
    MEMORY_HUGE = 4,     /* in huge pages if enough are free */
};

/* Zeroed, page-aligned. Errors: ENOMEM, ESYS. */
int memory_alloc(uint64_t nbytes, unsigned flags, struct memory **out);
/* Memory of the caller. */
int memory_of_caller(void *p, uint64_t nbytes, struct memory **out);
void memory_hold(struct memory *m);
void memory_drop(struct memory *m);

/* The bytes of a shared mapping, for its owner and for processes that map it. */
static inline uint64_t memory_trailer_at(uint64_t nbytes)
{
    return (nbytes + MEMORY_TRAILER - 1) / MEMORY_TRAILER * MEMORY_TRAILER;
}
static inline uint64_t memory_shared_bytes(uint64_t nbytes) { return memory_trailer_at(nbytes) + MEMORY_TRAILER; }

/* room.c: bytes that may still be allocated; root: "", or a directory in which a test has its own /proc and /sys. */
uint64_t memory_room(const char *root);

#endif
