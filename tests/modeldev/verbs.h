/* What verbs.c and queues.c share. */
#ifndef DSM_TESTS_MODELDEV_VERBS_H
#define DSM_TESTS_MODELDEV_VERBS_H

#include "model.h"

#include <stddef.h>

static inline struct context *context_of(struct ibv_context *v)
{
    return (struct context *)(void *)((char *)v - offsetof(struct context, v.context));
}

/* verbs.c */
void make_devices(void);
int query_port(struct ibv_context *v, uint8_t port, struct ibv_port_attr *a, size_t size);
void forget_events(struct context *c, void *element, unsigned *events); /* under nic.lock */

/* queues.c: what inline functions of infiniband/verbs.h call */
int poll_cq(struct ibv_cq *v, int most, struct ibv_wc *wc);
int req_notify_cq(struct ibv_cq *v, int solicited);
int post_send(struct ibv_qp *v, struct ibv_send_wr *w, struct ibv_send_wr **bad);
int post_recv(struct ibv_qp *v, struct ibv_recv_wr *w, struct ibv_recv_wr **bad);

#endif
