/*
 * Epochs of a simulated store: at some moment the clients are cut off from all copies, some of which are lost for good,
 * of each extent others; a recovery makes a store of those that are left, in any order; and clients come that know
 * nothing of before. The recovery may end at each op, or before the epoch is open, and be begun again: without some of
 * the copies, or with some that it was without, as long as no epoch has been open. Extents go on with as many copies as
 * they have, or get others.
 */
#ifndef TESTS_STORE_EPOCH_H
#define TESTS_STORE_EPOCH_H

#include "store/recover.h"
#include "store_checks.h"

static uint8_t *all_memory[EXTENTS][STORE_COPIES_MOST]; /* of each extent: first those that count */
static uint32_t left[EXTENTS];                          /* how many of them do */
static long next_epoch;                                 /* the step from which on this one ends */
static uint64_t epoch;

static long any_step(void)
{
    long soon = world.steps < 6 ? 1 : world.steps / 6;
    return steps_done + (long)chance((uint64_t)(chance(2) ? soon : 2 * world.steps));
}

/* The copies that count are those that clients and recoveries have. */
static void use_copies(void)
{
    nodes_left = copies = 0;
    for (uint32_t x = 0; x < shape.extents; x++) {
        first[x] = (uint8_t)nodes_left;
        copies = left[x] > copies ? left[x] : copies;
        for (uint32_t k = 0; k < left[x]; k++) {
            memory[nodes_left] = all_memory[x][k];
            at[nodes_left++] = (dsm_remote *)(void *)all_memory[x][k];
        }
    }
    first[shape.extents] = (uint8_t)nodes_left;
}

static void begin_epochs(void)
{
    epoch = shape.epoch = 0;
    for (uint32_t x = 0; x < shape.extents; x++)
        left[x] = shape.copies;
    use_copies();
    next_epoch = any_step();
}

/* An epoch ends mostly while a client is in the middle of a change, or has left what is to be done. */
static bool epoch_ends(const struct client *c)
{
    if (shape.copies == 1 || steps_done < next_epoch || !may(EPOCHS))
        return false;
    bool puts = (c->task == ONE_PAGE && c->op.step == OP_PUTS) || (c->task == TRANSACTS && c->tx.phase == TX_COMMITS);
    return puts || c->dues.n || c->dues.kept || chance(100) == 0;
}

/* What was posted is executed by now, or never; what was answered may be known or not. */
static void fence_all(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        for (uint32_t k = 0; k < nodes_left; k++) {
            if (is_under_way(c, (int)k) || chance(4) == 0)
                lose(c, k);
            while (is_under_way(c, (int)k) && chance(6))
                land_some(c, (int)k);
            for (uint32_t n = 0; n < c->n; n++)
                if (c->flights[n].node == k)
                    c->flights[n].left = 0;
        }
        c->shut = true;
        c->until = 0;
        if (c->does == DIED)
            c->does = GONE;
    }
}

static void swap_copies(uint32_t extent, uint32_t i, uint32_t k)
{
    uint8_t *there = all_memory[extent][i];
    all_memory[extent][i] = all_memory[extent][k];
    all_memory[extent][k] = there;
}

/* One that is lost, or left out: it is behind the others then. */
static void leave_out(uint32_t extent)
{
    swap_copies(extent, (uint32_t)chance(left[extent]), left[extent] - 1);
    left[extent]--;
}

/* One of the epoch before, which had so many copies. */
static void count_again(uint32_t extent, uint32_t before)
{
    swap_copies(extent, left[extent], left[extent] + (uint32_t)chance(before - left[extent]));
    left[extent]++;
}

/* False: it has ended before. Nodes execute their ops in order, each at its own pace. */
static bool execute(struct store_recovery *m, uint32_t deaths)
{
    uint64_t ops = m->n;
    uint32_t next[STORE_PLACES_MOST] = {0};
    while (ops) {
        uint32_t node = (uint32_t)chance(nodes_left), *i = &next[node];
        if (deaths && chance(60) == 0)
            return false;
        while (*i < m->n && node_of(&m->ops[*i]) != node)
            ++*i;
        if (*i == m->n)
            continue;
        struct flight f = {.op = &m->ops[*i], .copy = m->ops[*i], .node = node, .piece = m->ops[*i].nbytes};
        REQUIRE(f.copy.offset + f.copy.nbytes <= shape.nbytes, "an op out of bounds");
        if (f.copy.code == DSM_OP_WRITE)
            memcpy(memory[node] + f.copy.offset, f.copy.local, f.copy.nbytes);
        else
            land(&f, 0);
        f.op->result = f.copy.result;
        f.op->status = 0;
        ++*i;
        ops--;
    }
    return true;
}

static uint64_t members_drawn[EXTENTS];

static bool recover_once(uint32_t deaths)
{
    static struct store_recovery m;
    struct store_env e = {.shape = &shape, .copies = copies, .first = first, .at = at};
    memset(&m, 0, offsetof(struct store_recovery, said));
    m.epoch = ++epoch;
    m.members = members_drawn;
    for (uint32_t x = 0; x < shape.extents; x++)
        members_drawn[x] = chance(UINT64_MAX);
    while (store_recovery_step(&m, &e) == STORE_POST)
        if (!execute(&m, deaths))
            return false;
    REQUIRE(!m.status, "recovery: status %d", m.status);
    return true;
}

static void check_header(uint32_t extent, uint32_t node)
{
    uint64_t words[3], slots[SLOTS];
    memcpy(words, memory[node] + STORE_COMPLETE, sizeof words);
    memcpy(slots, memory[node] + slot_at(0), sizeof slots);
    REQUIRE(words[0] == 1 && words[1] == epoch && words[2] == members_drawn[extent], "the header at node %u", node);
    for (uint32_t i = 0; i < SLOTS; i++)
        REQUIRE(!slots[i], "slot %u at node %u", i, node);
}

static void check_recovered(void)
{
    check_memory();
    check_words();
    for (uint32_t x = 0; x < shape.extents; x++) {
        for (uint32_t k = first[x]; k < first[x + 1]; k++)
            check_header(x, k);
        for (uint64_t i = 0; i < shape.chunks; i++) {
            uint64_t word;
            memcpy(&word, memory[first[x]] + chunk_at(&shape, i), sizeof word);
            REQUIRE(chunk_state(word) == CHUNK_CLOSED && !chunk_owner(word), "chunk %llu", (unsigned long long)i);
        }
    }
}

/* A copy is made again: the heads, and the frames that they name. Nothing else is there. */
static void fill_copy(uint32_t extent)
{
    uint8_t *from = all_memory[extent][0], *to = all_memory[extent][left[extent]++];
    memset(to, 0, shape.nbytes);
    memcpy(to + shape.heads, from + shape.heads, 8 * shape.pages);
    for (uint64_t i = 0; i < shape.pages; i++) {
        uint64_t head, frame;
        memcpy(&head, from + shape.heads + 8 * i, sizeof head);
        frame = frame_at(&shape, head_low(head));
        if (head_state(head) == HEAD_FRAMED)
            memcpy(to + frame, from + frame, sizeof(struct frame_header) + PAGE_BYTES);
    }
}

static void fill_copies(void)
{
    for (uint32_t x = 0; x < shape.extents; x++)
        while (left[x] < shape.copies && chance(2))
            fill_copy(x);
    use_copies();
}

/* Some are gone, and some are there again; any becomes a primary. likely: one of so many is left out. */
static void change_copies(const uint32_t *before, bool again, uint64_t likely)
{
    for (uint32_t x = 0; x < shape.extents; x++) {
        if (again && left[x] < before[x] && chance(2))
            count_again(x, before[x]);
        if (left[x] > 1 && (again ? chance(likely) == 0 : chance(likely) != 0))
            leave_out(x);
        swap_copies(x, 0, (uint32_t)chance(left[x]));
    }
    use_copies();
}

/* Everything of the epoch before has ended. */
static void recover_copies(void)
{
    uint32_t deaths = (uint32_t)chance(4), before[EXTENTS];
    memcpy(before, left, sizeof before);
    change_copies(before, false, 4);
    if (traced)
        printf("%ld: recovery of %u copies\n", steps_done, nodes_left);
    while (!recover_once(deaths) || (deaths && chance(3) == 0)) {
        deaths--;
        change_copies(before, true, 3);
    }
    check_recovered();
    shape.epoch = epoch;
    fill_copies();
    memset(places, 0, sizeof places);
    next_epoch = any_step();
}

#endif
