/*
 * A client of a store, for the files that drive its machines. One thread at a time is between store_enter() and
 * store_exit(), unless the memory is mapped: there the caller sees to it.
 */
#ifndef DSM_STORE_CLIENT_H
#define DSM_STORE_CLIENT_H

#include "machine.h"

struct store_window;

struct dsm_store {
    struct store_env env; /* as the store was opened; it does not change */
    dsm_remote *remote;
    struct store_shape shape;
    struct store_frames frames;
    struct store_heads heads;
    uint64_t identity;
    uint64_t user;               /* of memory that is not mapped: the thread that is in a call */
    bool leaving;                /* its place may be another one's */
    struct store_window *window; /* of memory that is not mapped */
};

/* EBUSY: another call is under way, or this one is a signal handler's. ECLOSED: it is leaving. */
int store_enter(dsm_store *s);
/* Returns rc. */
int store_exit(dsm_store *s, int rc);
/* Fills in time and chance. */
void store_ask(struct store_env *e);
/* As dsm_execute(): in order, and behind an op that is refused none is executed. Each has its status. */
void store_execute(const dsm_store *s, dsm_op *ops, uint32_t n);
/* The same, again for those that were certainly not executed. */
enum { STORE_CANCELED_MOST = 8 };
void store_insist(const dsm_store *s, dsm_op *ops, uint32_t n);
/* No compare-swap that names a frame of the open chunk may be under way. */
int store_open_chunk(dsm_store *s);
void store_sleep(int64_t ns);
/* Until the machine is done, or a signal handler ends the wait. */
int store_drive(dsm_store *s, struct store_op *m);

#endif
