/* What the agent and the server both ask of a connection. */
#include "agent.h"

#include <string.h>

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
