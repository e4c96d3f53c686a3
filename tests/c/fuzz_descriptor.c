/* Whatever the bytes: no crash, and what is accepted has a length and a generation. */
#include "dsm.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    dsm_descriptor d;
    if (!dsm_descriptor_parse(bytes, n, &d) && (!d.nbytes || !d.generation))
        abort();
    return 0;
}
