/*
 * The machines of a store (csrc/store) in a simulated world: many clients in one thread, one seed, virtual time. The
 * code that runs is the product's; the world decides in which order things happen, and a seed decides for the world.
 *
 * What the world does: it executes what is posted in pieces of at most 40 bytes, those of a READ or WRITE in any order,
 * READs at any time, WRITEs and compare-swaps of a client in the order in which they were posted, and those of
 * different clients interleaved. It breaks connections: what has been posted is executed later, or never, but not
 * after the next op of that client; answers are lost. It stops clients. It kills clients, whose posted ops may land
 * until a fence; only then is the death proven, and another client begins in that slot. Hints are kept by some.
 *
 * What is checked. Each write has a value of its own, which fills the page. Versions give the order of the operations
 * on a page, so it is linearisable if: a version has one value and a value one version; an op that begins after another
 * has ended sees its version, or a later one; a write makes a later version than all ops that had ended when it began.
 * Of page ids: none is given twice, an op on a freed page fails, and fails only if it is freed. At the end: each frame
 * that a head names is whole, and no two heads name one.
 *
 *   test_store_sim                    200 seeds with one copy, 200 with two, and 100 with three
 *   test_store_sim COPIES FIRST N     N seeds from FIRST on; says the first that fails, and exits with 1
 *   test_store_sim COPIES SEED 1 t    says each op that ends
 */
#include "store_history.h"

#include <stddef.h>

enum { CLIENTS = 5, SLOTS = CLIENTS + 3, STEPS = 6000, PIECE = 40, MANY = 3 };

/* ---- the memory, and what is under way to it ---- */

static struct store_shape shape = {.page_bytes = PAGE_BYTES, .slots = SLOTS, .pages = PAGES};
static uint32_t copies = 1;
static uint8_t *memory[STORE_COPIES_MOST];
static dsm_remote *at[STORE_COPIES_MOST]; /* the addresses of these; the machines only hand them on */

enum { FLIGHTS = STORE_MANY_MOST + STORE_DUES + 2 * STORE_OPS_MOST };
struct flight { /* an op that was posted */
    dsm_op *op; /* of the machine; NULL: it has been told that the answer was lost */
    dsm_op copy;
    uint32_t node;
    uint8_t sent[64 + PAGE_BYTES]; /* of a WRITE, as it was when it was posted */
    uint64_t left;                 /* pieces, a bit each */
};

enum does { IDLES, RUNS, WAITS, SLEEPS, DIED, GONE };
enum task { ONE_PAGE, ALLOCATES, UNLOCKS, SWEEPS };
enum { NOWHERE = SLOTS };

static struct client {
    enum does does;
    int64_t until; /* stopped, or asleep */
    struct store_env env;
    struct store_frames frames;
    struct store_hint hints[PAGES];
    _Alignas(struct store_freed) uint8_t freed[sizeof(struct store_freed) + 16 * (SLOTS + 1 + PAGES / PER_CHUNK)];
    struct store_heads heads;
    struct store_dues dues;
    uint32_t n, n_due;    /* flights; unlocks among them */
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
    uint64_t value, floor; /* that is written; the version of the page that the op must see at least */
    bool was_freed;        /* a free of the page had ended when the op began */
} clients[CLIENTS];

static int64_t now;
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
    for (uint32_t k = 0; k < copies; k++)
        if (op->remote == at[k])
            return k;
    REQUIRE(0, "an op for no copy");
    return 0;
}

static void settle(struct client *c, uint32_t node);

static void send(struct client *c, dsm_op *op)
{
    struct flight *f = &c->flights[c->n++];
    REQUIRE(c->n <= FLIGHTS, "more ops than the simulation has room for");
    *f = (struct flight){.op = op, .copy = *op, .node = node_of(op)};
    uint64_t pieces = op->code > DSM_OP_WRITE ? 1 : (op->nbytes + PIECE - 1) / PIECE;
    REQUIRE(op->offset + op->nbytes <= shape.nbytes && pieces < 64, "an op out of bounds");
    f->left = (1ull << pieces) - 1;
    if (op->code == DSM_OP_WRITE)
        for (uint64_t k = 0; k < op->nbytes; k++)
            f->sent[k] = *local_of(op, k);
}

/* Unlocks that are due go ahead; or they are late. */
static void post(struct client *c, dsm_op *ops, uint32_t n)
{
    c->n_due = c->task == UNLOCKS || (copies > 1 && chance(3)) ? store_due_ops(&c->env, c->due_ops, STORE_DUES) : 0;
    if (c->n_due)
        settle(c, 0);
    for (uint32_t i = 0; i < n; i++)
        settle(c, node_of(&ops[i]));
    for (uint32_t i = 0; i < c->n_due; i++)
        send(c, &c->due_ops[i]);
    for (uint32_t i = 0; i < n; i++)
        send(c, &ops[i]);
    c->does = WAITS;
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
    uint64_t from = (uint64_t)piece * PIECE, n = op->nbytes - from < PIECE ? op->nbytes - from : PIECE;
    uint8_t *there = memory[f->node] + op->offset;
    f->left &= ~(1ull << piece);
    if (op->code == DSM_OP_WRITE) {
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
    if (copies > 1)
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

static void ended_well(struct client *c)
{
    struct store_op *m = &c->op;
    struct history *h = history_of(m->pid);
    bool reads = m->kind == STORE_READ || m->kind == STORE_VERSION;
    REQUIRE(!c->was_freed, "op %d on page %llx, which was freed", m->kind, (unsigned long long)m->pid);
    REQUIRE(reads ? m->version >= c->floor : m->version > c->floor, "version %llu after %llu",
            (unsigned long long)m->version, (unsigned long long)c->floor);
    REQUIRE(m->kind != STORE_COMPARE_WRITE || m->version == m->expected + 1, "a lost update");
    if (m->kind == STORE_READ)
        learn(m->pid, m->version, value_in(c->page));
    else if (m->kind == STORE_WRITE || m->kind == STORE_COMPARE_WRITE)
        learn(m->pid, m->version, c->value);
    else if (m->kind == STORE_FREE)
        life_of(m->pid)->freed = true;
    if (m->version > h->floor)
        h->floor = m->version;
}

static void op_ended(struct client *c)
{
    struct store_op *m = &c->op;
    struct life *life = life_of(m->pid);
    int status = m->status;
    if (traced)
        printf("%ld: client %u, op %d on page %llx: %d, version %llu\n", steps_done, c->env.slot, m->kind,
               (unsigned long long)m->pid, status, (unsigned long long)m->version);
    if (!status) {
        ended_well(c);
    } else if (status == -DSM_EPAGE) {
        REQUIRE(life->freeing, "page %llx is not known", (unsigned long long)m->pid);
    } else if (status == -DSM_ECONFLICT) {
        REQUIRE(m->version != m->expected && m->version >= c->floor, "no conflict");
    } else {
        REQUIRE(status == -DSM_EUNKNOWN || status == -DSM_EIO || status == -DSM_ECANCELED ||
                    (copies > 1 && (status == -DSM_EPEER || status == -DSM_EBUSY)),
                "status %d", status);
        REQUIRE(status != -DSM_EBUSY || !store_lock_is_own(&c->env, m->lock), "it waits for itself");
        if (c->value && status != -DSM_EUNKNOWN)
            forget(c->value);
    }
}

static void allocation_ended(struct client *c)
{
    struct store_allocation *a = &c->allocation;
    if (a->status) {
        REQUIRE(a->status == -DSM_ESTOREFULL || a->status == -DSM_EUNKNOWN || a->status == -DSM_EIO ||
                    a->status == -DSM_ECANCELED || (copies > 1 && a->status == -DSM_EPEER),
                "status %d", a->status);
        return;
    }
    for (uint64_t i = 0; i < a->want; i++) {
        uint64_t pid = c->ids[i];
        REQUIRE(!life_of(pid), "page %llx was given twice", (unsigned long long)pid);
        for (uint32_t k = 0; k < n_lives; k++)
            REQUIRE(page_number(lives[k].pid) != page_number(pid) || lives[k].freeing, "page %llx is in use",
                    (unsigned long long)lives[k].pid);
        REQUIRE(n_lives < IDS, "more ids than the simulation has room for");
        lives[n_lives++] = (struct life){.pid = pid};
    }
}

/* ---- clients ---- */

/* Closes what the dead client of the slot has left open, as csrc/store/store.c does, and takes the slot. */
static void take(struct client *c, uint32_t slot)
{
    uint64_t *words = (uint64_t *)(void *)(memory[0] + shape.chunk_words);
    for (uint64_t i = 0; i < shape.chunks; i++)
        if (chunk_state(words[i]) == CHUNK_OPEN && chunk_owner(words[i]) == slot + 1)
            words[i] = chunk_next(words[i], 0, CHUNK_CLOSED);
    c->env.slot = slot;
    c->env.freed = slot % 2 ? (struct store_freed *)(void *)c->freed : NULL;
    places[slot] = (struct place){.mark = c->env.mark, .taken = true};
    c->does = IDLES;
}

/* In the first slot that is free, which may be a dead client's: then its locks are resolved first, where there are
 * several copies. Several newcomers may be at it. */
static void come(struct client *c, bool hints)
{
    uint32_t slot = 0;
    memset(c, 0, offsetof(struct client, flights));
    memset(&c->task, 0, sizeof *c - offsetof(struct client, task));
    c->env = (struct store_env){.shape = &shape,
                                .slot = NOWHERE,
                                .copies = copies,
                                .mark = (uint32_t)chance(LOW24),
                                .at = at,
                                .dues = copies > 1 ? &c->dues : NULL,
                                .lock_wait = 10000000000,
                                .frames = &c->frames,
                                .hints = hints ? c->hints : NULL,
                                .heads = &c->heads};
    while (places[slot].taken && !places[slot].dead)
        slot++;
    if (!places[slot].taken || copies == 1) {
        take(c, slot);
        return;
    }
    c->task = SWEEPS;
    c->sweep.slot = slot;
    c->sweep.mark = places[slot].mark;
    c->does = RUNS;
}

static void has_swept(struct client *c)
{
    const struct place *p = &places[c->sweep.slot];
    if (!c->sweep.status && p->dead && p->mark == c->sweep.mark)
        take(c, c->sweep.slot);
    else
        c->does = GONE; /* another newcomer was faster, or an answer was lost */
}

/* Writes are the most, since these move frames. */
static enum store_kind any_kind(void)
{
    static const enum store_kind kinds[] = {STORE_WRITE,   STORE_WRITE,         STORE_WRITE, STORE_READ,
                                            STORE_READ,    STORE_COMPARE_WRITE, STORE_WRITE, STORE_WRITE,
                                            STORE_VERSION, STORE_COMPARE_WRITE, STORE_READ,  STORE_FREE};
    return kinds[chance(sizeof kinds / sizeof *kinds - (chance(4) != 0))];
}

static void begin(struct client *c)
{
    c->does = RUNS;
    if (!n_lives || (chance(12) == 0 && n_lives < IDS - MANY * CLIENTS)) {
        c->task = ALLOCATES;
        memset(&c->allocation, 0, sizeof c->allocation);
        c->allocation.ids = c->ids;
        c->allocation.want = 1 + chance(MANY);
        return;
    }
    uint32_t recent = n_lives < 2 * PAGES ? n_lives : 2 * PAGES;
    struct life *life = &lives[n_lives - 1 - (chance(3) ? 0 : chance(recent))];
    enum store_kind kind = any_kind();
    if (values + 1 >= VALUES)
        kind = STORE_READ;
    c->task = ONE_PAGE;
    c->floor = history_of(life->pid)->floor;
    c->was_freed = life->freed;
    c->value = 0;
    memset(&c->op, 0, sizeof c->op);
    c->op.kind = kind;
    c->op.pid = life->pid;
    c->op.page = c->page;
    c->op.expected = c->floor;
    if (kind == STORE_WRITE || kind == STORE_COMPARE_WRITE) {
        c->value = ++values;
        for (int i = 0; i < PAGE_BYTES / 8; i++)
            memcpy(c->page + 8 * i, &c->value, 8);
    }
    life->freeing |= kind == STORE_FREE;
}

static void finish(struct client *c)
{
    c->does = IDLES;
    if (c->task == SWEEPS)
        has_swept(c);
    else if (c->task == ALLOCATES)
        allocation_ended(c);
    else if (c->task == ONE_PAGE)
        op_ended(c);
}

static void unlock(struct client *c)
{
    c->task = UNLOCKS;
    post(c, NULL, 0);
}

/* A lock was met. That its holder is dead is known once it is fenced at all nodes. */
static void recover(struct client *c)
{
    uint64_t lock = c->task == ALLOCATES ? c->allocation.lock : c->op.lock;
    uint32_t slot = head_state(lock) - 1;
    REQUIRE(slot < SLOTS, "a lock of slot %u", slot);
    bool is_dead = places[slot].dead && places[slot].mark == head_low(lock);
    if (!is_dead && !store_lock_is_own(&c->env, lock))
        return;
    c->resolves = true;
    memset(&c->resolve, 0, sizeof c->resolve);
    c->resolve.number = c->task == ALLOCATES ? c->allocation.locked : c->op.locked;
    c->resolve.lock = lock;
}

static void has_resolved(struct client *c)
{
    int status = c->resolve.status;
    c->resolves = false;
    REQUIRE(!status || status == -DSM_EIO || status == -DSM_ECANCELED || status == -DSM_EPEER ||
                status == -DSM_EUNKNOWN,
            "resolving: status %d", status);
    if (status && c->task == ONE_PAGE) {
        c->op.status = status;
        finish(c);
    }
}

/* The chunk that was to be opened is open, or could not be. The client takes some of its frames for used, and does not
 * use them, so that it soon needs another chunk. In every other world all use the same few frames of a chunk. */
static void has_chunk(struct client *c)
{
    int status = c->chunking.status;
    c->needs_frames = false;
    REQUIRE(!status || status == -DSM_EIO || status == -DSM_EUNKNOWN || status == -DSM_ECANCELED ||
                status == -DSM_EBUSY,
            "opening a chunk: status %d", status);
    if (status)
        c->does = IDLES; /* the write has not begun */
    if (seed % 2 && c->frames.free & 0xf)
        c->frames.free &= 0xf;
    for (int i = 0; i < 56 && c->frames.free & (c->frames.free - 1); i++)
        c->frames.free &= ~(1ull << chance(64)) | (c->frames.free & -c->frames.free);
}

static void post_what(struct client *c)
{
    if (c->resolves)
        post(c, c->resolve.ops, c->resolve.n);
    else if (c->needs_frames)
        post(c, c->chunking.ops, c->chunking.n);
    else if (c->task == SWEEPS)
        post(c, c->sweep.ops, c->sweep.n);
    else if (c->task == ALLOCATES)
        post(c, c->allocation.ops, c->allocation.n);
    else
        post(c, c->op.ops, c->op.n);
}

static enum store_next step_what(struct client *c)
{
    if (c->resolves)
        return store_resolve_step(&c->resolve, &c->env);
    if (c->needs_frames)
        return store_open_chunk_step(&c->chunking, &c->env);
    if (c->task == SWEEPS)
        return store_sweep_step(&c->sweep, &c->env);
    if (c->task == ALLOCATES)
        return store_allocate_step(&c->allocation, &c->env);
    return c->task == UNLOCKS ? STORE_DONE : store_step(&c->op, &c->env);
}

static void step(struct client *c)
{
    c->env.now = now;
    c->env.time = (uint64_t)now;
    c->env.random = chance(UINT64_MAX);
    switch (step_what(c)) {
    case STORE_POST:
        post_what(c);
        break;
    case STORE_SLEEP:
        c->does = SLEEPS;
        c->until = now + (c->task == ALLOCATES ? c->allocation.sleep_ns : c->op.sleep_ns);
        break;
    case STORE_FRAMES:
        c->needs_frames = true;
        memset(&c->chunking, 0, sizeof c->chunking);
        break;
    case STORE_RECOVER:
        recover(c);
        break;
    default:
        if (c->resolves)
            has_resolved(c);
        else if (c->needs_frames)
            has_chunk(c);
        else
            finish(c);
    }
}

/* At one node. The slot is free for others once all are done. */
static void fence(struct client *c)
{
    uint32_t node = (uint32_t)chance(copies);
    settle(c, node);
    c->fenced |= 1u << node;
    if (c->fenced != (1u << copies) - 1)
        return;
    if (c->env.slot != NOWHERE)
        places[c->env.slot].dead = true;
    c->does = GONE;
}

/* Something that this client, or what it has posted, does next. */
static void act(struct client *c, bool calm)
{
    bool hints = chance(2);
    bool waits = c->does == WAITS && waits_for_answers(c);
    if (is_under_way(c, -1) && (waits || (c->does != GONE && chance(2)))) {
        uint32_t node = (uint32_t)chance(copies);
        if (!calm && waits && (chance(60) == 0 || c->cut >> node & 1))
            lose(c, node);
        else
            land_some(c, -1);
        return;
    }
    switch (c->does) {
    case IDLES:
        if (c->dues.n && now >= c->until && (calm || chance(2)))
            unlock(c);
        else if (now >= c->until && !calm)
            begin(c);
        break;
    case WAITS:
        answer(c);
        break;
    case SLEEPS:
    case RUNS:
        if (now >= c->until)
            step(c);
        break;
    case DIED:
        if (chance(8) == 0 || calm)
            fence(c);
        break;
    default:
        come(c, hints);
    }
}

static void disturb(struct client *c)
{
    if (chance(300) == 0)
        c->until = now + (int64_t)(chance(8) ? chance(40000) : chance(20000000000ull)); /* is stopped */
    if (copies > 1 && chance(100) == 0)
        c->cut = chance(2) ? 0 : 1u << chance(copies);
    if (chance(copies > 1 ? 300 : 1000) == 0 && c->does < DIED) {
        c->does = DIED;
        for (uint32_t i = 0; i < c->n; i++)
            c->flights[i].op = NULL;
    }
}

/* ---- a run ---- */

static const uint64_t *heads_at(uint32_t node) { return (const uint64_t *)(const void *)(memory[node] + shape.heads); }

/* What dead clients and lost answers have left. */
static void sweep_all(void)
{
    struct client *c = &clients[0];
    for (int i = 0; i < CLIENTS; i++)
        REQUIRE(clients[i].does == GONE || !clients[i].dues.n, "client %d has unlocks that are due", i);
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        memset(&c->sweep, 0, sizeof c->sweep);
        c->sweep.slot = slot;
        c->sweep.mark = places[slot].mark;
        while (store_sweep_step(&c->sweep, &c->env) == STORE_POST)
            for (uint32_t i = 0; i < c->sweep.n; i++) {
                struct flight f = {.op = &c->sweep.ops[i], .copy = c->sweep.ops[i], .node = node_of(&c->sweep.ops[i])};
                for (uint32_t piece = 0; piece * PIECE < f.copy.nbytes; piece++)
                    land(&f, piece);
                f.op->result = f.copy.result;
                f.op->status = 0;
            }
        REQUIRE(!c->sweep.status, "sweeping slot %u: status %d", slot, c->sweep.status);
    }
}

static void check_frame(uint32_t node, uint64_t number, uint64_t head)
{
    struct frame_header h;
    const uint8_t *frame = memory[node] + frame_at(&shape, head_low(head));
    memcpy(&h, frame, sizeof h);
    REQUIRE(frame_fits(&h, number, head) && frame_holds(&h, frame + sizeof h, PAGE_BYTES),
            "copy %u of page %llu is damaged", node, (unsigned long long)number);
    REQUIRE(h.version >= histories[number].floor, "the last version of page %llx is lost", (unsigned long long)h.pid);
    learn(h.pid, h.version, value_in(frame + sizeof h));
}

static void check_memory(void)
{
    const uint64_t *heads = heads_at(0);
    for (uint64_t i = 0; i < PAGES; i++) {
        REQUIRE(!head_locked(heads[i]), "page %llu stays locked", (unsigned long long)i);
        for (uint32_t k = 1; k < copies; k++)
            REQUIRE(heads_at(k)[i] == heads[i], "copy %u of head %llu", k, (unsigned long long)i);
        if (head_state(heads[i]) != HEAD_FRAMED)
            continue;
        for (uint32_t k = 0; k < copies; k++)
            check_frame(k, i, heads[i]);
        for (uint64_t k = 0; k < i; k++)
            REQUIRE(head_state(heads[k]) != HEAD_FRAMED || head_low(heads[k]) != head_low(heads[i]),
                    "two pages are in frame %u", head_low(heads[i]));
    }
}

static bool all_idle(void)
{
    for (int i = 0; i < CLIENTS; i++)
        if ((clients[i].does != IDLES && clients[i].does != GONE) || (clients[i].does == IDLES && clients[i].dues.n))
            return false;
    return true;
}

static void run(uint64_t number)
{
    seed = number;
    state = number * 0x2545f4914f6cdd1dull;
    steps_done = 0;
    now = 1;
    history_begins();
    memset(places, 0, sizeof places);
    shape.id = chance(UINT64_MAX);
    for (uint32_t k = 0; k < copies; k++) {
        memset(memory[k], 0, shape.nbytes);
        for (uint64_t i = 0; i < PAGES; i++)
            ((uint64_t *)(void *)(memory[k] + shape.heads))[i] = head_first(&shape, i);
    }
    for (int i = 0; i < CLIENTS; i++)
        come(&clients[i], chance(2));
    for (; steps_done < STEPS; steps_done++) {
        struct client *c = &clients[chance(CLIENTS)];
        now += (int64_t)(chance(1000) ? chance(copies > 1 ? 400000 : 2000) : chance(20000000000ull));
        disturb(c);
        act(c, false);
    }
    for (; !all_idle(); steps_done++) { /* what has begun comes to an end */
        REQUIRE(steps_done < 100 * STEPS, "an op does not end");
        now += 1000000000;
        act(&clients[chance(CLIENTS)], true);
    }
    for (int i = 0; i < CLIENTS; i++)
        for (uint32_t k = 0; k < copies; k++)
            settle(&clients[i], k);
    if (copies > 1)
        sweep_all();
    check_memory();
}

static void run_all(uint32_t with, uint64_t first, uint64_t n)
{
    copies = shape.copies = with;
    REQUIRE(!store_lay_out(&shape), "%u copies", with);
    for (uint32_t k = 0; k < with; k++) {
        memory[k] = calloc(1, shape.nbytes);
        REQUIRE(memory[k], "no memory");
        at[k] = (dsm_remote *)(void *)memory[k];
    }
    for (uint64_t i = 0; i < n; i++)
        run(first + i);
    for (uint32_t k = 0; k < with; k++)
        free(memory[k]);
}

int main(int argc, char **argv)
{
    traced = argc > 4;
    if (argc > 3) {
        run_all((uint32_t)strtoul(argv[1], NULL, 10), strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    } else {
        run_all(1, 1, 200);
        run_all(2, 1, 200);
        run_all(3, 1, 100);
    }
    puts("ok");
    return 0;
}
