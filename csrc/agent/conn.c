/* What the agent and the server both ask of a connection. */
#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

void conn_close_endpoint(struct conn *n)
{
    if (!n->ep)
        return;
    n->ep->dev->fabric->ep_abort(n->ep);
    endpoint_close(n->ep);
    n->ep = NULL;
    n->awaits = false;
}

bool agent_denies(const struct agent *a, const uint8_t node[DSM_NODE_ID])
{
    for (size_t i = 0; i < a->ndenied; i++)
        if (!memcmp(a->denied[i], node, DSM_NODE_ID))
            return true;
    return false;
}

int agent_deny(struct agent *a, const uint8_t node[DSM_NODE_ID])
{
    if (agent_denies(a, node))
        return 0;
    void *p = realloc(a->denied, (a->ndenied + 1) * sizeof *a->denied);
    if (!p)
        return err_set(DSM_ENOMEM, 0, "fence");
    a->denied = p;
    memcpy(a->denied[a->ndenied++], node, DSM_NODE_ID);
    return 0;
}

int conn_read_on(const struct agent *a, const struct conn *n, bool on)
{
    struct epoll_event ev = {.events = on ? EPOLLIN | EPOLLRDHUP : EPOLLRDHUP, .data.u64 = n->id << 2 | ON_CONN};
    return epoll_ctl(a->epoll, EPOLL_CTL_MOD, n->fd, &ev) ? err_set_errno(errno, "epoll_ctl") : 0;
}
