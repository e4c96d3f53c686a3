/* The client side of IDENTITIES, ENDED and BYE (docs/protocols/handshake.md). Under peer->control_lock. */
#include "../base/identity.h"
#include "../base/wire.h"
#include "agent.h"

#include <string.h>
#include <sys/socket.h>

_Static_assert((int)ENDED_MOST * 8 <= (int)PAYLOAD_MAX, "the questions of one message");

static void put_key(const struct peer *p, uint8_t out[KEY_SIZE])
{
    put_u32(out, p->dev->wire_id);
    put_u64(out + FABRIC_SIZE, p->identities.key);
}

int client_identities(struct peer *p, int64_t deadline)
{
    uint8_t question[KEY_SIZE], answer[IDENTITIES_SIZE];
    size_t got = sizeof answer;
    uint32_t kept = load_relaxed_u32(&p->identities.kept);
    put_key(p, question);
    store_relaxed_u32(&p->identities.kept, 1); /* without an answer it may have claimed some */
    int rc = client_ask(p, MSG_IDENTITIES, question, sizeof question, answer, &got, deadline);
    if (rc < 0)
        return rc;
    if (rc) {
        store_relaxed_u32(&p->identities.kept, kept);
        p->identities.none = true; /* whatever keeps the owner from it, nothing is proven then */
        return 0;
    }
    uint64_t first = got == sizeof answer ? get_u64(answer) : 0, count = got == sizeof answer ? get_u64(answer + 8) : 0;
    if (!(first & IDENTITY_ELSEWHERE) || !count || count > UINT64_MAX - first)
        return err_set(DSM_EPROTO, 0, "%s told identities that can't be", p->address);
    p->identities.next = first;
    p->identities.left = count;
    return 0;
}

int client_ended(struct peer *p, const uint64_t *identities, size_t n, uint8_t *ended, int64_t deadline)
{
    uint8_t question[PAYLOAD_MAX];
    size_t got = n;
    for (size_t i = 0; i < n; i++)
        put_u64(question + 8 * i, identities[i]);
    int rc = client_ask(p, MSG_ENDED, question, 8 * n, ended, &got, deadline);
    if (rc > 0)
        return err_set(rc, 0, "the owner's agent at %s rejected the request", p->address);
    if (!rc && got != n)
        rc = err_set(DSM_EPROTO, 0, "%s sent a reply that does not match the request", p->address);
    if (rc)
        memset(ended, 0, n);
    return rc;
}

void client_bye(struct peer *p)
{
    uint8_t payload[KEY_SIZE];
    store_relaxed_u32(&p->identities.kept, 0);
    p->identities.left = 0;
    if (!p->identities.key || p->fd < 0 || load_relaxed_u32(&p->dead))
        return;
    put_key(p, payload);
    client_tell(p, MSG_BYE, payload, sizeof payload);
    shutdown(p->fd, SHUT_WR); /* the owner then ends the connection, too */
}
