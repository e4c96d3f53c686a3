/*
 * A copy that is made again (store/fill.h) while the store changes between any two steps of its ops: pages are locked,
 * and change or go back; they are freed, and allocated; frames are written for changes that are never made, and used
 * again for other pages. A READ of a frame is in two parts, and one of a head may be a mixture. Ops fail, too. At the
 * end all is quiet, and the copy must have what the store has. A seed makes one run:
 * test_store_fill [FIRST [NUMBER]].
 */
#include "check.h"
#include "store/fill.h"

enum { PAGES = 12, SLOTS = 1, PAGE = 256, CHANGES_MOST = 600, MARK = 77 };

static struct store_shape shape;
static uint8_t *from, *to;
static dsm_remote *const source = (void *)1, *const target = (void *)2; /* the machine only hands them on */
static uint64_t chance, seed, changes, fails;
static bool quiet, mixing;

/* What the clients of the store know. */
static uint64_t version[PAGES], head[PAGES], next[PAGES]; /* next: of a page that is locked */
static bool locked[PAGES];
static int page_of[PAGES + 64 * SLOTS + 64]; /* in each frame: the page that it must keep, or -1 */
static uint64_t values;

#define FAILS(what) fails_at(__LINE__, what)

static void fails_at(int line, const char *what)
{
    printf("seed %llu: %s (line %d)\n", (unsigned long long)seed, what, line);
    exit(1);
}

/* xorshift64* */
static uint64_t any(uint64_t below)
{
    chance ^= chance >> 12;
    chance ^= chance << 25;
    chance ^= chance >> 27;
    return (chance * 0x2545f4914f6cdd1dull >> 33) % below;
}

static uint64_t *head_word(uint8_t *memory, uint64_t number)
{
    return (uint64_t *)(void *)(memory + head_at(&shape, number));
}

/* ---- clients of the store ---- */

static uint32_t generation_of(uint64_t p) { return page_generation(page_id(5, p)); }

static uint32_t free_frame(void)
{
    uint32_t f = (uint32_t)any(PAGES + 4);
    while (page_of[f] >= 0)
        f = (f + 1) % (PAGES + 64);
    return f;
}

static void write_frame(uint32_t f, uint64_t p)
{
    uint8_t bytes[PAGE];
    struct frame_header h = {
        .pid = page_id(5, number_at(&shape, shape.extent, p)), .version = version[p] + 1, .before = head[p]};
    memset(bytes, (int)++values, sizeof bytes);
    memcpy(bytes, &values, sizeof values);
    frame_seal(&h, NULL, bytes, PAGE);
    memcpy(from + frame_at(&shape, f), &h, sizeof h);
    memcpy(from + frame_at(&shape, f) + sizeof h, bytes, PAGE);
}

static bool is_framed(uint64_t h) { return head_state(h) == HEAD_FRAMED; }

static void lock(uint64_t p)
{
    static const uint64_t states[] = {HEAD_FRAMED, HEAD_FRAMED, HEAD_FRAMED, HEAD_EMPTY, HEAD_FREE};
    uint64_t state = states[any(5)];
    uint32_t low = generation_of(p);
    if (state == HEAD_FRAMED) {
        low = free_frame();
        write_frame(low, p);
        page_of[low] = (int)p;
    }
    next[p] = head_of(state, version[p] + 1, low);
    locked[p] = true;
    *head_word(from, p) = head_lock(head[p], 0, MARK);
}

static void unlock(uint64_t p, bool goes_back)
{
    uint64_t left = goes_back ? next[p] : head[p];
    if (is_framed(left))
        page_of[head_low(left)] = -1;
    version[p] += !goes_back;
    head[p] = goes_back ? head[p] : next[p];
    locked[p] = false;
    *head_word(from, p) = head[p];
}

/* A frame of which its client gives up the change before it locks the page. */
static void write_in_vain(uint64_t p) { write_frame(free_frame(), p); }

static void meanwhile(void)
{
    while (!quiet && changes && any(3)) {
        uint64_t p = any(any(2) ? PAGES : 3);
        changes--;
        if (locked[p])
            unlock(p, !any(3));
        else if (any(4))
            lock(p);
        else
            write_in_vain(p);
    }
}

/* ---- ops ---- */

static uint8_t *memory_of(const dsm_op *op) { return op->remote == source ? from : to; }

/* What is read of a head that is being locked: in the worst case the one that is to follow. */
static void mix(uint8_t *read, uint64_t offset)
{
    uint64_t p = (offset - shape.heads) / 8;
    if (mixing && !quiet && offset >= shape.heads && p < PAGES && locked[p] && !any(3))
        memcpy(read, &next[p], 8);
}

static void execute_one(dsm_op *op)
{
    uint8_t *at = memory_of(op) + op->offset;
    uint64_t half = op->offset < shape.frames ? 8 : any(2) ? 64 : op->nbytes / 2;
    if (op->offset + op->nbytes > shape.nbytes || (op->remote == source && op->code == DSM_OP_WRITE))
        FAILS("an op that must not be");
    if (op->code == DSM_OP_COMPARE_SWAP)
        op->result = *(uint64_t *)(void *)at;
    else if (op->code == DSM_OP_WRITE)
        memcpy(at, op->local, op->nbytes);
    for (uint64_t i = 0; op->code == DSM_OP_READ && i < op->nbytes; i += half) {
        memcpy((uint8_t *)op->local + i, at + i, op->nbytes - i < half ? op->nbytes - i : half);
        if (half == 8)
            mix((uint8_t *)op->local + i, op->offset + i);
        meanwhile();
    }
}

static void execute(struct store_fill *m)
{
    uint32_t failing = fails && !any(8) ? (uint32_t)any(m->n) : UINT32_MAX;
    for (uint32_t i = 0; i < m->n; i++) {
        m->ops[i].status = i >= failing ? -DSM_EIO : 0;
        if (i < failing)
            execute_one(&m->ops[i]);
        meanwhile();
    }
    fails -= failing != UINT32_MAX;
}

static void run(struct store_fill *m, uint64_t most)
{
    bool ends = !m->last && any(2); /* perhaps before the round is over */
    m->most = most;
    do {
        while (store_fill_step(m) == STORE_POST)
            execute(m);
        if (m->status && m->status != -DSM_EIO)
            FAILS("an error");
    } while ((m->status || !m->over) && !(ends && !any(4)));
}

/* ---- runs ---- */

static void begin(void)
{
    shape = (struct store_shape){.page_bytes = PAGE, .slots = SLOTS, .copies = 2, .pages = PAGES, .id = 1};
    shape.extents = 1 + (uint32_t)any(3);
    shape.extent = (uint32_t)any(shape.extents);
    CHECK(!store_lay_out(&shape));
    from = calloc(1, shape.nbytes);
    to = calloc(1, shape.nbytes);
    CHECK(from && to);
    for (size_t f = 0; f < sizeof page_of / sizeof *page_of; f++)
        page_of[f] = -1;
    for (uint64_t p = 0; p < PAGES; p++) {
        locked[p] = false;
        version[p] = any(4) ? 0 : LOW28 - 2;
        head[p] = head_of(HEAD_FREE, version[p], generation_of(p));
        *head_word(from, p) = head[p];
        memset(to + head_at(&shape, p), 0, 8);
    }
    *(uint64_t *)(void *)(from + word_at(&shape, 0)) = tx_word(9, TX_COMMITTED);
    for (uint64_t i = any(2) * shape.frames; i && i < shape.nbytes; i++) /* what a filler that has died may leave */
        to[i] = (uint8_t)any(256);
}

/* As recovery leaves it. */
static void end_locks(void)
{
    quiet = true;
    for (uint64_t p = 0; p < PAGES; p++)
        if (locked[p])
            unlock(p, any(2));
}

static void check(const struct store_fill *m)
{
    if (m->damaged || m->left)
        FAILS("pages that are not whole, though all is quiet");
    if (memcmp(from + shape.words, to + shape.words, 8 * SLOTS))
        FAILS("words of transactions");
    for (uint64_t p = 0; p < PAGES; p++) {
        if (*head_word(from, p) != head[p] || *head_word(to, p) != head[p])
            FAILS("a head");
        uint64_t at = frame_at(&shape, head_low(head[p]));
        if (is_framed(head[p]) && memcmp(from + at, to + at, sizeof(struct frame_header) + PAGE))
            FAILS("a frame");
    }
}

static void play(void)
{
    chance = seed * 0x9e3779b97f4a7c15ull + 1;
    static uint64_t seen[PAGES];
    static uint8_t frames[FILL_WINDOW * (64 + PAGE)];
    struct store_fill m = {.shape = &shape, .from = source, .to = target, .seen = seen, .frames = frames, .over = true};
    m.batch = 1 + (uint32_t)any(PAGES + 3);
    m.window = 1 + (uint32_t)any(5);
    changes = any(CHANGES_MOST);
    fails = any(2) ? any(6) : 0;
    quiet = false;
    m.mixes = mixing = any(2);
    begin();
    for (uint64_t p = 0; p < PAGES; p++)
        seen[p] = FILL_UNSEEN;
    for (uint64_t rounds = any(6); rounds; rounds--) {
        run(&m, any(2) ? 1 : UINT64_MAX);
        meanwhile();
    }
    end_locks();
    m.last = true;
    run(&m, 1);
    check(&m);
    free(from);
    free(to);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, number = argc > 2 ? strtoull(argv[2], NULL, 10) : 3000;
    for (seed = first; seed < first + number; seed++)
        play();
    puts("ok");
    return 0;
}
