#include "protocol.h"

#include "../base/wire.h"
#include "../core/core.h"

#include <string.h>

void handshake_mac(const dsm_ctx *c, const char label[LABEL], const struct handshake *h, uint8_t mac[MAC])
{
    uint8_t text[LABEL + sizeof *h];
    size_t fixed = offsetof(struct handshake, address), len = strnlen(h->address, ADDRESS_MAX);
    memcpy(text, label, LABEL);
    memcpy(text + LABEL, h, fixed + len);
    dsm_hmac_sha256(c->secret, c->secret_len, text, LABEL + fixed + len, mac);
}
_Static_assert(offsetof(struct handshake, address) == 2 * NONCE + 2 * DSM_NODE_ID, "hashed as it lies in memory");

void session_begin(const dsm_ctx *c, const struct handshake *h, struct session *s)
{
    uint8_t key[MAC];
    handshake_mac(c, LABEL_ASKING, h, key);
    hmac_key(&s->asking, key, sizeof key);
    handshake_mac(c, LABEL_ANSWER, h, key);
    hmac_key(&s->answer, key, sizeof key);
    explicit_bzero(key, sizeof key);
    s->number = 0;
}

static size_t without_mac(const uint8_t *message) { return HEADER_SIZE + (size_t)get_u16(message + 6); }

size_t message_length(const uint8_t *message) { return without_mac(message) + MAC; }

void message_seal(const struct hmac *key, uint8_t *message)
{
    size_t len = without_mac(message);
    hmac_sum(key, message, len, message + len);
}

bool message_genuine(const struct hmac *key, const uint8_t *message)
{
    uint8_t want[MAC];
    size_t len = without_mac(message);
    hmac_sum(key, message, len, want);
    return same_bytes(want, message + len, MAC);
}

void stream_sums(const struct session *s, const uint8_t question[STREAM_SIZE], const uint8_t answer[STREAM_ANSWER],
                 uint8_t asking[MAC], uint8_t answering[MAC])
{
    enum { QUESTION = STREAM_SIZE - MAC, ANSWER = STREAM_ANSWER - MAC };
    uint8_t both[QUESTION + ANSWER];
    memcpy(both, question, QUESTION);
    memcpy(both + QUESTION, answer, ANSWER);
    hmac_sum(&s->asking, both, QUESTION, asking);
    hmac_sum(&s->answer, both, sizeof both, answering);
}
