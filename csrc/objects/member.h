/*
 * Members: who takes part in an object, in a table of 8-byte identities that the object holds.
 *
 * An identity names a process and is never used by another one:
 *   a process of this host   bit 63 clear: a number from its user's file (base/identity.h)
 *   a node elsewhere         bit 63 set: random; so is a process of this host that could not get a number
 *   nobody                   0
 *
 * A process that has ended is dead forever. 'Dead' is said only where the kernel proves it, in whatever PID namespace
 * the two are. A number of a file that this process cannot look at proves nothing, and neither does a node elsewhere:
 * such entries stay until they leave or are fenced. A process that exec()s has lost its mappings and is dead. One that
 * is stopped lives.
 *
 * An entry goes 0 -> identity by compare-swap (join), identity -> 0 by compare-swap (leave), and dead identity ->
 * identity by compare-swap (succeed). Before it succeeds a dead member, the newcomer undoes what that one left under
 * the entry's number (lock words and the like); the dead can't add to that, so once it is undone it stays so.
 *
 * But several newcomers may sweep the same entry, and a slow one may still be at it when a quick one has succeeded and
 * works under the number. So a sweep (1) reads a word, (2) looks with member_is whether the entry still holds the dead
 * identity, and only then (3) undoes by compare-swap from exactly the value read in (1). That is safe where no
 * value that names the number comes twice in the word: then the value is the dead one's, or the compare-swap fails.
 */
#ifndef DSM_OBJECTS_MEMBER_H
#define DSM_OBJECTS_MEMBER_H

#include "../base/error.h"
#include "../dsm.h"

#include <stdbool.h>

enum { MEMBERS_MAX = 1024 };

/* This process (local objects) or, where the object is not local or no number can be had, a random identity. */
int member_identity(bool local, uint64_t *out);
/* For messages: the process of an identity as this process's PID namespace numbers it; 0: not known, or not of this
 * one. */
int member_pid(uint64_t identity);
enum { MEMBER_TEXT = 64 };
/* "process 17", for messages. */
const char *member_describe(uint64_t identity, char text[MEMBER_TEXT]);
/* It is no process's: its node, or a process without a number, is elsewhere for all that is known. */
bool member_elsewhere(uint64_t identity);
/* Proven dead: a process of this host that has ended. */
bool member_dead(uint64_t identity);

/* Undoes what the dead member of entry 'number' left. 0, or -DSM_E…, which ends the join. */
typedef int member_sweep(void *arg, uint32_t number, uint64_t dead);

/* Takes one of the n entries at 'table' in r. sweep may be NULL. EMEMBERS: all belong to the living. Through memory
 * that is remote nobody is taken for dead. */
int member_join(dsm_remote *r, uint64_t table, uint32_t n, uint64_t identity, member_sweep *sweep, void *arg,
                uint32_t *number);
int member_leave(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity);
/* 1: the entry holds the identity, 0: not, or -DSM_E…. */
int member_is(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity);

#endif
