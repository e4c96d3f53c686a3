/* Requests to a service of another process: bytes there, bytes back, over the control connection of its context. */
#ifndef DSM_DSM_SERVICE_H
#define DSM_DSM_SERVICE_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DSM_CALL_MAX 1024 /* bytes of a request, and of a reply */

/* ---- the client ---- */

typedef struct dsm_service dsm_service;
/* address: as dsm_agent_address() has it, of a context whose node need not be known. Nothing is connected yet. */
int dsm_service_open(dsm_ctx *c, const char *address, dsm_service **out);
/* Connects if there is no connection. *reply_len: in, room in reply, at least DSM_CALL_MAX; out, bytes of the reply.
 * Threads take turns. EUNSUPPORTED: the context there has no service. ETIME: the request may be executed later, before
 * any other one of this handle. EPEER: the connection has ended, and the request may or may not have been executed. */
int dsm_service_call(dsm_service *s, const void *request, size_t len, void *reply, size_t *reply_len,
                     int64_t timeout_ns);
/* Ends the connection, of which the service learns. EBUSY: a call is under way. */
int dsm_service_close(dsm_service *s);

/* ---- the service ---- */

typedef struct {
    uint64_t client; /* of one connection; never used again */
    uint64_t number; /* of the request in that connection */
    uint32_t left;   /* 1: not a request; the connection has ended, and is named for the last time */
    uint32_t len;
    uint8_t bytes[DSM_CALL_MAX];
} dsm_call;

/* From 1 on, requests are taken (with dsm_options.serves, from dsm_open() on). From 0 on, they are refused, those that
 * wait for a reply too, and dsm_next_call() returns ECLOSED. While requests are taken, a node that holds something in
 * this process's memory and has had no connection for grace_ns is evicted, as dsm_fence() does; -1: it is not. */
int dsm_serve(dsm_ctx *c, int on, int64_t grace_ns);
/* Waits for a request, or for the end of a connection that has sent one. A connection has one request at a time: the
 * agent reads no further ones from it before the reply. ETIME: there is none until the deadline. */
int dsm_next_call(dsm_ctx *c, int64_t timeout_ns, dsm_call *out);
/* EPEER: the client has gone, or the service has ended. */
int dsm_reply(dsm_ctx *c, const dsm_call *call, const void *bytes, size_t len);

#ifdef __cplusplus
}
#endif
#endif
