/* Constants and MACs of the control protocol (docs/protocols/handshake.md). All integers are little-endian. */
#ifndef DSM_AGENT_PROTOCOL_H
#define DSM_AGENT_PROTOCOL_H

#include "../base/sha256.h"
#include "../dsm.h"

#define HELLO_MAGIC "DSMH"
#define MESSAGE_MAGIC "DSMM"
#define STREAM_MAGIC "DSMT"

enum {
    PROTOCOL_VERSION = 4,
    NONCE = 32,
    MAC = 32,
    ADDRESS_MAX = DSM_ADDRESS_MAX,
    HELLO_SIZE = 56,     /* magic, u16 version, u16 zero, node, nonce */
    CHALLENGE_SIZE = 88, /* magic, u16 version, u16 status, node, nonce, 32 zeros */
    PROOF_SIZE = MAC,
    VERDICT_SIZE = 4 + MAC, /* u32 status, mac */
    STREAM_TOKEN = 16,
    STREAM_SIZE = 8 + STREAM_TOKEN + MAC, /* magic, u16 version, u16 zero, token: what ENDPOINT has returned */
    STREAM_ANSWER = 8 + MAC,              /* magic, u16 version, u16 status */
    HEADER_SIZE = 20, /* magic, u16 type, u16 length, u64 number, u32 status; the payload follows, then its MAC */
    PAYLOAD_MAX = 1024,
    MESSAGE_MAX = HEADER_SIZE + PAYLOAD_MAX + MAC,
    REPLY = 0x8000,

    MSG_ATTACH = 1, /* NAME, DEVICE -> u64 nbytes, u32 access, u16 kind, u8 further devices of the fabric, u8 device of
                         atomics, then the fabric's blob */
    MSG_ENDPOINT = 2, /* DEVICE, address -> address */
    MSG_STATUS = 3,   /* NAME -> nothing */
    MSG_BYE = 4,      /* nothing, or KEY -> no answer */
    MSG_PARTS =
        5, /* NAME, then parts of this region: u64 number, u64 generation, u64 offset, u64 nbytes -> u32, how many
                      of them, from the first on, are regions of the pool now */
    MSG_CALL = 6,     /* bytes for the service of the context -> its bytes */
    MSG_OUTCOMES = 7, /* u32 fabric, u64 number, address of an endpoint -> OUTCOMES, then for each OUTCOME: u64 number,
                         u32 ops, u32 status, u64 result */
    MSG_IDENTITIES = 8, /* KEY -> u64 first, u64 count */
    MSG_ENDED = 9,      /* u64 identities -> for each u8: 1 if it is proven to have ended */
    NAME_SIZE = 16,     /* u64 region, u64 generation */
    FABRIC_SIZE = 4,    /* DEVICE: u8 fabric, u8 number of the device among those of the fabric, u16 0 */
    GRANT_SIZE = 16,
    PART_SIZE = 32,
    ASKED_SIZE = FABRIC_SIZE + 8, /* u32 fabric, u64 number; the address follows */
    OUTCOMES_SIZE = 24,           /* u64 next, u64 known, u64 through */
    OUTCOME_SIZE = 24,
    KEY_SIZE = FABRIC_SIZE + 8, /* DEVICE, u64 key: of what a peer has asked identities for */
    IDENTITIES_SIZE = 16,
    PARTS_MAX = (PAYLOAD_MAX - NAME_SIZE) / PART_SIZE, /* in a question */
    ANSWER_MAX = PAYLOAD_MAX,                          /* the longest payload of a reply */
};

static inline uint32_t device_named(uint32_t fabric, uint32_t number) { return fabric | number << 8; }

/* The input of the handshake MACs of a connection. Each side fills in the address as it knows it: the client the one it
 * has connected to, the server the one it advertises. */
struct handshake {
    uint8_t client_nonce[NONCE], server_nonce[NONCE];
    uint8_t client[DSM_NODE_ID], server[DSM_NODE_ID];
    char address[ADDRESS_MAX];
};

/* With the MACs of the first two labels client and server prove that they know the secret. The MACs of the other two
 * are the keys for the messages of the client and of the server. */
#define LABEL_CLIENT "dsmem4-client"
#define LABEL_SERVER "dsmem4-server"
#define LABEL_ASKING "dsmem4-asking"
#define LABEL_ANSWER "dsmem4-answer"
enum { LABEL = sizeof LABEL_CLIENT - 1 };

void handshake_mac(const dsm_ctx *c, const char label[LABEL], const struct handshake *h, uint8_t mac[MAC]);

/* The state after the verdict: a key for each direction, and the number of the client's last message. */
struct session {
    struct hmac asking, answer;
    uint64_t number;
};

void session_begin(const dsm_ctx *c, const struct handshake *h, struct session *s);
/* The length of a message on the wire, including the MAC. Its header must be complete. */
size_t message_length(const uint8_t *message);
/* Write, or verify, the MAC that follows header and payload. */
void message_seal(const struct hmac *key, uint8_t *message);
bool message_genuine(const struct hmac *key, const uint8_t *message);
/* The MACs of a stream's question and answer, with the keys of the control connection through which its token came. */
void stream_sums(const struct session *s, const uint8_t question[STREAM_SIZE], const uint8_t answer[STREAM_ANSWER],
                 uint8_t asking[MAC], uint8_t answering[MAC]);

#endif
