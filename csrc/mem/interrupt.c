/* How a signal handler ends a wait of the core: who handles the signals is asked, and the wait obeys. */
#include "core.h"

static uint64_t ask; /* a function; publish: dsm_set_interrupt(), observe: wait_interrupted() */

void dsm_set_interrupt(int (*look)(void))
{
    uint64_t address = (uintptr_t)look;
    publish_u64(&ask, address);
}

bool wait_interrupted(void)
{
    int (*look)(void) = (int (*)(void))(uintptr_t)observe_u64(&ask);
    return look && look();
}
