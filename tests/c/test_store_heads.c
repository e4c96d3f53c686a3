/*
 * What reads the heads of a store in long pieces: allocation, until no page is free, and the sweep that resolves what a
 * dead client has locked. With more heads than are read at a time, and with extents of one copy and of several.
 */
#include "base/mapped_ops.h"
#include "check.h"
#include "store/machine.h"

enum { EXTENTS = 64, PLACES = 64, PAGES_MOST = 20000, WANT_MOST = 300, MARK = 77, DEAD = 99, PAGE = 256 };

static struct store_shape shape;
static uint8_t first[EXTENTS + 1], *memory[PLACES];
static dsm_remote *at[PLACES]; /* the machines only hand them on */

static struct store_frames frames[EXTENTS];
static struct store_heads heads;
static struct store_dues dues;
static struct store_intents intents;
static struct store_words words;
static struct store_env env;

static uint64_t seed = 1, postings;

static uint32_t any(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static uint64_t *head_word(uint32_t place, uint64_t number)
{
    return (uint64_t *)(void *)(memory[place] + head_of_page_at(&shape, number));
}

static uint64_t head_now(uint64_t number) { return *head_word(first[number % shape.extents], number); }

static void set_head(uint64_t number, uint64_t head)
{
    for (uint32_t k = first[number % shape.extents]; k < first[number % shape.extents + 1]; k++)
        *head_word(k, number) = head;
}

/* copies: of each extent. */
static void begin(uint32_t extents, const uint32_t *copies, uint32_t pages)
{
    uint32_t n = 0, most = 1;
    for (uint32_t x = 0; x < extents; x++) {
        first[x] = (uint8_t)n;
        n += copies[x];
        most = copies[x] > most ? copies[x] : most;
    }
    first[extents] = (uint8_t)n;
    shape = (struct store_shape){
        .page_bytes = PAGE, .slots = 4, .copies = most, .extents = extents, .pages = pages, .id = 1};
    CHECK(!store_lay_out(&shape) && store_pages(&shape) <= PAGES_MOST);
    for (uint32_t k = 0; k < n; k++) {
        free(memory[k]);
        CHECK((memory[k] = calloc(1, shape.frames)) != NULL); /* no frame is used */
        at[k] = (dsm_remote *)(void *)memory[k];
    }
    for (uint64_t i = 0; i < store_pages(&shape); i++)
        set_head(i, head_first(&shape, i));
    memset(&heads, 0, sizeof heads);
    memset(&dues, 0, sizeof dues);
    memset(&intents, 0, sizeof intents);
    memset(&words, 0, sizeof words);
    env = (struct store_env){.shape = &shape,
                             .slot = 1,
                             .mark = MARK,
                             .copies = most,
                             .first = first,
                             .at = at,
                             .frames = frames,
                             .heads = &heads,
                             .dues = &dues,
                             .intents = &intents,
                             .words = &words};
}

static void execute_now(dsm_op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        mapped_execute((uint8_t *)ops[i].remote, &ops[i]);
        ops[i].status = 0;
    }
}

static void unlock(void)
{
    dsm_op due[STORE_DUES];
    uint32_t n = store_due_ops(&env, due, STORE_DUES);
    execute_now(due, n);
    store_due_done(&env, due, n);
}

static void execute(dsm_op *ops, uint32_t n)
{
    postings++;
    unlock();
    execute_now(ops, n);
}

/* ---- allocation ---- */

static uint64_t free_pages(void)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < store_pages(&shape); i++)
        n += head_state(head_now(i)) == HEAD_FREE;
    return n;
}

/* Another client takes a page, or frees one. */
static void other_changes(uint64_t number)
{
    uint64_t head = head_now(number), version = head_version(head) + 1;
    if (head_state(head) == HEAD_FREE)
        set_head(number, head_of(HEAD_EMPTY, version, head_low(head)));
    else if (head_state(head) == HEAD_EMPTY)
        set_head(number, head_of(HEAD_FREE, version, generation_after(head_low(head))));
}

static int allocate(uint64_t *ids, uint32_t want)
{
    static struct store_allocation m;
    store_allocation_begin(&m, ids, want);
    postings = 0;
    while (store_allocate_step(&m, &env) == STORE_POST) {
        execute(m.ops, m.n);
        CHECK(heads.in <= heads.got && (uint64_t)heads.got * shape.extents <= HEADS_MOST);
    }
    unlock();
    return m.status;
}

/* All are had, and each only once, or none is. */
static void check_allocation(uint32_t want)
{
    static uint64_t ids[WANT_MOST];
    uint64_t before = free_pages();
    int rc = allocate(ids, want);
    CHECK(rc == (before < want ? -DSM_ESTOREFULL : 0) && free_pages() == (rc ? before : before - want));
    for (uint32_t i = 0; i < want && !rc; i++) {
        uint64_t head = head_now(page_number(ids[i]));
        CHECK(head_state(head) == HEAD_EMPTY && head_low(head) == page_generation(ids[i]));
        for (uint32_t k = first[page_number(ids[i]) % shape.extents];
             k < first[page_number(ids[i]) % shape.extents + 1]; k++)
            CHECK(*head_word(k, page_number(ids[i])) == head);
    }
}

static void until_no_page_is_free(uint32_t extents, const uint32_t *copies, uint32_t pages)
{
    begin(extents, copies, pages);
    for (uint32_t round = 0; round < 300; round++) {
        check_allocation(any(3) ? 1 + any(8) : 1 + any(WANT_MOST));
        for (uint32_t i = any(60); i; i--)
            other_changes(any((uint32_t)store_pages(&shape)));
        if (round % 100 == 50)
            for (uint64_t i = 0; i < store_pages(&shape); i++)
                if (head_state(head_now(i)) == HEAD_FREE && any(100))
                    other_changes(i);
    }
}

/* The more heads are read at a time, the longer none of them is free. */
static void the_only_free_page(void)
{
    uint64_t id;
    begin(1, (uint32_t[]){1}, PAGES_MOST);
    for (uint32_t i = 0; i < PAGES_MOST; i++)
        other_changes(i);
    for (uint32_t i = 0; i < 50; i++) {
        uint32_t number = any(PAGES_MOST);
        other_changes(number);
        CHECK(!allocate(&id, 1) && page_number(id) == number && postings <= 12);
    }
    CHECK(allocate(&id, 1) == -DSM_ESTOREFULL && postings <= 12);
}

/* ---- a sweep ---- */

/* The transaction of a dead client is resolved once, however far its pages are from each other. */
static void locks_of_a_transaction(uint32_t apart)
{
    enum { LOCKS = RECORD_PAGES, DEAD_SLOT = 2, SEQ = 5 };
    static struct tx_record record;
    static struct store_sweep m;
    begin(1, (uint32_t[]){3}, LOCKS * 16);
    record = (struct tx_record){.seq = SEQ, .mark = DEAD, .n = LOCKS};
    for (uint32_t i = 0; i < LOCKS; i++) {
        uint64_t from = head_of(HEAD_FRAMED, 1, i * apart);
        set_head(i * apart, from);
        record.of[i] = (struct tx_change){page_id(1, i * apart), from, head_of(HEAD_FRAMED, 2, LOCKS * 16 + i)};
        *head_word(0, i * apart) = head_transaction_lock(from, DEAD_SLOT, DEAD);
    }
    record_seal(&record);
    for (uint32_t k = 0; k < 3; k++) {
        memcpy(memory[k] + record_at(&shape, DEAD_SLOT), &record, sizeof record);
        *(uint64_t *)(void *)(memory[k] + word_at(&shape, DEAD_SLOT)) = tx_word(SEQ, TX_COMMITTED);
    }
    m = (struct store_sweep){.slot = DEAD_SLOT, .mark = DEAD};
    postings = 0;
    while (store_sweep_step(&m, &env) == STORE_POST)
        execute(m.ops, m.n);
    CHECK(!m.status && postings < 40);
    for (uint32_t i = 0; i < LOCKS; i++)
        for (uint32_t k = 0; k < 3; k++)
            CHECK(*head_word(k, i * apart) == record.of[i].to);
}

int main(void)
{
    uint32_t ones[EXTENTS];
    for (uint32_t x = 0; x < EXTENTS; x++)
        ones[x] = 1;
    until_no_page_is_free(1, ones, 9000);
    until_no_page_is_free(1, (uint32_t[]){2}, 3000);
    until_no_page_is_free(3, (uint32_t[]){1, 2, 1}, 2500);
    until_no_page_is_free(4, (uint32_t[]){3, 1, 2, 1}, 700);
    until_no_page_is_free(EXTENTS, ones, 150);
    the_only_free_page();
    locks_of_a_transaction(1);
    locks_of_a_transaction(4);
    locks_of_a_transaction(16);
    for (uint32_t k = 0; k < PLACES; k++)
        free(memory[k]);
    puts("ok");
    return 0;
}
