/* The toy of tests/c/toy, alone and through fault, through the whole core: fabric.h carries a fabric whose target
 * executes the ops, with one line in the registry. ci/toy runs the conformance suite on it. */
/* with: tests/c/toy */
#include "base/deadline.h"
#include "check.h"
#include "dsm.h"
#include "outcome.h"
#include "pieces.h"
#include "tickets.h"

#include <pthread.h>
#include <string.h>

#define SECOND INT64_C(1000000000)

static dsm_ctx *owner, *user;
static dsm_region *region, *small;
static dsm_remote *remote, *few;

static dsm_ctx *open_one(const char *fabric, const char *fault)
{
    dsm_options o;
    dsm_ctx *c;
    dsm_options_init(&o);
    o.fabric = fabric;
    o.fault = fault;
    o.listen = "127.0.0.1";
    o.secret = "a secret that all C tests share.";
    o.secret_len = 32;
    CHECK(!dsm_open(&o, &c));
    return c;
}

static dsm_remote *attach(const dsm_region *r)
{
    uint8_t descriptor[DSM_DESC_MAX];
    dsm_remote *out;
    int n = dsm_region_descriptor(r, descriptor);
    CHECK(n > 0 && !dsm_attach(user, descriptor, (size_t)n, -1, &out));
    CHECK(!dsm_remote_mapped(out));
    return out;
}

static void open_all(const char *fault)
{
    static uint64_t mine[8];
    owner = open_one("toy?device=here", NULL);
    user = open_one("toy", fault);
    CHECK(!dsm_alloc(owner, PIECES_BYTES, 7, &region) && !dsm_register(owner, mine, sizeof mine, DSM_READ, &small));
    remote = attach(region);
    few = attach(small);
}

static void close_all(void)
{
    CHECK(!dsm_remote_close(remote) && !dsm_remote_close(few));
    dsm_close(user);
    CHECK(!dsm_region_close(region) && !dsm_region_close(small));
    dsm_close(owner);
}

static void ops(const char *fault)
{
    uint8_t to[300], from[300];
    uint64_t old, at[3] = {8, 4000, 16}, words[3] = {1, 2, 3}, back[3] = {0};
    open_all(fault);
    memset(from, 7, sizeof from);
    CHECK(!dsm_write(remote, 101, from, sizeof from, -1) && !dsm_read(remote, 101, to, sizeof to, -1));
    CHECK(!memcmp(from, to, sizeof to) && !memcmp(from, (uint8_t *)dsm_region_data(region) + 101, sizeof from));
    CHECK(!dsm_write_many(remote, at, 3, words, 8, -1) && !dsm_read_many(remote, at, 3, back, 8, -1));
    CHECK(!memcmp(words, back, sizeof back));
    CHECK(!dsm_fetch_add(remote, 8, 5, &old, -1) && old == 1);
    CHECK(!dsm_compare_swap(remote, 8, 6, 9, &old, -1) && old == 6);
    CHECK(!dsm_compare_swap(remote, 8, 6, 9, &old, -1) && old == 9);
    CHECK(dsm_read(remote, PIECES_BYTES - 2, to, 8, -1) == -DSM_EBOUNDS &&
          dsm_write(few, 0, from, 8, -1) == -DSM_EACCESS);
    close_all();
}

static void two_pieces(const char *fault)
{
    open_all(fault);
    all_of_pieces(user, remote);
    close_all();
}

/* A refused op leaves the connection and the ops behind it alone. */
static void a_closed_region(void)
{
    uint64_t old;
    dsm_stats before, after;
    open_all(NULL);
    dsm_region *other;
    CHECK(!dsm_alloc(owner, 64, 7, &other));
    dsm_remote *gone = attach(other);
    CHECK(!dsm_fetch_add(gone, 0, 1, &old, -1));
    dsm_get_stats(user, &before);
    CHECK(!dsm_region_close(other));
    CHECK(dsm_fetch_add(gone, 0, 1, &old, -1) == -DSM_ESTALE && !dsm_fetch_add(remote, 0, 1, &old, -1));
    dsm_get_stats(user, &after);
    CHECK(before.connects == after.connects);
    CHECK(!dsm_remote_close(gone));
    close_all();
}

static void a_fence(void)
{
    uint8_t node[DSM_NODE_ID];
    uint64_t old;
    open_all(NULL);
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, -1));
    dsm_node_id(user, node);
    CHECK(!dsm_fence(owner, node));
    int rc = dsm_fetch_add(remote, 0, 1, &old, SECOND);
    CHECK(rc && *(uint64_t *)dsm_region_data(region) == 1);
    close_all();
}

static void an_event_loop(void)
{
    enum { N = 64 };
    static dsm_op op[N];
    static dsm_ticket *t[N];
    open_all(NULL);
    for (int i = 0; i < N; i++) {
        op[i] = (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = remote, .nbytes = 8, .operand = 1};
        CHECK(!dsm_start(user, &op[i], 1, &t[i], NULL));
    }
    for (int i = 0; i < N; i++)
        CHECK(!dsm_finish(next_completed(user), -1, NULL));
    CHECK(*(uint64_t *)dsm_region_data(region) == N);
    close_all();
}

/* A completion is lost: the op is given up, the connection replaced, while another thread goes on. */
static void *add_many(void *arg)
{
    uint64_t old, done = 0;
    for (int i = 0; i < 500; i++)
        done += !dsm_fetch_add(remote, 0, 1, &old, SECOND / 100);
    *(uint64_t *)arg = done;
    return NULL;
}

static void lost_completions(void)
{
    uint64_t old, done;
    pthread_t other;
    open_all("drop=100&every=200");
    CHECK(!pthread_create(&other, NULL, add_many, &done));
    for (int i = 0; i < 300; i++)
        dsm_fetch_add(remote, 8, 1, &old, SECOND / 100);
    CHECK(!pthread_join(other, NULL));
    CHECK(*(uint64_t *)dsm_region_data(region) >= done);
    close_all();
}

int main(void)
{
    ops(NULL);
    ops("");
    ops("tear=*&duplicate=*");
    two_pieces(NULL);
    two_pieces("");
    a_closed_region();
    a_fence();
    an_event_loop();
    lost_completions();
    puts("ok");
    return 0;
}
