/* What the memory of a simulated store must have when no client is in the middle of an operation. */
#ifndef TESTS_STORE_CHECKS_H
#define TESTS_STORE_CHECKS_H

#include "store_world.h"

static const uint64_t *heads_at(uint32_t node) { return (const uint64_t *)(const void *)(memory[node] + shape.heads); }

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

/* The pages of one, at the nodes from 'node' to 'end'. */
static void check_extent(uint32_t extent, uint32_t node, uint32_t end)
{
    const uint64_t *heads = heads_at(node);
    for (uint64_t i = 0; i < shape.pages; i++) {
        uint64_t number = number_at(&shape, extent, i);
        REQUIRE(!head_locked(heads[i]), "page %llu stays locked", (unsigned long long)number);
        for (uint32_t k = node + 1; k < end; k++)
            REQUIRE(heads_at(k)[i] == heads[i], "the head of page %llu at node %u", (unsigned long long)number, k);
        if (head_state(heads[i]) != HEAD_FRAMED)
            continue;
        for (uint32_t k = node; k < end; k++) {
            uint64_t there = frame_at(&shape, head_low(heads[i]));
            check_frame(k, number, heads[i]);
            REQUIRE(!memcmp(memory[k] + there, memory[node] + there, sizeof(struct frame_header) + PAGE_BYTES),
                    "copies %u and %u of page %llu differ", node, k, (unsigned long long)number);
        }
        for (uint64_t k = 0; k < i; k++)
            REQUIRE(head_state(heads[k]) != HEAD_FRAMED || head_low(heads[k]) != head_low(heads[i]),
                    "two pages are in frame %u", head_low(heads[i]));
    }
}

static void check_memory(void)
{
    for (uint32_t x = 0; x < shape.extents; x++)
        check_extent(x, first[x], first[x + 1]);
}

/* A transaction that one copy has for committed has been committed at all. */
static void check_words(void)
{
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        for (uint32_t k = 0; k < nodes_left * nodes_left; k++) {
            uint64_t a, b;
            memcpy(&a, memory[k % nodes_left] + word_at(&shape, slot), 8);
            memcpy(&b, memory[k / nodes_left] + word_at(&shape, slot), 8);
            REQUIRE(tx_seq(a) != tx_seq(b) || tx_state(a) != TX_COMMITTED || a == b, "transaction %llu of slot %u",
                    (unsigned long long)tx_seq(a), slot);
        }
}

#endif
