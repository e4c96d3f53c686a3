/*
 * fault: wraps another fabric and injects faults at the ops that a plan selects. For tests of code that uses a fabric.
 *
 * The plan is written like the query of a URL:
 *   plan  = [item {"&" item}]            the empty plan changes nothing
 *   item  = fault "=" which [":" pause "ms" | ":" pid] | "every=" K
 *   which = N | N "-" M | N "-" | "*"    the ops of this device, counted from 1 in the order in which they are posted
 *   every: each item selects its ops again every K ops ("fail=3&every=10": 3, 13, 23…)
 *
 *   fail=3            op 3 is not executed, the transport reports EIO
 *   failafter=3       op 3 is executed, the transport reports EIO all the same (its acknowledgement was lost)
 *   refuse=3          op 3 is not executed: the owner refuses it (EACCESS), as a device does once its region is closed
 *   delay=3:50ms      op 3 is executed at once, its completion is reported 50 ms later (the pause is mandatory)
 *   drop=3            op 3 is executed, its completion is never reported
 *   tear=3            if op 3 is a READ: its second part is read 1 ms after its first part. The parts are split at a
 *                     multiple of 8 in the region, so a READ within one aligned word is not torn
 *   duplicate=3       if op 3 is a WRITE: it is executed a second time, 1 ms later
 *   cas=3             if op 3 is a COMPARE_SWAP that fails: 1 ms later a plain store writes back the value that it
 *                     found (as rdma_rxe does; the region must also grant writing, otherwise this has no effect)
 *   kill=3            before op 3 is executed, this process gets SIGKILL
 *   kill=3:PID        before op 3 is executed, process PID gets SIGKILL; a child of this process is dead by then
 *   tear, duplicate and cas accept a pause other than 1 ms: tear=3:20ms.
 *
 * A failed op ends its connection, as on every transport: the ops behind it are not executed, the endpoint is broken,
 * and the core creates a new one. Behind a refused op they are reported as not executed, but for those that a device
 * may let overtake it (fabric_behind_refused); behind any other failure as unknown. Faults preserve the order that
 * dsm.h promises: while the second part of an op is outstanding, the ops behind it on the same endpoint wait.
 *
 * Through fault no memory is mapped: every op goes through post and poll.
 */
#ifndef DSM_FABRIC_FAULT_FAULT_H
#define DSM_FABRIC_FAULT_FAULT_H

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
    FAULT_REFUSE = 256,
    FAULT_ALL = 511,
};

struct fault_item {
    uint32_t fault;
    uint64_t first, last; /* op numbers */
    int64_t pause_ns;
    pid_t pid; /* for KILL; 0: this process */
};

struct fault_plan {
    uint64_t every; /* 0: not given */
    size_t n;
    struct fault_item *items;
};

/* The faults of one op: FAULT_… bits, and their parameters. */
struct fault_fate {
    uint32_t faults;
    int64_t delay_ns; /* for DELAY */
    int64_t pause_ns; /* for TEAR, DUPLICATE, CAS */
    pid_t pid;        /* for KILL; 0: this process */
};

/* plan.c */
int fault_plan_parse(const char *text, struct fault_plan *out); /* EINVAL: the detail names the invalid item */
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
    struct fabric_remote *inner;
};

/* io.c */
int fault_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out);
int fault_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]);
int fault_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len);
int fault_ep_stream(struct fabric_ep *e, int fd);
void fault_ep_abort(struct fabric_ep *e);
void fault_ep_close(struct fabric_ep *e);
void fault_post(struct fabric_ep *e, struct fabric_op *list);
int fault_poll(struct fabric_ep *e);
int fault_arm(struct fabric_ep *e);
int fault_ep_fd(struct fabric_ep *e);

#endif
