/*
 * dsm.h: the public interface of the core.
 *
 * Every function returns 0 (or a count where it says so) or -DSM_E… (base/err.def). After a failure dsm_last_error()
 * gives the errno, the completion status and a sentence of detail for the calling thread.
 *
 * THREADS. Every function may be called from any thread, with two exceptions: an object must not be used during or
 * after the call that closes it, and a dsm_op belongs to the core between its submission and its completion.
 *
 * FORK. In a child of fork() every function fails with -DSM_EFORK on objects that were made before the fork. The close
 * functions do not fail: they only discard the handle.
 *
 * COMPLETION. When an op has status 0, this is true:
 *   READ      The bytes are in the local buffer. If they are more than 8 aligned bytes, or go into two pieces of local
 *             memory, they may mix old and new.
 *   WRITE     shm: every process of the host sees the bytes.
 *             verbs: the remote NIC has acknowledged the bytes. A later op on the same connection sees them; whether
 *             the owner's CPU already does depends on the hardware.
 *   ATOMIC    The update has taken effect exactly once, and 'result' holds the value before it.
 * What is known of an op with another status: dsm/op.h. A WRITE or ATOMIC whose answer was lost has EUNKNOWN.
 *
 * ORDER. Within the ops of one batch to one peer, WRITE after WRITE and ATOMIC after WRITE take effect in order. An op
 * that depends on a READ or an ATOMIC before it in the batch needs DSM_OP_FENCE. Between peers there is no order, nor
 * between two fabrics, also to one owner: there DSM_OP_FENCE does not help, and two batches are needed. A peer that is
 * reached by several paths is reached by one at a time, so they change nothing in this. Nor does it matter that long
 * READs and WRITEs may go by shared memory where atomics go by a device (dsm_remote_bulk_fabric): what one call gives
 * to one owner goes by one way, and a call by shared memory begins when all that was posted before has taken effect.
 *
 * ATOMICITY. A word that is updated with fetch_add or compare_swap must be changed by these ops only. This includes its
 * owner, which attaches to its own region for that purpose. NIC and CPU atomics do not exclude each other, and a
 * compare-swap that fails may store.
 */
#ifndef DSM_H
#define DSM_H

#include "dsm/clock.h"
#include "dsm/context.h"
#include "dsm/error.h"
#include "dsm/memory.h"
#include "dsm/object.h"
#include "dsm/op.h"
#include "dsm/queue.h"
#include "dsm/segment.h"
#include "dsm/service.h"
#include "dsm/store.h"
#include "dsm/sync.h"

#endif
