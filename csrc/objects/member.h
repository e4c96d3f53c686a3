/*
 * Members: the participants of an object, as a table of 8-byte identities in the object.
 *
 * An identity names a process and is never used by another one:
 *   a process of this host   bit 63 clear: a number from its user's file (base/identity.h)
 *   a node elsewhere         bit 63 set: a number that the process which owns the memory has claimed for it, and ends
 *                            once the node is cut off for good (decision 0023); or random, where it claims none. Random
 *                            is also that of a process of this host that could not get a number
 *   no process               0
 *
 * A process that has ended is dead forever. A member counts as dead only if the kernel of the memory's host proves it,
 * in whichever PID namespaces the two processes are; a participant of another host asks the memory's owner. A number
 * from a file that can't be read there proves nothing, and neither does a random identity: such entries stay until
 * their members leave or are broken. A process that has
 * called exec() has lost its mappings and is dead. A process that is stopped is alive.
 *
 * An entry changes only by compare-swap: 0 -> identity (join), identity -> 0 (leave), and dead identity -> identity
 * (succeed). Before a newcomer succeeds a dead member, it undoes what that member left under the entry's number (lock
 * words and the like). The dead process can't add to that, so what is undone stays undone.
 *
 * But several newcomers may sweep the same entry, and a slow one may still be sweeping when a quick one has succeeded
 * and works under the number. So a sweep (1) reads a word, (2) checks with member_is() that the entry still holds the
 * dead identity, and only then (3) undoes by compare-swap from exactly the value read in (1). That is safe if no value
 * that names the number comes twice in the word: either the value is the dead member's, or the compare-swap fails.
 */
#ifndef DSM_OBJECTS_MEMBER_H
#define DSM_OBJECTS_MEMBER_H

#include "../base/error.h"
#include "../base/identity.h"
#include "../dsm.h"

#include <stdbool.h>

enum { MEMBERS_MAX = 1024, MEMBERS_ASKED = 128 };

/* For local objects the identity of this process. If the object is not local: one that its owner has claimed for this
 * participant alone. Otherwise a random one. */
int member_identity(dsm_remote *r, uint64_t *out);
/* n of them for one participant, if the object is not local. */
int member_identities(dsm_remote *r, uint64_t n, uint64_t *first);
/* Whether the member is proven dead. For remote memory this asks the owner. */
bool member_ended(dsm_remote *r, uint64_t identity);
void members_ended(dsm_remote *r, const uint64_t *identities, size_t n, uint8_t *ended);
enum { MEMBER_TEXT = 96 };
/* "process 17", for messages; or what it is, and the identity as holder() gives it. */
const char *member_describe(uint64_t identity, char text[MEMBER_TEXT]);
/* The identity is not the number of a process of this host: it belongs to a node elsewhere or to a process without a
 * number, and nothing is known about either. */
bool member_elsewhere(uint64_t identity);

/* Undoes what the dead member of entry 'number' left. Returns 0; 1: the entry can't be had yet; or -DSM_E…, which ends
 * the join. */
typedef int member_sweep(void *arg, uint32_t number, uint64_t dead);

/* Takes one of the n entries at 'table' in r. sweep may be NULL. EMEMBERS: no entry is free or proven dead. */
int member_join(dsm_remote *r, uint64_t table, uint32_t n, uint64_t identity, member_sweep *sweep, void *arg,
                uint32_t *number);
/* Swaps the word from 'from' to the identity: 1: done, 0: the word is *found, or -DSM_E…. What fails with the transport
 * is tried again, since no other handle has the same remote identity: the word shows the outcome. */
int member_take(dsm_remote *r, uint64_t at, uint64_t from, uint64_t identity, uint64_t *found);
/* After an error it may be called again. A remote identity is one handle's alone: if the entry no longer holds it, it
 * was given back before. */
int member_leave(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity);
/* 1: the entry holds the identity, 0: it does not, or -DSM_E…. */
int member_is(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity);

#endif
