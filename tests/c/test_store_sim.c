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
 *   test_store_sim             200 seeds
 *   test_store_sim FIRST N     N seeds from FIRST on; says the first that fails, and exits with 1
 *   test_store_sim SEED 1 t    says each op that ends
 */
#include "store_history.h"

enum { CLIENTS = 5, SLOTS = CLIENTS + 3, STEPS = 6000, PIECE = 40, MANY = 3 };

/* ---- the memory, and what is under way to it ---- */

static struct store_shape shape = {.page_bytes = PAGE_BYTES, .slots = SLOTS, .copies = 1, .pages = PAGES};
static uint8_t *memory;
static dsm_remote *at[1]; /* the machines only hand it on */

struct flight { /* an op that was posted */
    dsm_op *op; /* of the machine; NULL: it has been told that the answer was lost */
    dsm_op copy;
    uint8_t sent[64 + PAGE_BYTES]; /* of a WRITE, as it was when it was posted */
    uint64_t left;                 /* pieces, a bit each */
};

enum does { IDLES, RUNS, WAITS, SLEEPS, DIED, GONE };

static struct client {
    enum does does;
    int64_t until; /* stopped, or asleep */
    struct store_env env;
    struct store_frames frames;
    struct store_hint hints[PAGES];
    _Alignas(struct store_freed) uint8_t freed[sizeof(struct store_freed) + 16 * (SLOTS + 1 + PAGES / PER_CHUNK)];
    struct store_heads heads;
    struct flight flights[PER_CHUNK];
    uint32_t n;

    enum { ONE_PAGE, ALLOCATES } task;
    bool needs_frames;
    struct store_op op;
    struct store_allocation allocation;
    struct store_chunking chunking;
    uint64_t ids[MANY];
    uint8_t page[PAGE_BYTES];
    uint64_t value, floor; /* that is written; the version of the page that the op must see at least */
    bool was_freed;        /* a free of the page had ended when the op began */
} clients[CLIENTS];

static int64_t now;
static bool taken[SLOTS]; /* until the fence of the dead client */

static uint8_t *local_of(const dsm_op *op, uint64_t at)
{
    uint64_t first = op->nbytes - op->second_nbytes;
    return at < first ? (uint8_t *)op->local + at : (uint8_t *)op->second + (at - first);
}

static void post(struct client *c, dsm_op *ops, uint32_t n)
{
    c->n = n;
    c->does = WAITS;
    for (uint32_t i = 0; i < n; i++) {
        struct flight *f = &c->flights[i];
        *f = (struct flight){.op = &ops[i], .copy = ops[i]};
        uint64_t pieces = ops[i].code > DSM_OP_WRITE ? 1 : (ops[i].nbytes + PIECE - 1) / PIECE;
        REQUIRE(ops[i].offset + ops[i].nbytes <= shape.nbytes && pieces < 64, "an op out of bounds");
        f->left = (1ull << pieces) - 1;
        if (ops[i].code == DSM_OP_WRITE)
            for (uint64_t k = 0; k < ops[i].nbytes; k++)
                f->sent[k] = *local_of(&ops[i], k);
    }
}

/* WRITEs and compare-swaps take effect in order. */
static bool may_land(const struct client *c, uint32_t i)
{
    if (c->flights[i].copy.code == DSM_OP_READ)
        return true;
    for (uint32_t k = 0; k < i; k++)
        if (c->flights[k].copy.code != DSM_OP_READ && c->flights[k].left)
            return false;
    return true;
}

static void land(struct flight *f, uint32_t piece)
{
    dsm_op *op = &f->copy;
    uint64_t at = (uint64_t)piece * PIECE, n = op->nbytes - at < PIECE ? op->nbytes - at : PIECE;
    f->left &= ~(1ull << piece);
    if (op->code == DSM_OP_WRITE) {
        memcpy(memory + op->offset + at, f->sent + at, n);
    } else if (op->code == DSM_OP_READ) {
        for (uint64_t k = at; f->op && k < at + n; k++)
            *local_of(op, k) = memory[op->offset + k];
    } else {
        uint64_t *word = (uint64_t *)(void *)(memory + op->offset);
        op->result = *word;
        if (*word == op->operand)
            *word = op->desired;
    }
}

static bool is_under_way(const struct client *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->flights[i].left)
            return true;
    return false;
}

static void land_some(struct client *c)
{
    uint32_t i = (uint32_t)chance(c->n);
    for (uint32_t k = 0; k < c->n; k++, i = (i + 1) % c->n) {
        struct flight *f = &c->flights[i];
        if (!f->left || !may_land(c, i))
            continue;
        uint32_t piece = (uint32_t)chance(64);
        while (!(f->left >> piece & 1))
            piece = (piece + 1) % 64;
        land(f, piece);
        return;
    }
}

static void answer(struct client *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        c->flights[i].op->status = 0;
        c->flights[i].op->result = c->flights[i].copy.result;
    }
    c->n = 0;
    c->does = RUNS;
}

/* The machine is told at once. What was posted goes on, until the next op of this client, or its fence. */
static void lose(struct client *c)
{
    bool sent = true;
    for (uint32_t i = 0; i < c->n; i++) {
        struct flight *f = &c->flights[i];
        sent = sent && (chance(4) || !may_land(c, i));
        f->op->status = f->copy.code == DSM_OP_READ ? -DSM_EIO : sent ? -DSM_EUNKNOWN : -DSM_ECANCELED;
        f->op->cause = sent ? -DSM_EPEER : 0;
        if (!sent)
            f->left = 0;
        f->op = NULL;
    }
    c->does = RUNS;
}

/* The owner has closed the connection: some of what was under way has landed, and the rest never will. */
static void settle(struct client *c)
{
    while (is_under_way(c) && chance(6))
        land_some(c);
    c->n = 0;
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
        REQUIRE(status == -DSM_EUNKNOWN || status == -DSM_EIO || status == -DSM_ECANCELED, "status %d", status);
        if (c->value && status != -DSM_EUNKNOWN)
            forget(c->value);
    }
}

static void allocation_ended(struct client *c)
{
    struct store_allocation *a = &c->allocation;
    if (a->status) {
        REQUIRE(a->status == -DSM_ESTOREFULL || a->status == -DSM_EUNKNOWN || a->status == -DSM_EIO ||
                    a->status == -DSM_ECANCELED,
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

/* The first slot that is free, which may be a dead client's: then its chunks are closed, as csrc/store/store.c does. */
static void come(struct client *c, bool hints)
{
    uint64_t *words = (uint64_t *)(void *)(memory + shape.chunk_words);
    uint32_t slot = 0;
    memset(c, 0, sizeof *c);
    while (taken[slot])
        slot++;
    taken[slot] = true;
    for (uint64_t i = 0; i < shape.chunks; i++)
        if (chunk_state(words[i]) == CHUNK_OPEN && chunk_owner(words[i]) == slot + 1)
            words[i] = chunk_next(words[i], 0, CHUNK_CLOSED);
    c->env = (struct store_env){.shape = &shape,
                                .slot = slot,
                                .copies = 1,
                                .at = at,
                                .frames = &c->frames,
                                .hints = hints ? c->hints : NULL,
                                .heads = &c->heads};
    c->env.freed = slot % 2 ? (struct store_freed *)(void *)c->freed : NULL;
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
    if (c->task == ALLOCATES)
        allocation_ended(c);
    else
        op_ended(c);
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

static void step(struct client *c)
{
    enum store_next next;
    c->env.now = now;
    c->env.time = (uint64_t)now;
    c->env.random = chance(UINT64_MAX);
    if (c->needs_frames)
        next = store_open_chunk_step(&c->chunking, &c->env);
    else if (c->task == ALLOCATES)
        next = store_allocate_step(&c->allocation, &c->env);
    else
        next = store_step(&c->op, &c->env);
    if (next == STORE_POST) {
        settle(c);
        if (c->needs_frames)
            post(c, c->chunking.ops, c->chunking.n);
        else if (c->task == ALLOCATES)
            post(c, c->allocation.ops, c->allocation.n);
        else
            post(c, c->op.ops, c->op.n);
    } else if (next == STORE_SLEEP) {
        c->does = SLEEPS;
        c->until = now + c->op.sleep_ns;
    } else if (next == STORE_FRAMES) {
        c->needs_frames = true;
        memset(&c->chunking, 0, sizeof c->chunking);
    } else if (c->needs_frames) {
        has_chunk(c);
    } else {
        finish(c);
    }
}

static void fence(struct client *c)
{
    settle(c);
    taken[c->env.slot] = false;
    c->does = GONE;
}

/* Something that this client, or what it has posted, does next. */
static void act(struct client *c, bool calm)
{
    bool hints = chance(2);
    if (is_under_way(c) && (c->does != RUNS || chance(2))) {
        if (!calm && c->does == WAITS && chance(60) == 0)
            lose(c);
        else
            land_some(c);
        return;
    }
    switch (c->does) {
    case IDLES:
        if (now >= c->until && !calm)
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
    if (chance(1000) == 0 && c->does < DIED) {
        c->does = DIED;
        for (uint32_t i = 0; i < c->n; i++)
            c->flights[i].op = NULL;
    }
}

/* ---- a run ---- */

static void check_memory(void)
{
    uint64_t *heads = (uint64_t *)(void *)(memory + shape.heads);
    for (uint64_t i = 0; i < PAGES; i++) {
        if (head_state(heads[i]) != HEAD_FRAMED)
            continue;
        struct frame_header h;
        const uint8_t *frame = memory + frame_at(&shape, head_low(heads[i]));
        memcpy(&h, frame, sizeof h);
        REQUIRE(frame_fits(&h, i, heads[i]) && frame_holds(&h, frame + sizeof h, PAGE_BYTES), "page %llx is damaged",
                (unsigned long long)h.pid);
        REQUIRE(h.version >= histories[i].floor, "the last version of page %llx is lost", (unsigned long long)h.pid);
        learn(h.pid, h.version, value_in(frame + sizeof h));
        for (uint64_t k = 0; k < i; k++)
            REQUIRE(head_state(heads[k]) != HEAD_FRAMED || head_low(heads[k]) != head_low(heads[i]),
                    "two pages are in frame %u", head_low(heads[i]));
    }
}

static bool all_idle(void)
{
    for (int i = 0; i < CLIENTS; i++)
        if (clients[i].does != IDLES && clients[i].does != GONE)
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
    memset(taken, 0, sizeof taken);
    memset(memory, 0, shape.nbytes);
    shape.id = chance(UINT64_MAX);
    for (uint64_t i = 0; i < PAGES; i++)
        ((uint64_t *)(void *)(memory + shape.heads))[i] = head_first(&shape, i);
    for (int i = 0; i < CLIENTS; i++)
        come(&clients[i], chance(2));
    for (; steps_done < STEPS; steps_done++) {
        struct client *c = &clients[chance(CLIENTS)];
        now += (int64_t)(chance(1000) ? chance(2000) : chance(20000000000ull));
        disturb(c);
        act(c, false);
    }
    for (; !all_idle(); steps_done++) { /* what has begun comes to an end */
        REQUIRE(steps_done < 100 * STEPS, "an op does not end");
        now += 1000000000;
        act(&clients[chance(CLIENTS)], true);
    }
    for (int i = 0; i < CLIENTS; i++)
        settle(&clients[i]);
    check_memory();
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 2 ? strtoull(argv[1], NULL, 10) : 1, n = argc > 2 ? strtoull(argv[2], NULL, 10) : 200;
    if (store_lay_out(&shape) || !(memory = calloc(1, shape.nbytes)))
        return 2;
    traced = argc > 3;
    for (uint64_t i = 0; i < n; i++)
        run(first + i);
    free(memory);
    puts("ok");
    return 0;
}
