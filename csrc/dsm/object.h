/* What all objects in shared memory have in common. The contract of all of them stands in dsm.h. */
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
};
#define DSM_TYPE_NAMES \
    "", "segment", "queue", "lock", "rwlock", "semaphore", "event", "condition", "barrier", "once", "spinlock", \
        "clock", "counting_semaphore", "rlock"

/* This process as a number that no other process of the host will have, and whether it has ended: said only where it is
 * proven. docs/protocols/objects.md. The pid is for messages; 0 where it means nothing here. Provable: whether others
 * can prove the death of this process; if not, what it holds at its end stays held, and the error says why. */
int dsm_identity(uint64_t *out);
int dsm_identity_provable(void);
int dsm_identity_dead(uint64_t identity);
int dsm_identity_pid(uint64_t identity);

/* What kind of object the memory holds (enum dsm_type), or -DSM_E…: ECORRUPT, EVERSION. */
int dsm_object_type(dsm_remote *r);
const char *dsm_type_name(int type);

#ifdef __cplusplus
}
#endif
#endif
