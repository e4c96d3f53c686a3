/*
 * fault: another fabric with faults in it, at ops that a plan names. For tests of whatever stands on a fabric.
 *
 * The plan is written like the query of a URL:
 *   plan  = [item {"&" item}]            the empty plan changes nothing
 *   item  = fault "=" which [":" pause "ms" | ":" pid] | "every=" K
 *   which = N | N "-" M | N "-" | "*"    the ops of this device, counted from 1 in the order in which they are posted
 *   every: what an item names comes again every K ops ("fail=3&every=10": 3, 13, 23…)
 *
 *   fail=3            op 3 is not executed, the transport reports EIO
 *   failafter=3       op 3 is executed, the transport reports EIO all the same (its acknowledgement was lost)
 *   delay=3:50ms      op 3 is executed at once, its completion is held back for 50 ms (the pause must be given)
 *   drop=3            op 3 is executed, its completion never comes
 *   tear=3            if op 3 is a READ: its second part is read 1 ms after its first. They meet at a multiple of 8 in
 *   the
 *                     region, so a READ inside of one aligned word stays whole
 *   duplicate=3       if op 3 is a WRITE: it is executed a second time, 1 ms later
 *   cas=3             if op 3 is a COMPARE_SWAP that fails, 1 ms later a plain store writes back the value that it
 *   found
 *                     (rdma_rxe does so; the region must grant writing too, otherwise the op stays as it is)
 *   kill=3            before op 3 is executed this process gets SIGKILL
 *   kill=3:PID        before op 3 is executed process PID gets it; if it is a child of this one it is dead then
 *   tear, duplicate and cas take another pause than 1 ms: tear=3:20ms.
 *
 * A failed op is the end of its connection, as on every transport: the ops behind it are cancelled without being
 * executed, the endpoint is broken and the core makes a new one. Faults keep the order that dsm.h promises: while one
 * of an op's two parts is still to come, the ops behind it on the same endpoint wait.
 *
 * Nothing is mapped local through fault, so every op takes the way over post and poll.
 */
#ifndef DSM_FABRIC_FAULT_H
#define DSM_FABRIC_FAULT_H

#include "../fabric.h"

#include <sys/types.h>

enum {
    FAULT_FAIL = 1,
    FAULT_FAILAFTER = 2,
    FAULT_DELAY = 4,
    FAULT_DROP = 8,
    FAULT_TEAR = 16,
    FAULT_DUPLICATE = 32,
    FAULT_CAS = 64,
    FAULT_KILL = 128,
    FAULT_ALL = 255,
};

struct fault_item {
    uint32_t fault;
    uint64_t first, last; /* op numbers */
    int64_t pause_ns;
    pid_t pid; /* of KILL; 0: this process */
};

struct fault_plan {
    uint64_t every; /* 0: not given */
    size_t n;
    struct fault_item *items;
};

/* What happens to one op: FAULT_… bits, and the pauses of those that have one. */
struct fault_fate {
    uint32_t faults;
    int64_t delay_ns; /* of DELAY */
    int64_t pause_ns; /* of TEAR, DUPLICATE, CAS */
    pid_t pid;        /* of KILL */
};

/* plan.c */
int fault_plan_parse(const char *text, struct fault_plan *out); /* EINVAL names the item that is wrong */
void fault_plan_free(struct fault_plan *p);
struct fault_fate fault_plan_fate(const struct fault_plan *p, uint64_t op_number);

struct fault_dev {
    struct fabric_dev base;
    struct fabric_dev *inner;
    struct fault_plan plan;
    uint64_t count; /* ops posted */
};

struct fault_remote {
    struct fabric_remote base;
    struct fabric_remote *inner; /* fabric_remote_of() the ops that the inner fabric gets */
};

/* io.c */
int fault_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out);
int fault_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]);
int fault_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len);
void fault_ep_abort(struct fabric_ep *e);
void fault_ep_close(struct fabric_ep *e);
void fault_post(struct fabric_ep *e, dsm_op *list);
int fault_poll(struct fabric_ep *e);
int fault_arm(struct fabric_ep *e);
int fault_ep_fd(struct fabric_ep *e);

#endif
