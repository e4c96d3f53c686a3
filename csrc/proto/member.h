/*
 * Members: who takes part in an object, in a table of 8-byte identities that the object holds.
 *
 * An identity names a process and is never used by another one:
 *   a process of this host   bit 63 clear | pid << 40 (22 bits) | its start time in clock ticks since boot (40 bits)
 *   a node elsewhere         bit 63 set   | 63 random bits
 *   nobody                   0
 * A process that has ended is dead for ever, since its pid comes back with another start time. Whether a node elsewhere
 * is dead can't be seen from here: its entries stay until it leaves or is fenced.
 *
 * An entry goes 0 -> identity by compare-swap (join), identity -> 0 by compare-swap (leave), and dead identity -> identity by
 * compare-swap (succeed). Before it succeeds a dead member, the newcomer undoes what that one left under the entry's number
 * (lock words and the like); the dead can't add to that, so once it is undone it stays so.
 */
#ifndef DSM_PROTO_MEMBER_H
#define DSM_PROTO_MEMBER_H

#include "../base/err.h"
#include "../dsm.h"

#include <stdbool.h>

enum { MEMBERS_MAX = 1024 };

/* This process (near objects) or, where the object is not near, a random identity. */
int member_identity(bool near, uint64_t *out);
/* Proven dead: a process of this host that has ended. */
bool member_dead(uint64_t identity);

/* Undoes what the dead member of entry 'number' left. 0, or -DSM_E…, which ends the join. */
typedef int member_sweep(void *arg, uint32_t number, uint64_t dead);

/* Takes one of the n entries at 'table' in r. sweep may be NULL. EMEMBERS: all belong to the living. */
int member_join(dsm_remote *r, uint64_t table, uint32_t n, uint64_t identity, member_sweep *sweep, void *arg,
                uint32_t *number);
int member_leave(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity);

#endif
