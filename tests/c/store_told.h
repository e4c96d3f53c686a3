/* What simulated clients of a store were told of single operations and allocations, and whether that can be. */
#ifndef TESTS_STORE_TOLD_H
#define TESTS_STORE_TOLD_H

#include "store_checks.h"
#include "store_doubts.h"

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
    struct node *n = node_begins(c->began);
    if (n) {
        node_has(n, m->pid, m->version - !reads, !reads, 0);
        n->is = DONE;
        n->ends = steps_done;
    }
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
                    (copies > 1 && (status == -DSM_EPEER || status == -DSM_ETIME)) || status == -DSM_EBUSY,
                "status %d", status);
        REQUIRE(status != -DSM_EBUSY || !store_lock_is_own(&c->env, m->lock), "it waits for itself");
        if (status == -DSM_EUNKNOWN)
            note_op_in_doubt(c);
        else if (c->value)
            forget(c->value);
        c->failed = m->pid;
    }
}

static void note_life(uint64_t pid, bool freeing)
{
    REQUIRE(n_lives < IDS, "more ids than the simulation has room for");
    lives[n_lives++] = (struct life){.pid = pid, .freeing = freeing};
}

/* Of one that fails: pages that could not be given back, or are in doubt. */
static void allocation_ended(struct client *c)
{
    struct store_allocation *a = &c->allocation;
    if (traced)
        printf("%ld: client %u, %llu pages: %d, %llu are left; the first %llx\n", steps_done, c->env.slot,
               (unsigned long long)a->want, a->status, (unsigned long long)a->left, (unsigned long long)c->ids[0]);
    if (a->status) {
        for (uint64_t i = 0; i < a->left; i++)
            note_life(c->ids[i], true);
        spare += a->status == -DSM_EUNKNOWN ? a->want - a->left : 0;
        REQUIRE(a->status == -DSM_ESTOREFULL || a->status == -DSM_EUNKNOWN || a->status == -DSM_EIO ||
                    a->status == -DSM_ECANCELED || (copies > 1 && (a->status == -DSM_EPEER || a->status == -DSM_EBUSY)),
                "status %d", a->status);
        return;
    }
    for (uint64_t i = 0; i < a->want; i++) {
        uint64_t pid = c->ids[i];
        REQUIRE(!life_of(pid), "page %llx was given twice", (unsigned long long)pid);
        for (uint32_t k = 0; k < n_lives; k++)
            REQUIRE(page_number(lives[k].pid) != page_number(pid) || lives[k].freeing, "page %llx is in use",
                    (unsigned long long)lives[k].pid);
        note_life(pid, false);
    }
}

/* No page is allocated but those of which a client was told so, and has not been told that they are freed; and what may
 * be left of an allocation in doubt, or of a client that has died in one. */
static void check_owners(void)
{
    for (uint64_t number = 0; number < store_pages(&shape); number++) {
        uint64_t head = heads_at(first[extent_of(&shape, number)])[index_of(&shape, number)];
        uint64_t pid = page_id(head_low(head), number);
        if (head_state(head) == HEAD_FRAMED)
            memcpy(&pid, memory[first[extent_of(&shape, number)]] + frame_at(&shape, head_low(head)), sizeof pid);
        const struct life *life = head_state(head) == HEAD_FREE ? NULL : life_of(pid);
        REQUIRE(!life || !life->freed, "page %llx was freed, and is there", (unsigned long long)pid);
        if (head_state(head) == HEAD_FREE || life)
            continue;
        REQUIRE(spare, "page %llx is allocated, and no client knows it", (unsigned long long)pid);
        spare--;
    }
    for (uint32_t i = 0; i < n_lives; i++) {
        uint64_t number = page_number(lives[i].pid);
        uint64_t head = heads_at(first[extent_of(&shape, number)])[index_of(&shape, number)];
        REQUIRE(lives[i].freeing || head_state(head) != HEAD_FREE, "page %llx is gone",
                (unsigned long long)lives[i].pid);
    }
}

#endif
