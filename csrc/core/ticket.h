/*
 * Tickets: what the core keeps of ops that have been submitted. A context keeps those that have finished, with their
 * arrays, for the next ops: an op allocates nothing unless more are on their way than ever before.
 */
#ifndef DSM_CORE_TICKET_H
#define DSM_CORE_TICKET_H

#include "../fabric/fabric.h"

enum { TICKET_GROUPS = 8 }; /* peers that a ticket posts to at a time */

struct peer;

/* The ops of a ticket that are posted to one peer. */
struct op_group {
    struct fabric_group base;
    uint16_t late, round; /* of started groups: core/async.c */
    bool atomics;         /* there are some among the ops */
    bool unsent;          /* it was not posted, since no connection could be made */
    struct peer *peer;
    struct fabric_dev *dev; /* for which the ops are prepared */
    struct fabric_op *head, *tail;
    struct op_group *next;
    struct dsm_ticket *ticket;
};

static inline struct op_group *op_group_of(struct fabric_group *g) { return (struct op_group *)g; }

struct dsm_ticket {
    dsm_ctx *ctx;
    dsm_op *ops;
    size_t n;
    struct fabric_op *work; /* by index of the op; that of an op on mapped memory is not used. NULL: all are on mapped
                               memory */
    size_t room;            /* of the array behind the ticket, if it is from ticket_take() */
    size_t posted;          /* ops before this one are posted; the rest follow when groups become free */
    size_t ngroups;
    dsm_choice how;
    size_t open;      /* with go_on: ops that were to be posted again, the last time that this was looked at */
    uint32_t idle;    /* with go_on: how often in a row none of them had ended since */
    uint32_t resumed; /* how often ops were posted again because a path or connection was lost (core/paths.c) */
    int64_t due;      /* 0, or when all that is posted again is given up: set when that is done first */
    bool divided;     /* ops were posted after others had failed: those can't be posted again in their order */
    bool shared;      /* dsm_submit() or dsm_start() made it: the caller goes on, so all its remotes are in use */
    uint32_t started;
    uint32_t late;     /* ops of it were given up at the deadline */
    uint32_t asked;    /* this and the next fields: started tickets only */
    size_t left;       /* groups that are not complete */
    struct peer *asks; /* whose helper was last to ask about it; NULL: none */
    int64_t until;     /* when that ends without an answer */
    struct dsm_ticket *next;
    struct op_group groups[TICKET_GROUPS];
};

/* A ticket with room for the work of n ops, or NULL. Only ctx, work and room are set. */
struct dsm_ticket *ticket_take(dsm_ctx *c, size_t n);
void ticket_give_back(struct dsm_ticket *t);
/* Frees those that are kept. */
void tickets_free(dsm_ctx *c);

#endif
