/*
 * dsm.h: the public interface of the core.
 *
 * Every function returns 0 (or a count where it says so) or -DSM_E… (base/err.def). After a failure dsm_last_error()
 * gives the calling thread the errno, the completion status and a sentence of detail.
 *
 * THREADS. Every function may be called from any thread, except that an object must not be used during or after the
 * call that closes it, and a dsm_op belongs to the core between submit and its completion.
 *
 * FORK. A child of fork() gets -DSM_EFORK from everything but the close functions, which then only forget.
 *
 * COMPLETION, that is what is true when an op has status 0:
 *   READ      the bytes are in the local buffer. Larger than 8 aligned bytes, they may mix old and new.
 *   WRITE     shm: every process of the host sees it.
 *             verbs: the remote NIC has acknowledged it. A later op on the same connection sees it; whether the owner's
 *             CPU already does is up to the hardware.
 *   ATOMIC    the update has taken effect, once, and 'result' holds the value before it.
 * An op with a status other than 0 may have taken effect, unless the status comes from the checks that run before
 * anything is posted: EINVAL EBOUNDS EACCESS EALIGN ECLOSED EFORK (and ESTALE, EPEER when found then).
 *
 * ORDER. Ops of one batch to one peer: WRITE after WRITE and ATOMIC after WRITE take effect in order. Whatever depends
 * on a READ or an ATOMIC before it in the batch needs DSM_OP_FENCE. Between peers there is no order.
 *
 * ATOMICITY. A word that is updated with fetch_add or compare_swap is to be changed by them only, by its owner too (the
 * owner attaches to its own region): NIC and CPU atomics do not exclude each other, and a failing compare-swap may
 * store.
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
#include "dsm/sync.h"

#endif
