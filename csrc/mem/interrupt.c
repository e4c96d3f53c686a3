/* How a signal handler ends a wait of the core: who handles the signals is asked, and the wait obeys. */
#include "core.h"

static uint64_t ask; /* a function; publish: dsm_set_interrupt(), observe: wait_interrupted() */
static __thread const uint32_t *own_stop;

void dsm_set_interrupt(int (*look)(void))
{
    uint64_t address = (uintptr_t)look;
    publish_u64(&ask, address);
}

void wait_for(const uint32_t *stop) { own_stop = stop; }

bool wait_interrupted(void)
{
    if (own_stop)
        return peek_u32(own_stop);
    int (*look)(void) = (int (*)(void))(uintptr_t)observe_u64(&ask);
    return look && look();
}
