/* Parses arbitrary fault plans: no crash, and what a plan chooses for an op is one of the known faults. */
#include "fabric/fault/fault.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct fault_plan plan;
    char *text = malloc(n + 1);
    if (!text)
        return 0;
    memcpy(text, bytes, n);
    text[n] = 0;
    if (!fault_plan_parse(text, &plan)) {
        static const uint64_t ops[] = {1, 2, 3, 10, 1000000, UINT64_MAX};
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
            struct fault_fate fate = fault_plan_fate(&plan, ops[i]);
            if (fate.faults & ~(uint32_t)FAULT_ALL || fate.delay_ns < 0 || fate.pause_ns < 0 || fate.pid < 0)
                abort();
        }
        fault_plan_free(&plan);
    }
    free(text);
    return 0;
}
