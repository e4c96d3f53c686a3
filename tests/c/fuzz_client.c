/*
 * The client's side of the control protocol: a fake owner answers dsm_attach() with arbitrary bytes. It can prove that
 * it knows the secret (first byte odd), and frame the rest as a reply (second bit) with a memory file (third bit), so
 * that the fuzzer gets to the grant. With the fourth bit the rest is the difference from a good grant.
 */
#include "agent/agent.h"
#include "base/thread.h"
#include "base/wire.h"
#include "check.h"
#include "context.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static dsm_ctx *context;
static dsm_descriptor where;
static int listener;
static struct {
    const uint8_t *bytes;
    size_t n;
} answer;
static struct session session;

static void listen_at(const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(at.sun_path + 1, name, strlen(name));
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
    CHECK(listener >= 0 && !bind(listener, (struct sockaddr *)&at, len) && !listen(listener, 8));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    char name[40];
    context = open_context(NULL);
    snprintf(name, sizeof name, "dsmem-fuzz-%d", getpid());
    listen_at(name);
    where = (dsm_descriptor){.access = 7, .generation = 1, .nbytes = 4096, .nways = 1, .ways = {{FABRIC_SHM, ""}}};
    snprintf(where.ways[0].address, sizeof where.ways[0].address, "unix:@%s", name);
    return 0;
}

/* With a file of one page and status page, twice. */
static void reply(int fd, const uint8_t *bytes, size_t n, bool with_memory)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    uint8_t out[HEADER_SIZE + ANSWER_MAX + MAC] = MESSAGE_MAGIC;
    put_u16(out + 4, MSG_ATTACH | REPLY);
    put_u16(out + 6, (uint16_t)n);
    put_u64(out + 8, 1); /* the first request of a connection that is always new */
    memcpy(out + HEADER_SIZE, bytes, n);
    message_seal(&session.answer, out);
    struct iovec iov = {out, message_length(out)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    int memory = -1;
    if (with_memory) {
        memory = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK(memory >= 0 && !ftruncate(memory, 8192));
        if (n && !(bytes[0] & 1)) /* sealed as often as not */
            fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK);
        CHECK(pwrite(memory, "dsmemshm\1\0\0\0\0\0\0\0\0\20\0\0\0\0\0\0", 24, 4096) == 24);
        m.msg_control = control.bytes;
        m.msg_controllen = sizeof control.bytes;
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(2 * sizeof(int));
        memcpy(CMSG_DATA(h), (int[]){memory, memory}, 2 * sizeof(int));
    }
    (void)!sendmsg(fd, &m, MSG_NOSIGNAL);
    if (memory >= 0)
        close(memory);
}

static void grant(int fd, const uint8_t *bytes, size_t n, uint8_t how)
{
    uint8_t good[256] = {0};
    put_u64(good, 4096);
    put_u32(good + 8, DSM_READ | DSM_WRITE);
    for (size_t i = 0; i < n && (how & 8); i++)
        good[i] ^= bytes[i];
    reply(fd, how & 8 ? good : bytes, how & 8 ? GRANT_SIZE : n, how & 4);
}

static void answer_hello(int fd, const uint8_t hello[HELLO_SIZE])
{
    uint8_t out[CHALLENGE_SIZE] = HELLO_MAGIC, proof[PROOF_SIZE], verdict[VERDICT_SIZE] = {0};
    struct handshake h = {.address = ""};
    memcpy(h.client, hello + 8, DSM_NODE_ID);
    memcpy(h.client_nonce, hello + 24, NONCE);
    memcpy(h.address, where.ways[0].address, sizeof h.address);
    put_u16(out + 4, PROTOCOL_VERSION);
    handshake_mac(context, LABEL_SERVER, &h, verdict + 4);
    session_begin(context, &h, &session);
    (void)!send(fd, out, sizeof out, MSG_NOSIGNAL);
    if (recv(fd, proof, sizeof proof, MSG_WAITALL) == sizeof proof)
        (void)!send(fd, verdict, sizeof verdict, MSG_NOSIGNAL);
}

static void *serve(void *arg)
{
    (void)arg;
    uint8_t hello[HELLO_SIZE], question[HEADER_SIZE + NAME_SIZE + FABRIC_SIZE + MAC],
        how = answer.n ? answer.bytes[0] : 0;
    const uint8_t *rest = answer.bytes + 1;
    size_t n = answer.n ? answer.n - 1 : 0;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(fd >= 0);
    if (recv(fd, hello, sizeof hello, MSG_WAITALL) == sizeof hello) {
        if (how & 1) {
            answer_hello(fd, hello);
            (void)!recv(fd, question, sizeof question, MSG_WAITALL);
        }
        if ((how & 3) == 3)
            grant(fd, rest, n < 256 ? n : 256, how);
        else
            (void)!send(fd, rest, n, MSG_NOSIGNAL);
    }
    close(fd);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    uint8_t raw[DSM_DESC_MAX];
    pthread_t thread;
    dsm_remote *remote;
    answer.bytes = bytes;
    answer.n = n;
    size_t len = (size_t)descriptor_write(&where, raw);
    CHECK(!thread_start(&thread, serve, NULL)); /* so that no call of it ends early by the alarm of libFuzzer */
    if (!dsm_attach(context, raw, len, 1000000000, &remote)) {
        uint64_t word;
        int rc = 0;
        CHECK(dsm_remote_nbytes(remote) > 0 && dsm_remote_nbytes(remote) <= 4096);
        if (!dsm_read(remote, 0, &word, sizeof word, -1) && (dsm_remote_access(remote) & DSM_WRITE))
            rc = dsm_write(remote, 0, &word, sizeof word, -1);
        CHECK(!rc || rc == -DSM_EPEER); /* the owner may close the connection at any moment */
        CHECK(!dsm_remote_close(remote));
    }
    pthread_join(thread, NULL);
    return 0;
}
