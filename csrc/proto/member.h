/*
 * Members: who takes part in an object, in a table of 8-byte identities that the object holds.
 *
 * An identity names a process and is never used by another one:
 *   a process of this host   bit 63 clear | pid (22 bits) << 41 | namespace tag (14 bits) << 27 | start time (27 bits)
 *   a node elsewhere         bit 63 set   | 63 random bits
 *   nobody                   0
 * The start time is in clock ticks since boot, so a pid that comes back within 15 days comes back with another one. The tag is
 * made of the inode numbers of the process's pid and time namespaces: pids and start times mean nothing to processes
 * of other containers, which share memory all the same.
 *
 * A process that has ended is dead for ever. 'Dead' is said only where it is proven: the kernel knows no such pid, or the pid
 * belongs to a zombie or to a process that began at another time. A /proc that can't be read proves nothing, another
 * namespace's identity proves nothing, and neither does a node elsewhere: such entries stay until they leave or are fenced.
 * A process that exec()s lives on for the others; what it held stays held until it ends.
 *
 * An entry goes 0 -> identity by compare-swap (join), identity -> 0 by compare-swap (leave), and dead identity -> identity by
 * compare-swap (succeed). Before it succeeds a dead member, the newcomer undoes what that one left under the entry's number
 * (lock words and the like); the dead can't add to that, so once it is undone it stays so.
 *
 * But several newcomers may sweep the same entry, and a slow one may still be at it when a quick one has succeeded and works
 * under the number. So a sweep (1) reads a word, (2) looks with member_is whether the entry still holds the dead
 * identity, and only then (3) undoes by compare-swap from exactly the value read in (1). That is safe where no
 * value that names the number comes twice in the word: then the value is the dead one's, or the compare-swap fails.
 */
#ifndef DSM_PROTO_MEMBER_H
#define DSM_PROTO_MEMBER_H

#include "../base/err.h"
#include "../dsm.h"

#include <stdbool.h>

enum { MEMBERS_MAX = 1024 };

/* This process (near objects) or, where the object is not near or this process can't be told by its pid, a random identity. */
int member_identity(bool near, uint64_t *out);
/* For messages: the process of an identity, 0 for a node elsewhere. */
int member_pid(uint64_t identity);
/* Proven dead: a process of this host that has ended. */
bool member_dead(uint64_t identity);

/* Undoes what the dead member of entry 'number' left. 0, or -DSM_E…, which ends the join. */
typedef int member_sweep(void *arg, uint32_t number, uint64_t dead);

/* Takes one of the n entries at 'table' in r. sweep may be NULL. EMEMBERS: all belong to the living. Through memory that is
 * far nobody is taken for dead. */
int member_join(dsm_remote *r, uint64_t table, uint32_t n, uint64_t identity, member_sweep *sweep, void *arg,
                uint32_t *number);
int member_leave(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity);
/* 1: the entry holds the identity, 0: not, or -DSM_E…. */
int member_is(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity);

#endif
