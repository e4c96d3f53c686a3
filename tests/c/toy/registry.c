/* The core's registry with one more line: that of the toy. It takes the place of csrc/fabric/registry.c. */
#define DSM_TEST_FABRICS FABRIC(TOY, toy_fabric, 100)
#include "fabric/registry.c"
