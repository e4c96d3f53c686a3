/* What the server side of the control protocol sends. It never waits: a connection that does not accept a reply at once
 * is dropped. */
#include "../base/wire.h"
#include "agent.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* Whether all bytes were sent. A node that has closed its connection before the answer did not violate the protocol:
 * n->left keeps it from being counted as rejected. */
static bool sent(struct conn *n, ssize_t got, size_t len)
{
    n->left = got < 0 && errno != EAGAIN;
    return got == (ssize_t)len;
}

bool conn_send(struct conn *n, const void *bytes, size_t len)
{
    return sent(n, send(n->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT), len);
}

/* Sends the bytes and the file descriptors, of which there is at least one. */
static bool say_with(struct conn *n, void *bytes, size_t len, const int *fds, uint32_t nfds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FABRIC_FDS_MAX * sizeof(int))];
    } control = {0};
    struct iovec iov = {bytes, len};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = CMSG_SPACE(nfds * sizeof(int))};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(nfds * sizeof(int));
    memcpy(CMSG_DATA(h), fds, nfds * sizeof(int));
    return sent(n, sendmsg(n->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT), len);
}

bool conn_reply_with(struct conn *n, int type, int status, const void *payload, size_t len, const int *fds,
                     uint32_t nfds)
{
    uint8_t out[HEADER_SIZE + ANSWER_MAX + MAC] = MESSAGE_MAGIC;
    put_u16(out + 4, (uint16_t)(type | REPLY));
    put_u16(out + 6, (uint16_t)len);
    put_u64(out + 8, n->session.number);
    put_u32(out + 16, (uint32_t)status);
    if (len)
        memcpy(out + HEADER_SIZE, payload, len);
    message_seal(&n->session.answer, out);
    return nfds ? say_with(n, out, message_length(out), fds, nfds) : conn_send(n, out, message_length(out));
}

bool conn_reply(struct conn *n, int type, int status, const void *payload, size_t len)
{
    return conn_reply_with(n, type, status, payload, len, NULL, 0);
}
