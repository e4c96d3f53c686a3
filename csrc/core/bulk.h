/*
 * Bulk: long READs and WRITEs to memory whose atomics are another device's.
 *
 * A region has one domain of atomicity. If that is a NIC's, its ops go by the NIC, also between processes of one host.
 * There the memory is mapped as well (dsm_remote.bulk), and postings that have long READs and WRITEs alone, of DSM_BULK
 * bytes or more together, are copied by the CPU.
 *
 * WORDS. What decides something is read and written by short ops, so these always go by the NIC, and take their
 * postings along: a frame is read between two looks at the word that says whether it is whole, and a CPU need not see
 * the word and the frame change in the order in which the NIC has changed them.
 *
 * ORDER. A posting goes by one way as a whole: one atomic in it, and all of it is posted to the NIC. Before a copy a
 * fenced READ goes by the way of the atomics. When it is complete, what this context has posted there before has taken
 * effect, and what the NIC had acknowledged before lies in memory, where the CPU sees it. A copy is complete when the
 * call returns, so what is posted afterwards comes behind it. Thus ops of a remote have the order that they would have
 * on one connection with a fence between postings. The READ is also the proof that the owner still lets this node in.
 *
 * A copy never fails: if the READ does, or the mapping must not be used any more, nothing is copied and the ops are
 * posted as others are. docs/decisions/0027-bulk-by-shared-memory-atomics-by-the-nic.md has the reasons.
 */
#ifndef DSM_CORE_BULK_H
#define DSM_CORE_BULK_H

#include "core.h"

/* The READs that go ahead, one to each owner. */
struct bulk_ahead {
    dsm_op ops[TICKET_GROUPS];
    uint64_t words[TICKET_GROUPS];
    size_t n;
};

/* Whether checked ops go by the way for bulk. If they do, the READs of *ahead are to be executed, then bulk_copy(), and
 * last bulk_end(): until then the remotes are in use. */
bool bulk_begin(struct bulk_ahead *ahead, const dsm_op *ops, size_t n);
/* Executes the ops. False: a mapping must not be used any more, and none is executed. */
bool bulk_copy(dsm_ctx *c, dsm_op *ops, size_t n);
void bulk_end(const dsm_op *ops, size_t n);

#endif
