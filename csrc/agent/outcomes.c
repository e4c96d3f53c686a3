/* The client side of OUTCOMES: what became of ops whose answer was lost (docs/protocols/handshake.md). Under
 * peer->control_lock. */
#include "../base/wire.h"
#include "agent.h"

#include <string.h>

/* Whether the numbers ascend. */
static bool read_answer(const uint8_t *answer, size_t len, struct fabric_outcomes *out)
{
    if (len < OUTCOMES_SIZE || (len - OUTCOMES_SIZE) % OUTCOME_SIZE ||
        len > OUTCOMES_SIZE + FABRIC_OUTCOMES * OUTCOME_SIZE)
        return false;
    out->next = get_u64(answer);
    out->known = get_u64(answer + 8);
    out->through = get_u64(answer + 16);
    out->n = (uint32_t)((len - OUTCOMES_SIZE) / OUTCOME_SIZE);
    uint64_t least = 0;
    const uint8_t *at = answer + OUTCOMES_SIZE;
    for (uint32_t i = 0; i < out->n; i++, at += OUTCOME_SIZE) {
        struct fabric_outcome *o = &out->of[i];
        *o = (struct fabric_outcome){get_u64(at), get_u64(at + 16), get_u32(at + 8), get_u32(at + 12)};
        if (o->number < least || !o->ops || o->number >= out->through || o->ops > out->through - o->number)
            return false;
        least = o->number + o->ops;
    }
    return out->through <= out->next;
}

int client_outcomes(struct peer *p, const uint8_t *address, size_t len, uint64_t from, struct fabric_outcomes *out,
                    int64_t deadline)
{
    uint8_t question[ASKED_SIZE + FABRIC_ADDRESS_MAX], answer[ANSWER_MAX];
    size_t got = sizeof answer;
    put_u32(question, p->dev->wire_id);
    put_u64(question + FABRIC_SIZE, from);
    memcpy(question + ASKED_SIZE, address, len);
    int rc = client_ask(p, MSG_OUTCOMES, question, ASKED_SIZE + len, answer, &got, deadline);
    if (rc)
        return rc > 0 ? err_set(rc, 0, "the owner at %s does not know what became of the op", p->address) : rc;
    return read_answer(answer, got, out) ? 0 : err_set(DSM_EPROTO, 0, "%s told outcomes that can't be", p->address);
}
