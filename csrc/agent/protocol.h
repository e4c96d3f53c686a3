/* The control protocol's numbers (docs/protocols/handshake.md). Everything is little-endian. */
#ifndef DSM_AGENT_PROTOCOL_H
#define DSM_AGENT_PROTOCOL_H

#include "../dsm.h"

#define HELLO_MAGIC "DSMH"
#define MESSAGE_MAGIC "DSMM"

enum {
    PROTOCOL_VERSION = 1,
    NONCE = 32,
    MAC = 32,
    HELLO_SIZE = 56,     /* magic, u16 version, u16 flags, node, nonce */
    CHALLENGE_SIZE = 88, /* magic, u16 version, u16 status, node, nonce, mac */
    PROOF_SIZE = MAC,
    VERDICT_SIZE = 4,
    HEADER_SIZE = 16, /* magic, u16 type, u16 length, u32 seq, u32 status */
    PAYLOAD_MAX = 1024,
    REPLY = 0x8000,

    MSG_ATTACH = 1,   /* u64 region, u64 generation -> u64 nbytes, u64 base, u32 key, u32 access, u32 kind, u32 zero */
    MSG_ENDPOINT = 2, /* blob -> blob */
    MSG_STATUS = 3,   /* u64 region, u64 generation -> nothing */
    MSG_BYE = 4,
    NAME_SIZE = 16, /* region, generation */
    GRANT_SIZE = 32,
};

/* What both sides prove that they know the secret with; role is "dsmem-client" or "dsmem-server". */
struct handshake {
    uint8_t client_nonce[NONCE], server_nonce[NONCE];
    uint8_t client[DSM_NODE_ID], server[DSM_NODE_ID];
};
void handshake_mac(const dsm_ctx *c, const char role[12], const struct handshake *h, uint8_t mac[MAC]);

#endif
