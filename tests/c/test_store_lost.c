/*
 * The machines of a store where answers are lost at chosen places, one client after the other. test_store_sim.c has the
 * orders in which they can meet by chance; these are the ones that it hardly ever comes to.
 */
#include "base/mapped_ops.h"
#include "check.h"
#include "store/commit.h"

enum { PAGES = 64, PAGE = 256, EXTENTS = 2 };

/* What is to happen to the next posting with an op of this kind: it is executed, or not, and its answer is lost. */
static enum lose { NOTHING, OPENING, CLOSING, HEAD } lose;
static bool executed, unreadable, refused;
static bool lost_all; /* no answer comes, and nothing is executed */
static bool readable; /* what becomes of a head can be found out */
static bool changes;  /* the source of a write, once the machine has posted it */
static struct store_shape shape;
static uint8_t *memory, page[PAGE];
static dsm_remote *at[EXTENTS]; /* the memory of each extent; the machines only hand it on */
static uint32_t extents = 1;

static struct client {
    struct store_frames frames[EXTENTS];
    struct store_heads heads;
    struct store_env env;
} a, b;

static void begin(uint32_t slots)
{
    free(memory);
    shape = (struct store_shape){
        .page_bytes = PAGE, .slots = slots, .copies = 1, .pages = PAGES / extents, .extents = extents, .id = 1};
    CHECK(!store_lay_out(&shape) && (memory = calloc(extents, shape.nbytes)) != NULL);
    for (uint32_t x = 0; x < extents; x++)
        at[x] = (dsm_remote *)(void *)(memory + x * shape.nbytes);
    for (uint64_t i = 0; i < PAGES; i++)
        *(uint64_t *)(void *)((uint8_t *)at[extent_of(&shape, i)] + head_of_page_at(&shape, i)) = head_first(&shape, i);
}

static void come(struct client *c, uint32_t slot)
{
    *c = (struct client){
        .env = {.shape = &shape, .slot = slot, .copies = 1, .at = at, .frames = c->frames, .heads = &c->heads}};
}

static enum lose kind_of(const dsm_op *op)
{
    if (op->code != DSM_OP_COMPARE_SWAP)
        return NOTHING;
    if (op->offset >= shape.heads)
        return HEAD;
    return chunk_state(op->desired) == CHUNK_OPEN ? OPENING : CLOSING;
}

static void execute(dsm_op *ops, uint32_t n)
{
    if (changes && ops[0].code == DSM_OP_WRITE)
        page[PAGE / 2]++;
    for (uint32_t i = 0; lost_all && i < n; i++)
        ops[i].status = ops[i].code == DSM_OP_READ ? -DSM_EIO : -DSM_EUNKNOWN;
    if (lost_all)
        return;
    bool lost = false;
    for (uint32_t i = 0; i < n; i++)
        lost |= lose && kind_of(&ops[i]) == lose;
    for (uint32_t i = 0; i < n; i++) {
        dsm_op unseen = ops[i];
        if (lost ? executed : !unreadable && !refused)
            mapped_execute((uint8_t *)ops[i].remote, lost ? &unseen : &ops[i]);
        ops[i].status = lost         ? -DSM_EUNKNOWN
                        : unreadable ? -DSM_EPEER
                        : !refused   ? 0
                        : i          ? -DSM_ECANCELED
                                     : -DSM_EACCESS;
        ops[i].cause = lost ? -DSM_EPEER : 0;
    }
    unreadable = lost && lose == HEAD && !readable;
    refused = false;
    if (lost)
        lose = NOTHING;
}

static int open_chunk(struct client *c)
{
    struct store_chunking m = {.whole = true, .step = CHUNK_BEGINS};
    while (store_open_chunk_step(&m, &c->env) == STORE_POST)
        execute(m.ops, m.n);
    return m.status;
}

static int operate(struct client *c, enum store_kind kind, uint64_t pid, uint8_t with)
{
    struct store_op m = {.kind = kind, .pid = pid, .page = page};
    enum store_next next;
    int rc = 0;
    memset(page, with, PAGE);
    while (!rc && (next = store_step(&m, &c->env)) != STORE_DONE) {
        if (next == STORE_POST)
            execute(m.ops, m.n);
        else if (next == STORE_FRAMES)
            rc = open_chunk(c);
    }
    return rc ? rc : m.status;
}

static void allocate(struct client *c, uint64_t *ids)
{
    struct store_allocation m = {.ids = ids, .want = PAGES};
    while (store_allocate_step(&m, &c->env) == STORE_POST)
        execute(m.ops, m.n);
    CHECK(!m.status);
}

static void write_all(struct client *c, const uint64_t *ids, uint8_t with)
{
    for (uint32_t i = 0; i < PAGES; i++)
        CHECK(!operate(c, STORE_WRITE, ids[i], with));
    for (uint32_t i = 0; i < PAGES; i++)
        CHECK(!operate(c, STORE_READ, ids[i], 0) && page[0] == with && page[PAGE - 1] == with);
}

/* The chunk was closed, and its client does not know. Another one opens it. Then the first supersedes a frame there. */
static void a_chunk_that_may_be_closed(void)
{
    uint64_t ids[PAGES];
    begin(2);
    come(&a, 0);
    come(&b, 1);
    allocate(&a, ids);
    write_all(&a, ids, 1); /* all frames of a chunk */
    b.frames->chunk = a.frames->chunk;
    lose = CLOSING;
    executed = true;
    CHECK(operate(&a, STORE_WRITE, ids[0], 2) == -DSM_EUNKNOWN);
    CHECK(!operate(&a, STORE_FREE, ids[5], 0));
    CHECK(!operate(&b, STORE_WRITE, ids[1], 3)); /* in the frame of the page that was freed */
    CHECK(!operate(&a, STORE_WRITE, ids[2], 4));
    CHECK(!operate(&b, STORE_READ, ids[1], 0) && page[0] == 3);
    CHECK(!operate(&b, STORE_READ, ids[2], 0) && page[0] == 4);
}

/* A client that saw a page long ago makes the very head that another client made meanwhile, when it had the chunk; but
 * it is refused, and the answer is lost. The head that is there has replaced that of the other client. */
static void a_head_that_came_twice(void)
{
    uint64_t ids[PAGES];
    begin(2);
    come(&a, 0);
    come(&b, 1);
    struct store_hint *hints = calloc(PAGES, sizeof *hints);
    CHECK(hints != NULL);
    a.env.hints = hints;
    allocate(&b, ids);
    CHECK(!operate(&b, STORE_WRITE, ids[0], 1)); /* in frame 0 of the first chunk */
    CHECK(!operate(&a, STORE_READ, ids[0], 0) && page[0] == 1);
    uint32_t frame = (uint32_t)__builtin_ctzll(b.frames->free);
    CHECK(!operate(&b, STORE_WRITE, ids[0], 2)); /* in 'frame' */
    b.frames->free = 0;                          /* and the rest of the chunk in other pages */
    uint32_t chunk = b.frames->chunk;
    CHECK(!operate(&b, STORE_WRITE, ids[0], 3) && b.frames->chunk != chunk);
    a.frames->chunk = chunk;
    CHECK(!open_chunk(&a) && a.frames->chunk == chunk);
    a.frames->free = 1ull << frame;
    lose = HEAD;
    executed = false;
    readable = true;
    CHECK(operate(&a, STORE_WRITE, ids[0], 4) == -DSM_EUNKNOWN && !lose);
    readable = false;
    CHECK(!operate(&a, STORE_READ, ids[0], 0) && page[0] == 3);
    free(hints);
}

static void one_is_open(void)
{
    const uint64_t *words = (const uint64_t *)(const void *)(memory + shape.chunk_words);
    int open = 0;
    for (uint64_t i = 0; i < shape.chunks; i++)
        open += chunk_state(words[i]) == CHUNK_OPEN;
    CHECK(open == 1);
}

/* More answers are lost than there are chunks; then the client leaves with one in doubt, and another one comes. */
static void chunks_are_found_again(enum lose what, bool takes_effect)
{
    uint64_t ids[PAGES];
    begin(1);
    come(&a, 0);
    allocate(&a, ids);
    write_all(&a, ids, 100);
    for (uint8_t i = 1; i < 10; i++) {
        lose = what;
        executed = takes_effect;
        if (what != HEAD)
            a.frames->free = 0; /* it needs another chunk */
        CHECK(operate(&a, STORE_WRITE, ids[i], i) == -DSM_EUNKNOWN && !lose);
        write_all(&a, ids, i);
        one_is_open();
        write_all(&a, ids, i + 100);
    }
    lose = what;
    a.frames->free &= what == HEAD ? ~0ull : 0;
    CHECK(operate(&a, STORE_WRITE, ids[0], 1) == -DSM_EUNKNOWN);
    unreadable = false;
    come(&a, 0); /* another client, in the same slot */
    write_all(&a, ids, 2);
    write_all(&a, ids, 3);
}

static void the_cause_is_reported(void)
{
    uint64_t ids[PAGES];
    begin(1);
    come(&a, 0);
    allocate(&a, ids);
    write_all(&a, ids, 1);
    CHECK(!operate(&a, STORE_WRITE, ids[0], 2));
    struct store_op m = {.kind = STORE_WRITE, .pid = ids[0], .page = page};
    while (store_step(&m, &a.env) == STORE_POST) {
        refused = m.n == 2 && m.ops[0].code == DSM_OP_WRITE;
        execute(m.ops, m.n);
    }
    CHECK(m.status == -DSM_EACCESS);
}

/* Whichever value is written, a reader finds a page that is whole. */
static void a_source_that_changes(void)
{
    uint64_t ids[PAGES];
    uint8_t copy[PAGE];
    begin(1);
    come(&a, 0);
    a.env.copy = copy;
    allocate(&a, ids);
    changes = true;
    CHECK(!operate(&a, STORE_WRITE, ids[0], 1) && page[PAGE / 2] == 2);
    changes = false;
    CHECK(!operate(&a, STORE_READ, ids[0], 0) && page[0] == 1 && page[PAGE / 2] == 1);
}

/* The head is another one at each look, and never that of the frame. */
static int read_what_changes(uint64_t pid)
{
    uint64_t *head = (uint64_t *)(void *)(memory + head_at(&shape, page_number(pid)));
    struct store_op m = {.kind = STORE_READ, .pid = pid, .page = page};
    enum store_next next;
    int sleeps = 0;
    for (int steps = 0; (next = store_step(&m, &a.env)) != STORE_DONE; steps++) {
        CHECK(steps < 100000);
        sleeps += next == STORE_SLEEP;
        if (next == STORE_POST)
            execute(m.ops, m.n);
        *head = head_of(HEAD_FRAMED, head_version(*head) + 1, head_low(*head));
    }
    CHECK(sleeps > 1000 && m.sleep_ns >= 500000);
    return m.status;
}

static void looks_have_an_end(void)
{
    uint64_t ids[PAGES];
    begin(1);
    come(&a, 0);
    allocate(&a, ids);
    CHECK(!operate(&a, STORE_WRITE, ids[0], 1));
    memset(memory + shape.frames, 0, shape.nbytes - shape.frames);
    CHECK(read_what_changes(ids[0]) == -DSM_ETIME && !strstr(dsm_last_error()->detail, "changed"));
}

/* A write was executed, and the answer lost. Before the head is read a transaction locks the page, and then gives up:
 * the frame behind the lock is the page's, and is not written again. */
static void a_lock_behind_a_lost_answer(void)
{
    uint64_t ids[PAGES];
    begin(2);
    come(&a, 0);
    come(&b, 1);
    allocate(&a, ids);
    CHECK(!operate(&a, STORE_WRITE, ids[0], 1));
    uint64_t *head = (uint64_t *)(void *)(memory + head_at(&shape, page_number(ids[0]))), made = 0;
    struct store_op m = {.kind = STORE_WRITE, .pid = ids[0], .page = page};
    memset(page, 2, PAGE);
    lose = HEAD;
    executed = readable = true;
    while (store_step(&m, &a.env) == STORE_POST) {
        execute(m.ops, m.n);
        if (lose || made)
            continue;
        made = *head;
        *head = head_transaction_lock(made, b.env.slot, 7);
    }
    readable = false;
    CHECK(m.status == -DSM_EUNKNOWN && made);
    *head = made;
    for (uint32_t i = 1; i < PAGES; i++)
        CHECK(!operate(&a, STORE_WRITE, ids[i], 3));
    CHECK(!operate(&b, STORE_READ, ids[0], 0) && page[0] == 2 && page[PAGE - 1] == 2);
}

/* From the step on that says that it is committed nothing is answered. */
static int commit_in_doubt(struct client *c, struct tx_page *pages, uint32_t n)
{
    static dsm_op ops[COMMIT_OPS];
    struct store_commit m = {.pages = pages, .count = n, .ops = ops};
    for (enum store_next next; (next = store_commit_step(&m, &c->env)) != STORE_DONE;) {
        bool asks = m.step == COMMIT_SWAPS;
        if (next != STORE_POST)
            continue;
        lost_all = asks;
        execute(m.ops, m.n);
        lost_all = false;
    }
    return m.status;
}

/* As far as the half of what it posts last; of several extents, what goes to the first one. */
static int resolve_a_half(struct client *c, uint64_t number, uint64_t lock)
{
    struct store_resolve m = {.number = number, .lock = lock};
    for (bool lost = false; store_resolve_step(&m, &c->env) == STORE_POST;) {
        bool half = m.step == RESOLVE_UNLOCKS;
        for (uint32_t i = 0; i < m.n; i++)
            if (lost || (half && (extents == 1 ? i >= m.n / 2 : m.ops[i].remote != at[0])))
                m.ops[i].status = m.ops[i].code == DSM_OP_READ ? -DSM_EIO : -DSM_EUNKNOWN;
            else
                execute(&m.ops[i], 1);
        lost |= half;
    }
    return m.status;
}

/* A client does not know what became of its transaction, and resolves it, which fails in the midst. As long as one of
 * the pages is locked, it knows of one that is. */
static void a_transaction_resolved_by_half(void)
{
    uint64_t ids[PAGES];
    struct tx_page pages[PAGES] = {{0}};
    struct store_dues dues = {0};
    struct store_words words = {0};
    struct store_held held = {0};
    begin(1);
    come(&a, 0);
    allocate(&a, ids);
    a.env.dues = &dues;
    a.env.words = &words;
    a.env.held = &held;
    a.env.mark = 7;
    const uint64_t *heads = (const uint64_t *)(const void *)(memory + shape.heads);
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = (struct tx_page){.pid = ids[i], .head = heads[page_number(ids[i])], .frees = true};
    CHECK(commit_in_doubt(&a, pages, PAGES) == -DSM_EUNKNOWN && dues.n_kept == 1);
    uint64_t kept = dues.pages[0], lock = heads[kept];
    CHECK(store_lock_is_own(&a.env, lock));
    CHECK(resolve_a_half(&a, kept, lock) < 0);
    uint32_t locked = 0;
    for (uint32_t i = 0; i < PAGES; i++)
        locked += head_locked(heads[i]);
    CHECK(locked == PAGES / 2 && heads[kept] == lock);
}

static uint64_t head_there(uint64_t number)
{
    return *(uint64_t *)(void *)((uint8_t *)at[extent_of(&shape, number)] + head_of_page_at(&shape, number));
}

/* The same, of two extents: it knows of a page in each, since one may be unlocked as a whole, and the other not. */
static void a_transaction_resolved_in_one_extent(void)
{
    uint64_t ids[PAGES];
    struct tx_page pages[PAGES] = {{0}};
    struct store_dues dues = {0};
    struct store_words words = {0};
    struct store_held held = {0};
    extents = 2;
    begin(1);
    come(&a, 0);
    allocate(&a, ids);
    a.env.dues = &dues;
    a.env.words = &words;
    a.env.held = &held;
    a.env.mark = 7;
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = (struct tx_page){.pid = ids[i], .head = head_there(page_number(ids[i])), .frees = true};
    CHECK(commit_in_doubt(&a, pages, PAGES) == -DSM_EUNKNOWN && dues.n_kept == 2);
    uint64_t there = dues.pages[dues.pages[0] % 2 == 0], lock = head_there(there);
    CHECK(there % 2 == 1 && store_lock_is_own(&a.env, lock));
    CHECK(resolve_a_half(&a, there, lock) < 0);
    for (uint64_t i = 0; i < PAGES; i++)
        CHECK(head_locked(head_there(i)) == (i % 2 == 1));
    store_stands_not(&a.env, there - 1);
    CHECK(dues.kept && head_there(there) == lock);
    extents = 1;
}

/* Unlocks are under way, of one page to both copies. What was answered, and what was not, stays with the page and the
 * copy that it is about. */
static void unlocks_that_are_under_way(void)
{
    struct store_dues dues = {0};
    struct store_intents intents = {.of = {3, 4, 5}};
    dsm_op ops[4] = {{0}};
    uint64_t next = head_of(HEAD_EMPTY, 6, 1);
    begin(1);
    come(&a, 0);
    a.env.copies = 2;
    a.env.dues = &dues;
    a.env.intents = &intents;
    for (uint32_t i = 0; i < 3; i++)
        dues.of[dues.n++] = (struct store_due){.number = 2 + i, .lock = 7, .next = next, .left = 1, .intent = i};
    dues.of[1].left = 3;
    CHECK(store_due_ops(&a.env, ops, 2) == 2 && dues.of[1].sent == 1 && !dues.of[2].sent);
    store_due_done(&a.env, ops, 0);
    CHECK(store_due_ops(&a.env, ops, STORE_DUES) == 4 && dues.n == 3);
    ops[2].status = ops[3].status = -DSM_EPEER;
    store_due_done(&a.env, ops, 4);
    CHECK(dues.n == 2 && store_is_due(&a.env, 3, 7) && store_is_due(&a.env, 4, 7) && dues.of[0].left == 2);
    CHECK(!intents.of[0] && intents.of[1] && intents.of[2]);
    CHECK(store_due_ops(&a.env, ops, STORE_DUES) == 2);
}

static uint32_t free_in(uint32_t extent)
{
    uint32_t n = 0;
    for (uint64_t i = extent; i < PAGES; i += EXTENTS)
        n += head_state(head_there(i)) == HEAD_FREE;
    return n;
}

/* After 'postings' of them an extent is out of reach. */
static int allocate_without(struct client *c, uint64_t *ids, uint64_t want, uint32_t extent, int postings)
{
    struct store_allocation m = {.ids = ids, .want = want};
    while (store_allocate_step(&m, &c->env) == STORE_POST) {
        execute(m.ops, m.n);
        for (uint32_t i = 0; postings <= 0 && i < m.n; i++)
            if (m.ops[i].remote == at[extent])
                m.ops[i].status = -DSM_EPEER;
        postings--;
    }
    return m.status;
}

/* What an allocation has had is given back where its extent is in reach, whichever of them is not. */
static void an_allocation_that_fails_half_way(uint32_t away)
{
    uint64_t ids[PAGES + 1];
    extents = 2;
    begin(1);
    come(&a, 0);
    CHECK(allocate_without(&a, ids, PAGES + 1, away, 2) == -DSM_ESTOREFULL); /* a look, and all pages */
    CHECK(free_in(!away) == PAGES / 2 && !free_in(away));
    begin(1);
    come(&a, 0);
    CHECK(!allocate_without(&a, ids, 10, away, 9));
    CHECK(allocate_without(&a, ids, PAGES - 4, away, 1) == -DSM_EPEER); /* all that are left, and a look */
    CHECK(free_in(!away) == PAGES / 2 - 5 && !free_in(away));
    extents = 1;
}

int main(void)
{
    an_allocation_that_fails_half_way(0);
    an_allocation_that_fails_half_way(1);
    unlocks_that_are_under_way();

    a_chunk_that_may_be_closed();
    a_head_that_came_twice();
    a_lock_behind_a_lost_answer();
    a_transaction_resolved_by_half();
    a_transaction_resolved_in_one_extent();
    for (int i = 0; i < 2; i++) {
        chunks_are_found_again(OPENING, i);
        chunks_are_found_again(CLOSING, i);
        chunks_are_found_again(HEAD, i);
    }
    the_cause_is_reported();
    a_source_that_changes();
    looks_have_an_end();
    free(memory);
    puts("ok");
    return 0;
}
