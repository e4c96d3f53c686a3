/* The client side of a stream: the socket of an endpoint, which the owner's agent hands to the passive endpoint that it
 * has opened for this node (docs/protocols/handshake.md). Under peer->control_lock. */
#include "../base/wire.h"
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* The few bytes of the question fit into the buffer of a new socket. */
static int ask(const struct peer *p, const uint8_t *token, uint8_t question[STREAM_SIZE])
{
    static const uint8_t no_answer[STREAM_ANSWER];
    uint8_t unused[MAC];
    memset(question, 0, STREAM_SIZE);
    memcpy(question, STREAM_MAGIC, 4);
    put_u16(question + 4, PROTOCOL_VERSION);
    memcpy(question + 8, token, STREAM_TOKEN);
    stream_sums(client_session(p), question, no_answer, question + STREAM_SIZE - MAC, unused);
    ssize_t n = send(p->stream_fd, question, STREAM_SIZE, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n == STREAM_SIZE ? 0 : client_gone(p, n < 0 ? errno : EMSGSIZE);
}

static int answered(const struct peer *p, const uint8_t question[STREAM_SIZE], const uint8_t in[STREAM_ANSWER])
{
    uint8_t unused[MAC], want[MAC];
    int status = get_u16(in + 6);
    if (memcmp(in, STREAM_MAGIC, 4) || get_u16(in + 4) != PROTOCOL_VERSION || status > DSM_ERROR_LAST)
        return err_set(DSM_EPROTO, 0, "%s did not take the connection of an endpoint", p->address);
    if (status)
        return err_set(status, 0, "the agent at %s refused the connection of an endpoint", p->address);
    stream_sums(client_session(p), question, in, unused, want);
    return same_bytes(want, in + STREAM_ANSWER - MAC, MAC) ? 0 : err_set(DSM_EAUTH, 0, "the process at %s", p->address);
}

static int receive(const struct peer *p, uint8_t in[STREAM_ANSWER], int64_t deadline)
{
    for (size_t have = 0; have < STREAM_ANSWER;) {
        ssize_t n = recv(p->stream_fd, in + have, STREAM_ANSWER - have, MSG_DONTWAIT);
        if (n > 0) {
            have += (size_t)n;
            continue;
        }
        if (!n || (errno != EAGAIN && errno != EINTR))
            return client_gone(p, n ? errno : ECONNRESET);
        int rc = client_await(p, p->stream_fd, POLLIN, deadline);
        if (rc)
            return rc;
    }
    return 0;
}

int client_stream(struct peer *p, const uint8_t *address, size_t len, int64_t deadline)
{
    uint8_t question[STREAM_SIZE], in[STREAM_ANSWER];
    if (len != STREAM_TOKEN)
        return err_set(DSM_EPROTO, 0, "%s named an endpoint with %zu bytes", p->address, len);
    int rc = socket_connect(p->ctx, p->address, deadline, &p->stream_fd);
    if (rc)
        return rc;
    rc = ask(p, address, question);
    if (!rc)
        rc = receive(p, in, deadline);
    if (!rc)
        rc = answered(p, question, in);
    if (rc)
        socket_close(p->ctx, &p->stream_fd);
    return rc;
}
