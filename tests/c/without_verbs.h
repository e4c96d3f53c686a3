/* The program of a test of verbs, where the core is compiled without them. */
#ifndef DSM_TESTS_WITHOUT_VERBS_H
#define DSM_TESTS_WITHOUT_VERBS_H

#include <stdio.h>

int main(void)
{
    puts("ok: built without verbs");
    return 0;
}

#endif
