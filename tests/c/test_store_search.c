/*
 * How a client finds a chunk with a free frame in a store that is full, or nearly so: which chunks it opens, in which
 * order, and that it neither gives up too early nor goes on without end.
 */
#include "base/mapped_ops.h"
#include "check.h"
#include "store/freed.h"

enum { FULL = 10, SPARE = 2, CHUNKS = FULL + SPARE, PAGES = FULL * PER_CHUNK, PAGE = 256, SURVEY = 100 };
enum { MANY = 400 }; /* postings; no search takes so many */

static struct store_shape shape;
static uint8_t *memory;
static dsm_remote *at[1]; /* the machines only hand it on */

static struct store_frames frames;
static struct store_heads heads;
static struct store_held held;
static uint64_t words[SURVEY];
static _Alignas(struct store_freed) uint8_t freed[sizeof(struct store_freed) + 24 * CHUNKS];
static struct store_env env;

static uint32_t opened[CHUNKS + 1], n_opened, postings, headers; /* in this order; frames that were looked at */
static uint32_t fails;                                           /* the posting that does, if it is one of them */

static uint64_t *word_of(uint32_t chunk) { return (uint64_t *)(void *)(memory + chunk_at(&shape, chunk)); }
static uint64_t *head_word(uint32_t page) { return (uint64_t *)(void *)(memory + head_at(&shape, page)); }
static struct store_freed *known(void) { return (struct store_freed *)(void *)freed; }

static void is_open_by(uint32_t chunk, uint32_t slot) { *word_of(chunk) = chunk_next(0, slot + 1, CHUNK_OPEN); }

/* Page i is in frame i, so FULL chunks have no free frame. Another client, in slot 1, has the others open. */
static void begin(void)
{
    memset(memory, 0, shape.nbytes);
    for (uint32_t i = 0; i < PAGES; i++) {
        struct frame_header h = {.pid = page_id(1, i), .version = 1};
        memcpy(memory + frame_at(&shape, i), &h, sizeof h);
        *head_word(i) = head_of(HEAD_FRAMED, 1, i);
    }
    for (uint32_t k = 0; k < FULL; k++)
        *word_of(k) = chunk_next(0, 0, CHUNK_CLOSED);
    for (uint32_t k = FULL; k < CHUNKS; k++)
        is_open_by(k, 1);
    frames = (struct store_frames){0};
    held.n = 0;
    memset(freed, 0, sizeof freed);
    env = (struct store_env){.shape = &shape,
                             .copies = 1,
                             .at = at,
                             .frames = &frames,
                             .heads = &heads,
                             .held = &held,
                             .freed = known(),
                             .survey = words,
                             .survey_words = SURVEY,
                             .survey_costs = CHUNKS};
    fails = 0;
}

static void page_is_free(uint32_t page) { *head_word(page) = head_first(&shape, page); }

static int search_until(bool whole)
{
    struct store_chunking m = {.whole = whole, .step = CHUNK_BEGINS};
    n_opened = postings = headers = 0;
    while (store_open_chunk_step(&m, &env) == STORE_POST) {
        CHECK(++postings < MANY);
        for (uint32_t i = 0; i < m.n; i++) {
            dsm_op *op = &m.ops[i];
            headers += op->code == DSM_OP_READ && op->offset >= shape.frames;
            mapped_execute(memory, op);
            op->status = postings == fails ? -DSM_EIO : 0;
            bool opens = op->code == DSM_OP_COMPARE_SWAP && chunk_state(op->desired) == CHUNK_OPEN;
            if (opens && op->result == op->operand && n_opened <= CHUNKS)
                opened[n_opened++] = (uint32_t)((op->offset - shape.chunk_words) / 8);
        }
    }
    return m.status;
}

static int search(void) { return search_until(true); }

static bool was_opened(uint32_t chunk)
{
    for (uint32_t i = 0; i < n_opened; i++)
        if (opened[i] == chunk)
            return true;
    return false;
}

static bool has(uint32_t chunk, uint32_t n)
{
    return frames.chunk == chunk && frames.word == *word_of(chunk) && chunk_owner(frames.word) == 1 &&
           (uint32_t)__builtin_popcountll(frames.free) == n;
}

/* It says so when each chunk that is not open was opened, with guesses and without. */
static void no_frame_is_free(void)
{
    for (int knows = 0; knows < 3; knows++)
        for (uint32_t from = 0; from < CHUNKS; from++) {
            begin();
            frames.chunk = from;
            env.freed = knows ? known() : NULL;
            env.survey_costs = knows == 2 ? 0 : CHUNKS;
            if (knows) {
                freed_note(known(), 3 * PER_CHUNK + 5);    /* of a page by now */
                freed_note(known(), FULL * PER_CHUNK + 5); /* another client has that chunk */
            }
            for (int again = 0; again < 2; again++) {
                CHECK(search() == -DSM_EBUSY && !frames.word);
                for (uint32_t k = 0; k < FULL; k++)
                    CHECK(was_opened(k) && chunk_state(*word_of(k)) == CHUNK_CLOSED);
            }
        }
}

static void the_only_frame_is_found(void)
{
    for (int knows = 0; knows < 3; knows++)
        for (uint32_t from = 0; from < CHUNKS; from++)
            for (uint32_t k = 0; k < FULL; k++) {
                begin();
                frames.chunk = from;
                env.freed = knows ? known() : NULL;
                env.survey_costs = knows == 2 ? 0 : CHUNKS;
                page_is_free(k * PER_CHUNK + 63);
                CHECK(!search() && has(k, 1) && frames.free == 1ull << 63);
                frames.free = 0;
                *head_word(k * PER_CHUNK + 63) = head_of(HEAD_FRAMED, 1, k * PER_CHUNK + 63);
                CHECK(search() == -DSM_EBUSY);
            }
}

/* Behind one chunk in vain. Those with most free frames are the first; one that is open is not looked at. */
static void heads_say_where(void)
{
    begin();
    env.survey_costs = 0;
    page_is_free(7 * PER_CHUNK + 1);
    for (uint32_t i = 0; i < 40; i++)
        page_is_free(8 * PER_CHUNK + i);
    CHECK(!search() && has(8, 40) && n_opened == 2);
    uint32_t least = postings;
    frames.free = 0;
    for (uint32_t i = 0; i < 40; i++)
        *head_word(8 * PER_CHUNK + i) = head_of(HEAD_FRAMED, 1, 8 * PER_CHUNK + i);
    CHECK(!search() && has(7, 1) && n_opened == 1 && postings < least);
}

/* A lock says nothing of the frame behind it, and a head that is damaged nothing at all. */
static void heads_that_name_no_frame(void)
{
    begin();
    env.survey_costs = 0;
    *head_word(PER_CHUNK) = head_transaction_lock(head_of(HEAD_FRAMED, 1, PER_CHUNK), 1, 7);
    *head_word(5 * PER_CHUNK) = head_of(HEAD_FRAMED, 1, (uint32_t)LOW24);
    page_is_free(7 * PER_CHUNK);
    CHECK(!search() && (has(5, 1) || has(7, 1)));
}

static void guesses_are_counted(void)
{
    uint64_t guesses = 0;
    for (uint32_t k = 0; k < CHUNKS; k++)
        guesses += (uint64_t)__builtin_popcountll(known()->of[k].guess);
    CHECK(guesses == known()->guessed);
}

/* What is known of chunks is afterwards what it was. */
static void a_survey_fails(void)
{
    uint32_t survived = 0;
    for (uint32_t at_posting = 1; survived < 2; at_posting++) {
        begin();
        env.survey_costs = 0;
        freed_note(known(), 2 * PER_CHUNK + 5);
        page_is_free(7 * PER_CHUNK + 1);
        fails = at_posting;
        int rc = search();
        CHECK(!rc || rc == -DSM_EIO);
        survived += !rc;
        fails = 0;
        CHECK(known()->guessed <= 1 || !rc);
        guesses_are_counted();
        if (rc)
            CHECK(!search() && has(7, 1));
        guesses_are_counted();
    }
}

/* A compare-swap that names one of its frames may be under way: a slot has one open chunk. */
static void the_chunk_in_doubt_is_first(void)
{
    begin();
    is_open_by(4, 0);
    frames = (struct store_frames){.word = *word_of(4), .chunk = 4, .doubt = true};
    freed_note(known(), 7 * PER_CHUNK + 1);
    page_is_free(7 * PER_CHUNK + 1);
    known()->found = 0;
    CHECK(!search() && has(7, 1) && opened[0] == 4 && chunk_state(*word_of(4)) == CHUNK_CLOSED);
}

/* An answer is lost: where the search was is where the next one begins, since that chunk may be open. */
static void an_opening_without_an_answer(void)
{
    begin();
    page_is_free(7 * PER_CHUNK + 1);
    freed_note(known(), 7 * PER_CHUNK + 1);
    known()->found = 0;
    frames = (struct store_frames){.word = chunk_next(0, 1, CHUNK_OPEN), .chunk = 2};
    *word_of(2) = frames.word;
    fails = 2; /* behind the posting that closes chunk 2 and looks at chunk 7 */
    CHECK(search() == -DSM_EIO && frames.chunk == 7 && !frames.word && chunk_owner(*word_of(7)) == 1);
    fails = 0;
    CHECK(!search() && has(7, 1) && opened[0] == 7);
}

/* What is free in a chunk that a transaction has is known when that is closed. */
static void a_chunk_that_is_held(void)
{
    dsm_op ops[RECORD_PAGES];
    begin();
    *word_of(FULL) = chunk_next(0, 0, CHUNK_CLOSED);
    frames.chunk = FULL;
    CHECK(!search() && has(FULL, PER_CHUNK));
    frames.free = 0;
    CHECK(!search() && has(FULL, PER_CHUNK)); /* it has been closed by this client once */
    frames_take(&frames);
    frames_hold(&env, 0);
    CHECK(search() == -DSM_EBUSY);
    uint32_t n = store_held_ops(&env, ops);
    for (uint32_t i = 0; i < n; i++)
        mapped_execute(memory, &ops[i]);
    store_held_done(&env, ops, n);
    CHECK(n == 1 && !held.n && !search() && has(FULL, PER_CHUNK - 1) && !headers);
}

/* Chunks that have many free frames are taken in their turn, though there are guesses. */
static void guesses_are_not_better_than_the_next(void)
{
    begin();
    for (uint32_t k = 4; k < 6; k++)
        for (uint32_t i = 0; i < 32; i++)
            page_is_free(k * PER_CHUNK + i);
    frames.chunk = 4;
    freed_note(known(), 9 * PER_CHUNK + 5);
    CHECK(!search() && has(4, 32));
    frames.free = 0;
    CHECK(!search() && has(5, 32) && opened[0] == 5);
}

/* But one is, when a chunk had none in its turn; and again and again, until all heads are read for once. */
static void guesses_are_better_than_full_chunks(void)
{
    begin();
    frames.chunk = 1;
    known()->found = PER_CHUNK;
    for (uint32_t k = 5; k < 9; k += 2) {
        page_is_free(k * PER_CHUNK + 5);
        freed_note(known(), k * PER_CHUNK + 5);
    }
    CHECK(!search() && has(5, 1) && opened[0] == 1);
    frames.free = 0;
    CHECK(!search() && has(7, 1) && opened[0] == 7);
    page_is_free(9 * PER_CHUNK + 5);
    known()->spent = 32 * (1 + CHUNKS);
    frames.free = 0;
    CHECK(!search() && n_opened == 1 && known()->spent == 1);
}

/* Of chunks in vain it does not matter in which search they were opened. */
static void searches_that_were_short(void)
{
    begin();
    env.survey_costs = 2;
    for (uint32_t k = 1; k < 7; k += 2)
        page_is_free(k * PER_CHUNK + 5);
    for (uint32_t i = 0; i < 40; i++)
        page_is_free(9 * PER_CHUNK + i);
    frames.chunk = 0;
    for (uint32_t k = 1; k < 5; k += 2) {
        CHECK(!search() && has(k, 1) && n_opened == 2);
        frames.free = 0;
    }
    CHECK(!search() && has(9, 40) && opened[0] == 4 && n_opened == 2);
}

/* Of a chunk that is a guess only the frames that are guessed are looked at; the others in its turn. */
static void frames_that_are_guessed(void)
{
    begin();
    frames.chunk = 1;
    known()->found = PER_CHUNK;
    freed_note(known(), 5 * PER_CHUNK + 5);
    page_is_free(5 * PER_CHUNK + 5);
    page_is_free(5 * PER_CHUNK + 7);
    CHECK(!search() && has(5, 1) && frames.free == 1ull << 5 && headers == PER_CHUNK + 1);
    begin();
    frames.chunk = 1;
    freed_note(known(), 5 * PER_CHUNK + 5);
    page_is_free(5 * PER_CHUNK + 7);
    CHECK(!search() && has(5, 1) && frames.free == 1ull << 7 && opened[0] == 1 && opened[1] == 5 && n_opened == 6);
}

/* When heads have said that there is none, it ends; but not one that is to look at all chunks. */
static void heads_say_that_there_is_none(void)
{
    begin();
    env.survey_costs = 0;
    CHECK(search_until(false) == -DSM_EBUSY && n_opened == 1 && known()->spent == 0);
    CHECK(search_until(true) == -DSM_EBUSY && was_opened(0) && was_opened(FULL - 1));
    page_is_free(7 * PER_CHUNK);
    CHECK(!search_until(false) && has(7, 1));
    begin();
    page_is_free(7 * PER_CHUNK);
    frames.chunk = 1;
    freed_all_changed(known());
    CHECK(!search() && has(7, 1) && n_opened == 2);
    frames.free = 0;
    *head_word(7 * PER_CHUNK) = head_of(HEAD_FRAMED, 1, 7 * PER_CHUNK);
    page_is_free(9 * PER_CHUNK);
    known()->found = PER_CHUNK; /* the next in the order would be better than one with few */
    freed_all_changed(known());
    CHECK(!search_until(false) && has(9, 1) && n_opened == 1);
    begin();
    CHECK(search_until(false) == -DSM_EBUSY && was_opened(FULL - 1)); /* heads were not read */
}

int main(void)
{
    shape =
        (struct store_shape){.page_bytes = PAGE, .slots = SPARE, .copies = 1, .extents = 1, .pages = PAGES, .id = 1};
    CHECK(!store_lay_out(&shape) && shape.chunks == CHUNKS && (memory = malloc(shape.nbytes)) != NULL);
    at[0] = (dsm_remote *)(void *)memory;
    no_frame_is_free();
    the_only_frame_is_found();
    heads_say_where();
    heads_that_name_no_frame();
    a_survey_fails();
    the_chunk_in_doubt_is_first();
    an_opening_without_an_answer();
    a_chunk_that_is_held();
    guesses_are_not_better_than_the_next();
    guesses_are_better_than_full_chunks();
    searches_that_were_short();
    frames_that_are_guessed();
    heads_say_that_there_is_none();
    free(memory);
    puts("ok");
    return 0;
}
