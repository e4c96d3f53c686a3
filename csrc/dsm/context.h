/* Contexts: a device, an agent, and what was made with them. dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_CONTEXT_H
#define DSM_DSM_CONTEXT_H

#include "error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DSM_NODE_ID 16
#define DSM_ADDRESS_MAX 112 /* bytes of an agent's address as text, with its NUL */

typedef struct dsm_ctx dsm_ctx;

typedef struct {
    /* One or more fabrics, "NAME?KEY=VALUE&KEY=VALUE,NAME…", in the order of preference: a remote is reached by the
     * first that its owner has, too, and can be reached by. shm has no options. Those of verbs:
     *   device         the first with an active port, unless given
     *   port           0: the first active
     *   gid            index; -1: RoCE v2 with an IPv4 address first
     *   mtu            bytes; 0: the port's active one
     *   depth          of a send queue; 0: 128
     *   sl             service level of what is sent, 0 … 15
     *   traffic_class  likewise, 0 … 255; a field of the global header, which is sent if this is not 0
     * verbs may be named several times, with other devices or ports: when the path to a peer by one is lost, another
     * is taken (docs/decisions/0022-one-path-at-a-time.md). */
    const char *fabric;
    const char *listen;      /* the agent's TCP address, host or host:port; NULL: any; EINVAL if no fabric needs one */
    const char *advertise;   /* the address of it that peers use: host or host:port; NULL: the same */
    const void *secret;      /* shared secret, any bytes */
    size_t secret_len;       /* at least 16 */
    int64_t peer_timeout_ns; /* a peer that is silent for about this long is an error; 0: the default, 2 s */
    int64_t spin_ns;         /* how long to poll before sleeping; <0: the default, 50 us (0 on a one-core host) */
    uint64_t cache_bytes;    /* of local buffers that dsm_cache_keep() keeps registered, at most; 0: none */
    int serves;              /* 1: requests to its service are kept from the first connection on, until dsm_serve() */
    const char *fault;       /* NULL, or a fault plan (fabric/fault/fault.h), for each fabric */
} dsm_options;

typedef struct {
    uint32_t local_memory;     /* 1: attached memory is mapped and ops complete when posted */
    uint32_t register_private; /* 1: private memory of the caller can be registered */
    uint32_t atomic_domain;    /* 0: CPU, 1: this NIC only, 2: NIC and CPU (IBV_ATOMIC_GLOB), 3: no atomics */
    uint32_t max_inline;
    uint32_t max_reads; /* outstanding reads and atomics per connection */
    uint32_t depth;
    uint32_t mtu;
    uint32_t port;
    int32_t gid_index;
    uint32_t is_roce;
    uint64_t max_region;
    char fabric[16];
    char device[64];
    char gid[64];
} dsm_caps;

#define DSM_CACHE_BYTES (UINT64_C(256) << 20) /* the default */

void dsm_options_init(dsm_options *o);
int dsm_open(const dsm_options *o, dsm_ctx **out);
/* Drains and closes idle connections. Close the regions and remotes first: after this call they can only be closed, and
 * the context's memory is freed when the last of them is closed. */
void dsm_close(dsm_ctx *c);
/* Of the i-th fabric of the context. EINVAL: it has only i. */
int dsm_capabilities(const dsm_ctx *c, size_t i, dsm_caps *out);
void dsm_node_id(const dsm_ctx *c, uint8_t id[DSM_NODE_ID]);
/* The agent's address for peers of the i-th fabric, as text: "unix:@name" or "tcp:host:port". NULL: there are only
 * i. */
const char *dsm_agent_address(const dsm_ctx *c, size_t i);
/* Fences a node: its connections move to the error state and new ones are refused. Both are done when the call returns.
 * On shm the node loses its connection, but memory that it has already mapped stays mapped (the call returns
 * EUNSUPPORTED after it has cut the node off on all fabrics). */
int dsm_fence(dsm_ctx *c, const uint8_t node[DSM_NODE_ID]);
/* Counters of the core's calls into the fabric, for tests and benchmarks. */
typedef struct {
    uint64_t posts, doorbells, signalled, wakeups, connects, rejected;
    uint64_t failovers; /* how often a peer was reached by another path than before */
    uint64_t bulk;      /* ops that went by another way than the atomics of their region; not among the posts */
    uint64_t cache_hits, cache_misses, cache_evicted, cache_bytes; /* of dsm_cache_keep(); bytes: kept now */
} dsm_stats;
void dsm_get_stats(const dsm_ctx *c, dsm_stats *out);

/* Whether the context was made before a fork, in the parent of this process. */
int dsm_forked(const dsm_ctx *c);
/* Address of the number of forks between the process that loaded the core and this one. The number changes only in a
 * child, before the first instruction that the child runs after the fork. */
const uint32_t *dsm_forks(void);

/* The name of the fabric that has this number in descriptors, 1 … 255; NULL: this release does not know it. */
const char *dsm_fabric_name(uint32_t number);
/* The i-th option of that fabric, by its key (dsm_options.fabric); NULL: it has only i. */
const char *dsm_fabric_option(uint32_t number, size_t i);
/* Checks the text of one fabric, "NAME?KEY=VALUE&…", without opening it. */
int dsm_fabric_check(const char *text);
/* Checks whether the fabric is usable here: 0, or -DSM_E… with the reason in dsm_last_error(). It leaves nothing
 * open. */
int dsm_probe(const char *fabric);
/* Writes a JSON array of what the fabric sees (devices, ports, GIDs) into buf. Returns the length, or -DSM_E…. */
int dsm_inventory(const char *fabric, char *buf, size_t len);

/* HMAC-SHA256 as the handshake uses it (for tests). */
void dsm_hmac_sha256(const void *key, size_t key_len, const void *msg, size_t len, uint8_t out[32]);

#ifdef __cplusplus
}
#endif
#endif
