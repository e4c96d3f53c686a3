/* What all objects in shared memory have in common. dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_OBJECT_H
#define DSM_DSM_OBJECT_H

#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

enum dsm_type {
    DSM_SEGMENT = 1,
    DSM_QUEUE = 2,
    DSM_LOCK = 3,
    DSM_RWLOCK = 4,
    DSM_SEMAPHORE = 5,
    DSM_EVENT = 6,
    DSM_CONDITION = 7,
    DSM_BARRIER = 8,
    DSM_ONCE = 9,
    DSM_SPINLOCK = 10,
    DSM_CLOCK = 11,
    DSM_COUNTING = 12,
    DSM_RLOCK = 13,
    DSM_STORE = 14,
};
#define DSM_TYPE_NAMES \
    "", "segment", "queue", "lock", "rwlock", "semaphore", "event", "condition", "barrier", "once", "spinlock", \
        "clock", "counting_semaphore", "rlock", "store"

/* Identity of this process, unique on the host and never reused (docs/protocols/objects.md). dsm_identity_dead()
 * returns 1 only if the exit of the process is proven. dsm_identity_pid() is for messages; it returns 0 where a pid has
 * no meaning here. dsm_identity_provable() returns 0 if other processes can prove the death of this one. Otherwise what
 * this process holds when it exits stays held, and dsm_last_error() gives the reason. */
int dsm_identity(uint64_t *out);
int dsm_identity_provable(void);
int dsm_identity_dead(uint64_t identity);
int dsm_identity_pid(uint64_t identity);

/* The type of the object that the memory holds (enum dsm_type), or -DSM_E…: ECORRUPT, EVERSION. */
int dsm_object_type(dsm_remote *r);
const char *dsm_type_name(int type);

#ifdef __cplusplus
}
#endif
#endif
