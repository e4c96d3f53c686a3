/*
 * The simulated world of clients of a store: its memory, what is under way to it, and what may become of that. The
 * files that include it say what the clients do: test_store_sim.c.
 */
#ifndef TESTS_STORE_WORLD_H
#define TESTS_STORE_WORLD_H

#include "store_serial.h"

enum { CLIENTS = 5, SLOTS = CLIENTS + 3, STEPS = 6000, PIECE = 40, MANY = 3, EXTENTS = 3, SURVEY = 3 };

/* ---- what may happen ---- */

/* All of it, but for what is left out to find the smallest world that shows a fault: tests/unit/store_simulation.py. */
enum { STOPS = 1, DEATHS = 2, LOSSES = 4, CUTS = 8, INTERRUPTS = 16, TRANSACTIONS = 32, FREES = 64, EPOCHS = 128 };
enum { HAPPENINGS = 8 };
static const char *const happenings[HAPPENINGS] = {"stops",      "deaths",       "losses", "cuts",
                                                   "interrupts", "transactions", "frees",  "epochs"};
static struct {
    unsigned without; /* a bit each */
    int clients;
    long steps;
} world = {.clients = CLIENTS, .steps = STEPS};

static bool may(unsigned happen) { return !(world.without & happen); }

/* ---- the memory, and what is under way to it ---- */

static struct store_shape shape = {.page_bytes = PAGE_BYTES, .slots = SLOTS, .pages = PAGES};
static uint32_t copies = 1, nodes_left = 1; /* of an extent; of all, each at a node of its own */
static uint8_t first[EXTENTS + 1];          /* the node of the primary of each extent, and the end */
static uint8_t *memory[STORE_PLACES_MOST];
static dsm_remote *at[STORE_PLACES_MOST]; /* the addresses of these; the machines only hand them on */

enum { FLIGHTS = STORE_MANY_MOST + STORE_DUES + 2 * RECORD_PAGES };
struct flight { /* an op that was posted */
    dsm_op *op; /* of the machine; NULL: it has been told that the answer was lost */
    dsm_op copy;
    uint32_t node;
    uint8_t sent[64 + PAGE_BYTES]; /* of a WRITE, as it was when it was posted */
    uint64_t left, piece;          /* pieces, a bit each; bytes of one */
    bool torn;                     /* a piece is the same byte of each word */
};

enum does { IDLES, RUNS, WAITS, SLEEPS, DIED, GONE };
enum task { ONE_PAGE, ALLOCATES, UNLOCKS, SWEEPS, TRANSACTS };
enum { NOWHERE = SLOTS };

static struct client {
    enum does does;
    int64_t until; /* stopped, or asleep */
    struct store_env env;
    struct store_frames frames[EXTENTS];
    struct store_hint hints[PAGES];
    _Alignas(struct store_freed) uint8_t freed[EXTENTS * (sizeof(struct store_freed) + 24 * (SLOTS + 1))];
    uint64_t survey[SURVEY];
    struct store_heads heads;
    struct store_dues dues;
    struct store_intents intents;
    struct store_words words;
    struct store_held held;
    uint32_t n, n_due;    /* flights; unlocks among them */
    bool shut;            /* an epoch has ended, and no copy takes anything from it any more */
    uint32_t fenced, cut; /* nodes at which it is fenced; and which it does not reach for a while; a bit each */
    struct flight flights[FLIGHTS];
    dsm_op due_ops[STORE_DUES];

    enum task task;
    bool needs_frames, resolves;
    struct store_op op;
    struct store_allocation allocation;
    struct store_chunking chunking;
    struct store_resolve resolve;
    struct store_sweep sweep;
    uint64_t ids[MANY];
    uint8_t page[PAGE_BYTES];
    uint64_t failed;       /* the page of an op that has failed, or 0: it is likely to be tried again */
    uint64_t value, floor; /* that is written; the version of the page that the op must see at least */
    bool was_freed;        /* a free of the page had ended when the op began */
    long began;
    struct transaction tx;
} clients[CLIENTS];

static int64_t now;
static bool mixes;    /* a READ of words may have bytes of old and of new values: words.md */
static struct place { /* a slot */
    uint32_t mark;    /* of the client that is there, or was there last */
    bool taken, dead; /* dead: behind fences at all nodes */
} places[SLOTS];

static uint8_t *local_of(const dsm_op *op, uint64_t offset)
{
    uint64_t first = op->nbytes - op->second_nbytes;
    return offset < first ? (uint8_t *)op->local + offset : (uint8_t *)op->second + (offset - first);
}

static uint32_t node_of(const dsm_op *op)
{
    for (uint32_t k = 0; k < nodes_left; k++)
        if (op->remote == at[k])
            return k;
    REQUIRE(0, "an op for no copy");
    return 0;
}

static void send(struct client *c, dsm_op *op)
{
    struct flight *f = &c->flights[c->n++];
    REQUIRE(c->n <= FLIGHTS, "more ops than the simulation has room for");
    *f = (struct flight){.op = op, .copy = *op, .node = node_of(op)};
    f->piece = op->nbytes / 60 > PIECE ? op->nbytes / 60 : PIECE;
    f->torn = mixes && op->code == DSM_OP_READ && op->offset + op->nbytes <= shape.frames;
    uint64_t pieces = op->code > DSM_OP_WRITE ? 1 : f->torn ? 8 : (op->nbytes + f->piece - 1) / f->piece;
    REQUIRE(op->offset + op->nbytes <= shape.nbytes && pieces < 64, "an op out of bounds");
    f->left = (1ull << pieces) - 1;
    if (op->code == DSM_OP_WRITE)
        for (uint64_t k = 0; k < op->nbytes; k++)
            f->sent[k] = *local_of(op, k);
}

/* WRITEs and compare-swaps of a connection take effect in order. */
static bool may_land(const struct client *c, uint32_t i)
{
    if (c->flights[i].copy.code == DSM_OP_READ)
        return true;
    for (uint32_t k = 0; k < i; k++)
        if (c->flights[k].node == c->flights[i].node && c->flights[k].copy.code != DSM_OP_READ && c->flights[k].left)
            return false;
    return true;
}

static void land(struct flight *f, uint32_t piece)
{
    dsm_op *op = &f->copy;
    uint64_t from = piece * f->piece, n = op->nbytes - from < f->piece ? op->nbytes - from : f->piece;
    uint8_t *there = memory[f->node] + op->offset;
    f->left &= ~(1ull << piece);
    if (f->torn) {
        for (uint64_t k = piece; f->op && k < op->nbytes; k += 8)
            *local_of(op, k) = there[k];
    } else if (op->code == DSM_OP_WRITE) {
        memcpy(there + from, f->sent + from, n);
    } else if (op->code == DSM_OP_READ) {
        for (uint64_t k = from; f->op && k < from + n; k++)
            *local_of(op, k) = there[k];
    } else {
        uint64_t *word = (uint64_t *)(void *)there;
        op->result = *word;
        if (*word == op->operand)
            *word = op->desired;
    }
}

/* node: or -1 for all. */
static bool is_under_way(const struct client *c, int node)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->flights[i].left && (node < 0 || c->flights[i].node == (uint32_t)node))
            return true;
    return false;
}

static bool waits_for_answers(const struct client *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->flights[i].left && c->flights[i].op)
            return true;
    return false;
}

static void land_some(struct client *c, int node)
{
    uint32_t i = (uint32_t)chance(c->n);
    for (uint32_t k = 0; k < c->n; k++, i = (i + 1) % c->n) {
        struct flight *f = &c->flights[i];
        if (!f->left || !may_land(c, i) || (node >= 0 && f->node != (uint32_t)node))
            continue;
        uint32_t piece = (uint32_t)chance(64);
        while (!(f->left >> piece & 1))
            piece = (piece + 1) % 64;
        land(f, piece);
        return;
    }
}

/* Only what was lost stays under way. */
static void answer(struct client *c)
{
    uint32_t lost = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        struct flight *f = &c->flights[i];
        if (f->op) {
            f->op->status = 0;
            f->op->result = f->copy.result;
        } else if (f->left) {
            c->flights[lost++] = *f;
        }
    }
    c->n = lost;
    c->does = RUNS;
    store_due_done(&c->env, c->due_ops, c->n_due);
}

/* Requests are sent in their order: those before one that has landed have been. */
static uint32_t surely_sent(const struct client *c, uint32_t node)
{
    uint32_t n = c->n;
    while (n && (c->flights[n - 1].node != node || c->flights[n - 1].left))
        n--;
    return n;
}

/* The machine is told at once. What was posted goes on, until the next op of this client at this node, or its fence. */
static void lose(struct client *c, uint32_t node)
{
    uint32_t landed = surely_sent(c, node);
    bool sent = true;
    for (uint32_t i = 0; i < c->n; i++) {
        struct flight *f = &c->flights[i];
        if (!f->op || f->node != node)
            continue;
        sent = sent && (i < landed || chance(4) || !may_land(c, i));
        f->op->status = f->copy.code == DSM_OP_READ ? -DSM_EIO : sent ? -DSM_EUNKNOWN : -DSM_ECANCELED;
        f->op->cause = sent ? -DSM_EPEER : 0;
        if (sent && f->copy.code == DSM_OP_COMPARE_SWAP && f->copy.local) /* a look is a READ for its machine */
            f->op->cause = -DSM_EIO;
        if (!sent)
            f->left = 0;
        f->op = NULL;
    }
}

/* The owner has closed the connection: some of what was under way has landed, and the rest never will. */
static void settle(struct client *c, uint32_t node)
{
    uint32_t left = 0;
    while (is_under_way(c, (int)node) && chance(6))
        land_some(c, (int)node);
    for (uint32_t i = 0; i < c->n; i++)
        if (c->flights[i].node != node)
            c->flights[left++] = c->flights[i];
    c->n = left;
}

/* Unlocks that are due go ahead; or they are late. */
static void post(struct client *c, dsm_op *ops, uint32_t n)
{
    c->n_due = c->task == UNLOCKS || chance(3) ? store_due_ops(&c->env, c->due_ops, STORE_DUES) : 0;
    for (uint32_t i = 0; i < c->n_due; i++)
        if (!i || c->due_ops[i].remote != c->due_ops[i - 1].remote)
            settle(c, node_of(&c->due_ops[i]));
    for (uint32_t i = 0; i < n; i++)
        settle(c, node_of(&ops[i]));
    for (uint32_t i = 0; i < c->n_due; i++)
        send(c, &c->due_ops[i]);
    for (uint32_t i = 0; i < n; i++)
        send(c, &ops[i]);
    c->does = WAITS;
    for (uint32_t k = 0; c->shut && k < nodes_left; k++)
        lose(c, k);
    if (c->shut)
        c->n = 0;
}

#endif
