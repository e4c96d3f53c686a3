/*
 * The recovery of a store in which more pages differ, by the changes of more clients, than it looks at together: each
 * becomes what it is to be, and the number of postings is that of its groups, not that of the pages.
 */
#include "check.h"
#include "store/recover.h"

#include <stdlib.h>
#include <string.h>

enum { COPIES = 2, PAGES = 300, PAGE = 256, CLIENTS = 40, FIRST_MARK = 5 };
_Static_assert((int)CLIENTS > (int)RECOVER_ROWS && (int)PAGES > 2 * (int)RECOVER_PAGES, "more than one group can have");

static struct store_shape shape = {
    .page_bytes = PAGE, .slots = CLIENTS, .pages = PAGES, .copies = COPIES, .extents = 1};
static uint8_t *memory[COPIES];
static dsm_remote *at[COPIES]; /* the memory of each copy; the machine only hands it on */
static uint64_t wanted[PAGES];

static uint64_t *head(uint32_t k, uint64_t number) { return (uint64_t *)(void *)(memory[k] + head_at(&shape, number)); }

static void execute(dsm_op *op)
{
    uint8_t *there = (uint8_t *)(void *)op->remote + op->offset;
    uint64_t *swapped = (uint64_t *)(void *)there;
    op->status = 0;
    if (op->code == DSM_OP_READ) {
        memcpy(op->local, there, op->nbytes);
    } else if (op->code == DSM_OP_WRITE) {
        memcpy(there, op->local, op->nbytes);
    } else {
        op->result = *swapped;
        if (*swapped == op->operand)
            *swapped = op->desired;
    }
}

static void intend(uint32_t k, uint32_t slot, uint64_t number, uint64_t from, uint64_t to)
{
    struct store_intent intent = {.seq = number + 1, .page = (uint64_t)(FIRST_MARK + slot) << 40 | number};
    intent.from = from;
    intent.to = to;
    intent_seal(&intent);
    memcpy(memory[k] + intents_at(&shape, slot) + INTENT_BYTES * (number / CLIENTS), &intent, sizeof intent);
}

/* Of four pages one has not changed, one is locked at all copies, one at the first alone, and one no more there. */
static void change(uint64_t number, uint32_t slot)
{
    uint64_t from = head_of(HEAD_EMPTY, 3, 1), to = head_of(HEAD_FREE, 4, 2);
    uint64_t lock = head_lock(from, slot, FIRST_MARK + slot);
    uint32_t kind = number % 4;
    *head(0, number) = kind == 0 ? from : kind == 3 ? to : lock;
    *head(1, number) = kind == 0 || kind == 2 ? from : lock;
    wanted[number] = kind == 0 || kind == 2 ? from : to;
    for (uint32_t k = 0; k < COPIES && kind; k++)
        intend(k, slot, number, from, to);
}

/* How many groups it was. */
static int recover(dsm_store_recovered *done)
{
    static struct store_recovery m;
    const uint8_t first[] = {0, COPIES};
    uint64_t members = store_members(COPIES - 1, 0);
    struct store_env e = {.shape = &shape, .copies = COPIES, .first = first, .at = at};
    int groups = 0;
    m.epoch = 1;
    m.members = &members;
    while (store_recovery_step(&m, &e) == STORE_POST) {
        groups += m.step == RECOVER_READS_CHANGES;
        for (uint32_t i = 0; i < m.n; i++)
            execute(&m.ops[i]);
    }
    CHECK(!m.status);
    *done = m.done;
    return groups;
}

int main(void)
{
    dsm_store_recovered done;
    CHECK(!store_lay_out(&shape));
    for (uint32_t k = 0; k < COPIES; k++) {
        memory[k] = calloc(1, shape.nbytes);
        CHECK(memory[k]);
        at[k] = (dsm_remote *)(void *)memory[k];
    }
    for (uint64_t i = 0; i < PAGES; i++)
        change(i, (uint32_t)(i % CLIENTS));
    int groups = recover(&done);
    for (uint64_t i = 0; i < PAGES; i++)
        for (uint32_t k = 0; k < COPIES; k++)
            CHECK(*head(k, i) == wanted[i]);
    CHECK(done.forward == PAGES / 2 && done.back == PAGES / 4 && !done.differing);
    CHECK(groups > 3 && groups <= PAGES / RECOVER_ROWS);
    for (uint32_t k = 0; k < COPIES; k++)
        free(memory[k]);
    puts("ok");
    return 0;
}
