/*
 * Changes at several copies, in what the simulation of clients does not come to: a copy that executes some ops of a
 * posting and refuses others, versions that are far apart, and a client that has no intent left.
 */
#include "base/error.h"
#include "check.h"
#include "store/recover.h"

#include <stdlib.h>
#include <string.h>

enum { COPIES = 3, PAGES = 8, PAGE = 256, FAR = 11 + (1 << 27) + 5 };

static struct store_shape shape;
static uint8_t *memory[COPIES];
static dsm_remote *at[COPIES]; /* the memory of each copy; the machines only hand it on */
static struct store_dues dues;
static struct store_intents intents;
static struct store_words words;
static struct store_held held;
static struct store_frames frames;
static struct store_heads heads;
static struct store_env env;

/* What the last copy does: all; the first posting, whose answers are lost; what is written in the first posting. */
static enum { ANSWERS, LOSES, WRITES } last;
static int postings;

static uint64_t *word(uint32_t k, uint64_t offset) { return (uint64_t *)(void *)(memory[k] + offset); }
static uint64_t *head(uint32_t k, uint64_t number) { return word(k, head_at(&shape, number)); }

static void execute(dsm_op *op)
{
    uint8_t *there = (uint8_t *)(void *)op->remote + op->offset;
    uint64_t first = op->nbytes - op->second_nbytes, *swapped = (uint64_t *)(void *)there;
    op->status = 0;
    if (op->code == DSM_OP_READ || op->code == DSM_OP_WRITE) {
        bool reads = op->code == DSM_OP_READ;
        memcpy(reads ? op->local : there, reads ? there : op->local, first);
        if (op->second_nbytes)
            memcpy(reads ? op->second : there + first, reads ? there + first : op->second, op->second_nbytes);
        return;
    }
    op->result = *swapped;
    if (*swapped == op->operand)
        *swapped = op->desired;
}

static void post(dsm_op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        bool is_last = ops[i].remote == at[COPIES - 1], writes = ops[i].code == DSM_OP_WRITE;
        if (!is_last || last == ANSWERS || (!postings && (last == LOSES || writes)))
            execute(&ops[i]);
        else
            ops[i].status = -DSM_EIO;
        if (is_last && last == LOSES)
            ops[i].status = ops[i].code == DSM_OP_READ ? -DSM_EIO : -DSM_EUNKNOWN;
    }
    postings++;
}

/* A store whose first two pages are empty, and a client of slot 0 with a chunk open. */
static void begin(void)
{
    shape = (struct store_shape){.page_bytes = PAGE, .slots = 2, .pages = PAGES, .copies = COPIES, .extents = 1};
    CHECK(!store_lay_out(&shape));
    for (uint32_t k = 0; k < COPIES; k++) {
        free(memory[k]);
        memory[k] = calloc(1, shape.nbytes);
        CHECK(memory[k]);
        at[k] = (dsm_remote *)(void *)memory[k];
        for (uint64_t i = 0; i < PAGES; i++)
            *head(k, i) = i < 2 ? head_of(HEAD_EMPTY, 1, 1) : head_first(&shape, i);
    }
    dues = (struct store_dues){0};
    intents = (struct store_intents){0};
    frames = (struct store_frames){.word = chunk_next(0, 1, CHUNK_OPEN), .free = ~0ull};
    env = (struct store_env){.shape = &shape,
                             .copies = COPIES,
                             .mark = 5,
                             .at = at,
                             .dues = &dues,
                             .intents = &intents,
                             .words = &words,
                             .held = &held,
                             .frames = &frames,
                             .heads = &heads,
                             .lock_wait = 1000000000,
                             .random = 99,
                             .now = 1};
    last = ANSWERS;
}

static int put(uint64_t number, struct store_op *m)
{
    static uint8_t page[PAGE];
    page[0] = (uint8_t)number;
    postings = -1; /* the first one looks at the head */
    store_op_begin(m, STORE_WRITE, page_id(1, number), page);
    for (enum store_next next; (next = store_step(m, &env)) != STORE_DONE;) {
        CHECK(next == STORE_POST || next == STORE_SLEEP);
        if (next == STORE_POST)
            post(m->ops, m->n);
        env.now += next == STORE_SLEEP ? m->sleep_ns : 1000;
    }
    return m->status;
}

/* A lock of a change in doubt stands at the last copy, and may stand for the frame of the next change from the same
 * head, whose intent is there: then that frame is not free. */
static void frames_behind_a_lock_that_is_kept(void)
{
    static struct store_op m;
    begin();
    last = LOSES;
    CHECK(put(0, &m) == -DSM_EUNKNOWN && dues.n_kept == 1 && head_locked(*head(2, 0)) && !head_locked(*head(0, 0)));
    last = WRITES;
    CHECK(put(0, &m) == -DSM_EUNKNOWN && head_locked(*head(2, 0)) && !(frames.free >> m.frame & 1));
    last = ANSWERS;
    CHECK(!put(0, &m) && m.change.is == CHANGE_DONE);
}

/* Each says 'committed', of a transaction that has changed page 2 to version 11; it is far ahead of that since. */
static void commit_long_ago(uint64_t far, uint64_t from, uint64_t lock, uint64_t to)
{
    struct tx_record r = {.seq = 9, .mark = 77, .n = 2};
    r.of[0] = (struct tx_change){page_id(3, 2), head_of(HEAD_EMPTY, 10, 3), head_of(HEAD_FRAMED, 11, 17)};
    r.of[1] = (struct tx_change){page_id(3, 3), from, to};
    record_seal(&r);
    for (uint32_t k = 0; k < COPIES; k++) {
        memcpy(memory[k] + record_at(&shape, 1), &r, sizeof r);
        *word(k, word_at(&shape, 1)) = tx_word(9, TX_COMMITTED);
        *head(k, 2) = far;
        *head(k, 3) = k ? from : lock;
    }
}

static void pages_that_have_moved_on(void)
{
    static struct store_resolve m;
    static struct store_recovery r;
    uint64_t far = head_of(HEAD_FRAMED, FAR, 40), from = head_of(HEAD_EMPTY, 4, 3), to = head_of(HEAD_FRAMED, 5, 18);
    uint64_t lock = head_transaction_lock(from, 1, 77), member = store_members(7, 0);
    begin();
    commit_long_ago(far, from, lock, to);
    m = (struct store_resolve){.number = 3, .lock = lock};
    while (store_resolve_step(&m, &env) == STORE_POST)
        post(m.ops, m.n);
    CHECK(!m.status);
    for (uint32_t k = 0; k < COPIES; k++)
        CHECK(*head(k, 2) == far && *head(k, 3) == to);
    begin();
    commit_long_ago(far, from, lock, to);
    *head(2, 3) = head_lock(from, 0, 5); /* of a change that has lost */
    *head(1, 3) = head_lock(head_of(HEAD_FREE, 3, 3), 0, 5);
    r.epoch = 1;
    r.members = &member;
    while (store_recovery_step(&r, &env) == STORE_POST)
        post(r.ops, r.n);
    CHECK(!r.status);
    for (uint32_t k = 0; k < COPIES; k++)
        CHECK(*head(k, 2) == far && *head(k, 3) == to);
}

/* All its changes are in doubt. */
static void a_client_without_intents(void)
{
    static struct store_allocation m;
    uint64_t id = 0;
    begin();
    for (uint32_t i = 0; i < INTENTS; i++)
        intents.of[i] = 1;
    store_allocation_begin(&m, &id, 1);
    for (enum store_next next; (next = store_allocate_step(&m, &env)) != STORE_DONE;) {
        CHECK(next == STORE_POST);
        post(m.ops, m.n);
    }
    CHECK(m.status == -DSM_EBUSY && !id);
}

int main(void)
{
    frames_behind_a_lock_that_is_kept();
    pages_that_have_moved_on();
    a_client_without_intents();
    for (uint32_t k = 0; k < COPIES; k++)
        free(memory[k]);
    puts("ok");
    return 0;
}
