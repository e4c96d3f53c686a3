/* The control protocol's numbers and its MACs (docs/protocols/handshake.md). Everything is little-endian. */
#ifndef DSM_AGENT_PROTOCOL_H
#define DSM_AGENT_PROTOCOL_H

#include "../base/sha256.h"
#include "../dsm.h"

#define HELLO_MAGIC "DSMH"
#define MESSAGE_MAGIC "DSMM"

enum {
    PROTOCOL_VERSION = 2,
    NONCE = 32,
    MAC = 32,
    ADDRESS_MAX = 112,
    HELLO_SIZE = 56,     /* magic, u16 version, u16 zero, node, nonce */
    CHALLENGE_SIZE = 88, /* magic, u16 version, u16 status, node, nonce, 32 zeros */
    PROOF_SIZE = MAC,
    VERDICT_SIZE = 4 + MAC, /* u32 status, mac */
    HEADER_SIZE = 20,       /* magic, u16 type, u16 length, u64 number, u32 status; the payload follows, then its MAC */
    PAYLOAD_MAX = 1024,
    MESSAGE_MAX = HEADER_SIZE + PAYLOAD_MAX + MAC,
    REPLY = 0x8000,

    MSG_ATTACH = 1,   /* u64 region, u64 generation -> u64 nbytes, u64 base, u32 key, u32 access, u32 kind, u32 zero */
    MSG_ENDPOINT = 2, /* address -> address */
    MSG_STATUS = 3,   /* u64 region, u64 generation -> nothing */
    MSG_BYE = 4,
    NAME_SIZE = 16, /* region, generation */
    GRANT_SIZE = 32,
};

/* What all MACs of a connection are over. address: as the client has dialled it, and as the server has published it. */
struct handshake {
    uint8_t client_nonce[NONCE], server_nonce[NONCE];
    uint8_t client[DSM_NODE_ID], server[DSM_NODE_ID];
    char address[ADDRESS_MAX];
};

/* Both sides prove with the first two that they know the secret; the others make the keys of the messages of each
 * side. */
#define LABEL_CLIENT "dsmem2-client"
#define LABEL_SERVER "dsmem2-server"
#define LABEL_ASKING "dsmem2-asking"
#define LABEL_ANSWER "dsmem2-answer"
enum { LABEL = sizeof LABEL_CLIENT - 1 };

void handshake_mac(const dsm_ctx *c, const char label[LABEL], const struct handshake *h, uint8_t mac[MAC]);

/* After the verdict: a key for each direction, and the number of the last message of the client. */
struct session {
    struct hmac asking, answer;
    uint64_t number;
};

void session_begin(const dsm_ctx *c, const struct handshake *h, struct session *s);
/* A message lies in memory with its header complete: its length on the wire, with the MAC. */
size_t message_length(const uint8_t *message);
/* Writes, or compares, the MAC behind header and payload. */
void message_seal(const struct hmac *key, uint8_t *message);
bool message_genuine(const struct hmac *key, const uint8_t *message);

#endif
